-- Written by npm run db:baseline from sql/ and policies/, word for word; change those.
-- Every table here is new and empty, so nothing waits for a default, a key or a check.
set lock_timeout = '5s';
set statement_timeout = '60s';

-- sql/00_foundation.sql ===============================================================================================

-- Foundation: the private schema, settings, errors, ids, time.

create schema private;
comment on schema private is 'Everything that is not the API surface. Not exposed by PostgREST.';
revoke all on schema private from public;
-- Public functions are thin wrappers; what they call lives here and is granted function by function.
grant usage on schema private to authenticated, service_role;
-- The hooks of the Auth service live here, too.
grant usage on schema private to supabase_auth_admin;

-- Functions are executable by PUBLIC unless this says otherwise; only the form without "in schema" has an effect.
alter default privileges for role postgres revoke execute on functions from public;

-- Extensions of the platform; pgcrypto and supabase_vault are there from the start.
create extension if not exists pg_cron;
create extension if not exists pg_net with schema extensions;

-- Settings -------------------------------------------------------------------------------------------------------------

create table private.settings (
  key text primary key check (key ~ '^[a-z_]+(\.[a-z_]+)+$'),
  value jsonb not null,
  rule jsonb not null check (rule ?| array['type', 'enum']),
  description text not null check (length(description) between 1 and 500),
  updated_at timestamptz not null default now()
);
comment on table private.settings is 'Every tunable number and switch: one row each, read when needed, changed by SQL. A value that does not fit its rule is refused.';
comment on column private.settings.rule is
  'What the value may be, in words of JSON Schema: enum, or type (integer, number, boolean, string, array, null; one or a list of them) with minimum, maximum, pattern, items.';
revoke all on private.settings from anon, authenticated, service_role;

create function private.fits_rule(value jsonb, rule jsonb) returns boolean
-- Strict: the planner works out calls of constants, and would call itself without end.
language plpgsql immutable strict security invoker set search_path = ''
as $$
declare
  v_type text := jsonb_typeof(fits_rule.value);
begin
  if rule ? 'enum' then
    return coalesce(rule -> 'enum' @> jsonb_build_array(fits_rule.value) and v_type = 'string', false);
  end if;
  if v_type = 'number' and not rule -> 'type' @> '"number"' and fits_rule.value::numeric = trunc(fits_rule.value::numeric) then
    v_type := 'integer';
  end if;
  if not rule -> 'type' @> to_jsonb(v_type) then
    return false;
  end if;
  return case v_type
    when 'number' then fits_rule.value::numeric between (rule -> 'minimum')::numeric and (rule -> 'maximum')::numeric
    when 'integer' then fits_rule.value::numeric between (rule -> 'minimum')::numeric and (rule -> 'maximum')::numeric
    when 'string' then fits_rule.value #>> '{}' ~ (rule ->> 'pattern')
    when 'array' then (select coalesce(bool_and(private.fits_rule(e.value, rule -> 'items')), true) from jsonb_array_elements(fits_rule.value) e)
    else true end;
end $$;
comment on function private.fits_rule(jsonb, jsonb) is 'Whether a value is what the rule of a setting says. A rule of numbers names both bounds, one of texts its pattern, one of lists what is in it.';

create function private.rule_in_words(rule jsonb) returns text
-- Strict: the planner works out calls of constants, and would call itself without end.
language plpgsql immutable strict security invoker set search_path = ''
as $$
declare
  v_types jsonb := case jsonb_typeof(rule -> 'type') when 'string' then jsonb_build_array(rule -> 'type') else rule -> 'type' end;
begin
  if rule ? 'enum' then
    return (select string_agg(e.value::text, ' or ' order by e.place) from jsonb_array_elements(rule -> 'enum') with ordinality e (value, place));
  end if;
  return (
    select string_agg(case t.type
      when 'integer' then format('a whole number from %s to %s', rule ->> 'minimum', rule ->> 'maximum')
      when 'number' then format('a number from %s to %s', rule ->> 'minimum', rule ->> 'maximum')
      when 'boolean' then 'true or false'
      when 'string' then format('a text in quotes that matches %s', rule ->> 'pattern')
      when 'array' then format('a list, each entry %s', private.rule_in_words(rule -> 'items'))
      else 'null' end, ', or ' order by t.place)
    from jsonb_array_elements_text(v_types) with ordinality t (type, place));
end $$;
comment on function private.rule_in_words(jsonb) is 'What the rule of a setting allows, as the refusal of another value says it.';

create function private.tg_settings__fit() returns trigger
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  if not coalesce(private.fits_rule(new.value, new.rule), false) then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('the setting %s is not %s', new.key, left(new.value::text, 100)),
      hint = format('%s is %s.', new.key, private.rule_in_words(new.rule));
  end if;
  new.updated_at := now();
  return new;
end $$;
comment on function private.tg_settings__fit() is
  'Refuses a value that does not fit its rule, and says what does: a setting is read where nobody can ask, and a wrong word in one would stop every call.';
create trigger tg_settings__fit before insert or update on private.settings
  for each row execute function private.tg_settings__fit();

create function private.setting(key text) returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_value jsonb;
begin
  select settings.value into v_value from private.settings where settings.key = setting.key;
  if not found then
    raise exception 'setting % is missing from private.settings', setting.key;
  end if;
  return v_value;
end $$;
comment on function private.setting(text) is 'The value of one setting; an error when the row is missing, never a default.';

-- Errors ---------------------------------------------------------------------------------------------------------------

create function private.error_status(code text) returns integer
language sql immutable security invoker set search_path = ''
return case code
  when 'invalid_request_error' then 400
  when 'invalid_api_key' then 401
  when 'model_not_priced' then 400
  when 'insufficient_credits' then 402
  when 'insufficient_quota' then 402
  when 'in_flight_budget_exhausted' then 402
  when 'account_pending' then 403
  when 'account_suspended' then 403
  when 'insufficient_aal' then 403
  when 'model_not_allowed' then 403
  when 'not_allowed' then 403
  when 'recent_sign_in_required' then 403
  when 'model_not_found' then 404
  when 'not_found' then 404
  when 'idempotency_key_reused' then 422
  when 'daily_quota_exceeded' then 429
  when 'rate_limit_exceeded' then 429
  when 'concurrency_limit' then 429
  when 'mfa_required' then 403
  when 'invalid_signature' then 401
  when 'spend_cap_reached' then 402
  when 'circuit_open' then 503
  when 'idempotency_in_progress' then 409
  when 'idempotency_not_replayable' then 409
  when 'credential_unreadable' then 409
  when 'entitlement_required' then 402
  when 'already_subscribed' then 409
end;
comment on function private.error_status(text) is
  'HTTP status of an error code that SQL can raise or return. The same catalogue as functions/_shared/errors.ts and docs/errors.md.';

create function private.raise_error(code text, message text, hint text default null, retry_after interval default null) returns void
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_status integer := private.error_status(raise_error.code);
begin
  if v_status is null then
    raise exception 'error code % is not in private.error_status', raise_error.code;
  end if;
  raise sqlstate 'PGRST' using
    message = jsonb_build_object('code', raise_error.code, 'message', raise_error.message, 'hint', raise_error.hint)::text,
    detail = jsonb_build_object('status', v_status, 'headers', case
      when v_status = 401 then jsonb_build_object('WWW-Authenticate', 'Bearer error="invalid_token"')
      when raise_error.retry_after is null then '{}'
      else jsonb_build_object('Retry-After', greatest(ceil(extract(epoch from raise_error.retry_after)), 1)::text) end)::text;
end $$;
comment on function private.raise_error(text, text, text, interval) is
  'Raises an error for the caller: PostgREST answers with the code''s HTTP status and {code, message, hint}, and with Retry-After in seconds when it says so.';

create function private.require_service() returns void
language plpgsql stable security invoker set search_path = ''
as $$
begin
  if coalesce((select auth.role()), session_user) not in ('service_role', 'postgres') then
    perform private.raise_error('not_allowed', 'Only the service role may call this function.');
  end if;
end $$;
comment on function private.require_service() is
  'Refuses every caller but the service role (a secret key) and direct connections of the project''s owner.';

-- Ids and time ---------------------------------------------------------------------------------------------------------

create function private.uuid_v7() returns uuid
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_micros bigint := extract(epoch from clock_timestamp()) * 1000000;
begin
  return encode(
    overlay(
      uuid_send(gen_random_uuid())
      placing substring(int8send(v_micros / 1000) from 3) || int2send((28672 + v_micros % 1000 * 4096 / 1000)::smallint)
      from 1 for 8
    ),
    'hex')::uuid;
end $$;
comment on function private.uuid_v7() is
  'A UUID version 7 (RFC 9562): 48 bits of Unix milliseconds, 12 bits of their fraction (6.2, method 3), then random bits. Sorts by time, to the microsecond. PostgreSQL 18 has uuidv7().';
grant execute on function private.uuid_v7() to authenticated, service_role;

create function private.uuid_v7_time(id uuid) returns timestamptz
language plpgsql immutable security invoker set search_path = ''
as $$
begin
  return to_timestamp(('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint / 1000.0);
end $$;
comment on function private.uuid_v7_time(uuid) is
  'The moment in a version 7 UUID, to the millisecond. Rows whose created_at is this value are found by id in one partition.';

-- What may not be of its type --------------------------------------------------------------------------------------------

-- Tried instead of asked for: pg_input_is_valid came with PostgreSQL 16.
create function private.uuid_or_null(value text) returns uuid
language plpgsql immutable security invoker set search_path = ''
as $$
begin
  return value::uuid;
exception when data_exception then
  return null;
end $$;
comment on function private.uuid_or_null(text) is 'The text as a UUID, or null when it is not one.';

create function private.inet_or_null(value text) returns inet
language plpgsql immutable security invoker set search_path = ''
as $$
begin
  return value::inet;
exception when data_exception then
  return null;
end $$;
comment on function private.inet_or_null(text) is 'The text as an address or a network, or null when it is neither.';

create function private.cidr_or_null(value text) returns cidr
language plpgsql immutable security invoker set search_path = ''
as $$
begin
  return value::cidr;
exception when data_exception then
  return null;
end $$;
comment on function private.cidr_or_null(text) is
  'The text as a network, or null when it is not one or has bits set to the right of its prefix.';

-- Shares ---------------------------------------------------------------------------------------------------------------

-- Multiplied before it is divided: a fraction such as 11191 / 12000 has no end, and what is cut off it is missing afterwards.
create function private.exact_share(total numeric, part numeric, whole numeric) returns numeric
language plpgsql immutable security invoker set search_path = ''
as $$
begin
  return trim_scale(div(total * part * 1e18, whole) * 1e-18);
end $$;
comment on function private.exact_share(numeric, numeric, numeric) is
  'total * part / whole to 18 decimals, what is beyond them cut off; trunc and round of it are those of the true fraction. Pieces are differences of this, so that they always add up to the total.';

-- Pages ----------------------------------------------------------------------------------------------------------------

create function private.page_of(page_size integer) returns integer
language plpgsql immutable security invoker set search_path = ''
as $$
begin
  if page_size between 1 and 1000 then
    return page_size;
  end if;
  perform private.raise_error('invalid_request_error', 'page_size is from 1 to 1000.');
end $$;
comment on function private.page_of(integer) is 'The size of a page that was asked for, or an error. Pages go on by the key of their last row, so that the hundredth costs what the first does.';

-- Triggers that many tables share --------------------------------------------------------------------------------------

create function private.tg__timestamps() returns trigger
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  new.created_at := case when tg_op = 'INSERT' then now() else old.created_at end;
  new.updated_at := now();
  return new;
end $$;
comment on function private.tg__timestamps() is 'Keeps created_at and updated_at true, whatever a client sends.';

create function private.tg__append_only() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it looks into auth.users, which callers cannot read.
begin
  -- The one way out: the account itself is erased, and the rows go with it (on delete cascade).
  if tg_op = 'DELETE' and not exists (select from auth.users where id = old.user_id) then
    return old;
  end if;
  raise exception using errcode = '42501', message = format('%I is append-only', tg_table_name);
end $$;
comment on function private.tg__append_only() is
  'Refuses update, delete and truncate, for the table''s owner too.';

-- Deployments ----------------------------------------------------------------------------------------------------------

create table private.deployments (
  id uuid primary key default private.uuid_v7(),
  commit_sha text not null check (commit_sha ~ '^[0-9a-f]{40}$'),
  is_dirty boolean not null default false,
  version text not null check (length(version) between 1 and 40),
  deployed_at timestamptz not null default now()
);
comment on table private.deployments is
  'What was deployed to this project, the newest last: written by npm run deploy when everything is in place, so that a rollback knows the commit before.';
comment on column private.deployments.is_dirty is 'The working tree had changes that the commit does not have.';
revoke all on private.deployments from anon, authenticated, service_role;

insert into private.settings (key, value, rule, description) values
  ('deploy.gateway_digest', 'null', '{"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"}', 'SHA-256 of the AI_DB_URL that has the password of palisade_gateway. By it npm run deploy sees whether secret and password belong together; null: it has set none.')
on conflict (key) do nothing;
