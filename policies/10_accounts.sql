create policy "owners see their profile"
  on public.profiles for select to authenticated
  using (id = (select private.my_user_id(allow_pending => true, allow_aal1 => true)));

create policy "owners change their profile"
  on public.profiles for update to authenticated
  using (id = (select private.my_user_id()))
  with check (id = (select private.my_user_id()));
