create policy "owners see their usage"
  on public.ai_usage_daily for select to authenticated
  using (user_id = (select auth.uid()));

create policy "only live, active and fully signed-in callers"
  on public.ai_usage_daily as restrictive for all to authenticated
  using ((select private.access_is_allowed()));
