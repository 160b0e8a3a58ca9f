create policy "owners see their API keys"
  on public.api_keys for select to authenticated
  using (user_id = (select auth.uid()));

create policy "only live, active and fully signed-in callers"
  on public.api_keys as restrictive for all to authenticated
  using ((select private.access_is_allowed()));
