create policy "signed-in users see the plans"
  on public.plans for select to authenticated
  using (true);

create policy "signed-in users see what plans allow"
  on public.plan_limits for select to authenticated
  using (true);

create policy "owners see their own limits"
  on public.limit_overrides for select to authenticated
  using (user_id = (select private.my_user_id()));
