-- Written by npm run db:baseline from sql/ and policies/, word for word; change those.
-- Every table here is new and empty, so nothing waits for a default, a key or a check.
set lock_timeout = '5s';
set statement_timeout = '60s';

-- sql/10_accounts.sql =================================================================================================

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

-- sql/12_registration.sql =============================================================================================

-- Registration: who may become a user (phase, invites, cap, age, terms), decided before the user exists, and what was agreed to.
-- The Auth hook before_user_created decides and reserves; a trigger at the end of the sign-up's transaction confirms, and
-- decides again for users who come without a reservation: the admin API calls no hook.

insert into private.settings (key, value, rule, description) values
  ('launch.phase', '"open"', '{"enum": ["open", "capped", "invite", "closed"]}', 'Who may sign up: "open" everybody, "capped" the first launch.user_cap accounts, "invite" with a code, "closed" nobody.'),
  ('launch.user_cap', '100', '{"type": "integer", "minimum": 0, "maximum": 1000000000}', 'How many accounts there may be while launch.phase is "capped".'),
  ('registration.minimum_age', '13', '{"type": "integer", "minimum": 0, "maximum": 120}', 'Age in years below which registration.under_age applies.'),
  ('registration.under_age', '"refuse"', '{"enum": ["refuse", "park"]}', 'What happens to a sign-up below the minimum age: "refuse", or "park" until a guardian''s consent is recorded.'),
  ('registration.require_terms', 'true', '{"type": "boolean"}', 'Whether a sign-up must accept the current terms and privacy policy.'),
  ('registration.require_birth_date', 'true', '{"type": "boolean"}', 'Whether a sign-up must give a birth date.'),
  ('registration.reservation_seconds', '60', '{"type": "integer", "minimum": 1, "maximum": 3600}', 'How long an admitted sign-up holds its place while the Auth service makes the user.'),
  ('registration.max_data_bytes', '8192', '{"type": "integer", "minimum": 1024, "maximum": 1000000}', 'Bytes that a sign-up''s data may have, and what a user stores as metadata later on; what Auth adds itself is not counted.')
on conflict (key) do nothing;

-- Documents and consents -----------------------------------------------------------------------------------------------

create table public.legal_documents (
  kind text not null check (kind in ('terms', 'privacy')),
  version text not null check (length(version) between 1 and 40),
  url text not null check (length(url) between 1 and 500),
  published_at timestamptz not null default now(),
  primary key (kind, version)
);
comment on table public.legal_documents is
  'Versions of the terms and the privacy policy. The newest published one of each kind is what a sign-up accepts.';
alter table public.legal_documents enable row level security;
alter table public.legal_documents force row level security;
revoke all on public.legal_documents from anon, authenticated, service_role;
-- anon: whoever signs up reads first what they accept.
grant select on public.legal_documents to anon, authenticated, service_role;
grant insert (kind, version, url, published_at) on public.legal_documents to service_role;
-- Stand-ins: publish your own versions before you let people in (docs/accounts.md).
insert into public.legal_documents (kind, version, url, published_at) values
  ('terms', '1', 'https://example.com/terms', '2026-01-01T00:00:00Z'),
  ('privacy', '1', 'https://example.com/privacy', '2026-01-01T00:00:00Z')
on conflict (kind, version) do nothing;

create table public.consents (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null references auth.users (id) on delete cascade,
  kind text not null check (kind in ('terms', 'privacy', 'do_not_sell', 'guardian')),
  version text check (length(version) <= 40),
  granted boolean not null,
  note text check (length(note) between 1 and 500),
  ip inet,
  user_agent text check (length(user_agent) <= 500),
  created_at timestamptz not null default now(),
  foreign key (kind, version) references public.legal_documents (kind, version) on delete restrict,
  check ((kind in ('terms', 'privacy')) = (version is not null))
);
comment on table public.consents is 'What a user agreed to or chose, when and from where; never changed or removed.';
comment on column public.consents.version is 'The document''s version, for terms and privacy.';
comment on column public.consents.granted is 'Accepted, or for do_not_sell: the user forbids selling.';
comment on column public.consents.note is 'For guardian: who consented, and how it was checked.';
create index consents_user_id_kind_created_at_idx on public.consents (user_id, kind, created_at desc);
create index consents_kind_version_idx on public.consents (kind, version);
create unique index consents_user_id_kind_version_key on public.consents (user_id, kind, version) where version is not null;
alter table public.consents enable row level security;
alter table public.consents force row level security;
revoke all on public.consents from anon, authenticated, service_role;
grant select on public.consents to authenticated, service_role;
create function private.tg_consents__append_only() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it looks into auth.users and at sign-ups, which callers cannot read.
begin
  if tg_op = 'DELETE' and (
    not exists (select from auth.users u where u.id = old.user_id) or private.is_voiding_sign_ups(old.user_id)) then
    return old;
  end if;
  raise exception using errcode = '42501', message = 'consents is append-only';
end $$;
comment on function private.tg_consents__append_only() is
  'Refuses update and delete, for the table''s owner too, but for accounts that are erased and consents that others gave: see private.void_sign_ups.';
create trigger tg_consents__append_only before update or delete on public.consents
  for each row execute function private.tg_consents__append_only();
create trigger tg_consents__no_truncate before truncate on public.consents
  for each statement execute function private.tg__append_only();

create function private.record_terms(user_id uuid, ip inet, user_agent text) returns void
language sql volatile security invoker set search_path = ''
as $$
  insert into public.consents (user_id, kind, version, granted, ip, user_agent)
  select record_terms.user_id, d.kind, d.version, true, record_terms.ip, left(record_terms.user_agent, 500)
  from (
    select distinct on (l.kind) l.kind, l.version from public.legal_documents l
    where l.published_at <= now()
    order by l.kind, l.published_at desc, l.version desc) d
  on conflict (user_id, kind, version) where version is not null do nothing
$$;
comment on function private.record_terms(uuid, inet, text) is
  'Notes that a user accepts the current terms and privacy policy; a version that was accepted before keeps its first date.';

-- Invites and registrations --------------------------------------------------------------------------------------------

create table private.invites (
  id uuid primary key default private.uuid_v7(),
  code_hash bytea not null unique check (octet_length(code_hash) = 32),
  label text not null check (length(label) between 1 and 200),
  max_uses integer not null check (max_uses between 1 and 10000),
  expires_at timestamptz,
  revoked_at timestamptz,
  created_by uuid references auth.users (id) on delete set null,
  created_at timestamptz not null default now()
);
comment on table private.invites is 'Invite codes, kept as SHA-256 hashes: 80 random bits need no slow hash. Uses are counted in private.registrations.';
create index invites_created_by_idx on private.invites (created_by);
revoke all on private.invites from anon, authenticated, service_role;

create table private.registrations (
  user_id uuid primary key,
  origin text not null check (origin in ('sign_up', 'unannounced', 'admin', 'import')),
  invite_id uuid references private.invites (id) on delete restrict,
  place integer check (place > 0),
  is_anonymous boolean not null,
  ip inet,
  reserved_at timestamptz not null,
  confirmed_at timestamptz
);
comment on table private.registrations is
  'How each account came in. Made before the user, so user_id references nothing; it stays when the account is erased, so that an invite''s use stays used.';
comment on column private.registrations.origin is
  'sign_up: through the hook. unannounced: made without it (admin API, hook switched off). admin, import: the same, but marked so in app_metadata.';
comment on column private.registrations.place is
  'Which of the invite''s uses, or of the places under the cap, this is; null where nothing is counted. See private.try_place.';
comment on column private.registrations.ip is 'From the hook; moves to the consents when the user is there.';
comment on column private.registrations.confirmed_at is 'Null: a reservation, which holds its place for registration.reservation_seconds.';
create index registrations_invite_id_idx on private.registrations (invite_id);
create index registrations_place_idx on private.registrations (place) where place is not null;
create index registrations_reserved_at_idx on private.registrations (reserved_at) where confirmed_at is null;
revoke all on private.registrations from anon, authenticated, service_role;

create function private.invite_code_hash(code text) returns bytea
language sql immutable security invoker set search_path = ''
return sha256(convert_to(
  translate(upper(regexp_replace(left(code, 100), '[^0-9A-Za-z]', '', 'g')), 'ILO', '110'), 'UTF8'));
comment on function private.invite_code_hash(text) is
  'The hash of an invite code as people type it: case, dashes and blanks do not count, I and L are 1, O is 0.';

create function private.new_invite_code() returns text
language sql volatile security invoker set search_path = ''
as $$
  select string_agg(
    substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', get_byte(r.bytes, i) % 32 + 1, 1) || case when i in (3, 7, 11) then '-' else '' end,
    '' order by i)
  from (select extensions.gen_random_bytes(16) as bytes) r, generate_series(0, 15) i
$$;
comment on function private.new_invite_code() is '80 random bits as XXXX-XXXX-XXXX-XXXX, without letters that look like digits.';

create function private.reservations_since() returns timestamptz
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  return clock_timestamp() - make_interval(secs => (private.setting('registration.reservation_seconds'))::integer);
end $$;
comment on function private.reservations_since() is
  'Reservations made after this moment hold their place. Not now(): whoever waited for the lock began earlier.';

create function private.age_refusal(birth_date text, is_demanded boolean) returns text
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_birth_date date := private.birth_date_or_null(age_refusal.birth_date);
begin
  if v_birth_date is null and is_demanded and (private.setting('registration.require_birth_date'))::boolean then
    return 'Sign-up needs your birth_date, written YYYY-MM-DD.';
  end if;
  if private.is_under_age(v_birth_date) and private.setting('registration.under_age') #>> '{}' is distinct from 'park' then
    return format('You must be at least %s years old to sign up.', private.setting('registration.minimum_age'));
  end if;
  return null;
end $$;
comment on function private.age_refusal(text, boolean) is 'Why somebody born that day may not register, or null. Under registration.under_age = park nobody is too young.';

create function private.place_lock(invite_id uuid) returns integer
language sql immutable security invoker set search_path = ''
return hashtext('private.registrations ' || coalesce(invite_id::text, 'cap'));
comment on function private.place_lock(uuid) is 'The advisory lock, together with a place''s number, of an invite''s uses or (null) of the cap''s places.';

create function private.try_place(invite_id uuid, place integer, user_id uuid) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- Whoever holds the lock is taking this place right now.
  if not pg_try_advisory_xact_lock(private.place_lock(try_place.invite_id), try_place.place) then
    return false;
  end if;
  -- It may have been taken meanwhile. A statement of its own: it must see what was committed before the lock was free.
  return not exists (
    select from private.registrations r
    where r.place = try_place.place and r.invite_id is not distinct from try_place.invite_id
      and r.user_id <> try_place.user_id
      and (r.confirmed_at is not null or r.reserved_at > (select private.reservations_since())));
end $$;
comment on function private.try_place(uuid, integer, uuid) is
  'Whether this place is the caller''s until the transaction ends. Never two callers the same one, and nobody waits.';

create function private.take_invite(code text, user_id uuid, out invite_id uuid, out place integer)
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_max_uses integer;
begin
  select i.id, i.max_uses into invite_id, v_max_uses from private.invites i
  where i.code_hash = private.invite_code_hash(take_invite.code)
    and i.revoked_at is null and (i.expires_at is null or i.expires_at > now());
  for place in
    select g.n from generate_series(1, v_max_uses) g (n)
    where g.n not in (
      select r.place from private.registrations r
      where r.invite_id = take_invite.invite_id and r.place is not null and r.user_id <> take_invite.user_id
        and (r.confirmed_at is not null or r.reserved_at > (select private.reservations_since())))
    order by g.n
  loop
    if private.try_place(invite_id, place, take_invite.user_id) then
      return;
    end if;
  end loop;
  place := null;
end $$;
comment on function private.take_invite(text, uuid) is
  'Takes one use of the invite with this code; place is null when the code is unknown, revoked, expired or used up.';

create function private.take_place_under_cap(user_id uuid) returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_cap integer := (private.setting('launch.user_cap'))::integer;
  v_since timestamptz := private.reservations_since();
  v_place integer;
begin
  -- One statement, so one state of the database: as many of the lowest unused numbers as there are free places. Whoever
  -- sees the same state tries the same numbers, so those who have not committed are counted by the locks they hold.
  for v_place in
    with taken as (
      select count(*)::integer as n from (
        select p.id from public.profiles p where p.status <> 'deleted' and p.id <> take_place_under_cap.user_id
        union all
        select r.user_id from private.registrations r
        where r.confirmed_at is null and r.user_id <> take_place_under_cap.user_id and r.reserved_at > v_since
        limit v_cap) x),
    numbers as materialized (
      select r.place from private.registrations r
      where r.invite_id is null and r.place is not null and r.user_id <> take_place_under_cap.user_id
        and (r.confirmed_at is not null or r.reserved_at > v_since))
    select g.n
    from generate_series(1, v_cap + (select count(*)::integer from numbers)) g (n)
    where g.n not in (select m.place from numbers m)
    order by g.n
    limit (select greatest(v_cap - t.n, 0) from taken t)
  loop
    if private.try_place(null, v_place, take_place_under_cap.user_id) then
      return v_place;
    end if;
  end loop;
  return null;
end $$;
comment on function private.take_place_under_cap(uuid) is
  'Takes a place that accounts (deleted ones do not count) and live reservations leave under launch.user_cap, or answers null.';

create function private.reserve_registration(user_id uuid, data jsonb, is_anonymous boolean, ip inet, origin text) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_phase text := private.setting('launch.phase') #>> '{}';
  v_is_invited boolean := origin in ('admin', 'import');
  v_refusal text;
  v_invite_id uuid;
  v_place integer;
begin
  -- A phase that nobody has heard of is a closed one.
  if coalesce(v_phase not in ('open', 'invite', 'capped'), true) and not v_is_invited then
    return 'Sign-up is closed at the moment.';
  end if;
  if octet_length(data::text) > (private.setting('registration.max_data_bytes'))::integer then
    return format('Sign-up data may have at most %s bytes.', private.setting('registration.max_data_bytes'));
  end if;
  if not is_anonymous then
    v_refusal := private.age_refusal(data ->> 'birth_date', origin = 'sign_up');
    if v_refusal is not null then
      return v_refusal;
    end if;
    if origin = 'sign_up' and (private.setting('registration.require_terms'))::boolean
      and data -> 'accept_terms' is distinct from 'true'::jsonb then
      return 'Sign-up needs your acceptance of the terms and the privacy policy: accept_terms must be true.';
    end if;
  end if;
  if v_phase = 'invite' and not v_is_invited then
    if private.text_or_null(data ->> 'invite_code', 100) is null then
      return 'Sign-up needs an invite code.';
    end if;
    select t.invite_id, t.place into v_invite_id, v_place
    from private.take_invite(data ->> 'invite_code', reserve_registration.user_id) t;
    if v_place is null then
      return 'This invite code is unknown, used up or expired.';
    end if;
  end if;
  if v_phase = 'capped' then
    v_place := private.take_place_under_cap(reserve_registration.user_id);
    if v_place is null then
      return 'All places are taken for now.';
    end if;
  end if;
  delete from private.registrations r where r.user_id in (
    select o.user_id from private.registrations o
    where o.confirmed_at is null and o.reserved_at <= (select private.reservations_since())
    for update skip locked);
  insert into private.registrations (user_id, origin, invite_id, place, is_anonymous, ip, reserved_at)
  values (reserve_registration.user_id, reserve_registration.origin, v_invite_id, v_place,
    reserve_registration.is_anonymous, reserve_registration.ip, clock_timestamp())
  on conflict on constraint registrations_pkey do update
    set invite_id = excluded.invite_id, place = excluded.place, origin = excluded.origin, reserved_at = excluded.reserved_at;
  return null;
end $$;
comment on function private.reserve_registration(uuid, jsonb, boolean, inet, text) is
  'Every gate in order: phase, size of the data, age, terms, invite, cap. Answers why not, or null and has reserved the place. Forgets reservations whose user never came.';

create function private.before_user_created(event jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service, which may call it and nothing else.
declare
  v_user jsonb := event -> 'user';
  v_user_id uuid := private.uuid_or_null(v_user ->> 'id');
  v_refusal text := 'Sign-up is not possible: the user has no id.';
begin
  if v_user_id is not null then
    v_refusal := private.reserve_registration(
      v_user_id,
      coalesce(v_user -> 'user_metadata', '{}'),
      coalesce((v_user -> 'is_anonymous') = 'true'::jsonb, false),
      private.inet_or_null(event -> 'metadata' ->> 'ip_address'),
      'sign_up');
  end if;
  if v_refusal is null then
    return '{}';
  end if;
  return jsonb_build_object('error', jsonb_build_object('http_code', 403, 'message', v_refusal));
end $$;
comment on function private.before_user_created(jsonb) is
  'Auth hook: lets a sign-up in and reserves its place, or answers 403 with the reason.';
grant usage on schema private to supabase_auth_admin;
grant execute on function private.before_user_created(jsonb) to supabase_auth_admin;

create function private.tg_users__bound_data() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
declare
  v_bytes integer := coalesce(octet_length(new.raw_user_meta_data::text), 0);
begin
  -- The Auth service adds id, address and what is verified. What was larger before may stay, or nobody could make it smaller.
  if v_bytes > (private.setting('registration.max_data_bytes'))::integer + 1024
    and v_bytes > coalesce(octet_length(old.raw_user_meta_data::text), 0) then
    raise exception using errcode = 'P0001',
      message = format('User metadata may have at most %s bytes.', private.setting('registration.max_data_bytes'));
  end if;
  return new;
end $$;
comment on function private.tg_users__bound_data() is
  'Metadata of users is bounded on every way: sign-up, a user''s own change, sign-in by a provider, admin API. It is stored before any address is confirmed, and every token carries it.';
create trigger palisade_bound_data before insert or update of raw_user_meta_data on auth.users
  for each row execute function private.tg_users__bound_data();

create function private.confirm_registration(user_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: runs in the Auth service's transaction.
declare
  v_user auth.users;
  v_registration private.registrations;
  v_refusal text;
begin
  select u.* into v_user from auth.users u where u.id = confirm_registration.user_id;
  if not found then
    return;
  end if;
  -- From here on nobody else takes this place, even if the reservation ends before the commit.
  perform pg_advisory_xact_lock(private.place_lock(r.invite_id), r.place) from private.registrations r
  where r.user_id = v_user.id and r.confirmed_at is null and r.place is not null;
  select r.* into v_registration from private.registrations r
  where r.user_id = v_user.id and r.confirmed_at is null and r.reserved_at > private.reservations_since();
  if not found then
    v_refusal := private.reserve_registration(v_user.id, coalesce(v_user.raw_user_meta_data, '{}'), v_user.is_anonymous, null,
      case when v_user.raw_app_meta_data ->> 'registered_by' in ('admin', 'import')
        then v_user.raw_app_meta_data ->> 'registered_by' else 'unannounced' end);
    if v_refusal is not null then
      raise exception using errcode = 'P0001', message = v_refusal;
    end if;
  end if;
  update private.registrations r set confirmed_at = clock_timestamp(), ip = null where r.user_id = v_user.id;
  if v_user.raw_user_meta_data -> 'accept_terms' = 'true'::jsonb then
    perform private.record_terms(v_user.id, v_registration.ip, null);
  end if;
end $$;
comment on function private.confirm_registration(uuid) is
  'Turns a reservation into a registration and records the accepted terms. A user without a reservation passes phase, cap, invite and age here or is refused.';

create function private.tg_users__confirm_registration() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  perform private.confirm_registration(new.id);
  return null;
end $$;
comment on function private.tg_users__confirm_registration() is
  'The second line of the registration gate.';
-- Deferred: the Auth service writes app_metadata after the insert, and the lock lasts no longer than the commit.
create constraint trigger palisade_confirm_registration after insert on auth.users
  deferrable initially deferred
  for each row execute function private.tg_users__confirm_registration();

-- Anonymous users who become real ones ---------------------------------------------------------------------------------

create function private.complete_account(user_id uuid, birth_date date) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_birth_date date;
  v_has_terms boolean := exists (
    select from public.consents c where c.user_id = complete_account.user_id and c.kind = 'terms')
    or not exists (select from public.legal_documents d where d.kind = 'terms' and d.published_at <= now());
begin
  update public.profiles p set birth_date = coalesce(p.birth_date, complete_account.birth_date)
  where p.id = complete_account.user_id returning p.birth_date into v_birth_date;
  update public.profiles p set parked_reason = case
    when private.is_under_age(v_birth_date) then 'guardian_consent'
    when v_birth_date is null and (private.setting('registration.require_birth_date'))::boolean then 'incomplete'
    when not v_has_terms and (private.setting('registration.require_terms'))::boolean then 'incomplete'
    end
  where p.id = complete_account.user_id;
  update public.profiles p set status = 'active'
  from auth.users u
  where p.id = complete_account.user_id and p.status = 'pending' and p.parked_reason is null
    and u.id = p.id and u.email_confirmed_at is not null;
end $$;
comment on function private.complete_account(uuid, date) is
  'Notes a birth date that was missing, and parks the account or lets it go: age and terms are what a sign-up would have needed.';

create function private.complete_anonymous_account(user_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: runs in the Auth service's transaction.
declare
  v_data jsonb;
begin
  if not exists (
    select from private.registrations r where r.user_id = complete_anonymous_account.user_id and r.is_anonymous) then
    return;
  end if;
  select coalesce(u.raw_user_meta_data, '{}') into v_data from auth.users u where u.id = complete_anonymous_account.user_id;
  perform private.lock_whole_account(complete_anonymous_account.user_id);
  if v_data -> 'accept_terms' = 'true'::jsonb then
    perform private.record_terms(complete_anonymous_account.user_id, null, null);
  end if;
  perform private.complete_account(complete_anonymous_account.user_id, private.birth_date_or_null(v_data ->> 'birth_date'));
end $$;
comment on function private.complete_anonymous_account(uuid) is
  'An anonymous user has verified an e-mail address: age and terms count from now on. Nothing for others.';

-- Functions of the API -------------------------------------------------------------------------------------------------

create function private.accept_my_terms() returns setof public.consents
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: nobody writes consents directly.
declare
  v_user_id uuid := private.require_user();
begin
  perform private.record_terms(v_user_id, private.request_ip(), private.request_user_agent());
  return query
    select distinct on (c.kind) c.* from public.consents c join public.legal_documents d using (kind, version)
    where c.user_id = v_user_id and d.published_at <= now()
    order by c.kind, d.published_at desc, d.version desc;
end $$;
comment on function private.accept_my_terms() is 'What accept_terms() calls.';
grant execute on function private.accept_my_terms() to authenticated;

create function public.accept_terms() returns setof public.consents
language sql volatile security invoker set search_path = ''
as $$ select * from private.accept_my_terms() $$;
comment on function public.accept_terms() is
  'The caller accepts the current terms and privacy policy. Answers both acceptances; a repeated call changes nothing.';
grant execute on function public.accept_terms() to authenticated;

create function private.complete_my_registration(birth_date text, accept_terms boolean) returns public.profiles
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: birth date and status are not user-writable.
declare
  -- An account that is not complete is not active either.
  v_user_id uuid := private.require_user(allow_pending => true, allow_aal1 => true);
  v_birth_date date := private.birth_date_or_null(complete_my_registration.birth_date);
  v_profile public.profiles;
begin
  perform private.lock_whole_account(v_user_id);
  select p.* into v_profile from public.profiles p where p.id = v_user_id;
  -- In the meantime.
  if v_profile.status in ('suspended', 'deleted') then
    perform private.raise_error('account_suspended', 'This account is suspended.');
  end if;
  if v_profile.parked_reason is distinct from 'incomplete' then
    return v_profile;
  end if;
  if v_birth_date is null and v_profile.birth_date is null then
    perform private.raise_error('invalid_request_error', 'birth_date must be a date in the past, written YYYY-MM-DD.');
  end if;
  if coalesce(accept_terms, false) then
    perform private.record_terms(v_user_id, private.request_ip(), private.request_user_agent());
  end if;
  perform private.complete_account(v_user_id, v_birth_date);
  select p.* into v_profile from public.profiles p where p.id = v_user_id;
  return v_profile;
end $$;
comment on function private.complete_my_registration(text, boolean) is
  'What complete_registration() calls.';
grant execute on function private.complete_my_registration(text, boolean) to authenticated;

create function public.complete_registration(birth_date text, accept_terms boolean) returns public.profiles
language sql volatile security invoker set search_path = ''
as $$ select private.complete_my_registration(birth_date, accept_terms) $$;
comment on function public.complete_registration(text, boolean) is
  'Gives an account that is parked as incomplete what is missing: birth_date (YYYY-MM-DD), written once, and the acceptance of the terms. Answers the profile.';
grant execute on function public.complete_registration(text, boolean) to authenticated;

create function private.set_my_do_not_sell(value boolean) returns boolean
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: nobody writes consents directly.
declare
  v_user_id uuid := private.require_user();
  v_before boolean;
begin
  if value is null then
    perform private.raise_error('invalid_request_error', 'value must be true or false.');
  end if;
  perform private.lock_whole_account(v_user_id);
  select c.granted into v_before from public.consents c
  where c.user_id = v_user_id and c.kind = 'do_not_sell' order by c.created_at desc, c.id desc limit 1;
  if v_before is distinct from value then
    -- Consents are never removed, so there is an end to them. It is for allowing again: forbidding is never refused, and each but the
    -- first comes after that.
    if not value then
      perform private.count_rows(v_user_id, 'consents', 1, 0);
    end if;
    insert into public.consents (user_id, kind, granted, ip, user_agent)
    values (v_user_id, 'do_not_sell', value, private.request_ip(), left(private.request_user_agent(), 500));
    update public.profiles p set do_not_sell = value where p.id = v_user_id;
  end if;
  return value;
end $$;
comment on function private.set_my_do_not_sell(boolean) is 'What set_do_not_sell() calls.';
grant execute on function private.set_my_do_not_sell(boolean) to authenticated;

create function public.set_do_not_sell(value boolean) returns boolean
language sql volatile security invoker set search_path = ''
as $$ select private.set_my_do_not_sell(value) $$;
comment on function public.set_do_not_sell(boolean) is
  'The caller forbids (true) or allows selling personal data; the choice is recorded with its time and shown in the profile.';
grant execute on function public.set_do_not_sell(boolean) to authenticated;

create function private.record_consent_of_guardian(user_id uuid, note text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it changes what no API role may.
begin
  perform private.require_admin();
  if (private.lock_whole_account(record_consent_of_guardian.user_id)).user_id is null then
    perform private.raise_error('not_found', 'There is no such account.');
  end if;
  if private.text_or_null(note, 500) is null then
    perform private.raise_error('invalid_request_error', 'note must say who consented and how it was checked.');
  end if;
  if not exists (
    select from public.profiles p
    where p.id = record_consent_of_guardian.user_id and p.parked_reason = 'guardian_consent') then
    return;
  end if;
  insert into public.consents (user_id, kind, granted, note)
  values (record_consent_of_guardian.user_id, 'guardian', true, private.text_or_null(note, 500));
  update public.profiles p set
    parked_reason = null,
    status = case when p.status = 'pending' and u.email_confirmed_at is not null then 'active' else p.status end
  from auth.users u
  where p.id = record_consent_of_guardian.user_id and u.id = p.id;
  perform private.audit(action => 'account.guardian_consent', resource_type => 'account',
    resource_id => record_consent_of_guardian.user_id::text, user_id => record_consent_of_guardian.user_id);
end $$;
comment on function private.record_consent_of_guardian(uuid, text) is 'What record_guardian_consent() calls.';
grant execute on function private.record_consent_of_guardian(uuid, text) to authenticated, service_role;

create function public.record_guardian_consent(user_id uuid, note text) returns void
language sql volatile security invoker set search_path = ''
as $$ select private.record_consent_of_guardian(user_id, note) $$;
comment on function public.record_guardian_consent(uuid, text) is
  'For admins and the service role: a guardian agreed, so the parked account becomes active as soon as its e-mail is verified; a repeated call changes nothing. note says who, and how it was checked.';
grant execute on function public.record_guardian_consent(uuid, text) to authenticated, service_role;

create function private.make_invite(label text, max_uses integer, expires_at timestamptz, out id uuid, out code text)
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: invites are private.
begin
  perform private.require_admin();
  if private.text_or_null(label, 200) is null or coalesce(max_uses not between 1 and 10000, true) or expires_at <= now() then
    perform private.raise_error('invalid_request_error',
      'An invite needs a label, max_uses from 1 to 10000, and an expires_at in the future or none.');
  end if;
  code := private.new_invite_code();
  insert into private.invites (code_hash, label, max_uses, expires_at, created_by)
  values (private.invite_code_hash(code), private.text_or_null(make_invite.label, 200), make_invite.max_uses,
    make_invite.expires_at, (select auth.uid()))
  returning invites.id into make_invite.id;
  perform private.audit(action => 'invite.create', resource_type => 'invite', resource_id => make_invite.id::text,
    details => jsonb_build_object('label', private.text_or_null(make_invite.label, 200), 'max_uses', make_invite.max_uses));
end $$;
comment on function private.make_invite(text, integer, timestamptz) is 'What create_invite() calls.';
grant execute on function private.make_invite(text, integer, timestamptz) to authenticated, service_role;

create function public.create_invite(
  label text, max_uses integer default 1, expires_at timestamptz default null, out id uuid, out code text
)
language sql volatile security invoker set search_path = ''
as $$ select i.id, i.code from private.make_invite(create_invite.label, create_invite.max_uses, create_invite.expires_at) i $$;
comment on function public.create_invite(text, integer, timestamptz) is
  'For admins and the service role: makes an invite code for max_uses sign-ups. Answers {id, code}; the code is shown this once.';
grant execute on function public.create_invite(text, integer, timestamptz) to authenticated, service_role;

create function private.invites_with_uses(before uuid, page_size integer) returns table (
  id uuid, label text, max_uses integer, uses bigint, expires_at timestamptz, revoked_at timestamptz, created_by uuid, created_at timestamptz)
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: invites are private.
begin
  perform private.require_admin();
  return query
    select i.id, i.label, i.max_uses,
      (select count(*) from private.registrations r where r.invite_id = i.id and r.confirmed_at is not null),
      i.expires_at, i.revoked_at, i.created_by, i.created_at
    from private.invites i where invites_with_uses.before is null or i.id < invites_with_uses.before
    order by i.id desc limit private.page_of(invites_with_uses.page_size);
end $$;
comment on function private.invites_with_uses(uuid, integer) is 'What list_invites() calls.';
grant execute on function private.invites_with_uses(uuid, integer) to authenticated, service_role;

create function public.list_invites(before uuid default null, page_size integer default 100) returns table (
  id uuid, label text, max_uses integer, uses bigint, expires_at timestamptz, revoked_at timestamptz, created_by uuid, created_at timestamptz)
language sql stable security invoker set search_path = ''
as $$ select * from private.invites_with_uses(list_invites.before, list_invites.page_size) $$;
comment on function public.list_invites(uuid, integer) is
  'For admins and the service role: invites, newest first, with the accounts that used them; at most page_size (1 to 1000), and before: only those after this one, the last of the page before. Codes are not kept.';
grant execute on function public.list_invites(uuid, integer) to authenticated, service_role;

create function private.close_invite(invite_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: invites are private.
begin
  perform private.require_admin();
  if not exists (select from private.invites i where i.id = close_invite.invite_id) then
    perform private.raise_error('not_found', 'There is no such invite.');
  end if;
  update private.invites i set revoked_at = now() where i.id = close_invite.invite_id and i.revoked_at is null;
  if found then
    perform private.audit(action => 'invite.revoke', resource_type => 'invite', resource_id => close_invite.invite_id::text);
  end if;
end $$;
comment on function private.close_invite(uuid) is 'What revoke_invite() calls.';
grant execute on function private.close_invite(uuid) to authenticated, service_role;

create function public.revoke_invite(invite_id uuid) returns void
language sql volatile security invoker set search_path = ''
as $$ select private.close_invite(invite_id) $$;
comment on function public.revoke_invite(uuid) is 'For admins and the service role: the code lets nobody in from now on. A repeated call changes nothing.';
grant execute on function public.revoke_invite(uuid) to authenticated, service_role;

create function private.registration_policy() returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: settings are private.
begin
  perform private.require_admin();
  return (
    select jsonb_object_agg(s.key, s.value) from private.settings s
    where s.key like 'launch.%' or s.key like 'registration.%');
end $$;
comment on function private.registration_policy() is 'What get_registration_policy() calls.';
grant execute on function private.registration_policy() to authenticated, service_role;

create function public.get_registration_policy() returns jsonb
language sql stable security invoker set search_path = ''
as $$ select private.registration_policy() $$;
comment on function public.get_registration_policy() is
  'For admins and the service role: the settings launch.* and registration.*, so that an import knows beforehand whom the gate refuses.';
grant execute on function public.get_registration_policy() to authenticated, service_role;

-- sql/13_rival_sign_ups.sql ===========================================================================================

-- Rival sign-ups: who signs up with somebody's address first must not keep a password, a name or an acceptance there after the
-- owner of the address has confirmed it. Auth keeps the password and the data of the first sign-up, whoever it was.

create table private.sign_up_attempts (
  user_id uuid primary key references auth.users (id) on delete cascade,
  attempts integer not null check (attempts > 0),
  voided_at timestamptz
);
comment on table private.sign_up_attempts is
  'How often the confirmation of an address was asked for: by sign-ups, by links to sign in, by asking for the mail again. Auth does these in the same way, so nothing tells them apart.';
comment on column private.sign_up_attempts.voided_at is 'The transaction that confirmed the address and voided what the attempts brought; null: it did not have to.';
revoke all on private.sign_up_attempts from anon, authenticated, service_role;

create function private.is_voiding_sign_ups(user_id uuid) returns boolean
language sql stable security invoker set search_path = ''
as $$
  select exists (
    select from private.sign_up_attempts a where a.user_id = is_voiding_sign_ups.user_id and a.voided_at = now())
$$;
comment on function private.is_voiding_sign_ups(uuid) is 'Whether this transaction is the one that confirms the address and voids its sign-ups.';

create function private.tg_users__count_attempts() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  insert into private.sign_up_attempts as a (user_id, attempts) values (new.id, 1)
  on conflict (user_id) do update set attempts = a.attempts + 1;
  return null;
end $$;
comment on function private.tg_users__count_attempts() is 'Each mail that confirms an address is an attempt; Auth notes when it sent the last one.';
-- Not for who was invited: their account has no password before they set one, and its data are the inviter's.
create trigger palisade_count_attempts after update of confirmation_sent_at on auth.users
  for each row when (
    new.email_confirmed_at is null and new.encrypted_password <> ''
    and new.confirmation_sent_at is distinct from old.confirmation_sent_at)
  execute function private.tg_users__count_attempts();

create function private.data_of_auth(data jsonb) returns jsonb
language sql immutable security invoker set search_path = ''
as $$
  select coalesce(jsonb_object_agg(d.key, d.value), '{}')
  from jsonb_each(case jsonb_typeof(data_of_auth.data) when 'object' then data_of_auth.data else '{}' end) d
  where d.key in ('sub', 'email', 'email_verified', 'phone_verified')
$$;
comment on function private.data_of_auth(jsonb) is 'Of a user''s metadata what the Auth service wrote itself.';

create function private.void_sign_ups(user_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: runs in the Auth service's transaction.
declare
  v_attempts integer;
  v_confirmed_at timestamptz;
  v_consents jsonb;
begin
  update private.sign_up_attempts a set voided_at = now()
  where a.user_id = void_sign_ups.user_id and a.attempts > 1 returning a.attempts into v_attempts;
  if not found then
    return;
  end if;
  perform private.lock_whole_account(void_sign_ups.user_id);
  -- All at once, as whoever confirmed the address is to set all of it anew.
  update auth.users u set encrypted_password = null, raw_user_meta_data = private.data_of_auth(u.raw_user_meta_data)
  where u.id = void_sign_ups.user_id returning u.email_confirmed_at into v_confirmed_at;
  update auth.identities i set identity_data = private.data_of_auth(i.identity_data)
  where i.user_id = void_sign_ups.user_id and i.provider = 'email';
  -- Not the one that the mailed link has just opened.
  delete from auth.sessions s where s.user_id = void_sign_ups.user_id and s.created_at < v_confirmed_at;
  with voided as (
    delete from public.consents c where c.user_id = void_sign_ups.user_id and c.kind in ('terms', 'privacy') returning c.*
  )
  select jsonb_agg(jsonb_build_object('kind', v.kind, 'version', v.version, 'created_at', v.created_at)) into v_consents from voided v;
  update public.profiles p set first_name = null, last_name = null, display_name = null, birth_date = null,
    status = case when p.status = 'active' then 'pending' else p.status end
  where p.id = void_sign_ups.user_id;
  perform private.complete_account(void_sign_ups.user_id, null);
  perform private.audit(action => 'account.sign_ups_voided', resource_type => 'account', resource_id => void_sign_ups.user_id::text,
    user_id => void_sign_ups.user_id, details => jsonb_build_object('attempts', v_attempts, 'consents', coalesce(v_consents, '[]')));
  perform private.notify_user(user_id => void_sign_ups.user_id, type => 'sign_ups_voided', title => 'Set your password and your name anew',
    body => 'Your address was signed up more than once before it was confirmed. What those sign-ups said does not count, so that nobody but you has the password.');
end $$;
comment on function private.void_sign_ups(uuid) is
  'An address that was signed up more than once is confirmed: password, names, birth date, terms and earlier sessions of all attempts are void. Nothing for others.';

create function private.tg_users__void_sign_ups() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  perform private.void_sign_ups(new.id);
  return null;
end $$;
comment on function private.tg_users__void_sign_ups() is
  'At the end of the transaction that confirms the address: before that Auth writes the metadata it remembers once more.';
create constraint trigger palisade_void_sign_ups after update of email_confirmed_at on auth.users
  deferrable initially deferred
  for each row when (old.email_confirmed_at is null and new.email_confirmed_at is not null)
  execute function private.tg_users__void_sign_ups();

-- sql/14_account_status.sql ===========================================================================================

-- Status and role of accounts: suspended and deleted accounts lose access at once, and every change has a reason.

-- What decides whether an account may go on, decided here. private.accounts has a copy, which is read at every call.
create view private.account_gates with (security_invoker = true) as
select p.id as user_id,
  p.status = 'active' and not u.is_anonymous and u.deleted_at is null as is_active,
  case
    -- The Auth service keeps the row of a user whom it deletes softly.
    when u.deleted_at is not null then 'deleted'
    when p.status = 'active' and u.is_anonymous then 'pending'
    else p.status end as account_state,
  coalesce(u.banned_until, '-infinity') as banned_until,
  -- An unfinished factor is none yet.
  exists (select from auth.mfa_factors f where f.user_id = p.id and f.status = 'verified') as has_factor
from public.profiles p left join auth.users u on u.id = p.id;
comment on view private.account_gates is
  'What the gate columns of private.accounts must say, from where it comes. Nothing in it depends on the time: a ban by the Auth service ends by itself, so who reads it compares banned_until with now().';
revoke all on private.account_gates from anon, authenticated, service_role;

-- What state an account is in at this moment. A view and not a function, because many are asked for at once.
create view private.account_states with (security_invoker = true) as
select p.id, p.role, p.plan_id, p.quota_time_zone,
  -- Of users who were there before their profile, too.
  coalesce(u.created_at, p.created_at) as signed_up_at,
  case when g.account_state in ('pending', 'active') and g.banned_until > now() then 'suspended' else g.account_state end as state,
  g.is_active and g.banned_until <= now() as is_active,
  g.has_factor
from public.profiles p
  left join auth.users u on u.id = p.id
  join private.account_gates g on g.user_id = p.id;
comment on view private.account_states is
  'Every account as it is at this moment. state: pending (unverified, parked or anonymous), active, suspended (also banned by the Auth service) or deleted (also softly by the Auth service); is_active: it may use everything, once its session is live and has its second factor.';
revoke all on private.account_states from anon, authenticated, service_role;

create function private.account_refusal(state text, has_session boolean, lacks_factor boolean, by_api_key boolean default false)
returns jsonb
language sql immutable security invoker set search_path = ''
return case
  when account_refusal.state is null or account_refusal.state = 'deleted' or account_refusal.has_session is not true then
    jsonb_build_object('code', 'invalid_api_key', 'message',
      case when by_api_key then 'There is no such account.' else 'This session has ended. Sign in again.' end)
  when account_refusal.state = 'suspended' then jsonb_build_object('code', 'account_suspended', 'message', 'This account is suspended.')
  when account_refusal.state = 'pending' then jsonb_build_object('code', 'account_pending', 'message', 'Confirm your e-mail address first.')
  -- What is not known was not proven.
  when lacks_factor is not false then jsonb_build_object('code', 'mfa_required', 'message', 'Sign in with your second factor first.')
end;
comment on function private.account_refusal(text, boolean, boolean, boolean) is
  'Why an account in this state, with this session, may not go on: {code, message}; null when it may.';

create table private.account_status_changes (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null references auth.users (id) on delete cascade,
  from_status text not null,
  to_status text not null check (to_status <> from_status),
  reason text not null check (length(reason) between 1 and 500),
  actor_id uuid,
  banned_until timestamptz,
  created_at timestamptz not null default now()
);
comment on table private.account_status_changes is 'Every suspension, reinstatement and deletion with its reason; never changed or removed.';
comment on column private.account_status_changes.actor_id is 'Who did it; null: the service role. No foreign key: the row outlives the actor.';
comment on column private.account_status_changes.banned_until is 'The ban of the Auth service before the change, for the way back.';
create index account_status_changes_user_id_idx on private.account_status_changes (user_id, id desc);
revoke all on private.account_status_changes from anon, authenticated, service_role;
create trigger tg_account_status_changes__append_only before update or delete on private.account_status_changes
  for each row execute function private.tg__append_only();
create trigger tg_account_status_changes__no_truncate before truncate on private.account_status_changes
  for each statement execute function private.tg__append_only();

create function private.change_account_status(user_id uuid, to_status text, reason text) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_from text;
  v_reason text := private.text_or_null(reason, 500);
  v_ban timestamptz;
begin
  if v_reason is null then
    perform private.raise_error('invalid_request_error', 'reason must say why.');
  end if;
  if (private.lock_whole_account(change_account_status.user_id)).user_id is null then
    perform private.raise_error('not_found', 'There is no such account.');
  end if;
  select p.status, u.banned_until into v_from, v_ban
  from public.profiles p join auth.users u using (id)
  where p.id = change_account_status.user_id;
  if to_status = 'reinstated' then
    to_status := private.status_to_return_to(change_account_status.user_id, v_from);
  end if;
  if v_from = to_status then
    return v_from;
  end if;
  if v_from = 'deleted' and to_status = 'suspended' then
    perform private.raise_error('invalid_request_error', 'This account is deleted.');
  end if;
  insert into private.account_status_changes (user_id, from_status, to_status, reason, actor_id, banned_until)
  values (change_account_status.user_id, v_from, change_account_status.to_status, v_reason, (select auth.uid()), v_ban);
  update public.profiles p set status = change_account_status.to_status where p.id = change_account_status.user_id;
  perform private.enforce_account_status(change_account_status.user_id, change_account_status.to_status);
  perform private.audit(
    action => case to_status when 'suspended' then 'account.suspend' when 'deleted' then 'account.delete' else 'account.reinstate' end,
    resource_type => 'account', resource_id => change_account_status.user_id::text, user_id => change_account_status.user_id,
    details => jsonb_build_object('from', v_from, 'to', to_status, 'reason', v_reason));
  perform private.raise_security_event(
    type => case when to_status in ('suspended', 'deleted') then 'account_' || to_status else 'account_reinstated' end,
    severity => 'medium', user_id => change_account_status.user_id,
    details => jsonb_build_object('from', v_from, 'to', to_status, 'reason', v_reason));
  return to_status;
end $$;
comment on function private.change_account_status(uuid, text, text) is
  'The only way to suspended and deleted and back: one row in account_status_changes, the Auth service''s ban, an audit entry and a security event. Answers the status; the same status again changes nothing.';

create function private.status_to_return_to(user_id uuid, status text) returns text
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_before text;
begin
  if status not in ('suspended', 'deleted') then
    return status;
  end if;
  select c.from_status into v_before from private.account_status_changes c
  where c.user_id = status_to_return_to.user_id and c.from_status in ('pending', 'active')
  order by c.id desc limit 1;
  -- A pending account may have verified its address in the meantime.
  return (
    select case when coalesce(v_before, 'pending') = 'active' or (u.email_confirmed_at is not null and p.parked_reason is null)
      then 'active' else 'pending' end
    from public.profiles p join auth.users u using (id) where p.id = status_to_return_to.user_id);
end $$;
comment on function private.status_to_return_to(uuid, text) is
  'What a suspended or deleted account was before: active or pending. Any other status stays.';

create function private.enforce_account_status(user_id uuid, status text) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  if status in ('suspended', 'deleted') then
    -- A century, not infinity: the Auth service cannot read that.
    update auth.users u set banned_until = now() + interval '100 years' where u.id = enforce_account_status.user_id;
    delete from auth.sessions s where s.user_id = enforce_account_status.user_id;
  else
    update auth.users u set banned_until = (
      select c.banned_until from private.account_status_changes c
      where c.user_id = enforce_account_status.user_id and c.from_status in ('pending', 'active')
      order by c.id desc limit 1)
    where u.id = enforce_account_status.user_id;
  end if;
end $$;
comment on function private.enforce_account_status(uuid, text) is
  'Tells the Auth service: a suspended or deleted account has no session and gets none; a reinstated one has the ban, if any, that it had before.';

create function private.change_status_of(user_id uuid, to_status text, reason text) returns text
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it changes what no API role may.
begin
  perform private.require_admin();
  if user_id = (select auth.uid()) then
    perform private.raise_error('not_allowed', 'Nobody changes the status of their own account; delete_my_account() is there for leaving.');
  end if;
  if coalesce(to_status not in ('suspended', 'deleted', 'reinstated'), true) then
    perform private.raise_error('invalid_request_error', 'to_status must be suspended, deleted or reinstated.');
  end if;
  return private.change_account_status(user_id, to_status, reason);
end $$;
comment on function private.change_status_of(uuid, text, text) is
  'What suspend_account, reinstate_account and delete_account call.';
grant execute on function private.change_status_of(uuid, text, text) to authenticated, service_role;

create function public.suspend_account(user_id uuid, reason text) returns text
language sql volatile security invoker set search_path = ''
as $$ select private.change_status_of(user_id, 'suspended', reason) $$;
comment on function public.suspend_account(uuid, text) is
  'For admins and the service role: ends every session of the account and refuses sign-in, refresh and data until reinstate_account. Answers the status.';
grant execute on function public.suspend_account(uuid, text) to authenticated, service_role;

create function public.reinstate_account(user_id uuid, reason text) returns text
language sql volatile security invoker set search_path = ''
as $$ select private.change_status_of(user_id, 'reinstated', reason) $$;
comment on function public.reinstate_account(uuid, text) is
  'For admins and the service role: gives a suspended or deleted account back the status it had before. Answers that status.';
grant execute on function public.reinstate_account(uuid, text) to authenticated, service_role;

create function public.delete_account(user_id uuid, reason text) returns text
language sql volatile security invoker set search_path = ''
as $$ select private.change_status_of(user_id, 'deleted', reason) $$;
comment on function public.delete_account(uuid, text) is
  'For admins and the service role: the account is closed at once, like a suspended one; its data is erased later. Answers the status.';
grant execute on function public.delete_account(uuid, text) to authenticated, service_role;

create function private.tg_users__suspend_imported() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
declare
  v_reason text;
begin
  select private.text_or_null(u.raw_app_meta_data ->> 'suspended', 500) into v_reason
  from auth.users u where u.id = new.id and u.raw_app_meta_data ->> 'registered_by' = 'import';
  if v_reason is not null then
    perform private.change_account_status(new.id, 'suspended', v_reason);
    -- The reason is in account_status_changes now, and tokens carry app_metadata.
    update auth.users u set raw_app_meta_data = u.raw_app_meta_data - 'suspended' where u.id = new.id;
  end if;
  return null;
end $$;
comment on function private.tg_users__suspend_imported() is
  'Who was locked in the old system is suspended from the first moment: an import says why in app_metadata.suspended, which only the secret key writes. reinstate_account lets them in.';
-- Deferred, as palisade_confirm_registration is: the Auth service writes app_metadata after the insert.
create constraint trigger palisade_suspend_imported after insert on auth.users
  deferrable initially deferred
  for each row execute function private.tg_users__suspend_imported();

create function private.delete_own_account() returns text
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it changes what no API role may.
declare
  v_user_id uuid := private.require_user();
begin
  perform private.require_aal2();
  return private.change_account_status(v_user_id, 'deleted', 'deleted by its owner');
end $$;
comment on function private.delete_own_account() is 'What delete_my_account() calls.';
grant execute on function private.delete_own_account() to authenticated;

create function public.delete_my_account() returns text
language sql volatile security invoker set search_path = ''
as $$ select private.delete_own_account() $$;
comment on function public.delete_my_account() is
  'Closes the caller''s account at once and ends its sessions; needs the second factor when there is one. Answers the status.';
grant execute on function public.delete_my_account() to authenticated;

-- Roles ----------------------------------------------------------------------------------------------------------------

create function private.change_role_of(user_id uuid, role text) returns text
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it changes what no API role may.
declare
  v_before text;
begin
  perform private.require_admin();
  if user_id = (select auth.uid()) then
    perform private.raise_error('not_allowed', 'Nobody changes their own role.');
  end if;
  if coalesce(role not in ('user', 'support', 'admin'), true) then
    perform private.raise_error('invalid_request_error', 'role must be user, support or admin.');
  end if;
  -- All admins' rows, in order, so that two admins cannot demote each other at the same time.
  perform from public.profiles p where p.role = 'admin' or p.id = change_role_of.user_id order by p.id for no key update;
  select p.role into v_before from public.profiles p where p.id = change_role_of.user_id;
  if not found then
    perform private.raise_error('not_found', 'There is no such account.');
  end if;
  if v_before = change_role_of.role then
    return v_before;
  end if;
  if v_before = 'admin' and not exists (
    select from private.account_states a where a.role = 'admin' and a.is_active and a.id <> change_role_of.user_id) then
    perform private.raise_error('not_allowed', 'The last admin stays one: make another admin first.');
  end if;
  update public.profiles p set role = change_role_of.role where p.id = change_role_of.user_id;
  return change_role_of.role;
end $$;
comment on function private.change_role_of(uuid, text) is 'What set_account_role() calls.';
grant execute on function private.change_role_of(uuid, text) to authenticated, service_role;

create function public.set_account_role(user_id uuid, role text) returns text
language sql volatile security invoker set search_path = ''
as $$ select private.change_role_of(user_id, role) $$;
comment on function public.set_account_role(uuid, text) is
  'For admins and the service role: makes an account user, support or admin, never the caller''s own and never the last active admin, and answers the role. Tokens carry it from the next refresh on.';
grant execute on function public.set_account_role(uuid, text) to authenticated, service_role;

create function private.account_by_email(email text) returns table (
  id uuid, status text, parked_reason text, role text, plan_id text, email_confirmed_at timestamptz,
  last_sign_in_at timestamptz, created_at timestamptz, registered_by text)
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: addresses are the Auth service's.
begin
  perform private.require_admin();
  return query
    select u.id, p.status, p.parked_reason, p.role, p.plan_id, u.email_confirmed_at,
      u.last_sign_in_at, u.created_at, u.raw_app_meta_data ->> 'registered_by'
    from auth.users u join public.profiles p using (id)
    where u.email = lower(btrim(account_by_email.email)) and not u.is_sso_user;
end $$;
comment on function private.account_by_email(text) is 'What find_account() calls.';
grant execute on function private.account_by_email(text) to authenticated, service_role;

create function public.find_account(email text) returns table (
  id uuid, status text, parked_reason text, role text, plan_id text, email_confirmed_at timestamptz,
  last_sign_in_at timestamptz, created_at timestamptz, registered_by text)
language sql stable security invoker set search_path = ''
as $$ select * from private.account_by_email(find_account.email) $$;
comment on function public.find_account(text) is 'For admins and the service role: the account with this e-mail address, or no row.';
grant execute on function public.find_account(text) to authenticated, service_role;

-- sql/15_sessions.sql =================================================================================================

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

-- sql/16_lock_out.sql =================================================================================================

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

-- sql/17_mfa.sql ======================================================================================================

-- Second factors: guessing them is limited, losing one has a way back, and taking one away is told to the owner.

insert into private.settings (key, value, rule, description) values
  ('mfa.failures', '5', '{"type": "integer", "minimum": 1, "maximum": 100}', 'Wrong codes of a factor, or wrong recovery codes of a user, after which none is taken.'),
  ('mfa.window_minutes', '15', '{"type": "integer", "minimum": 1, "maximum": 10080}', 'The time in which those failures count.')
on conflict (key) do nothing;

create table private.mfa_failures (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null references auth.users (id) on delete cascade,
  subject_id uuid not null,
  failed_at timestamptz not null default now()
);
comment on table private.mfa_failures is 'Wrong codes of the last day.';
comment on column private.mfa_failures.subject_id is 'The factor that was tried; the user''s own id for recovery codes.';
create index mfa_failures_user_id_idx on private.mfa_failures (user_id);
create index mfa_failures_subject_id_idx on private.mfa_failures (subject_id, failed_at);
create index mfa_failures_failed_at_idx on private.mfa_failures (failed_at);
revoke all on private.mfa_failures from anon, authenticated, service_role;

create table private.recovery_codes (
  user_id uuid not null references auth.users (id) on delete cascade,
  code_hash bytea not null check (length(code_hash) = 32),
  created_at timestamptz not null default now(),
  primary key (user_id, code_hash)
);
comment on table private.recovery_codes is 'SHA-256 of unused recovery codes. A code has 80 random bits: nothing slower is needed.';
revoke all on private.recovery_codes from anon, authenticated, service_role;

create function private.lock_mfa(subject_id uuid) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('codes of ' || lock_mfa.subject_id, 0));
  return (
    select count(*) >= (private.setting('mfa.failures'))::integer from private.mfa_failures f
    where f.subject_id = lock_mfa.subject_id
      and f.failed_at > clock_timestamp() - make_interval(mins => (private.setting('mfa.window_minutes'))::integer));
end $$;
comment on function private.lock_mfa(uuid) is
  'Makes attempts on one factor, or on one user''s recovery codes, take turns; answers whether too many failed lately.';

create function private.note_mfa_failure(user_id uuid, subject_id uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  insert into private.mfa_failures (user_id, subject_id, failed_at)
  values (note_mfa_failure.user_id, note_mfa_failure.subject_id, clock_timestamp());
  if private.lock_mfa(note_mfa_failure.subject_id) then
    perform private.warn_user(note_mfa_failure.user_id, 'mfa_locked', 'high', 'Your second factor was locked for a while',
      'Wrong codes were entered several times by somebody who knows your password. If it was not you, change it now.',
      jsonb_build_object('factor_id', nullif(note_mfa_failure.subject_id, note_mfa_failure.user_id)),
      note_mfa_failure.subject_id::text);
  end if;
end $$;
comment on function private.note_mfa_failure(uuid, uuid) is
  'Counts a wrong code; the one that locks is a security event. The caller holds the lock of lock_mfa.';

create function private.mfa_verification_attempt(event jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: executable by the Auth service only.
declare
  v_factor_id uuid := event ->> 'factor_id';
begin
  if private.lock_mfa(v_factor_id) then
    return '{"decision": "reject", "message": "Too many wrong codes. Try again later."}';
  elsif coalesce((event ->> 'valid')::boolean, false) then
    delete from private.mfa_failures f where f.subject_id = v_factor_id;
  else
    perform private.note_mfa_failure((event ->> 'user_id')::uuid, v_factor_id);
  end if;
  return '{"decision": "continue"}';
end $$;
comment on function private.mfa_verification_attempt(jsonb) is
  'Auth hook: after mfa.failures wrong codes within mfa.window_minutes a factor takes none, not even the right one; the Auth service then ends the user''s sessions.';
grant execute on function private.mfa_verification_attempt(jsonb) to supabase_auth_admin;

create function private.tg_mfa_factors__removed() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  -- With the account go its factors: nobody is left to be warned.
  if not exists (select from auth.users u where u.id = old.user_id) then
    return null;
  end if;
  if not exists (select from auth.mfa_factors f where f.user_id = old.user_id and f.status = 'verified') then
    delete from private.recovery_codes c where c.user_id = old.user_id;
  end if;
  perform private.warn_user(old.user_id, 'mfa_removed', 'high', 'A second factor was removed',
    'Your account now takes one proof less at sign-in. If it was not you, change your password and end your other sessions.',
    jsonb_build_object('factor_type', old.factor_type::text), old.id::text);
  return null;
exception when others then
  raise warning 'the removed factor of % was not noted: %', old.user_id, sqlerrm;
  return null;
end $$;
comment on function private.tg_mfa_factors__removed() is
  'Warns the user of a removed factor; with the last one the recovery codes go.';
create trigger palisade_factor_removed after delete on auth.mfa_factors
  for each row when (old.status = 'verified') execute function private.tg_mfa_factors__removed();

-- Recovery codes -------------------------------------------------------------------------------------------------------

create function private.new_recovery_code() returns text
language sql volatile security invoker set search_path = ''
as $$
  -- 16 characters of 5 bits, in four groups; the alphabet (Crockford's) has no letters that look like digits.
  select string_agg(
    substr('0123456789abcdefghjkmnpqrstvwxyz', substring(r.bits from i * 5 + 1 for 5)::bit(5)::integer + 1, 1)
      || case when i in (3, 7, 11) then '-' else '' end, '' order by i)
  from (select ('x' || encode(extensions.gen_random_bytes(10), 'hex'))::bit(80) as bits) r, generate_series(0, 15) i
$$;
comment on function private.new_recovery_code() is 'A code of 80 random bits, such as 3k9v-x2mh-0pqa-7tcw.';

create function private.recovery_code_hash(user_id uuid, code text) returns bytea
language sql immutable security invoker set search_path = ''
return sha256(convert_to(
  user_id::text || translate(regexp_replace(lower(left(code, 100)), '[^a-z0-9]', '', 'g'), 'oil', '011'), 'UTF8'));
comment on function private.recovery_code_hash(uuid, text) is
  'What is stored of a code. Case, spaces and dashes do not matter, and o, i, l are read as 0, 1, 1.';

create function private.create_recovery_codes() returns text[]
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: codes are private; it writes the caller's only.
declare
  v_user_id uuid := private.require_user();
  v_codes text[];
begin
  if not private.has_aal2() then
    perform private.raise_error('insufficient_aal', 'Sign in with your second factor first.');
  end if;
  perform private.require_recent_sign_in(v_user_id, private.my_session_id());
  perform private.lock_mfa(v_user_id);
  select array_agg(private.new_recovery_code()) into v_codes from generate_series(1, 10);
  delete from private.recovery_codes c where c.user_id = v_user_id;
  insert into private.recovery_codes (user_id, code_hash)
  select v_user_id, private.recovery_code_hash(v_user_id, code) from unnest(v_codes) code;
  perform private.audit(action => 'mfa.create_recovery_codes', resource_type => 'account', resource_id => v_user_id::text,
    user_id => v_user_id);
  perform private.tell_of_change(v_user_id, 'recovery_codes_created');
  return v_codes;
end $$;
comment on function private.create_recovery_codes() is
  'Behind public.create_recovery_codes.';
grant execute on function private.create_recovery_codes() to authenticated;

create function public.create_recovery_codes() returns text[]
language sql volatile security invoker set search_path = ''
as $$ select private.create_recovery_codes() $$;
comment on function public.create_recovery_codes() is
  'Ten new recovery codes for the caller, in place of all older ones. Shown this once; needs a session with the second factor and a recent sign-in.';
grant execute on function public.create_recovery_codes() to authenticated;

create function private.use_recovery_code(code text) returns text
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: codes are private, factors and sessions the Auth service's; it touches the caller's only.
declare
  v_user_id uuid := private.require_user(allow_aal1 => true);
begin
  if private.lock_mfa(v_user_id) then
    return 'locked';
  end if;
  delete from private.recovery_codes c
  where c.user_id = v_user_id and c.code_hash = private.recovery_code_hash(v_user_id, use_recovery_code.code);
  if not found then
    -- Returned, not raised: an error would take the count back.
    perform private.note_mfa_failure(v_user_id, v_user_id);
    return 'wrong';
  end if;
  delete from auth.mfa_factors f where f.user_id = v_user_id;
  delete from auth.sessions s where s.user_id = v_user_id and s.id <> private.my_session_id();
  delete from private.recovery_codes c where c.user_id = v_user_id;
  delete from private.mfa_failures f where f.user_id = v_user_id;
  perform private.audit(action => 'mfa.use_recovery_code', resource_type => 'account', resource_id => v_user_id::text,
    user_id => v_user_id);
  return 'accepted';
end $$;
comment on function private.use_recovery_code(text) is
  'Behind public.use_recovery_code.';
grant execute on function private.use_recovery_code(text) to authenticated;

create function public.use_recovery_code(code text) returns text
language sql volatile security invoker set search_path = ''
as $$ select private.use_recovery_code(use_recovery_code.code) $$;
comment on function public.use_recovery_code(text) is
  'For a user who signed in and lost the second factor. Answers accepted (the factors, the other codes and all other sessions are gone; enrol a new factor), wrong (no such code) or locked (too many wrong ones; wait).';
grant execute on function public.use_recovery_code(text) to authenticated;

create function private.count_my_recovery_codes() returns integer
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: codes are private; it counts the caller's only.
declare
  v_user_id uuid := private.require_user(allow_aal1 => true);
begin
  return (select count(*) from private.recovery_codes c where c.user_id = v_user_id);
end $$;
comment on function private.count_my_recovery_codes() is
  'Behind public.count_my_recovery_codes.';
grant execute on function private.count_my_recovery_codes() to authenticated;

create function public.count_my_recovery_codes() returns integer
language sql stable security invoker set search_path = ''
as $$ select private.count_my_recovery_codes() $$;
comment on function public.count_my_recovery_codes() is 'How many unused recovery codes the caller has.';
grant execute on function public.count_my_recovery_codes() to authenticated;

-- sql/18_account_changes.sql ==========================================================================================

-- What makes a stolen session permanent, if nobody hears of it: new factors, codes, keys, credentials, addresses, passwords, identities. Each
-- needs a sign-in of the last minutes, is told to the address at once, and has a link that takes it back.

insert into private.settings (key, value, rule, description) values
  ('sessions.recent_sign_in_minutes', '10', '{"type": "integer", "minimum": 1, "maximum": 10080}', 'How old a sign-in may be for what outlives the session: a factor, recovery codes, an API key, a credential, another address.'),
  ('sessions.keys_on_password_change', '"session"', '{"enum": ["session", "all", "none"]}', 'Which API keys go with a password change: "session" those made by the sessions that it ends, and since they began; "all"; "none".'),
  ('account.undo_hours', '72', '{"type": "integer", "minimum": 1, "maximum": 720}', 'How long the link in a mail about a change of the account undoes it.'),
  ('account.undo_url', 'null', '{"type": ["string", "null"], "pattern": "^https?://[^ ]+[{]token[}][^ ]*$"}', 'The page of yours that such a link opens, with {token} in it; null: the function account, at jobs.functions_url.')
on conflict (key) do nothing;

-- Recent sign-ins --------------------------------------------------------------------------------------------------------

create function private.has_recent_sign_in(user_id uuid, session_id uuid default null) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: the Auth service's tables.
begin
  -- What proves who somebody is, and not a second factor, which a thief may have added, nor the address that a change is about.
  return exists (
    select from auth.sessions s join auth.mfa_amr_claims c on c.session_id = s.id
    where s.user_id = has_recent_sign_in.user_id
      and (has_recent_sign_in.session_id is null or s.id = has_recent_sign_in.session_id)
      and c.authentication_method in (
        'password', 'otp', 'oauth', 'sso/saml', 'magiclink', 'email/signup', 'recovery', 'invite', 'web3', 'passkey')
      and c.updated_at > now() - make_interval(mins => (private.setting('sessions.recent_sign_in_minutes'))::integer));
end $$;
comment on function private.has_recent_sign_in(uuid, uuid) is
  'Whether this session began with a sign-in of the last sessions.recent_sign_in_minutes; without a session, whether any of the user''s did. The rows that it reads are what the Auth service writes into a token as amr.';

create function private.require_recent_sign_in(user_id uuid, session_id uuid) returns void
language plpgsql stable security invoker set search_path = ''
as $$
begin
  -- No session at all is not any session.
  if require_recent_sign_in.session_id is null
    or not private.has_recent_sign_in(require_recent_sign_in.user_id, require_recent_sign_in.session_id) then
    perform private.raise_error('recent_sign_in_required',
      format('Sign in again: this needs a sign-in of the last %s minutes.', private.setting('sessions.recent_sign_in_minutes')),
      'Ask for the password (or another sign-in), then repeat the call with the new session.');
  end if;
end $$;
comment on function private.require_recent_sign_in(uuid, uuid) is
  'For what outlives a session: refuses one whose sign-in is older than sessions.recent_sign_in_minutes, however often it was refreshed.';

create function private.is_recently_signed_in() returns boolean
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: the Auth service's tables; it answers for the caller only.
begin
  return private.has_recent_sign_in(private.require_user(allow_pending => true, allow_aal1 => true), private.my_session_id());
end $$;
comment on function private.is_recently_signed_in() is 'Behind public.has_recent_sign_in.';
grant execute on function private.is_recently_signed_in() to authenticated;

create function public.has_recent_sign_in() returns boolean
language sql stable security invoker set search_path = ''
as $$ select private.is_recently_signed_in() $$;
comment on function public.has_recent_sign_in() is
  'Whether the caller''s session began with a sign-in recent enough for API keys, recovery codes, credentials, a new factor or another address. Ask before you enrol a factor: Auth''s own refusal has no words.';
grant execute on function public.has_recent_sign_in() to authenticated;

create function private.tg__recent_sign_in() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
declare
  v_user_id uuid := case tg_table_name when 'users' then to_jsonb(new) ->> 'id' else to_jsonb(new) ->> 'user_id' end;
begin
  if not private.has_recent_sign_in(v_user_id) then
    -- PT403: callers of the Auth service's older API version see status and words; others a plain 500.
    raise exception using errcode = 'PT403', message = 'recent_sign_in_required',
      hint = format('Sign in again: this needs a sign-in of the last %s minutes.', private.setting('sessions.recent_sign_in_minutes'));
  end if;
  return new;
end $$;
comment on function private.tg__recent_sign_in() is
  'No claims reach SQL where the Auth service acts, so it demands that some session of the user''s began lately.';
-- Only what users do by way of the Auth service: operators and the admin API have no sessions of the user's.
create trigger palisade_factor_needs_sign_in before insert on auth.mfa_factors
  for each row when (current_user = 'supabase_auth_admin') execute function private.tg__recent_sign_in();
create trigger palisade_address_needs_sign_in before update of email_change on auth.users
  for each row when (
    current_user = 'supabase_auth_admin' and new.email_change <> '' and old.email <> ''
    and new.email_change is distinct from old.email_change)
  execute function private.tg__recent_sign_in();

-- What is told, and how it is taken back -----------------------------------------------------------------------------------

create table private.account_changes (
  id text primary key check (id ~ '^[a-z][a-z0-9_]{0,59}$'),
  title text not null check (length(title) between 1 and 200),
  body text not null check (length(body) between 1 and 1000),
  undo text not null check (length(undo) between 1 and 500)
);
comment on table private.account_changes is
  'What owners are told of at once, as a notification of this type and by mail. {name} is filled in, as far as it is known. The words are yours to change.';
comment on column private.account_changes.undo is 'What the link in the mail will do, beside freezing the account.';
revoke all on private.account_changes from anon, authenticated, service_role;
insert into private.account_changes (id, title, body, undo) values
  ('mfa_added', 'A second factor was added', 'Sign-in to your account now asks for an authenticator that was just added. It can lock you out, if it is not yours.', 'The authenticator is removed.'),
  ('recovery_codes_created', 'Recovery codes were made', 'New recovery codes were made for your account. Each signs in without your second factor; older codes are void.', 'All recovery codes are removed.'),
  ('api_key_created', 'An API key was made', 'An API key, {name}, was made or renewed for your account. Whoever has it can make calls in your name.', 'The API key is revoked.'),
  ('credential_added', 'A key of another service was added', 'A key of {name} was added to your account, or put in the place of an older one.', 'The key is deleted.'),
  ('identity_linked', 'Another sign-in was linked', 'Your account can now be entered with a sign-in at {name}.', 'The link to that sign-in is removed.'),
  ('email_changed', 'Your e-mail address was changed', 'Your account has another e-mail address now. Mails, also those that set a new password, go there.', 'The address stays as it is: it is changed back only together with us.'),
  ('password_changed', 'Your password was changed', 'Your account has a new password. If it was not you, reset your password now and end your other sessions.', 'The password stays as it is: set a new one when the account is open again.')
on conflict (id) do nothing;

create table private.undo_links (
  token_hash bytea primary key check (octet_length(token_hash) = 32),
  user_id uuid not null references auth.users (id) on delete cascade,
  change text not null references private.account_changes (id) on delete restrict,
  subject_id uuid,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  used_at timestamptz
);
comment on table private.undo_links is 'What the links in mails about changes take back: SHA-256 of 256 random bits, once, for account.undo_hours.';
comment on column private.undo_links.subject_id is 'The factor, API key, credential or identity that was added; null for what is one of a kind.';
create index undo_links_user_id_idx on private.undo_links (user_id);
create index undo_links_change_idx on private.undo_links (change);
create index undo_links_expires_at_idx on private.undo_links (expires_at);
revoke all on private.undo_links from anon, authenticated, service_role;

create function private.undo_url(token text) returns text
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return coalesce(
    replace(private.setting('account.undo_url') #>> '{}', '{token}', undo_url.token),
    rtrim(nullif(private.setting('jobs.functions_url') #>> '{}', ''), '/') || '/account/undo?token=' || undo_url.token);
end $$;
comment on function private.undo_url(text) is 'Where a link that undoes a change leads; null while neither setting says it.';

create function private.make_undo_link(user_id uuid, change text, subject_id uuid) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_token text := translate(encode(extensions.gen_random_bytes(32), 'base64'), '+/=', '-_');
begin
  insert into private.undo_links (token_hash, user_id, change, subject_id, expires_at)
  values (sha256(convert_to(v_token, 'UTF8')), make_undo_link.user_id, make_undo_link.change, make_undo_link.subject_id,
    now() + make_interval(hours => (private.setting('account.undo_hours'))::integer));
  return private.undo_url(v_token);
end $$;
comment on function private.make_undo_link(uuid, text, uuid) is 'A new link that takes a change back, for the one mail that it goes into.';

create function private.tell_of_change(
  user_id uuid, change text, subject_id uuid default null, data jsonb default '{}', addresses text[] default null
) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: notifications, mails and links are written by functions only.
declare
  v_change private.account_changes;
  v_address text;
  v_body text;
begin
  select c.* into strict v_change from private.account_changes c where c.id = tell_of_change.change;
  v_body := private.fill_placeholders(v_change.body, tell_of_change.data);
  perform private.notify_user(tell_of_change.user_id, v_change.id, v_change.title, v_body,
    jsonb_strip_nulls(tell_of_change.data || jsonb_build_object('id', tell_of_change.subject_id)), by_mail => false);
  for v_address in
    -- An address that was never verified may be a stranger's.
    select unnest(coalesce(tell_of_change.addresses, array[u.email::text]))
    from auth.users u where u.id = tell_of_change.user_id and u.email_confirmed_at is not null
  loop
    continue when nullif(v_address, '') is null;
    insert into private.mails (user_id, address, type, subject, body)
    values (tell_of_change.user_id, v_address, v_change.id, v_change.title, v_body || coalesce(format(
      E'\n\nIf this was not you, open this link within %s hours. The page says what it will do, and asks before it does it:\n',
      private.setting('account.undo_hours'))
      || private.make_undo_link(tell_of_change.user_id, tell_of_change.change, tell_of_change.subject_id), ''));
  end loop;
end $$;
comment on function private.tell_of_change(uuid, text, uuid, jsonb, text[]) is
  'Tells an owner what changed, in the transaction that changed it: a notification, and a mail with a link that undoes it, to the address of the account, as it is at this moment, or to those given. The mail is always sent, whatever notifications.mail_types says. Who calls it writes the audit entry.';

-- What the Auth service adds and changes -----------------------------------------------------------------------------------
-- These run in its transactions: whatever goes wrong here becomes a warning in the log, never a failed sign-in.

create function private.tg_mfa_factors__added() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  perform private.audit(action => 'mfa.add_factor', resource_type => 'factor', resource_id => new.id::text, user_id => new.user_id,
    details => jsonb_build_object('factor_type', new.factor_type::text));
  perform private.tell_of_change(new.user_id, 'mfa_added', new.id, jsonb_build_object('factor_type', new.factor_type::text));
  return null;
exception when others then
  raise warning 'the new factor of % was not told: %', new.user_id, sqlerrm;
  return null;
end $$;
comment on function private.tg_mfa_factors__added() is 'A factor that counts from now on is told to its owner.';
create trigger palisade_factor_added after insert on auth.mfa_factors
  for each row when (new.status = 'verified') execute function private.tg_mfa_factors__added();
create trigger palisade_factor_verified after update of status on auth.mfa_factors
  for each row when (old.status <> 'verified' and new.status = 'verified') execute function private.tg_mfa_factors__added();

create function private.tg_users__email_changed() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  perform private.audit(action => 'account.change_email', resource_type => 'account', resource_id => new.id::text, user_id => new.id,
    -- The log tells who did it from how: a user agrees to a change on both addresses, an operator writes it.
    details => jsonb_build_object('asked_for', coalesce(old.email_change = new.email, false)));
  if old.email_confirmed_at is not null then
    perform private.tell_of_change(new.id, 'email_changed', addresses => array[old.email::text]);
  end if;
  return null;
exception when others then
  raise warning 'the new address of % was not told: %', new.id, sqlerrm;
  return null;
end $$;
comment on function private.tg_users__email_changed() is
  'A change of address, also by an operator, is told to the old one. A softly deleted account''s address is made unreadable, which is told to nobody.';
create trigger palisade_email_changed after update of email on auth.users
  for each row when (old.email <> '' and old.email is distinct from new.email and new.deleted_at is null)
  execute function private.tg_users__email_changed();

create function private.tg_identities__linked() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  if not exists (select from auth.identities i where i.user_id = new.user_id and i.id <> new.id) then
    return null;
  end if;
  perform private.audit(action => 'account.link_identity', resource_type => 'identity', resource_id => new.id::text,
    user_id => new.user_id, details => jsonb_build_object('provider', new.provider));
  perform private.tell_of_change(new.user_id, 'identity_linked', new.id, jsonb_build_object('name', new.provider));
  return null;
exception when others then
  raise warning 'the new identity of % was not told: %', new.user_id, sqlerrm;
  return null;
end $$;
comment on function private.tg_identities__linked() is 'A further way to sign in is told to the owner; the first one is the sign-up.';
create trigger palisade_identity_linked after insert on auth.identities
  for each row execute function private.tg_identities__linked();

-- A password change, and the keys that go with it. Auth ends the other sessions after it has written the password, so which keys go is
-- known when the transaction ends.

create function private.tg_users__password_changed() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  perform set_config('palisade.sessions_of_' || replace(new.id::text, '-', ''), (
    select coalesce(jsonb_object_agg(s.id, s.created_at), '{}')::text from auth.sessions s where s.user_id = new.id), true);
  -- The first password of who has no other way to sign in is a part of the sign-up.
  if coalesce(old.encrypted_password, '') = ''
    and not exists (select from auth.identities i where i.user_id = new.id and i.provider <> 'email') then
    return null;
  end if;
  perform private.raise_security_event(type => 'password_changed', severity => 'medium', user_id => new.id);
  perform private.audit(action => 'account.change_password', resource_type => 'account', resource_id => new.id::text, user_id => new.id);
  perform private.tell_of_change(new.id, 'password_changed');
  return null;
exception when others then
  raise warning 'the new password of % was not noted: %', new.id, sqlerrm;
  return null;
end $$;
comment on function private.tg_users__password_changed() is
  'Tells the user of a new password, also of a first one beside another way to sign in; ending the other sessions is the Auth service''s. Notes which sessions there were.';
create trigger palisade_password_changed after update of encrypted_password on auth.users
  for each row when (new.encrypted_password <> '' and coalesce(old.encrypted_password, '') <> new.encrypted_password and new.deleted_at is null)
  execute function private.tg_users__password_changed();

create function private.tg_users__password_ends_keys() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
declare
  v_before jsonb := nullif(current_setting('palisade.sessions_of_' || replace(new.id::text, '-', ''), true), '');
  v_kept uuid[] := array(select s.id from auth.sessions s where s.user_id = new.id);
begin
  perform private.revoke_keys_with_sessions(new.id, private.setting('sessions.keys_on_password_change') #>> '{}',
    v_before - v_kept::text[], v_kept);
  return null;
exception when others then
  raise warning 'the API keys of % did not go with the password: %', new.id, sqlerrm;
  return null;
end $$;
comment on function private.tg_users__password_ends_keys() is
  'With a password go the API keys that sessions.keys_on_password_change names: those of the sessions that ended in this transaction, and younger ones.';
create constraint trigger palisade_password_ends_keys after update of encrypted_password on auth.users
  deferrable initially deferred
  for each row when (coalesce(old.encrypted_password, '') <> coalesce(new.encrypted_password, '') and new.deleted_at is null)
  execute function private.tg_users__password_ends_keys();

-- Undoing ------------------------------------------------------------------------------------------------------------------

create function private.describe_undo_link(link private.undo_links, state text) returns jsonb
language sql stable security invoker set search_path = ''
as $$
  select jsonb_build_object('state', describe_undo_link.state, 'change', c.id, 'title', c.title, 'undo', c.undo,
    'changed_at', (link).created_at, 'expires_at', (link).expires_at)
  from private.account_changes c where c.id = (link).change
$$;
comment on function private.describe_undo_link(private.undo_links, text) is
  'What the page of a link says, to whoever has it: not whose account it is, nor its address.';

create function private.show_undo_link(token_hash bytea) returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_link private.undo_links;
begin
  -- By the hash of 256 random bits: the time that the look-up takes tells nothing about a token.
  select l.* into v_link from private.undo_links l where l.token_hash = show_undo_link.token_hash;
  if not found then
    perform private.raise_error('not_found', 'This link is unknown, or long over.');
  end if;
  return private.describe_undo_link(v_link,
    case when v_link.used_at is not null then 'used' when v_link.expires_at <= now() then 'expired' else 'open' end);
end $$;
comment on function private.show_undo_link(bytea) is
  'For the function account: {state: open | used | expired, change, title, undo, changed_at, expires_at} of the link with this SHA-256. Changes nothing.';

create function private.undo_change(link private.undo_links) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  case (link).change
    when 'mfa_added' then
      delete from auth.mfa_factors f where f.id = (link).subject_id and f.user_id = (link).user_id;
    when 'recovery_codes_created' then
      delete from private.recovery_codes c where c.user_id = (link).user_id;
    when 'api_key_created' then
      perform private.close_api_keys(array(
        select k.id from public.api_keys k where k.id = (link).subject_id and k.user_id = (link).user_id));
    when 'credential_added' then
      delete from public.credentials c where c.id = (link).subject_id and c.user_id = (link).user_id;
    when 'recovery_requested' then
      perform private.stop_recovery((link).user_id);
    when 'identity_linked' then
      delete from auth.identities i where i.id = (link).subject_id and i.user_id = (link).user_id;
    else
      null; -- An old mailbox alone gives no address back, and nobody knows the old password.
  end case;
end $$;
comment on function private.undo_change(private.undo_links) is 'Removes what was added; an address and a password stay.';

create function private.use_undo_link(token_hash bytea) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_link private.undo_links;
begin
  -- Of two at once the second waits here, and finds it used.
  update private.undo_links l set used_at = now()
  where l.token_hash = use_undo_link.token_hash and l.used_at is null and l.expires_at > now()
  returning l.* into v_link;
  if not found then
    return private.show_undo_link(use_undo_link.token_hash);
  end if;
  perform private.undo_change(v_link);
  perform private.audit(action => 'account.undo_change', resource_type => 'account', resource_id => v_link.user_id::text,
    user_id => v_link.user_id, details => jsonb_build_object('change', v_link.change, 'subject_id', v_link.subject_id));
  if exists (select from public.profiles p where p.id = v_link.user_id and p.status <> 'deleted') then
    perform private.change_account_status(v_link.user_id, 'suspended',
      format('frozen by the link in the mail about %s of %s', v_link.change, to_char(v_link.created_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"')));
  end if;
  perform private.notify_user(v_link.user_id, 'account_frozen', 'Your account was frozen',
    'Somebody opened the link in our mail and said that a change of your account was not theirs. All sessions and API keys have ended until we have spoken with you.',
    jsonb_build_object('change', v_link.change));
  return private.describe_undo_link(v_link, 'undone');
end $$;
comment on function private.use_undo_link(bytea) is
  'For the function account: takes the change of this link back, once, and suspends the account, which ends every session; signs nobody in. Answers as show_undo_link does, with the state undone for the one call that did it.';

create function private.delete_old_undo_links() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_deleted integer;
begin
  delete from private.undo_links l where l.expires_at < now() - interval '30 days';
  get diagnostics v_deleted = row_count;
  return v_deleted;
end $$;
comment on function private.delete_old_undo_links() is 'Forgets links that were over 30 days ago; run daily. Answers how many.';

-- sql/18_mailboxes.sql ================================================================================================

-- Mailboxes: what an account gets for nothing it gets once for each mailbox, however the address of it is written.

insert into private.settings (key, value, rule, description) values
  ('mailboxes.plus_domains', '["gmail.com", "outlook.com", "hotmail.com", "live.com", "msn.com", "icloud.com", "me.com", "mac.com", "proton.me", "protonmail.com", "pm.me", "fastmail.com", "zoho.com", "hey.com"]', '{"type": "array", "items": {"type": "string", "pattern": "^(\\*|[a-z0-9-]+(\\.[a-z0-9-]+)+)$"}}', 'Domains where what follows a plus sign in an address leads to the same mailbox; "*" is all of them.'),
  ('mailboxes.dotless_domains', '["gmail.com"]', '{"type": "array", "items": {"type": "string", "pattern": "^[a-z0-9-]+(\\.[a-z0-9-]+)+$"}}', 'Domains where dots before the @ do not count.'),
  ('mailboxes.keep_days', '730', '{"type": "integer", "minimum": 1, "maximum": 36500}', 'Days for which the hash of a mailbox is kept after what it got, once its account is erased.'),
  ('credits.sign_ups_per_mailbox', '1', '{"type": "integer", "minimum": 1, "maximum": 1000000000}', 'Accounts of one mailbox that get credits.on_sign_up.'),
  ('billing.trials_per_mailbox', '1', '{"type": "integer", "minimum": 1, "maximum": 1000000000}', 'Accounts of one mailbox that get a trial.')
on conflict (key) do nothing;

create table private.mailbox_claims (
  mailbox_hash bytea not null check (octet_length(mailbox_hash) = 32),
  kind text not null check (kind in ('credits', 'trial')),
  user_id uuid not null,
  claimed_at timestamptz not null default now(),
  primary key (mailbox_hash, kind, user_id)
);
comment on table private.mailbox_claims is
  'Which mailboxes had credits on sign-up or the offer of a trial, as SHA-256 hashes. user_id references nothing: an account that is erased and made anew has had them. See mailboxes.keep_days.';
create index mailbox_claims_claimed_at_idx on private.mailbox_claims (claimed_at);
revoke all on private.mailbox_claims from anon, authenticated, service_role;

create function private.mailbox_of(address text) returns text
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_parts text[] := regexp_match(lower(btrim(mailbox_of.address)), '^(.+)@([^@]+)$');
  v_name text := v_parts[1];
  v_domain text := case v_parts[2] when 'googlemail.com' then 'gmail.com' else v_parts[2] end;
begin
  -- An address that begins with a plus sign has nothing else to be named by.
  if private.setting('mailboxes.plus_domains') ?| array['*', v_domain] and v_name ~ '^[^+]' then
    v_name := split_part(v_name, '+', 1);
  end if;
  if private.setting('mailboxes.dotless_domains') ? v_domain then
    v_name := coalesce(nullif(replace(v_name, '.', ''), ''), v_name);
  end if;
  return v_name || '@' || v_domain;
end $$;
comment on function private.mailbox_of(text) is
  'The mailbox that an address leads to: lower case, without dots and parts after a plus sign where its domain ignores them. Null for what is no address.';

create function private.claim_for_mailbox(user_id uuid, kind text, most integer) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_mailbox text;
  v_hash bytea;
begin
  select private.mailbox_of(u.email) into v_mailbox from auth.users u where u.id = claim_for_mailbox.user_id;
  if v_mailbox is null then
    return true;
  end if;
  v_hash := sha256(convert_to(v_mailbox, 'UTF8'));
  -- Accounts of one mailbox take turns; the statements below see what the one before has done.
  perform pg_advisory_xact_lock(hashtextextended('mailbox:' || v_mailbox, 0));
  if exists (
    select from private.mailbox_claims c
    where c.mailbox_hash = v_hash and c.kind = claim_for_mailbox.kind and c.user_id = claim_for_mailbox.user_id) then
    return true;
  end if;
  insert into private.mailbox_claims (mailbox_hash, kind, user_id)
  select v_hash, claim_for_mailbox.kind, claim_for_mailbox.user_id
  where claim_for_mailbox.most > (
    select count(*) from private.mailbox_claims c where c.mailbox_hash = v_hash and c.kind = claim_for_mailbox.kind);
  return found;
end $$;
comment on function private.claim_for_mailbox(uuid, text, integer) is
  'Whether an account is among the first so many of its mailbox that ask for this; it stays among them. Accounts without an address always are.';

create function private.grant_sign_up_credits(user_id uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_user auth.users;
  v_is_anonymous boolean;
  v_credits bigint;
  v_key text;
begin
  select u.* into strict v_user from auth.users u where u.id = grant_sign_up_credits.user_id;
  v_is_anonymous := v_user.is_anonymous and v_user.email_confirmed_at is null;
  if not v_is_anonymous and v_user.email <> '' and v_user.email_confirmed_at is null then
    return;
  end if;
  v_credits := (private.setting(case when v_is_anonymous then 'credits.on_anonymous_sign_up' else 'credits.on_sign_up' end))::bigint;
  v_key := case when v_is_anonymous then 'anonymous_sign_up' else 'sign_up' end;
  if v_credits = 0 or exists (
    select from private.credit_bookings b where b.user_id = v_user.id and b.idempotency_key = v_key) then
    return;
  end if;
  if private.claim_for_mailbox(v_user.id, 'credits', (private.setting('credits.sign_ups_per_mailbox'))::integer) then
    perform private.add_credit_entry(v_user.id, v_credits, 'sign_up', 'credits on sign-up', v_key);
  end if;
end $$;
comment on function private.grant_sign_up_credits(uuid) is
  'Credits on sign-up, once for an account and credits.sign_ups_per_mailbox times for a mailbox. They come when the address is confirmed: nobody else''s sign-up takes them from the owner of a mailbox.';

create function private.delete_old_mailbox_claims() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_deleted integer;
begin
  delete from private.mailbox_claims c
  where c.claimed_at < now() - make_interval(days => (private.setting('mailboxes.keep_days'))::integer)
    and not exists (select from auth.users u where u.id = c.user_id);
  get diagnostics v_deleted = row_count;
  return v_deleted;
end $$;
comment on function private.delete_old_mailbox_claims() is
  'Forgets mailboxes of erased accounts after mailboxes.keep_days; run daily. Answers how many went.';

-- sql/19_account_recovery.sql =========================================================================================

-- Taking an account back: who signs in by the verified address and lacks the second factor, because a thief added it or the phone is lost
-- with all codes, has the factors removed, after days in which whoever has the factor can say no.

insert into private.settings (key, value, rule, description) values
  ('recovery.wait_days', '7', '{"type": "integer", "minimum": 7, "maximum": 90}', 'Days between the wish to have the second factors removed and their removal, in which it can be stopped.'),
  ('recovery.restricted_hours', '72', '{"type": "integer", "minimum": 1, "maximum": 720}', 'Hours after such a removal for which there are no new API keys, credentials and exports.')
on conflict (key) do nothing;

insert into private.account_changes (id, title, body, undo) values
  ('recovery_requested', 'Somebody asks to remove your second factor', 'Somebody who can read your mail asked to remove the second factor from your account. It will be removed on {date}. If this was not you, sign in with your second factor and stop it.', 'The request is stopped.'),
  ('recovery_finished', 'Your second factor was removed', 'The second factors of your account were removed, as was asked for by mail on {date}. All other sessions and all API keys have ended.', 'The factors stay removed: they come back only together with us.')
on conflict (id) do nothing;

create table private.account_recoveries (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null references auth.users (id) on delete cascade,
  requested_at timestamptz not null default now(),
  due_at timestamptz not null,
  stopped_at timestamptz,
  finished_at timestamptz,
  check (stopped_at is null or finished_at is null)
);
comment on table private.account_recoveries is 'Wishes to have the second factors of an account removed by way of its address, and what became of them.';
comment on column private.account_recoveries.due_at is 'Not before. A week after it the wish is void.';
create unique index account_recoveries_open_key on private.account_recoveries (user_id) where stopped_at is null and finished_at is null;
create index account_recoveries_user_id_idx on private.account_recoveries (user_id, requested_at desc);
revoke all on private.account_recoveries from anon, authenticated, service_role;

create function private.require_proven_address() returns uuid
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: the Auth service's tables.
declare
  v_user_id uuid := private.require_user(allow_aal1 => true);
begin
  -- Who may do most has no way around a second factor: another admin helps.
  if not exists (select from public.profiles p where p.id = v_user_id and p.role = 'user') then
    perform private.raise_error('not_allowed', 'There is no such way for support and admins.');
  end if;
  if not exists (
    select from auth.mfa_amr_claims c
    where c.session_id = private.my_session_id() and c.authentication_method in ('otp', 'magiclink', 'recovery')
      and c.updated_at > now() - make_interval(mins => (private.setting('sessions.recent_sign_in_minutes'))::integer)) then
    perform private.raise_error('recent_sign_in_required', 'Sign in by a link or code in a mail first: it proves that the address is yours.',
      'Use resetPasswordForEmail or signInWithOtp, then repeat the call with the new session.');
  end if;
  return v_user_id;
end $$;
comment on function private.require_proven_address() is
  'The caller''s id, when the session has just begun by a mail to the account''s address; the second factor is what is missing. Refuses support and admins.';

create function private.addresses_of(user_id uuid) returns text[]
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return array(
    select distinct lower(a.address) from (
      select u.email::text as address from auth.users u where u.id = addresses_of.user_id
      union all
      select i.identity_data ->> 'email' from auth.identities i where i.user_id = addresses_of.user_id
      union all
      -- The addresses that it had lately: they heard of the change.
      select m.address from private.mails m where m.user_id = addresses_of.user_id) a
    where length(a.address) between 3 and 320);
end $$;
comment on function private.addresses_of(uuid) is 'Every address by which the account''s owner may be reached: the present one, those of linked sign-ins, and those it had within mail.keep_days.';

create function private.tell_of_recovery(recovery private.account_recoveries, change text, day timestamptz) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  perform private.tell_of_change((recovery).user_id, tell_of_recovery.change, (recovery).id,
    jsonb_build_object('date', to_char(tell_of_recovery.day at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"')),
    private.addresses_of((recovery).user_id));
  -- To every session that listens, at once.
  perform realtime.send(jsonb_build_object('change', tell_of_recovery.change, 'due_at', (recovery).due_at),
    'account_recovery', 'user:' || (recovery).user_id, true);
end $$;
comment on function private.tell_of_recovery(private.account_recoveries, text, timestamptz) is 'Tells every address and every session of the owner''s.';

create function private.request_recovery() returns timestamptz
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: recoveries are private; it writes the caller's only.
declare
  v_user_id uuid := private.require_proven_address();
  v_recovery private.account_recoveries;
begin
  if not exists (select from auth.mfa_factors f where f.user_id = v_user_id and f.status = 'verified') then
    perform private.raise_error('invalid_request_error', 'This account has no second factor: there is nothing to remove.');
  end if;
  perform private.lock_account(v_user_id);
  update private.account_recoveries r set stopped_at = now()
  where r.user_id = v_user_id and r.stopped_at is null and r.finished_at is null and r.due_at < now() - interval '7 days';
  select r.* into v_recovery from private.account_recoveries r
  where r.user_id = v_user_id and r.stopped_at is null and r.finished_at is null;
  if found then
    return v_recovery.due_at;
  end if;
  -- Each one is a mail to every address.
  if exists (select from private.account_recoveries r where r.user_id = v_user_id and r.requested_at > now() - interval '1 day') then
    perform private.raise_error('rate_limit_exceeded', 'This was asked for within the last day, and stopped. Try again tomorrow.');
  end if;
  insert into private.account_recoveries (user_id, due_at)
  values (v_user_id, now() + make_interval(days => (private.setting('recovery.wait_days'))::integer)) returning * into v_recovery;
  perform private.audit(action => 'account.request_recovery', resource_type => 'account', resource_id => v_user_id::text, user_id => v_user_id,
    details => jsonb_build_object('due_at', v_recovery.due_at));
  perform private.raise_security_event('recovery_requested', 'high', v_user_id, jsonb_build_object('due_at', v_recovery.due_at));
  perform private.tell_of_recovery(v_recovery, 'recovery_requested', v_recovery.due_at);
  return v_recovery.due_at;
end $$;
comment on function private.request_recovery() is 'Behind public.request_account_recovery.';
grant execute on function private.request_recovery() to authenticated;

create function public.request_account_recovery() returns timestamptz
language sql volatile security invoker set search_path = ''
as $$ select private.request_recovery() $$;
comment on function public.request_account_recovery() is
  'For an owner without the second factor, in a session that just began by a mail to the account''s address: asks to have the factors removed. Answers from when on finish_account_recovery does it, recovery.wait_days later. Every address and session is told, and any session with the second factor can stop it. Not for support and admins.';
grant execute on function public.request_account_recovery() to authenticated;

create function private.stop_recovery(user_id uuid) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  update private.account_recoveries r set stopped_at = now()
  where r.user_id = stop_recovery.user_id and r.stopped_at is null and r.finished_at is null;
  if found then
    perform private.audit(action => 'account.stop_recovery', resource_type => 'account', resource_id => stop_recovery.user_id::text,
      user_id => stop_recovery.user_id);
    return true;
  end if;
  return false;
end $$;
comment on function private.stop_recovery(uuid) is 'Stops the wish to have an account''s factors removed. False: there was none.';

create function private.stop_my_recovery() returns boolean
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: recoveries are private; it stops the caller's only.
declare
  v_user_id uuid := private.require_user();
begin
  if not private.has_aal2() then
    perform private.raise_error('insufficient_aal', 'Sign in with your second factor first.');
  end if;
  return private.stop_recovery(v_user_id);
end $$;
comment on function private.stop_my_recovery() is 'Behind public.stop_account_recovery.';
grant execute on function private.stop_my_recovery() to authenticated;

create function public.stop_account_recovery() returns boolean
language sql volatile security invoker set search_path = ''
as $$ select private.stop_my_recovery() $$;
comment on function public.stop_account_recovery() is
  'Stops what request_account_recovery began; from any session with the second factor. Answers whether there was something to stop.';
grant execute on function public.stop_account_recovery() to authenticated;

create function private.finish_recovery() returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: recoveries are private, factors and sessions the Auth service's; it touches the caller's only.
declare
  v_user_id uuid := private.require_proven_address();
  v_session_id uuid := private.my_session_id();
  v_recovery private.account_recoveries;
begin
  -- Who stops it at this moment was first, or comes too late.
  update private.account_recoveries r set finished_at = now()
  where r.user_id = v_user_id and r.stopped_at is null and r.finished_at is null
    and r.due_at <= now() and r.due_at > now() - interval '7 days'
  returning r.* into v_recovery;
  if not found then
    perform private.raise_error('not_allowed', 'There is no request of yours that is due: it was stopped, is void, or has to wait.');
  end if;
  delete from auth.mfa_factors f where f.user_id = v_user_id;
  delete from private.recovery_codes c where c.user_id = v_user_id;
  perform private.end_sessions(v_user_id, array(
    select s.id from auth.sessions s where s.user_id = v_user_id and s.id <> v_session_id), 'all');
  perform private.audit(action => 'account.finish_recovery', resource_type => 'account', resource_id => v_user_id::text, user_id => v_user_id);
  perform private.raise_security_event('recovery_finished', 'high', v_user_id);
  perform private.tell_of_recovery(v_recovery, 'recovery_finished', v_recovery.requested_at);
end $$;
comment on function private.finish_recovery() is 'Behind public.finish_account_recovery.';
grant execute on function private.finish_recovery() to authenticated;

create function public.finish_account_recovery() returns void
language sql volatile security invoker set search_path = ''
as $$ select private.finish_recovery() $$;
comment on function public.finish_account_recovery() is
  'After the wait, again in a session that just began by a mail to the account''s address: removes the second factors and recovery codes, and ends all other sessions and all API keys. For recovery.restricted_hours there are no new API keys, credentials and exports.';
grant execute on function public.finish_account_recovery() to authenticated;

create function private.require_unrestricted(user_id uuid) returns void
language plpgsql stable security invoker set search_path = ''
as $$
begin
  if exists (
    select from private.account_recoveries r
    where r.user_id = require_unrestricted.user_id
      and r.finished_at > now() - make_interval(hours => (private.setting('recovery.restricted_hours'))::integer)) then
    perform private.raise_error('not_allowed',
      format('The second factor of this account was removed by mail: for %s hours it gets no API keys, credentials and exports.',
        private.setting('recovery.restricted_hours')));
  end if;
end $$;
comment on function private.require_unrestricted(uuid) is 'Refuses what carries data or power out of an account that was just taken back: a thief of the mailbox must not be quicker than its owner.';

-- sql/19_unconfirmed_accounts.sql =====================================================================================

-- Unconfirmed accounts: a place under the cap, or a use of an invite, is not kept for an address that nobody confirms.

insert into private.settings (key, value, rule, description) values
  ('registration.unconfirmed_hours', '24', '{"type": "integer", "minimum": 1, "maximum": 8760}', 'Hours after which an account whose address was never confirmed is erased, and its place or use of an invite is given to the next.')
on conflict (key) do nothing;

create index profiles_pending_idx on public.profiles (id) where status = 'pending';

create function private.delete_unconfirmed_accounts(batch_size integer default 1000) returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_expired uuid[];
begin
  -- Who confirms at this moment holds the row's lock, and is looked at next time.
  select coalesce(array_agg(e.id), '{}') into v_expired from (
    select u.id
    from public.profiles p
      join private.registrations r on r.user_id = p.id
      join auth.users u on u.id = p.id
    where p.status = 'pending' and r.origin = 'sign_up'
      and r.confirmed_at < now() - make_interval(hours => (private.setting('registration.unconfirmed_hours'))::integer)
      and u.email_confirmed_at is null and u.phone_confirmed_at is null and u.invited_at is null and u.last_sign_in_at is null
      and not u.is_anonymous
    order by r.confirmed_at limit batch_size
    for update of u skip locked) e;
  if v_expired = '{}' then
    return 0;
  end if;
  delete from auth.users u where u.id = any (v_expired);
  -- The rows of other accounts stay, so that a used invite stays used.
  delete from private.registrations r where r.user_id = any (v_expired);
  perform private.audit(action => 'registration.expire', resource_type => 'registration', resource_id => null,
    details => jsonb_build_object('accounts', cardinality(v_expired)));
  return cardinality(v_expired);
end $$;
comment on function private.delete_unconfirmed_accounts(integer) is
  'Erases accounts that signed up, confirmed no address within registration.unconfirmed_hours and never signed in; run every ten minutes. Not those that an admin, an import or an invitation made. Answers how many.';

-- policies/10_accounts.sql ============================================================================================

create policy "owners see their profile"
  on public.profiles for select to authenticated
  using (id = (select private.my_user_id(allow_pending => true, allow_aal1 => true)));

create policy "owners change their profile"
  on public.profiles for update to authenticated
  using (id = (select private.my_user_id()))
  with check (id = (select private.my_user_id()));

-- policies/12_registration.sql ========================================================================================

create policy "everybody sees the published documents"
  on public.legal_documents for select to anon, authenticated
  using (published_at <= now());

create policy "owners see their consents"
  on public.consents for select to authenticated
  using (user_id = (select private.my_user_id()));

-- policies/15_sessions.sql ============================================================================================

create policy "owners see their devices"
  on public.devices for select to authenticated
  using (user_id = (select private.my_user_id()));
