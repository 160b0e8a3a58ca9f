create policy "owners see their holdings"
  on public.holdings for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners see their trades"
  on public.trades for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners see what their portfolio leaves out"
  on public.portfolio_skipped_rows for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners see what their portfolio was worth"
  on public.portfolio_snapshots for select to authenticated
  using (user_id = (select private.my_user_id()));
