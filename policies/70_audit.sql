create policy "owners see what was done to their account"
  on private.audit_log for select to authenticated
  using (user_id = (select auth.uid()) or (select private.is_admin()));

create policy "only live, active and fully signed-in callers"
  on private.audit_log as restrictive for all to authenticated
  using ((select private.access_is_allowed()));

create policy "owners see their security events, admins all"
  on public.security_events for select to authenticated
  using (user_id = (select auth.uid()) or (select private.is_admin()));

create policy "only live, active and fully signed-in callers"
  on public.security_events as restrictive for all to authenticated
  using ((select private.access_is_allowed()));
