create policy "owners see what was done to their account"
  on private.audit_log for select to authenticated
  using (user_id = (select auth.uid()) or (select private.is_admin()));

create policy "only live sessions of active accounts, with their second factor"
  on private.audit_log as restrictive for all to authenticated
  using ((select private.session_is_live()) and (select private.account_is_active()) and (select private.mfa_is_satisfied()));

create policy "owners see their security events, admins all"
  on public.security_events for select to authenticated
  using (user_id = (select auth.uid()) or (select private.is_admin()));

create policy "only live sessions of active accounts, with their second factor"
  on public.security_events as restrictive for all to authenticated
  using ((select private.session_is_live()) and (select private.account_is_active()) and (select private.mfa_is_satisfied()));
