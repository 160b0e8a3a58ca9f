-- stub: minimal stand-ins for what the branches sessions and audit bring. At the merge this file goes.

create function private.require_admin() returns void -- stub:sessions
language plpgsql stable security invoker set search_path = ''
as $$
begin
  if coalesce((select auth.role()), session_user) not in ('service_role', 'postgres') and not private.is_admin() then
    perform private.raise_error('not_allowed', 'Only an admin may call this function.');
  end if;
end $$;
comment on function private.require_admin() is 'stub:sessions';

create function private.require_aal2() returns void -- stub:sessions
language plpgsql stable security invoker set search_path = ''
as $$
begin
  if not private.mfa_is_satisfied() then
    perform private.raise_error('not_allowed', 'Prove your second factor first.');
  end if;
end $$;
comment on function private.require_aal2() is 'stub:sessions';

