\echo Use "create extension pg_cron" to load this file. \quit

-- Palisade's stand-in for pg_cron 1.6: the same tables, functions, grants and refusals. There is no background worker; the
-- stack reads cron.job as superuser, runs what is due, and writes cron.job_run_details.

set local search_path = '';

do $$
begin
  set local client_min_messages = notice;
  raise notice 'pg_cron here is Palisade''s stand-in for development; the stack runs the jobs';
end
$$;

create schema cron;

create function cron._field_values(field text, low integer, high integer, names text[] default '{}')
  returns integer[]
  language plpgsql
  immutable
  set search_path = ''
as $$
declare
  v_part text;
  v_match text[];
  v_from integer;
  v_to integer;
  v_values integer[] := '{}';
begin
  foreach v_part in array string_to_array(lower(field), ',') loop
    v_match := regexp_match(v_part, '^(\*|([0-9]{1,2}|[a-z]{3})(-([0-9]{1,2}|[a-z]{3}))?)(/([0-9]{1,2}))?$');
    if v_match is null or v_match[6]::integer = 0 or (v_match[6] is not null and v_match[1] !~ '[*-]') then
      return null;
    end if;

    v_from := case
      when v_match[1] = '*' then low
      when v_match[2] ~ '[0-9]' then v_match[2]::integer
      else array_position(names, v_match[2]) - 1 + low
    end;
    v_to := case
      when v_match[1] = '*' then high
      when v_match[4] is null then v_from
      when v_match[4] ~ '[0-9]' then v_match[4]::integer
      else array_position(names, v_match[4]) - 1 + low
    end;
    if v_from is null or v_to is null or v_from < low or v_to > high or v_from > v_to then
      return null;
    end if;
    v_values := v_values || array(select generate_series(v_from, v_to, coalesce(v_match[6]::integer, 1)));
  end loop;
  return nullif(v_values, '{}');
end
$$;
comment on function cron._field_values is 'Private: the numbers that one field of a cron schedule names; null if it is not valid.';

create function cron._interval_seconds(schedule text)
  returns integer
  language sql
  immutable
  set search_path = ''
as $$ select (regexp_match(schedule, '^\s*([1-9]|[1-5][0-9])\s+seconds?\s*$', 'i'))[1]::integer $$;
comment on function cron._interval_seconds is 'For the stack: the seconds of a schedule "[1-59] seconds", else null.';

create function cron._fields(schedule text)
  returns text[]
  language sql
  immutable
  set search_path = ''
as $$
  select case lower(btrim(schedule))
    when '@yearly' then '{0,0,1,1,*}'
    when '@annually' then '{0,0,1,1,*}'
    when '@monthly' then '{0,0,1,*,*}'
    when '@weekly' then '{0,0,*,*,0}'
    when '@daily' then '{0,0,*,*,*}'
    when '@midnight' then '{0,0,*,*,*}'
    when '@hourly' then '{0,*,*,*,*}'
    else regexp_split_to_array(btrim(schedule, e' \t'), '[ \t]+')
  end
$$;
comment on function cron._fields is 'Private: the five fields of a cron schedule, shorthands written out.';

create function cron._is_schedule(schedule text)
  returns boolean
  language plpgsql
  immutable
  set search_path = ''
as $$
declare
  v_fields text[] := cron._fields(schedule);
begin
  return cron._interval_seconds(schedule) is not null
    or lower(btrim(schedule)) = '@reboot'
    or (
      cardinality(v_fields) = 5
      and cron._field_values(v_fields[1], 0, 59) is not null
      and cron._field_values(v_fields[2], 0, 23) is not null
      and (v_fields[3] = '$' or cron._field_values(v_fields[3], 1, 31) is not null)
      and cron._field_values(v_fields[4], 1, 12, '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}') is not null
      and cron._field_values(v_fields[5], 0, 7, '{sun,mon,tue,wed,thu,fri,sat}') is not null
    );
end
$$;
comment on function cron._is_schedule is 'Private: whether pg_cron accepts this schedule.';

create function cron._is_due(schedule text, at timestamptz)
  returns boolean
  language plpgsql
  immutable
  set search_path = ''
as $$
declare
  v_fields text[] := cron._fields(schedule);
  v_at timestamp := at at time zone 'UTC';
  v_day boolean;
  v_weekday boolean;
begin
  if cardinality(v_fields) is distinct from 5 then
    return false;
  end if;

  v_day := case
    when v_fields[3] = '$' then extract(day from v_at + interval '1 day') = 1
    else extract(day from v_at) = any (cron._field_values(v_fields[3], 1, 31))
  end;
  v_weekday := extract(dow from v_at) = any (
    array(select v % 7 from unnest(cron._field_values(v_fields[5], 0, 7, '{sun,mon,tue,wed,thu,fri,sat}')) v));
  return extract(minute from v_at) = any (cron._field_values(v_fields[1], 0, 59))
    and extract(hour from v_at) = any (cron._field_values(v_fields[2], 0, 23))
    and extract(month from v_at) = any (
      cron._field_values(v_fields[4], 1, 12, '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}'))
    -- Two restricted day fields mean either; a starred one means both.
    and case
      when v_fields[3] like '*%' or v_fields[5] like '*%' then v_day and v_weekday
      else v_day or v_weekday
    end;
end
$$;
comment on function cron._is_due is
  'For the stack: whether a cron schedule names this minute, in UTC. False for "n seconds" and @reboot, which the stack times.';

create sequence cron.jobid_seq;
create table cron.job (
  jobid bigint primary key default pg_catalog.nextval('cron.jobid_seq'),
  schedule text not null,
  command text not null,
  nodename text not null default 'localhost',
  nodeport integer not null default pg_catalog.inet_server_port(),
  database text not null default pg_catalog.current_database(),
  username text not null default current_user,
  active boolean not null default true,
  jobname text,
  constraint jobname_username_uniq unique (jobname, username)
);
alter table cron.job enable row level security;
create policy cron_job_policy on cron.job using (username = current_user);
comment on table cron.job is 'Jobs. Write with cron.schedule, cron.alter_job and cron.unschedule; everybody sees their own.';

create sequence cron.runid_seq;
create table cron.job_run_details (
  jobid bigint,
  runid bigint primary key default pg_catalog.nextval('cron.runid_seq'),
  job_pid integer,
  database text,
  username text,
  command text,
  status text,
  return_message text,
  start_time timestamptz,
  end_time timestamptz
);
alter table cron.job_run_details enable row level security;
create policy cron_job_run_details_policy on cron.job_run_details using (username = current_user);
comment on table cron.job_run_details is 'Runs of jobs: status is starting, running, sending, connecting, succeeded or failed.';

select pg_catalog.pg_extension_config_dump('cron.job', '');
select pg_catalog.pg_extension_config_dump('cron.jobid_seq', '');
select pg_catalog.pg_extension_config_dump('cron.job_run_details', '');
select pg_catalog.pg_extension_config_dump('cron.runid_seq', '');

-- pg_cron is C: it knows who calls and writes as its owner. In SQL a definer function cannot know its caller, so the functions
-- below are invokers and write through this view: its owner may write the table, and current_user in it is the true caller.
create view cron._own_job with (security_barrier = true) as
  select jobid, schedule, command, nodename, nodeport, database, username, active, jobname
  from cron.job
  where username = current_user
  with check option;
comment on view cron._own_job is 'Private: the caller''s jobs, writable for the functions of this schema.';

create function cron.job_cache_invalidate()
  returns trigger
  language plpgsql
  volatile
  set search_path = ''
as $$
begin
  perform pg_notify('pgcron_wake', '');
  return null;
end
$$;
comment on function cron.job_cache_invalidate is 'Tells the stack, on channel pgcron_wake, that jobs changed.';

create trigger cron_job_cache_invalidate
  after insert or update or delete or truncate on cron.job
  for each statement execute function cron.job_cache_invalidate();

create function cron._check_schedule(schedule text)
  returns void
  language plpgsql
  immutable
  set search_path = ''
as $$
begin
  if cron._is_schedule(schedule) is not true then
    raise invalid_parameter_value using
      message = 'invalid schedule: ' || schedule,
      hint = 'Use cron format (e.g. 5 4 * * *), or interval format ''[1-59] seconds''';
  end if;
end
$$;
comment on function cron._check_schedule is 'Private: 22023 unless the schedule is valid.';

create function cron._check_connect(role name, database text)
  returns void
  language plpgsql
  stable
  set search_path = ''
as $$
begin
  if not has_database_privilege(role, database, 'connect') then
    raise exception using
      errcode = 'XX000', message = format('User %s does not have CONNECT privilege on %s', role, database);
  end if;
end
$$;
comment on function cron._check_connect is 'Private: XX000 unless the role may connect to the database.';

create function cron.schedule_in_database(
  job_name text,
  schedule text,
  command text,
  database text,
  username text default null,
  active boolean default true
)
  returns bigint
  language plpgsql
  volatile
  set search_path = ''
as $$
#variable_conflict use_column
declare
  v_database text := coalesce(database, current_database());
  v_port integer := current_setting('port')::integer;
  v_id bigint;
begin
  if job_name is null or schedule is null or command is null then
    raise exception using errcode = 'XX000', message = format('%s can not be NULL',
      case when job_name is null then 'job_name' when schedule is null then 'schedule' else 'command' end);
  end if;
  perform cron._check_schedule(schedule);

  if username is not null then
    if current_setting('is_superuser') <> 'on' then
      raise exception using errcode = 'XX000', message = 'must be superuser to create a job for another role';
    end if;
    perform cron._check_connect(username, v_database);
    insert into cron.job as j (schedule, command, nodeport, database, username, active, jobname)
    values (schedule, command, v_port, v_database, username, active, job_name)
    on conflict on constraint jobname_username_uniq
      do update set schedule = excluded.schedule, command = excluded.command, database = excluded.database
    returning j.jobid into v_id;
    return v_id;
  end if;

  perform cron._check_connect(current_user, v_database);
  insert into cron._own_job as j (schedule, command, nodename, nodeport, database, username, active, jobname)
  values (schedule, command, 'localhost', v_port, v_database, current_user, active, job_name)
  on conflict (jobname, username)
    do update set schedule = excluded.schedule, command = excluded.command, database = excluded.database
  returning j.jobid into v_id;
  return v_id;
end
$$;
comment on function cron.schedule_in_database is
  'Schedules a job in a database; the same name replaces. Only a superuser names another role (XX000).';

create function cron.schedule(job_name text, schedule text, command text)
  returns bigint
  language plpgsql
  volatile
  set search_path = ''
as $$
declare
  v_id bigint;
begin
  if job_name is null or schedule is null or command is null then
    raise exception using errcode = 'XX000', message = format('%s can not be NULL',
      case when job_name is null then 'job_name' when schedule is null then 'schedule' else 'command' end);
  end if;
  perform cron._check_schedule(schedule);

  insert into cron._own_job as j (schedule, command, nodename, nodeport, database, username, active, jobname)
  values (schedule, command, 'localhost', current_setting('port')::integer, current_database(), current_user, true, job_name)
  on conflict (jobname, username)
    do update set schedule = excluded.schedule, command = excluded.command, database = excluded.database
  returning j.jobid into v_id;
  return v_id;
end
$$;
comment on function cron.schedule(text, text, text) is
  'Schedules a job under a name, as the caller; the same name replaces. Returns the job id. Invalid schedule: 22023.';

create function cron.schedule(schedule text, command text)
  returns bigint
  language plpgsql
  volatile strict
  set search_path = ''
as $$
declare
  v_id bigint;
begin
  perform cron._check_schedule(schedule);

  insert into cron._own_job as j (schedule, command, nodename, nodeport, database, username, active)
  values (schedule, command, 'localhost', current_setting('port')::integer, current_database(), current_user, true)
  returning j.jobid into v_id;
  return v_id;
end
$$;
comment on function cron.schedule(text, text) is 'Schedules a job without a name, as the caller. Returns the job id. Invalid schedule: 22023.';

create function cron.unschedule(job_id bigint)
  returns boolean
  language plpgsql
  volatile strict
  set search_path = ''
as $$
begin
  if has_table_privilege('cron.job', 'delete') then
    delete from cron.job where jobid = job_id;
  else
    delete from cron._own_job where jobid = job_id;
  end if;

  if not found and exists (select from cron.job where jobid = job_id) then
    raise insufficient_privilege using message = 'permission denied for table job';
  elsif not found then
    raise exception using errcode = 'XX000', message = 'could not find valid entry for job ' || job_id;
  end if;
  return true;
end
$$;
comment on function cron.unschedule(bigint) is 'Removes a job of the caller. None: XX000; another role''s: 42501.';

create function cron.unschedule(job_name text)
  returns boolean
  language plpgsql
  volatile strict
  set search_path = ''
as $$
begin
  delete from cron._own_job where jobname = job_name;
  if not found then
    raise exception using errcode = 'XX000', message = format('could not find valid entry for job ''%s''', job_name);
  end if;
  return true;
end
$$;
comment on function cron.unschedule(text) is 'Removes the caller''s job of this name. None: XX000.';

create function cron.alter_job(
  job_id bigint,
  schedule text default null,
  command text default null,
  database text default null,
  username text default null,
  active boolean default null
)
  returns void
  language plpgsql
  volatile
  set search_path = ''
as $$
declare
  v_is_superuser boolean := current_setting('is_superuser') = 'on';
begin
  if job_id is null then
    raise exception using errcode = 'XX000', message = 'job_id can not be NULL';
  elsif username is not null and not v_is_superuser then
    raise exception using errcode = 'XX000', message = 'must be superuser to alter username';
  elsif num_nonnulls(schedule, command, database, username, active) = 0 then
    raise exception using errcode = 'XX000', message = 'no updates specified',
      hint = 'You must specify at least one job attribute to change when calling alter_job';
  end if;
  if schedule is not null then
    perform cron._check_schedule(schedule);
  end if;
  if database is not null or username is not null then
    perform cron._check_connect(coalesce(username, current_user), coalesce(database, current_database()));
  end if;

  if v_is_superuser then
    update cron.job as j
    set schedule = coalesce(alter_job.schedule, j.schedule),
      command = coalesce(alter_job.command, j.command),
      database = coalesce(alter_job.database, j.database),
      username = coalesce(alter_job.username, j.username),
      active = coalesce(alter_job.active, j.active)
    where j.jobid = job_id;
  else
    update cron._own_job as j
    set schedule = coalesce(alter_job.schedule, j.schedule),
      command = coalesce(alter_job.command, j.command),
      database = coalesce(alter_job.database, j.database),
      active = coalesce(alter_job.active, j.active)
    where j.jobid = job_id;
  end if;
  if not found then
    raise exception using errcode = 'XX000', message = format('Job %s does not exist or you don''t own it', job_id);
  end if;
end
$$;
comment on function cron.alter_job is 'Changes what is not null in a job of the caller. Not there or not yours: XX000.';

-- As in pg_cron: the schema is the gate; whoever has USAGE on it may schedule and unschedule as itself.
grant select on cron.job to public;
grant select, delete on cron.job_run_details to public;
grant select, insert, update, delete on cron._own_job to public;
grant select, usage on sequence cron.jobid_seq to public;
grant select on sequence cron.runid_seq to public;
revoke all on function cron.alter_job, cron.schedule_in_database from public;

-- What hosted Supabase adds after create extension; no TRIGGER, since 2026-07-30.
do $$
begin
  if pg_catalog.to_regrole('postgres') is not null then
    grant usage on schema cron to postgres with grant option;
    grant all on all functions in schema cron to postgres with grant option;
    grant select on cron.job to postgres with grant option;
    grant all on cron.job_run_details to postgres with grant option;
    revoke trigger on cron.job_run_details from postgres;
    alter default privileges in schema cron grant all on tables to postgres with grant option;
    alter default privileges in schema cron grant all on sequences to postgres with grant option;
    alter default privileges in schema cron grant all on functions to postgres with grant option;
  end if;
end
$$;
