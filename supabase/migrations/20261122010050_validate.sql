-- In a transaction of its own, so that checking the rows that exist blocks nobody.
set lock_timeout = '5s';
set statement_timeout = '60s';

ALTER TABLE "private"."accounts" VALIDATE CONSTRAINT "accounts_check";
ALTER TABLE "public"."ai_calls" VALIDATE CONSTRAINT "ai_calls_state_check";
ALTER TABLE "public"."credit_entries" VALIDATE CONSTRAINT "credit_entries_check";
ALTER TABLE "public"."limit_overrides" VALIDATE CONSTRAINT "limit_overrides_period_check";
ALTER TABLE "public"."plan_limits" VALIDATE CONSTRAINT "plan_limits_period_check";
