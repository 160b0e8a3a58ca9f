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
