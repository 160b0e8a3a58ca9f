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
