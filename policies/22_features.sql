create policy "signed-in users see what plans include"
  on public.plan_features for select to authenticated
  using (true);
