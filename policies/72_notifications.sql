create policy "owners see their notifications"
  on public.notifications for select to authenticated
  using (user_id = (select auth.uid()));

create policy "owners mark their notifications as read"
  on public.notifications for update to authenticated
  using (user_id = (select auth.uid()))
  with check (user_id = (select auth.uid()));

create policy "owners delete their notifications"
  on public.notifications for delete to authenticated
  using (user_id = (select auth.uid()));

create policy "only live, active and fully signed-in callers"
  on public.notifications as restrictive for all to authenticated
  using ((select private.access_is_allowed()));
