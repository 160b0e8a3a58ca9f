-- Lock-out: failed sign-ins, counted for each account and network, so that nobody locks somebody else out from elsewhere.

insert into private.settings (key, value, rule, description) values
  ('lock_out.failures', '5', '{"type": "integer", "minimum": 1, "maximum": 1000}', 'Wrong passwords for an account from one network that lock the account for that network.'),
  ('lock_out.window_minutes', '15', '{"type": "integer", "minimum": 1, "maximum": 10080}', 'The time in which those failures count.'),
  ('lock_out.minutes', '15', '{"type": "integer", "minimum": 1, "maximum": 10080}', 'How long the first lock lasts; every further one twice as long.'),
  ('lock_out.max_minutes', '1440', '{"type": "integer", "minimum": 1, "maximum": 100000}', 'How long a lock lasts at most, and how long after one the next is a first one again.'),
  ('lock_out.alert_failures', '20', '{"type": "integer", "minimum": 1, "maximum": 1000000}', 'Wrong passwords for one account within the window, from anywhere, that raise brute_force.'),
  ('lock_out.alert_failures_project', '500', '{"type": "integer", "minimum": 1, "maximum": 1000000000}', 'Wrong passwords for all accounts within the window that raise brute_force.'),
  ('lock_out.alert_codes', '10', '{"type": "integer", "minimum": 1, "maximum": 1000000}', 'Codes and links mailed for one account within an hour that raise mailed_codes.')
on conflict (key) do nothing;

create table private.sign_in_failures (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null references auth.users (id) on delete cascade,
  network cidr not null,
  failed_at timestamptz not null default now()
);
comment on table private.sign_in_failures is 'Wrong passwords of the last day: whose account, and from which network (/24, /56).';
create index sign_in_failures_user_id_idx on private.sign_in_failures (user_id, network, failed_at);
create index sign_in_failures_failed_at_idx on private.sign_in_failures (failed_at);
revoke all on private.sign_in_failures from anon, authenticated, service_role;

create table private.sign_in_locks (
  user_id uuid not null references auth.users (id) on delete cascade,
  network cidr not null,
  locked_until timestamptz,
  locks integer not null default 0 check (locks >= 0),
  primary key (user_id, network)
);
comment on table private.sign_in_locks is
  'One row for an account and a network that failed: its lock, and the row that failures of both queue for, so that they are counted exactly.';
comment on column private.sign_in_locks.locks is 'How often it was locked in a row; every lock is twice as long as the one before.';
revoke all on private.sign_in_locks from anon, authenticated, service_role;

create function private.hook_network(event jsonb) returns cidr
language sql immutable security invoker set search_path = ''
return private.network_of(
  coalesce(private.inet_or_null(event #>> '{metadata,ip_address}'), '0.0.0.0'::inet), 24, 56);
comment on function private.hook_network(jsonb) is
  'The network an Auth hook was called for; without an address all callers share 0.0.0.0/24.';

create function private.password_verification_attempt(event jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: executable by the Auth service only.
declare
  v_user_id uuid := event ->> 'user_id';
  v_is_valid boolean := coalesce((event ->> 'valid')::boolean, false);
  v_network cidr := private.hook_network(event);
  v_lock private.sign_in_locks;
begin
  if not v_is_valid then
    insert into private.sign_in_locks (user_id, network) values (v_user_id, v_network) on conflict do nothing;
  end if;
  select l.* into v_lock from private.sign_in_locks l
  where l.user_id = v_user_id and l.network = v_network for update;

  if v_is_valid and v_lock.locked_until > clock_timestamp() is not true then
    delete from private.sign_in_locks l where l.user_id = v_user_id and l.network = v_network;
    delete from private.sign_in_failures f where f.user_id = v_user_id and f.network = v_network;
    return '{"decision": "continue"}';
  end if;
  if not v_is_valid then
    perform private.note_sign_in_failure(v_lock);
  end if;
  if v_lock.locked_until > clock_timestamp() then
    -- The Auth service's own words for a wrong password: whoever guesses learns neither the lock nor the account.
    return '{"decision": "reject", "message": "Invalid login credentials", "should_logout_user": false}';
  end if;
  return '{"decision": "continue"}';
end $$;
comment on function private.password_verification_attempt(jsonb) is
  'Auth hook: counts wrong passwords and refuses also the right one while the account is locked for the caller''s network. It returns its refusals, so that what it counted stays.';
grant execute on function private.password_verification_attempt(jsonb) to supabase_auth_admin;

create function private.note_sign_in_failure(lock private.sign_in_locks) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_window interval := make_interval(mins => (private.setting('lock_out.window_minutes'))::integer);
  v_longest interval := make_interval(mins => (private.setting('lock_out.max_minutes'))::integer);
  v_failures bigint;
  v_locks integer;
  v_duration interval;
begin
  insert into private.sign_in_failures (user_id, network, failed_at)
  values ((lock).user_id, (lock).network, clock_timestamp());
  perform private.watch_sign_in_failures((lock).user_id, v_window);
  if (lock).locked_until > clock_timestamp() then
    return;
  end if;
  -- Failures that already led to a lock, or came during it, do not count again.
  select count(*) into v_failures from private.sign_in_failures f
  where f.user_id = (lock).user_id and f.network = (lock).network
    and f.failed_at > greatest(clock_timestamp() - v_window, (lock).locked_until);
  if v_failures < (private.setting('lock_out.failures'))::integer then
    return;
  end if;
  v_locks := case when (lock).locked_until < clock_timestamp() - v_longest then 0 else (lock).locks end;
  v_duration := least(
    make_interval(mins => (private.setting('lock_out.minutes'))::integer) * power(2, least(v_locks, 20)), v_longest);
  update private.sign_in_locks l set locked_until = clock_timestamp() + v_duration, locks = v_locks + 1
  where l.user_id = (lock).user_id and l.network = (lock).network;
  perform private.warn_user((lock).user_id, 'account_locked', 'high', 'Sign-in was locked for a while',
    format('The password of your account was wrong %s times from %s. Nobody can sign in from there for %s minutes.',
      v_failures, (lock).network, round(extract(epoch from v_duration) / 60)),
    jsonb_build_object('network', (lock).network, 'failures', v_failures, 'locks', v_locks + 1,
      'minutes', round(extract(epoch from v_duration) / 60)),
    (lock).network::text);
end $$;
comment on function private.note_sign_in_failure(private.sign_in_locks) is
  'Counts one wrong password and locks the account for the network when it was one too many. The caller holds the row''s lock.';

create function private.watch_sign_in_failures(user_id uuid, failure_window interval) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_account_limit integer := (private.setting('lock_out.alert_failures'))::integer;
  v_project_limit integer := (private.setting('lock_out.alert_failures_project'))::integer;
  v_failures bigint;
begin
  -- Counted to the threshold only: an attack makes no count longer than that.
  select count(*) into v_failures from (
    select from private.sign_in_failures f
    where f.user_id = watch_sign_in_failures.user_id and f.failed_at > clock_timestamp() - failure_window
    limit v_account_limit) f;
  if v_failures >= v_account_limit then
    perform private.raise_security_event(type => 'brute_force', severity => 'high',
      user_id => watch_sign_in_failures.user_id, details => jsonb_build_object('failures', v_failures), dedupe_key => 'account');
  end if;
  select count(*) into v_failures from (
    select from private.sign_in_failures f where f.failed_at > clock_timestamp() - failure_window limit v_project_limit) f;
  if v_failures >= v_project_limit then
    perform private.raise_security_event(type => 'brute_force', severity => 'critical', user_id => null,
      details => jsonb_build_object('failures', v_failures), dedupe_key => 'project');
  end if;
end $$;
comment on function private.watch_sign_in_failures(uuid, interval) is
  'Failures from many networks lock nobody, since that would be a way to lock people out: they raise brute_force for the account or the whole project.';

create function private.delete_old_sign_in_failures() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_deleted integer;
begin
  delete from private.sign_in_failures f where f.failed_at < now() - interval '1 day';
  get diagnostics v_deleted = row_count;
  delete from private.sign_in_locks l
  where coalesce(l.locked_until, '-infinity') < now() - make_interval(mins => (private.setting('lock_out.max_minutes'))::integer)
    and not exists (
      select from private.sign_in_failures f where f.user_id = l.user_id and f.network = l.network);
  delete from private.mfa_failures f where f.failed_at < now() - interval '1 day';
  delete from private.mailed_codes c where c.hour < now() - interval '1 day';
  return v_deleted;
end $$;
comment on function private.delete_old_sign_in_failures() is
  'Forgets failures of more than a day ago and locks that are long over; run hourly. Answers how many failures went.';

-- Mailed codes ---------------------------------------------------------------------------------------------------------

create table private.mailed_codes (
  user_id uuid not null references auth.users (id) on delete cascade,
  hour timestamptz not null,
  codes integer not null check (codes > 0),
  primary key (user_id, hour)
);
comment on table private.mailed_codes is
  'How many codes and links were made for an account in an hour of the last day. Wrong tries are not counted: Auth tells nobody of them, and a guess of a link names no account.';
revoke all on private.mailed_codes from anon, authenticated, service_role;

create function private.tg_one_time_tokens__count() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
declare
  v_codes integer;
begin
  insert into private.mailed_codes as c (user_id, hour, codes)
  values (new.user_id, date_trunc('hour', now(), 'UTC'), 1)
  on conflict (user_id, hour) do update set codes = c.codes + 1
  returning c.codes into v_codes;
  if v_codes >= (private.setting('lock_out.alert_codes'))::integer then
    perform private.raise_security_event(type => 'mailed_codes', severity => 'medium', user_id => new.user_id,
      details => jsonb_build_object('codes', v_codes));
  end if;
  return null;
end $$;
comment on function private.tg_one_time_tokens__count() is
  'Whoever guesses codes needs many of them, since each lives for minutes: an account for which many are made raises mailed_codes.';
create trigger palisade_count_codes after insert on auth.one_time_tokens
  for each row execute function private.tg_one_time_tokens__count();

-- Tokens ---------------------------------------------------------------------------------------------------------------

create function private.custom_access_token(event jsonb) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: executable by the Auth service only.
declare
  v_user_id uuid := event ->> 'user_id';
  v_session_id uuid := nullif(event #>> '{claims,session_id}', '')::uuid;
  v_account record;
begin
  select a.state, a.role into v_account from private.account_states a where a.id = v_user_id;
  if v_account.state in ('suspended', 'deleted') then
    return '{"error": {"http_code": 403, "message": "This account is suspended."}}';
  end if;
  -- A running session goes on, and a mailed link proves more than a password does.
  if event ->> 'authentication_method' not in ('token_refresh', 'recovery') and exists (
    select from private.sign_in_locks l
    where l.user_id = v_user_id and l.network = private.hook_network(event) and l.locked_until > now()) then
    return '{"error": {"http_code": 403, "message": "Invalid login credentials"}}';
  end if;
  if exists (select from auth.sessions s where s.id = v_session_id)
    and not exists (select from private.live_sessions s where s.id = v_session_id) then
    return '{"error": {"http_code": 403, "message": "This session has ended. Sign in again."}}';
  end if;
  return jsonb_build_object('claims', (event -> 'claims') || jsonb_build_object('user_role', coalesce(v_account.role, 'user')));
end $$;
comment on function private.custom_access_token(jsonb) is
  'Auth hook: adds the claim user_role and refuses a token, also at refresh, to suspended and deleted accounts and to sessions past their limits, and to sign-ins while locked out.';
grant execute on function private.custom_access_token(jsonb) to supabase_auth_admin;
