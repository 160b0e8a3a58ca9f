create policy "owners see their ledger"
  on public.credit_entries for select to authenticated
  using (user_id = (select auth.uid()));

create policy "only live, active and fully signed-in callers"
  on public.credit_entries as restrictive for all to authenticated
  using ((select private.access_is_allowed()));
