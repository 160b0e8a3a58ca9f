create policy "owners see their credentials"
  on public.credentials for select to authenticated
  using (user_id = (select private.my_user_id()));
