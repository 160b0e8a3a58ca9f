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
