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
  using (user_id = (select private.my_user_id()));
