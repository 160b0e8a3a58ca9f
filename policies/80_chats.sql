create policy "owners see their chats"
  on public.chats for select to authenticated
  using (user_id = (select auth.uid()));

create policy "owners start chats"
  on public.chats for insert to authenticated
  with check (user_id = (select auth.uid()));

create policy "owners rename their chats"
  on public.chats for update to authenticated
  using (user_id = (select auth.uid()))
  with check (user_id = (select auth.uid()));

create policy "owners delete their chats"
  on public.chats for delete to authenticated
  using (user_id = (select auth.uid()));

create policy "owners see their messages"
  on public.messages for select to authenticated
  using (user_id = (select auth.uid()));

create policy "owners save messages"
  on public.messages for insert to authenticated
  with check (user_id = (select auth.uid()));

create policy "owners delete their messages"
  on public.messages for delete to authenticated
  using (user_id = (select auth.uid()));

create policy "only live, active and fully signed-in callers"
  on public.chats as restrictive for all to authenticated
  using ((select private.access_is_allowed()));

create policy "only live, active and fully signed-in callers"
  on public.messages as restrictive for all to authenticated
  using ((select private.access_is_allowed()));
