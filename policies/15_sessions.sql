create policy "owners see their devices"
  on public.devices for select to authenticated
  using (user_id = (select private.my_user_id()));
