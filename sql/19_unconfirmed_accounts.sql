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
