create policy "owners see their profile"
  on public.profiles for select to authenticated
  using (id = (select auth.uid()));

create policy "owners change their profile"
  on public.profiles for update to authenticated
  using (id = (select auth.uid()))
  with check (id = (select auth.uid()));
