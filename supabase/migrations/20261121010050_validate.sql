-- In a transaction of its own, so that checking the rows that exist blocks nobody.
set lock_timeout = '5s';
set statement_timeout = '60s';

ALTER TABLE "public"."profiles" VALIDATE CONSTRAINT "profiles_parked_reason_check";
