-- Accounts: one profile for every user of the Auth service, with what the user may write and what only we may.

insert into private.settings (key, value, rule, description) values
  ('quota.time_zone_change_days', '30', '{"type": "integer", "minimum": 0, "maximum": 3650}', 'How often, in days, the zone of the daily limits may follow the profile''s time zone.')
on conflict (key) do nothing;

create table public.profiles (
  id uuid primary key references auth.users (id) on delete cascade,
  status text not null default 'pending' check (status in ('pending', 'active', 'suspended', 'deleted')),
  role text not null default 'user' check (role in ('user', 'support', 'admin')),
  plan_id text not null default 'free',
  first_name text check (length(first_name) between 1 and 80),
  last_name text check (length(last_name) between 1 and 80),
  display_name text check (length(display_name) between 1 and 80),
  avatar_path text check (length(avatar_path) between 1 and 500),
  bio text check (length(bio) <= 500),
  birth_date date,
  parked_reason text check (parked_reason in ('guardian_consent', 'incomplete')),
  do_not_sell boolean not null default false,
  locale text not null default 'en' check (locale ~ '^[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8})*$' and length(locale) <= 35),
  time_zone text not null default 'UTC' check (length(time_zone) <= 64),
  quota_time_zone text not null default 'UTC',
  quota_time_zone_changed_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table public.profiles is 'One row for every account, made when the user is made. Its owner reads it and writes the personal columns.';
comment on column public.profiles.id is 'The user''s id in auth.users.';
comment on column public.profiles.status is 'pending until the e-mail is verified and parked_reason is null; the AI proxy refuses all but active from the next call on. Not user-writable.';
comment on column public.profiles.role is 'Not user-writable.';
comment on column public.profiles.plan_id is 'The plan that an operator gave: it decides the limits unless a better one is paid for; a change applies to the next call. Not user-writable.';
comment on column public.profiles.parked_reason is
  'Why a verified e-mail does not make the account active: guardian_consent (too young), incomplete (birth date or terms are missing). Not user-writable.';
comment on column public.profiles.do_not_sell is 'The latest choice made with set_do_not_sell; public.consents has all of them.';
comment on column public.profiles.time_zone is 'IANA name, such as Europe/Berlin; written in other letters it is stored as the name is spelled.';
comment on column public.profiles.quota_time_zone is
  'The zone whose midnight resets daily limits. It follows time_zone, at most once per quota.time_zone_change_days, so that moving the clock gains nothing.';
create index profiles_plan_id_idx on public.profiles (plan_id);
create index profiles_role_idx on public.profiles (role) where role <> 'user';
alter table public.profiles enable row level security;
alter table public.profiles force row level security;
revoke all on public.profiles from anon, authenticated, service_role;
grant select on public.profiles to authenticated, service_role;
grant update (first_name, last_name, display_name, avatar_path, bio, locale, time_zone)
  on public.profiles to authenticated;
grant update (plan_id) on public.profiles to service_role;

create trigger tg_profiles__timestamps before insert or update on public.profiles
  for each row execute function private.tg__timestamps();

create function private.time_zone_name(value text) returns text
language plpgsql stable security invoker set search_path = ''
as $$
begin
  -- Reading the names costs milliseconds, and most are this one.
  if upper(value) = 'UTC' then
    return 'UTC';
  end if;
  return (
    select z.name from pg_catalog.pg_timezone_names z
    where lower(z.name) = lower(value) order by z.name <> value, z.name limit 1);
end $$;
comment on function private.time_zone_name(text) is
  'A time zone that this server knows, aliases such as Asia/Calcutta included, in the letters of its right name; null for anything else.';

create function private.tg_profiles__time_zone() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the settings are private.
declare
  v_days integer := (private.setting('quota.time_zone_change_days'))::integer;
begin
  new.time_zone := private.time_zone_name(new.time_zone);
  if new.time_zone is null then
    perform private.raise_error('invalid_request_error', 'time_zone is not an IANA time zone.', 'Use a name such as Europe/Berlin.');
  end if;
  -- In other letters it may be the zone that was there before.
  if (new.time_zone is distinct from old.time_zone or new.time_zone is distinct from old.quota_time_zone)
    and (old.quota_time_zone_changed_at is null or old.quota_time_zone_changed_at < now() - make_interval(days => v_days)) then
    new.quota_time_zone := new.time_zone;
    new.quota_time_zone_changed_at := now();
  end if;
  return new;
end $$;
comment on function private.tg_profiles__time_zone() is
  'Checks the zone, writes it as its name is spelled, and lets the quota follow it at most once per quota.time_zone_change_days.';
create trigger tg_profiles__time_zone before update of time_zone on public.profiles
  -- Also when the zone is saved again: after the wait the quota can then catch up with it.
  for each row when (new.time_zone is distinct from old.time_zone or new.time_zone is distinct from old.quota_time_zone)
  execute function private.tg_profiles__time_zone();

create function private.text_or_null(value text, max_length integer) returns text
language sql immutable security invoker set search_path = ''
return nullif(left(btrim(value), max_length), '');
comment on function private.text_or_null(text, integer) is 'Trimmed and cut to max_length characters; null when nothing is left.';

create function private.date_or_null(value text) returns date
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return case when value ~ '^\d{4}-\d\d-\d\d$' then value::date end;
exception when data_exception then
  return null;
end $$;
comment on function private.date_or_null(text) is 'A YYYY-MM-DD date, or null when the text is not one.';

create function private.birth_date_or_null(value text) returns date
language sql stable security invoker set search_path = ''
return case when private.date_or_null(value) >= date '1900-01-01' and private.date_or_null(value) < current_date
  then private.date_or_null(value) end;
comment on function private.birth_date_or_null(text) is 'A day that somebody alive can have been born on, written YYYY-MM-DD; null for anything else.';

create function private.is_under_age(birth_date date) returns boolean
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return coalesce(
    birth_date > current_date - make_interval(years => (private.setting('registration.minimum_age'))::integer), false);
end $$;
comment on function private.is_under_age(date) is 'Whether somebody born that day is younger than registration.minimum_age; an unknown day is not.';

create function private.locale_or_default(value text) returns text
language sql immutable security invoker set search_path = ''
return case when value ~ '^[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8})*$' and length(value) <= 35 then value else 'en' end;
comment on function private.locale_or_default(text) is 'A language tag such as de-CH; en for anything else.';

create function private.time_zone_or_default(value text) returns text
language sql stable security invoker set search_path = ''
return coalesce(private.time_zone_name(value), 'UTC');
comment on function private.time_zone_or_default(text) is 'An IANA time zone that this server knows, in any letters; UTC for anything else.';

create function private.create_account(user_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: runs in the Auth service's transaction.
declare
  v_user auth.users;
  v_data jsonb;
  v_birth_date date;
begin
  select u.* into strict v_user from auth.users u where u.id = create_account.user_id;
  v_data := coalesce(v_user.raw_user_meta_data, '{}');
  v_birth_date := private.birth_date_or_null(v_data ->> 'birth_date');
  insert into public.profiles (
    id, status, parked_reason, first_name, last_name, display_name, birth_date, locale, time_zone, quota_time_zone)
  values (
    v_user.id,
    case when v_user.email_confirmed_at is null or private.is_under_age(v_birth_date) then 'pending' else 'active' end,
    case when private.is_under_age(v_birth_date) then 'guardian_consent' end,
    private.text_or_null(v_data ->> 'first_name', 80),
    private.text_or_null(v_data ->> 'last_name', 80),
    private.text_or_null(v_data ->> 'display_name', 80),
    v_birth_date,
    private.locale_or_default(v_data ->> 'locale'),
    private.time_zone_or_default(v_data ->> 'time_zone'),
    private.time_zone_or_default(v_data ->> 'time_zone'))
  on conflict (id) do nothing;
  insert into private.accounts (user_id, account_state, is_active, has_factor, banned_until, limits_id, entitled_until)
  select g.user_id, g.account_state, g.is_active, g.has_factor, g.banned_until, l.limits_id, l.entitled_until
  from private.account_gates g join private.account_limits l on l.user_id = g.user_id where g.user_id = v_user.id
  on conflict do nothing;
  if found then
    perform private.grant_sign_up_credits(v_user.id);
  end if;
end $$;
comment on function private.create_account(uuid) is
  'Gives a user profile and account, and credits when the address is confirmed; harmless when they are there. What the user typed at sign-up is cut to size or dropped, never an error; somebody under the minimum age is parked.';

create function private.tg_users__create_account() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  perform private.create_account(new.id);
  return new;
end $$;
comment on function private.tg_users__create_account() is
  'Every user has its profile, account and limits, whoever made the user.';
create trigger palisade_create_account after insert on auth.users
  for each row execute function private.tg_users__create_account();

create function private.tg_users__activate_account() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  perform private.complete_anonymous_account(new.id);
  perform private.grant_sign_up_credits(new.id);
  update public.profiles set status = 'active' where id = new.id and status = 'pending' and parked_reason is null;
  return new;
end $$;
comment on function private.tg_users__activate_account() is
  'A verified e-mail brings the credits on sign-up and makes a pending account active, unless it is parked; a suspended one stays suspended.';
create trigger palisade_activate_account after update of email_confirmed_at on auth.users
  for each row when (old.email_confirmed_at is null and new.email_confirmed_at is not null)
  execute function private.tg_users__activate_account();
