-- In a transaction of its own, so that checking the rows that exist blocks nobody.
set lock_timeout = '5s';
set statement_timeout = '60s';

ALTER TABLE "private"."credit_lots" VALIDATE CONSTRAINT "credit_lots_expired_check";
