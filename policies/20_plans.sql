create policy "signed-in users see the plans"
  on public.plans for select to authenticated
  using (true);

create policy "signed-in users see what plans allow"
  on public.plan_limits for select to authenticated
  using (true);

create policy "owners see their own limits"
  on public.limit_overrides for select to authenticated
  using (user_id = (select auth.uid()));

create policy "only live, active and fully signed-in callers"
  on public.limit_overrides as restrictive for all to authenticated
  using ((select private.access_is_allowed()));
