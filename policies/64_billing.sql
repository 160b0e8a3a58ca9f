create policy "everybody signed in sees the prices of plans"
  on public.plan_prices for select to authenticated
  using (true);

create policy "everybody signed in sees the credit packs"
  on public.credit_packs for select to authenticated
  using (true);

create policy "owners see their subscriptions"
  on public.subscriptions for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners see their payments"
  on public.payments for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners see their refunds"
  on public.refunds for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners see their disputes"
  on public.disputes for select to authenticated
  using (user_id = (select private.my_user_id()));
