create policy "owners see their notifications"
  on public.notifications for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners mark their notifications as read"
  on public.notifications for update to authenticated
  using (user_id = (select private.my_user_id()))
  with check (user_id = (select private.my_user_id()));

create policy "owners delete their notifications"
  on public.notifications for delete to authenticated
  using (user_id = (select private.my_user_id()));
