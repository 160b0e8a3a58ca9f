create policy "owners see what was done to their account"
  on private.audit_log for select to authenticated
  using (user_id = (select private.my_user_id()) or (select private.is_admin()));

create policy "owners see their security events, admins all"
  on private.security_events for select to authenticated
  using (user_id = (select private.my_user_id()) or (select private.is_admin()));
