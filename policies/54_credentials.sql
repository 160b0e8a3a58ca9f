create policy "owners see their credentials"
  on public.credentials for select to authenticated
  using (user_id = (select auth.uid()));

create policy "only live, active and fully signed-in callers"
  on public.credentials as restrictive for all to authenticated
  using ((select private.access_is_allowed()));
