-- Sessions: devices, what makes a session live, and the checks that every policy of users' data asks once per statement.

insert into private.settings (key, value, rule, description) values
  ('sessions.idle_hours', '168', '{"type": "integer", "minimum": 1, "maximum": 87600}', 'A session ends after this many hours without a refresh, on every plan of the platform.'),
  ('sessions.absolute_hours', '720', '{"type": "integer", "minimum": 1, "maximum": 87600}', 'A session ends this many hours after its sign-in, on every plan of the platform.'),
  ('sessions.max_per_user', '20', '{"type": "integer", "minimum": 1, "maximum": 10000}', 'How many sessions a user can have; a further sign-in ends the oldest.'),
  ('sessions.max_devices_per_user', '50', '{"type": "integer", "minimum": 1, "maximum": 10000}', 'How many devices are remembered for a user; the longest unused is forgotten.'),
  ('sessions.max_networks_per_user', '200', '{"type": "integer", "minimum": 1, "maximum": 100000}', 'How many networks are remembered from which a user signed in; the one longest unseen is forgotten.'),
  ('sessions.country_header', 'null', '{"type": ["string", "null"], "pattern": "^[a-z0-9-]{1,100}$"}', 'Name (lower case) of a request header in which the platform itself puts the country, such as "cf-ipcountry"; null: none.')
on conflict (key) do nothing;

-- One row, no look-up and nothing to convert: it is read in every statement of every user.
create table private.session_limits (
  is_only boolean primary key default true check (is_only),
  lasts interval,
  idles interval
);
comment on table private.session_limits is
  'The settings sessions.absolute_hours (lasts) and sessions.idle_hours (idles), kept by a trigger on private.settings. Null, when a setting is missing: no session counts.';
revoke all on private.session_limits from anon, authenticated, service_role;

create function private.read_session_limits(out lasts interval, out idles interval)
language sql stable security invoker set search_path = ''
as $$
  select
    make_interval(hours => max(l.value::integer) filter (where l.key = 'sessions.absolute_hours')),
    make_interval(hours => max(l.value::integer) filter (where l.key = 'sessions.idle_hours'))
  from private.settings l where l.key in ('sessions.absolute_hours', 'sessions.idle_hours')
$$;
comment on function private.read_session_limits() is 'What private.session_limits must say.';
insert into private.session_limits (lasts, idles) select l.lasts, l.idles from private.read_session_limits() l;

create function private.tg_settings__session_limits() returns trigger
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  update private.session_limits s set lasts = l.lasts, idles = l.idles
  from private.read_session_limits() l where (s.lasts, s.idles) is distinct from (l.lasts, l.idles);
  return null;
end $$;
comment on function private.tg_settings__session_limits() is 'Other limits for sessions hold from the next statement on.';
create trigger tg_settings__session_limits after insert or update or delete or truncate on private.settings
  for each statement execute function private.tg_settings__session_limits();

create view private.live_sessions with (security_invoker = true) as
select s.id, s.user_id, s.aal::text as aal, s.created_at
from auth.sessions s, private.session_limits l
where (s.not_after is null or s.not_after > now())
  and s.created_at > now() - l.lasts
  -- The Auth service writes refreshed_at in UTC, without a zone; it is null until the first refresh.
  and coalesce(s.refreshed_at at time zone 'UTC', s.created_at) > now() - l.idles;
comment on view private.live_sessions is
  'The sessions that still count: there, not past their end, not idle for sessions.idle_hours, not older than sessions.absolute_hours. A missing setting leaves none.';
revoke all on private.live_sessions from anon, authenticated, service_role;

-- What a caller's token is worth at this moment. plpgsql keeps the plans of these lookups; SQL functions made them anew at every call.

create function private.my_session_id() returns uuid
language sql stable security invoker set search_path = ''
return nullif((select auth.jwt()) ->> 'session_id', '')::uuid;
comment on function private.my_session_id() is 'The session of the caller''s token; null without one.';

create function private.my_user_id(allow_pending boolean default false, allow_aal1 boolean default false) returns uuid
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: the Auth service's tables, and accounts are private. Every policy asks this, so it is lean: look-ups one after the other cost
-- less than their join, each expression of its own costs a microsecond, and of json, not jsonb, one pays for what one reads.
declare
  v_claims json := nullif(current_setting('request.jwt.claims', true), '');
  v_user_id uuid := v_claims ->> 'sub';
  -- Here, and not in the statement that asks for it: there its reading costs more.
  v_session_id uuid := nullif(v_claims ->> 'session_id', '');
  v_needs_factor boolean;
begin
  select a.has_factor and not allow_aal1 into v_needs_factor from private.accounts a
  where a.user_id = v_user_id and a.banned_until <= now() and (a.is_active or (allow_pending and a.account_state = 'pending'));
  -- Null, when the account may not go on, lets nobody in.
  select s.user_id into v_user_id from private.live_sessions s
  where s.id = v_session_id and s.user_id = v_user_id
    and v_needs_factor is not null and (not v_needs_factor or s.aal = 'aal2' and v_claims ->> 'aal' = 'aal2');
  return v_user_id;
end $$;
comment on function private.my_user_id(boolean, boolean) is
  'The caller''s id while its session is live, the account active and its second factor used; null for everybody else. What every policy of users'' data compares with, once per statement. The options let in what private.require_user lets in by them.';
-- The service role reads views that ask it, and is nobody.
grant execute on function private.my_user_id(boolean, boolean) to authenticated, service_role;

create function private.has_aal2() returns boolean
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: auth.sessions is the Auth service's.
declare
  v_claims jsonb := auth.jwt();
begin
  return coalesce(v_claims ->> 'aal' = 'aal2', false) and exists (
    select from auth.sessions s
    where s.id = nullif(v_claims ->> 'session_id', '')::uuid and s.user_id = (v_claims ->> 'sub')::uuid
      and s.aal = 'aal2');
end $$;
comment on function private.has_aal2() is
  'Whether the caller proved a second factor in this session: the token says so and the session still does.';
grant execute on function private.has_aal2() to authenticated;

create function private.is_admin() returns boolean
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: profiles of others stay hidden.
declare
  v_user_id uuid := auth.uid();
begin
  return exists (select from public.profiles p where p.id = v_user_id and p.role = 'admin')
    and private.has_aal2() and private.my_user_id() is not null;
end $$;
comment on function private.is_admin() is
  'Whether the caller is an active admin in a live session at aal2; the role is read from the profile, not from the token.';
grant execute on function private.is_admin() to authenticated;

create function private.require_user(allow_pending boolean default false, allow_aal1 boolean default false) returns uuid
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_claims jsonb := auth.jwt();
  v_user_id uuid := auth.uid();
  v_account record;
  v_refusal jsonb;
begin
  if v_user_id is null then
    perform private.raise_error('invalid_api_key', 'Sign in first: this function needs a user''s token.');
  end if;
  select case when a.state = 'pending' and require_user.allow_pending then 'active' else a.state end as state, s.id is not null as has_session,
    not require_user.allow_aal1 and a.has_factor and (s.aal = 'aal2' and v_claims ->> 'aal' = 'aal2') is not true as lacks_factor
  into v_account
  from private.account_states a
    left join private.live_sessions s on s.id = nullif(v_claims ->> 'session_id', '')::uuid and s.user_id = a.id
  where a.id = v_user_id;
  v_refusal := private.account_refusal(v_account.state, v_account.has_session, v_account.lacks_factor);
  if v_refusal is not null then
    -- mfa_required is the gateway's word for it.
    perform private.raise_error(
      case v_refusal ->> 'code' when 'mfa_required' then 'insufficient_aal' else v_refusal ->> 'code' end, v_refusal ->> 'message');
  end if;
  return v_user_id;
end $$;
comment on function private.require_user(boolean, boolean) is
  'The signed-in caller''s id; an error for everybody else, for ended sessions, for accounts that are not active and, when the account has a second factor, for sessions without it. The options let in what must work before: allow_pending an unverified account, allow_aal1 a session without the second factor.';

create function private.require_live_session() returns void
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: the Auth service's tables, and how errors are raised.
declare
  v_claims json := nullif(current_setting('request.jwt.claims', true), '');
  v_user_id uuid := nullif(v_claims ->> 'sub', '');
  v_session_id uuid := nullif(v_claims ->> 'session_id', '');
begin
  perform from private.live_sessions s where s.id = v_session_id and s.user_id = v_user_id;
  if not found then
    perform private.raise_error('invalid_api_key', 'This session has ended. Sign in again.');
  end if;
end $$;
comment on function private.require_live_session() is 'Refuses a token whose session has ended, whatever its account and its second factor allow.';
grant execute on function private.require_live_session() to authenticated;

create function public.check_session() returns void
language plpgsql stable security invoker set search_path = ''
as $$
begin
  -- In two steps: anon may not so much as name what is in private.
  if current_user = 'authenticated' then
    perform private.require_live_session();
  end if;
end $$;
comment on function public.check_session() is
  'The Data API asks it before every request: a user''s token whose session has ended is answered with 401 and invalid_api_key, as functions answer it, where policies alone would show an empty list. An app may ask it, too, when it wakes up.';
grant execute on function public.check_session() to anon, authenticated, service_role;

-- supautils lets role postgres say this of authenticator, hosted and self-hosted. Plain PostgreSQL lets only a superuser: the local
-- stack does it as one, and whoever runs a Data API of their own names the function in PGRST_DB_PRE_REQUEST.
do $$
begin
  alter role authenticator set pgrst.db_pre_request = 'public.check_session';
  notify pgrst, 'reload config';
exception when insufficient_privilege then
  raise notice 'the Data API is not told to ask public.check_session before each request';
end $$;

create function private.require_aal2() returns void
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: the Auth service's tables.
declare
  v_user_id uuid := private.require_user(allow_aal1 => true);
begin
  -- Who may do most must prove most: the team has no way around a second factor.
  if not private.has_aal2() and exists (
    select from private.account_states a where a.id = v_user_id and (a.has_factor or a.role <> 'user')) then
    perform private.raise_error('insufficient_aal', 'Sign in with your second factor first.');
  end if;
end $$;
comment on function private.require_aal2() is
  'For sensitive actions: refuses a caller with a second factor who has not used it, and support and admins without one.';

create function private.require_account(
  user_id uuid, session_id uuid, aal2 boolean default false, request jsonb default null
) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_account record;
  v_refusal jsonb;
begin
  if require_account.request is not null then
    -- Until the transaction ends, and as the Data API does it: the log names who acted, and from where.
    perform set_config('request.jwt.claims', jsonb_build_object('role', 'authenticated', 'sub', require_account.user_id,
        'session_id', require_account.session_id, 'aal', require_account.request ->> 'aal')::text, true),
      set_config('request.headers', jsonb_strip_nulls(jsonb_build_object(
        -- In the header where request_ip looks first; nobody looks where the setting names none.
        coalesce(private.setting('http.client_ip_header') ->> 0, ''), require_account.request ->> 'ip',
        'user-agent', require_account.request ->> 'user_agent', 'x-request-id', require_account.request ->> 'request_id'))::text, true);
  end if;
  select a.state, a.role, a.has_factor, s.id is not null as has_session, s.aal is not distinct from 'aal2' as has_aal2 into v_account
  from private.account_states a
    left join private.live_sessions s on s.id = require_account.session_id and s.user_id = a.id
  where a.id = require_account.user_id;
  v_refusal := private.account_refusal(
    v_account.state, v_account.has_session, not require_account.aal2 and v_account.has_factor and not v_account.has_aal2);
  if v_refusal is not null then
    perform private.raise_error(v_refusal ->> 'code', v_refusal ->> 'message');
  end if;
  -- Who may do most must prove most: the team has no way around a second factor. A token from before the factor proves nothing.
  if require_account.aal2 and (v_account.has_factor or v_account.role <> 'user')
    and (v_account.has_aal2 and auth.jwt() ->> 'aal' = 'aal2') is not true then
    perform private.raise_error('insufficient_aal', 'Sign in with your second factor first.');
  end if;
end $$;
comment on function private.require_account(uuid, uuid, boolean, jsonb) is
  'How a function for users authorises: TypeScript verifies the token and hands over its user and session; this raises what private.account_refusal says. aal2, for sensitive actions: refuses with insufficient_aal a user with a second factor who has not used it, and support and admins without one. request {aal, ip, user_agent, request_id}: of the call, for private.audit and the token''s level; null inside the Data API, which says it itself. A token whose level nobody says has proven nothing.';

create function private.require_admin() returns void
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: the role is read from the profile.
declare
  v_user_id uuid;
begin
  if coalesce((select auth.role()), session_user) in ('service_role', 'postgres') then
    return;
  end if;
  v_user_id := private.require_user(allow_aal1 => true);
  if not exists (select from public.profiles p where p.id = v_user_id and p.role = 'admin') then
    perform private.raise_error('not_allowed', 'Only admins may do this.');
  end if;
  perform private.require_aal2();
end $$;
comment on function private.require_admin() is
  'Lets in the service role, direct connections of the project''s owner, and active admins at aal2.';

create function private.warn_user(
  user_id uuid, type text, severity text, title text, body text, details jsonb default '{}', dedupe_key text default null
) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: both tables are written by functions only.
begin
  perform private.raise_security_event(
    type => warn_user.type, severity => warn_user.severity, user_id => warn_user.user_id,
    details => warn_user.details, dedupe_key => warn_user.dedupe_key);
  perform private.notify_user(
    user_id => warn_user.user_id, type => warn_user.type, title => warn_user.title, body => warn_user.body,
    data => warn_user.details);
end $$;
comment on function private.warn_user(uuid, text, text, text, text, jsonb, text) is
  'A security event and a notification about it for the account''s owner.';

-- What a user agent is called ------------------------------------------------------------------------------------------

create function private.client_name(user_agent text) returns text
language plpgsql immutable security invoker set search_path = ''
as $$
declare
  v_agent text := left(client_name.user_agent, 1000);
  v_system text;
  v_client text;
begin
  if btrim(coalesce(v_agent, '')) = '' then
    return 'Unknown client';
  end if;
  -- The first that fits: phones pretend to be Macs and Linux, and every browser pretends to be its elders.
  v_system := case
    when v_agent ~ 'iPad' then 'iPad'
    when v_agent ~ 'iPhone|iPod' then 'iPhone'
    when v_agent ~ 'Android' then 'Android'
    when v_agent ~ 'CrOS' then 'ChromeOS'
    when v_agent ~ 'Windows' then 'Windows'
    when v_agent ~ 'Darwin|CFNetwork' and v_agent !~ 'Mac' then 'Apple'
    when v_agent ~ 'Macintosh|Mac OS X|macOS' then 'macOS'
    when v_agent ~ 'Linux|X11' then 'Linux'
  end;
  v_client := case
    when v_agent ~ '(Edg|EdgA|EdgiOS|Edge)/' then 'Edge'
    when v_agent ~ '(OPR|OPT|Opera)[/ ]' then 'Opera'
    when v_agent ~ 'SamsungBrowser/' then 'Samsung Internet'
    when v_agent ~ '(Firefox|FxiOS)/' then 'Firefox'
    when v_agent ~ 'Electron/' then 'Desktop app'
    when v_agent ~ '(HeadlessChrome|Chrome|CriOS|Chromium)/' then 'Chrome'
    when v_agent ~ 'Version/[0-9.]+.* Safari/' then 'Safari'
    when v_agent ~ 'okhttp|Dart/|CFNetwork|Expo/' then 'App'
    when v_agent ~* '^(curl|wget|python|go-http-client|node|deno|bun|undici|axios|postman)' then
      initcap((regexp_match(v_agent, '^[A-Za-z]+'))[1])
  end;
  return case
    when v_client is null and v_system is null then 'Unknown client'
    when v_client is null then 'Unknown client on ' || v_system
    when v_system is null then v_client
    else v_client || ' on ' || v_system
  end;
end $$;
comment on function private.client_name(text) is
  'A name for people in place of a user agent, such as "Firefox on Windows". A guess for a list; nothing is decided by it.';

-- Devices --------------------------------------------------------------------------------------------------------------

create table public.devices (
  user_id uuid not null references auth.users (id) on delete cascade,
  device_id text not null check (length(device_id) between 1 and 200),
  name text not null check (length(name) between 1 and 100),
  type text not null check (type in ('android', 'ios', 'web', 'desktop')),
  session_id uuid,
  country text check (length(country) between 1 and 10),
  created_at timestamptz not null default now(),
  last_active_at timestamptz not null default now(),
  primary key (user_id, device_id)
);
comment on table public.devices is 'The devices a user signed in on, as their apps named them. Written by register_device only.';
comment on column public.devices.device_id is 'Made by the app and kept on the device; a name, not a secret.';
comment on column public.devices.session_id is
  'The session that registered last. It may be over: list_my_sessions says which live. No foreign key: the Auth service''s deletions stay its own.';
comment on column public.devices.country is 'As sessions.country_header said at the last registration; null where no header is set.';
create index devices_session_id_idx on public.devices (session_id);
alter table public.devices enable row level security;
alter table public.devices force row level security;
revoke all on public.devices from anon, authenticated, service_role;
grant select on public.devices to authenticated, service_role;

create function private.request_country() returns text
language sql stable security definer set search_path = ''
as $$
-- Definer: the settings are private.
  select nullif(left(upper(nullif(current_setting('request.headers', true), '')::jsonb
    ->> (select value #>> '{}' from private.settings where key = 'sessions.country_header')), 10), '')
$$;
comment on function private.request_country() is
  'The country of the request, from the header that sessions.country_header names; null while the setting is null. Set it only where the platform itself writes that header.';

create function private.register_device(device_id text, name text, type text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: devices are written here only, and the replaced session is the Auth service's.
declare
  v_user_id uuid := private.require_user();
  v_session_id uuid := private.my_session_id();
  v_country text := private.request_country();
  v_known_countries text[];
  v_is_new boolean;
  v_old_session_id uuid;
begin
  if length(register_device.device_id) between 1 and 200 is not true
    or length(register_device.name) between 1 and 100 is not true
    or register_device.type in ('android', 'ios', 'web', 'desktop') is not true then
    perform private.raise_error('invalid_request_error', 'device_id, name and type must be given.',
      'device_id: up to 200 characters; name: up to 100; type: android, ios, web or desktop.');
  end if;
  select array_agg(distinct d.country) filter (where d.country is not null) into v_known_countries
  from public.devices d where d.user_id = v_user_id;

  -- Who comes second waits here, and then finds the first one's session.
  insert into public.devices as d (user_id, device_id, name, type)
  values (v_user_id, register_device.device_id, register_device.name, register_device.type)
  on conflict on constraint devices_pkey do nothing;
  v_is_new := found;
  select d.session_id into v_old_session_id from public.devices d
  where d.user_id = v_user_id and d.device_id = register_device.device_id for update;
  update public.devices d set session_id = null
  where d.user_id = v_user_id and d.session_id = v_session_id and d.device_id <> register_device.device_id;
  update public.devices d set
    name = register_device.name, type = register_device.type, session_id = v_session_id,
    country = coalesce(v_country, d.country), last_active_at = now()
  where d.user_id = v_user_id and d.device_id = register_device.device_id;

  -- One live session per device.
  delete from auth.sessions s where s.id = v_old_session_id and s.user_id = v_user_id and s.id <> v_session_id;
  delete from public.devices d
  where d.user_id = v_user_id and d.device_id in (
    select o.device_id from public.devices o where o.user_id = v_user_id
    order by o.last_active_at desc, o.created_at desc offset (private.setting('sessions.max_devices_per_user'))::integer);

  if v_is_new and exists (
    select from public.devices d where d.user_id = v_user_id and d.device_id <> register_device.device_id) then
    perform private.warn_user(v_user_id, 'new_device', 'medium', 'New device',
      format('Somebody signed in to your account on %s. If it was not you, end that session and change your password.', register_device.name),
      jsonb_build_object('name', register_device.name, 'device_type', register_device.type), left(register_device.device_id, 200));
  end if;
  if v_country <> all (v_known_countries) then
    perform private.warn_user(v_user_id, 'new_country', 'medium', 'New country',
      format('Somebody uses your account from %s. If it is not you, end that session and change your password.', v_country),
      jsonb_build_object('country', v_country), v_country);
  end if;
end $$;
comment on function private.register_device(text, text, text) is
  'Behind public.register_device.';
grant execute on function private.register_device(text, text, text) to authenticated;

create function public.register_device(device_id text, name text, type text) returns void
language sql volatile security invoker set search_path = ''
as $$ select private.register_device(register_device.device_id, register_device.name, register_device.type) $$;
comment on function public.register_device(text, text, text) is
  'Tells which device (type: android, ios, web or desktop) the caller''s session runs on; call it after sign-in. An older session of the same device ends.';
grant execute on function public.register_device(text, text, text) to authenticated;

-- The owner's list -----------------------------------------------------------------------------------------------------

create function private.list_my_sessions()
returns table (
  session_id uuid, device_id text, device_name text, device_type text, ip inet, user_agent text, client text,
  created_at timestamptz, last_active_at timestamptz, is_current boolean
)
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: auth.sessions is the Auth service's; it answers for the caller only.
declare
  v_user_id uuid := private.require_user(allow_pending => true);
  v_session_id uuid := private.my_session_id();
begin
  return query
    select s.id, d.device_id, d.name, d.type, s.ip, s.user_agent, private.client_name(s.user_agent), s.created_at,
      greatest(coalesce(s.refreshed_at at time zone 'UTC', s.created_at), d.last_active_at), s.id = v_session_id
    from private.live_sessions l
      join auth.sessions s on s.id = l.id
      left join public.devices d on d.user_id = s.user_id and d.session_id = s.id
    where l.user_id = v_user_id
    order by s.id = v_session_id desc, 9 desc, s.id;
end $$;
comment on function private.list_my_sessions() is
  'Behind public.list_my_sessions.';
grant execute on function private.list_my_sessions() to authenticated;

create function public.list_my_sessions()
returns table (
  session_id uuid, device_id text, device_name text, device_type text, ip inet, user_agent text, client text,
  created_at timestamptz, last_active_at timestamptz, is_current boolean
)
language sql stable security invoker set search_path = ''
as $$ select * from private.list_my_sessions() $$;
comment on function public.list_my_sessions() is
  'The caller''s live sessions, the current one first: device where one is registered, IP, user agent and a readable name for it, when it began and was last active.';
grant execute on function public.list_my_sessions() to authenticated;

create function private.end_sessions(user_id uuid, ids uuid[], keys text, kept uuid[] default '{}') returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_ended jsonb;
begin
  if coalesce(end_sessions.keys not in ('all', 'session', 'none'), true) then
    perform private.raise_error('invalid_request_error', 'keys must be all, session or none.');
  end if;
  with ended as (
    delete from auth.sessions s where s.user_id = end_sessions.user_id and s.id = any (end_sessions.ids) returning s.id, s.created_at)
  select coalesce(jsonb_object_agg(e.id, e.created_at), '{}') into v_ended from ended e;
  return jsonb_build_object(
    'sessions', (select count(*) from jsonb_object_keys(v_ended)),
    'api_keys', private.revoke_keys_with_sessions(end_sessions.user_id, end_sessions.keys, v_ended, end_sessions.kept));
end $$;
comment on function private.end_sessions(uuid, uuid[], text, uuid[]) is
  'Ends sessions of a user, and revokes the API keys that go with them: see revoke_keys_with_sessions. Answers {sessions, api_keys}, how many of each.';

create function private.revoke_my_session(session_id uuid, keys text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: auth.sessions is the Auth service's; it deletes the caller's only.
declare
  v_user_id uuid := private.require_user(allow_pending => true);
  v_ended jsonb;
begin
  v_ended := private.end_sessions(v_user_id, array[revoke_my_session.session_id], revoke_my_session.keys,
    -- Who ends this very session keeps nothing for its sake.
    array_remove(array[private.my_session_id()], revoke_my_session.session_id));
  if v_ended ->> 'sessions' = '0' then
    perform private.raise_error('not_found', 'You have no such session.');
  end if;
  perform private.audit(action => 'session.revoke', resource_type => 'session',
    resource_id => revoke_my_session.session_id::text, user_id => v_user_id, details => v_ended - 'sessions');
end $$;
comment on function private.revoke_my_session(uuid, text) is
  'Behind public.revoke_my_session.';
grant execute on function private.revoke_my_session(uuid, text) to authenticated;

create function public.revoke_my_session(session_id uuid, keys text default 'session') returns void
language sql volatile security invoker set search_path = ''
as $$ select private.revoke_my_session(revoke_my_session.session_id, revoke_my_session.keys) $$;
comment on function public.revoke_my_session(uuid, text) is
  'Ends one of the caller''s sessions at once; not_found when there is none or it is somebody else''s. keys: session (default) revokes the API keys that it made and those made since it began, but for the present session''s; all; none.';
grant execute on function public.revoke_my_session(uuid, text) to authenticated;

create function private.revoke_my_other_sessions(keys text) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: auth.sessions is the Auth service's; it deletes the caller's only.
declare
  v_user_id uuid := private.require_user(allow_pending => true);
  v_session_id uuid := private.my_session_id();
  v_ended jsonb;
begin
  v_ended := private.end_sessions(v_user_id,
    array(select s.id from auth.sessions s where s.user_id = v_user_id and s.id <> v_session_id), revoke_my_other_sessions.keys, array[v_session_id]);
  perform private.audit(action => 'session.revoke_others', resource_type => 'account', resource_id => v_user_id::text,
    user_id => v_user_id, details => v_ended);
  return (v_ended -> 'sessions')::integer;
end $$;
comment on function private.revoke_my_other_sessions(text) is
  'Behind public.revoke_my_other_sessions.';
grant execute on function private.revoke_my_other_sessions(text) to authenticated;

create function public.revoke_my_other_sessions(keys text default 'session') returns integer
language sql volatile security invoker set search_path = ''
as $$ select private.revoke_my_other_sessions(revoke_my_other_sessions.keys) $$;
comment on function public.revoke_my_other_sessions(text) is
  'Ends all of the caller''s sessions but this one, at once; answers how many. keys: session (default) revokes the API keys that those made and that were made since the first of them began, but for the present session''s; all; none.';
grant execute on function public.revoke_my_other_sessions(text) to authenticated;

create function private.revoke_all_sessions(user_id uuid, keys text) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: auth.sessions is the Auth service's; service role and admins only.
declare
  v_ended jsonb;
begin
  perform private.require_admin();
  if not exists (select from auth.users u where u.id = revoke_all_sessions.user_id) then
    perform private.raise_error('not_found', 'There is no such account.');
  end if;
  v_ended := private.end_sessions(revoke_all_sessions.user_id,
    array(select s.id from auth.sessions s where s.user_id = revoke_all_sessions.user_id), revoke_all_sessions.keys);
  perform private.audit(action => 'session.revoke_all', resource_type => 'account',
    resource_id => revoke_all_sessions.user_id::text, user_id => revoke_all_sessions.user_id,
    details => v_ended);
  return (v_ended -> 'sessions')::integer;
end $$;
comment on function private.revoke_all_sessions(uuid, text) is
  'Behind public.revoke_all_sessions.';
grant execute on function private.revoke_all_sessions(uuid, text) to authenticated, service_role;

create function public.revoke_all_sessions(user_id uuid, keys text default 'session') returns integer
language sql volatile security invoker set search_path = ''
as $$ select private.revoke_all_sessions(revoke_all_sessions.user_id, revoke_all_sessions.keys) $$;
comment on function public.revoke_all_sessions(uuid, text) is
  'Ends every session of an account at once; answers how many. keys: session (default) revokes the API keys that they made and that were made since the first of them began; all; none. For the service role and admins at aal2.';
grant execute on function public.revoke_all_sessions(uuid, text) to authenticated, service_role;

-- What the Auth service does, watched ----------------------------------------------------------------------------------
-- These run in its transactions: whatever goes wrong here becomes a warning in the log, never a failed sign-in.

create table private.known_networks (
  user_id uuid not null references auth.users (id) on delete cascade,
  network cidr not null,
  first_seen_at timestamptz not null default now(),
  last_seen_at timestamptz not null default now(),
  primary key (user_id, network)
);
comment on table private.known_networks is 'The networks (/24, /48) a user signed in from. A new one is worth a warning; a year later it is new again.';
create index known_networks_last_seen_at_idx on private.known_networks (last_seen_at);
revoke all on private.known_networks from anon, authenticated, service_role;

create function private.network_of(ip inet, bits_v4 integer, bits_v6 integer) returns cidr
language sql immutable security invoker set search_path = ''
return network(set_masklen(ip, case family(ip) when 4 then bits_v4 else bits_v6 end));
comment on function private.network_of(inet, integer, integer) is 'The network of an address, with a prefix length for each family.';

create function private.tg_sessions__limit() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  -- Sign-ins of one user take turns, so that none misses another's session.
  perform pg_advisory_xact_lock(hashtextextended('sessions of ' || new.user_id, 0));
  delete from auth.sessions s where s.id in (
    select o.id from auth.sessions o where o.user_id = new.user_id and o.id <> new.id
    order by o.created_at desc, o.id offset (private.setting('sessions.max_per_user'))::integer - 1);
  return null;
exception when others then
  raise warning 'sessions of % were not limited: %', new.user_id, sqlerrm;
  return null;
end $$;
comment on function private.tg_sessions__limit() is
  'A user has at most sessions.max_per_user sessions: the oldest ends.';
create trigger palisade_limit_sessions after insert on auth.sessions
  for each row execute function private.tg_sessions__limit();

create function private.tg_sessions__tell_end() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as whoever ends a session, the Auth service or a user.
begin
  perform realtime.send(jsonb_build_object('session_id', old.id), 'session_ended', 'user:' || old.user_id, true);
  return null;
exception when others then
  raise warning 'the end of session % was not told: %', old.id, sqlerrm;
  return null;
end $$;
comment on function private.tg_sessions__tell_end() is
  'Tells the devices of a user on their channel that a session ended, and which: hosted Realtime asks no policy until its token changes, so an app leaves by itself when the session is its own.';
create trigger palisade_tell_end after delete on auth.sessions
  for each row execute function private.tg_sessions__tell_end();

create function private.tg_sessions__network() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
declare
  v_network cidr := private.network_of(new.ip, 24, 48);
  v_is_new boolean;
begin
  insert into private.known_networks (user_id, network) values (new.user_id, v_network) on conflict do nothing;
  v_is_new := found;
  if v_is_new then
    delete from private.known_networks n where n.user_id = new.user_id and n.network in (
      select o.network from private.known_networks o where o.user_id = new.user_id and o.network <> v_network
      order by o.last_seen_at desc, o.network offset (private.setting('sessions.max_networks_per_user'))::integer - 1);
  end if;
  if not v_is_new then
    update private.known_networks n set last_seen_at = now() where n.user_id = new.user_id and n.network = v_network;
  elsif exists (select from private.known_networks n where n.user_id = new.user_id and n.network <> v_network) then
    perform private.warn_user(new.user_id, 'new_network', 'medium', 'Sign-in from a new network',
      format('Somebody signed in to your account from %s with %s. If it was not you, end that session and change your password.',
        host(new.ip), private.client_name(new.user_agent)),
      jsonb_build_object('ip', host(new.ip), 'network', v_network, 'client', private.client_name(new.user_agent)),
      v_network::text);
  end if;
  return null;
exception when others then
  raise warning 'the network of session % was not noted: %', new.id, sqlerrm;
  return null;
end $$;
comment on function private.tg_sessions__network() is
  'Notes the network of a sign-in; the first is silent, every other new one warns the user.';
create trigger palisade_note_network after insert on auth.sessions
  for each row when (new.ip is not null) execute function private.tg_sessions__network();

create function private.delete_old_networks() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_deleted integer;
begin
  delete from private.known_networks n where n.last_seen_at < now() - interval '1 year';
  get diagnostics v_deleted = row_count;
  return v_deleted;
end $$;
comment on function private.delete_old_networks() is 'Forgets networks that nobody signed in from for a year; run daily. Answers how many.';

create function private.tg_profiles__role_changed() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: those tables are written by functions only.
begin
  perform private.warn_user(new.id, 'role_changed', 'high', 'Your role was changed',
    format('Your role is now %s; it was %s.', new.role, old.role), jsonb_build_object('from', old.role, 'to', new.role));
  perform private.audit(action => 'account.set_role', resource_type => 'account', resource_id => new.id::text,
    user_id => new.id, details => jsonb_build_object('from', old.role, 'to', new.role));
  return null;
end $$;
comment on function private.tg_profiles__role_changed() is
  'A new role is audited, a security event, and told to the user.';
create trigger tg_profiles__role_changed after update of role on public.profiles
  for each row when (old.role is distinct from new.role) execute function private.tg_profiles__role_changed();

create function private.tg_refresh_tokens__reuse() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
declare
  v_user_id uuid;
begin
  if exists (select from auth.refresh_tokens t where t.session_id = new.session_id and t.revoked is not true) then
    return null;
  end if;
  delete from auth.sessions s where s.id = new.session_id returning s.user_id into v_user_id;
  if found then
    perform private.warn_user(v_user_id, 'refresh_token_reuse', 'high', 'A session was ended for safety',
      'An old sign-in token was used a second time: somebody may have copied it. Sign in again and change your password.',
      jsonb_build_object('session_id', new.session_id), new.session_id::text);
  end if;
  return null;
exception when others then
  raise warning 'reuse of a token of session % was not handled: %', new.session_id, sqlerrm;
  return null;
end $$;
comment on function private.tg_refresh_tokens__reuse() is
  'A session whose last refresh token was revoked without a new one: the Auth service saw a spent token again and revoked the family. The session goes, and with it the access token.';
-- At commit: a rotation revokes first and inserts the new token after.
create constraint trigger palisade_token_reuse after update of revoked on auth.refresh_tokens
  deferrable initially deferred
  for each row when (new.revoked and old.revoked is not true and new.session_id is not null)
  execute function private.tg_refresh_tokens__reuse();
