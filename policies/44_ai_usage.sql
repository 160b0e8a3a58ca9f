create policy "owners see their usage"
  on public.ai_usage_daily for select to authenticated
  using (user_id = (select private.my_user_id()));
