create policy "owners see what was done to their account"
  on private.audit_log for select to authenticated
  using (user_id = (select auth.uid()) or (select private.is_admin()));

create policy "only in a live session"
  on private.audit_log as restrictive for all to authenticated
  using ((select private.session_is_live()));

create policy "owners see their security events, admins all"
  on public.security_events for select to authenticated
  using (user_id = (select auth.uid()) or (select private.is_admin()));

create policy "only in a live session"
  on public.security_events as restrictive for all to authenticated
  using ((select private.session_is_live()));
