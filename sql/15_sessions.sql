-- Sessions: devices, what makes a session live, and the checks that every policy of users' data asks once per statement.

create function private.session_is_live() returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
  return exists (
    select from auth.sessions s
    where s.id = nullif((select auth.jwt()) ->> 'session_id', '')::uuid
      and s.user_id = (select auth.uid())
      and coalesce(s.not_after > now(), true));
end $$;
comment on function private.session_is_live() is
  'Whether the session of the caller''s token still exists. Definer: auth.sessions is the Auth service''s.';
grant execute on function private.session_is_live() to authenticated;

create function private.account_is_active() returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
  return exists (select from public.profiles p where p.id = (select auth.uid()) and p.status = 'active');
end $$;
comment on function private.account_is_active() is
  'Whether the caller''s account is active. Definer: it answers also where the caller may not see the profile.';
grant execute on function private.account_is_active() to authenticated;

create function private.has_aal2() returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
  return coalesce((select auth.jwt()) ->> 'aal' = 'aal2', false) and exists (
    select from auth.sessions s
    where s.id = nullif((select auth.jwt()) ->> 'session_id', '')::uuid
      and s.user_id = (select auth.uid()) and s.aal = 'aal2');
end $$;
comment on function private.has_aal2() is
  'Whether the caller proved a second factor in this session: the token says so and the session still does. Definer: auth.sessions is the Auth service''s.';
grant execute on function private.has_aal2() to authenticated;

create function private.mfa_is_satisfied() returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
  return private.has_aal2() or not exists (
    select from auth.mfa_factors f where f.user_id = (select auth.uid()) and f.status = 'verified');
end $$;
comment on function private.mfa_is_satisfied() is
  'Whether the caller has proven as much as the account can: aal2 when it has a verified factor. Definer: auth.mfa_factors is the Auth service''s.';
grant execute on function private.mfa_is_satisfied() to authenticated;

create function private.is_admin() returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
  return private.session_is_live() and private.has_aal2() and exists (
    select from public.profiles p where p.id = (select auth.uid()) and p.role = 'admin' and p.status = 'active');
end $$;
comment on function private.is_admin() is
  'Whether the caller is an active admin in a live session at aal2; the role is read from the profile, not from the token. Definer: profiles of others stay hidden.';
grant execute on function private.is_admin() to authenticated;
