create policy "owners see the tags of their markets"
  on public.trade_tag_rules for select to authenticated
  using (user_id = (select private.my_user_id()));
