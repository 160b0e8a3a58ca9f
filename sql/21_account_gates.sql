-- Gate columns: what private.account_gates says of an account, copied into its row in private.accounts whenever it changes.

create function private.refresh_account_gates(user_id uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- The lock first, and what is true after it: of two that change different sources the second sees what the first committed.
  perform from private.accounts a where a.user_id = refresh_account_gates.user_id for no key update;
  update private.accounts a set
    account_state = g.account_state, is_active = g.is_active, has_factor = g.has_factor, banned_until = g.banned_until
  from private.account_gates g
  where a.user_id = refresh_account_gates.user_id and g.user_id = refresh_account_gates.user_id
    and (a.account_state, a.is_active, a.has_factor, a.banned_until)
      is distinct from (g.account_state, g.is_active, g.has_factor, g.banned_until);
end $$;
comment on function private.refresh_account_gates(uuid) is
  'Copies what private.account_gates says of an account into its row; nothing when it is there already, or the account is gone.';

create function private.tg_profiles__gates() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: accounts are private.
begin
  if old.status is distinct from new.status then
    perform private.refresh_account_gates(new.id);
  end if;
  if old.plan_id is distinct from new.plan_id then
    perform private.refresh_account_limits(new.id);
  end if;
  return null;
end $$;
comment on function private.tg_profiles__gates() is 'A new status or plan counts from the next call on.';
create trigger tg_profiles__gates after update of status, plan_id on public.profiles
  for each row when (old.status is distinct from new.status or old.plan_id is distinct from new.plan_id)
  execute function private.tg_profiles__gates();

create function private.tg_users__gates() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  perform private.refresh_account_gates(new.id);
  return null;
end $$;
comment on function private.tg_users__gates() is
  'A ban by the Auth service, its end before the time, a soft deletion, and an anonymous user who becomes a real one count from the next call on.';
create trigger palisade_keep_gates after update of banned_until, is_anonymous, deleted_at on auth.users
  for each row when (
    old.banned_until is distinct from new.banned_until or old.is_anonymous is distinct from new.is_anonymous
    or old.deleted_at is distinct from new.deleted_at)
  execute function private.tg_users__gates();

create function private.tg_mfa_factors__gates() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  perform private.refresh_account_gates(case when tg_op = 'DELETE' then old.user_id else new.user_id end);
  return null;
end $$;
comment on function private.tg_mfa_factors__gates() is 'The first verified factor makes sessions without it worthless; the last one''s end lets them in again.';
create trigger palisade_keep_gates_added after insert on auth.mfa_factors
  for each row when (new.status = 'verified') execute function private.tg_mfa_factors__gates();
create trigger palisade_keep_gates_changed after update of status on auth.mfa_factors
  for each row when (old.status is distinct from new.status) execute function private.tg_mfa_factors__gates();
create trigger palisade_keep_gates_removed after delete on auth.mfa_factors
  for each row when (old.status = 'verified') execute function private.tg_mfa_factors__gates();

create function private.compare_account_gates()
returns table (user_id uuid, stored jsonb, expected jsonb)
language sql stable security invoker set search_path = ''
as $$
  select a.user_id, to_jsonb(s), to_jsonb(g) - 'user_id'
  from private.accounts a
    left join private.account_gates g on g.user_id = a.user_id
    cross join lateral (select a.account_state, a.is_active, a.has_factor, a.banned_until) s
  where (a.account_state, a.is_active, a.has_factor, a.banned_until)
    is distinct from (g.account_state, g.is_active, g.has_factor, g.banned_until)
$$;
comment on function private.compare_account_gates() is
  'Accounts whose gate columns are not what private.account_gates says, with both: no row while the triggers do what they are for. private.refresh_account_gates mends one.';

create function private.warn_of_wrong_gates() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_users uuid[];
begin
  select array_agg(c.user_id) into v_users
  from (select g.user_id from private.compare_account_gates() g union select l.user_id from private.compare_account_limits() l) c;
  if v_users is not null then
    perform private.raise_security_event('account_gates_wrong', 'critical', null,
      jsonb_build_object('accounts', cardinality(v_users), 'some', to_jsonb(v_users[1:10])));
  end if;
  return coalesce(cardinality(v_users), 0);
end $$;
comment on function private.warn_of_wrong_gates() is
  'Raises a security event when private.compare_account_gates or compare_account_limits finds something; answers how many. A job runs it every night.';
