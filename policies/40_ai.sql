create policy "signed-in users see the enabled models"
  on public.models for select to authenticated
  using (enabled);

create policy "signed-in users see the prices"
  on public.model_prices for select to authenticated
  using (true);

create policy "signed-in users see which plan has which model"
  on public.plan_models for select to authenticated
  using (true);

create policy "owners see their calls"
  on public.ai_calls for select to authenticated
  using (user_id = (select auth.uid()));

create policy "only live, active and fully signed-in callers"
  on public.ai_calls as restrictive for all to authenticated
  using ((select private.access_is_allowed()));
