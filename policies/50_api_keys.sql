create policy "owners see their API keys"
  on public.api_keys for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners see the limits of their API keys"
  on public.api_key_limits for select to authenticated
  using (api_key_id = any (array(select k.id from public.api_keys k where k.user_id = (select private.my_user_id()))));
