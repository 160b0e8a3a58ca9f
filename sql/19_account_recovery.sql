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
