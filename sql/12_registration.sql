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
