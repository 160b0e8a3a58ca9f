create policy "owners see their holdings"
  on public.holdings for select to authenticated
  using (user_id = (select auth.uid()));

create policy "only live, active and fully signed-in callers"
  on public.holdings as restrictive for all to authenticated
  using ((select private.access_is_allowed()));

create policy "owners see their trades"
  on public.trades for select to authenticated
  using (user_id = (select auth.uid()));

create policy "only live, active and fully signed-in callers"
  on public.trades as restrictive for all to authenticated
  using ((select private.access_is_allowed()));

create policy "owners see what their portfolio was worth"
  on public.portfolio_snapshots for select to authenticated
  using (user_id = (select auth.uid()));

create policy "only live, active and fully signed-in callers"
  on public.portfolio_snapshots as restrictive for all to authenticated
  using ((select private.access_is_allowed()));
