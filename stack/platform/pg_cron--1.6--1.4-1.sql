\echo Use "create extension pg_cron" to load this file. \quit

-- What pg_cron 1.4 lacks of 1.6: schedules in seconds (1.5) and the last day of a month (1.6).

create or replace function cron._interval_seconds(schedule text)
  returns integer
  language sql
  immutable
  set search_path = ''
as $$ select null::integer $$;

alter function cron._is_schedule(text) rename to _is_schedule_of_1_6;
create function cron._is_schedule(schedule text)
  returns boolean
  language sql
  immutable
  set search_path = ''
as $$ select cron._is_schedule_of_1_6(schedule) and schedule !~ '\$' $$;
comment on function cron._is_schedule is 'Private: whether pg_cron 1.4 accepts this schedule.';
