create policy "owners see their profile"
  on public.profiles for select to authenticated
  using (id = (select auth.uid()));

create policy "owners change their profile"
  on public.profiles for update to authenticated
  using (id = (select auth.uid()))
  with check (id = (select auth.uid()));

create policy "only live sessions of accounts that are not suspended"
  on public.profiles as restrictive for select to authenticated
  using ((select private.session_is_open()));

create policy "only live, active and fully signed-in callers"
  on public.profiles as restrictive for update to authenticated
  using ((select private.access_is_allowed()));
