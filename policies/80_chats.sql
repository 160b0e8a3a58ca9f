create policy "owners see their chats"
  on public.chats for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners start chats"
  on public.chats for insert to authenticated
  with check (user_id = (select private.my_user_id()));

create policy "owners rename their chats"
  on public.chats for update to authenticated
  using (user_id = (select private.my_user_id()))
  with check (user_id = (select private.my_user_id()));

create policy "owners delete their chats"
  on public.chats for delete to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners see their messages"
  on public.messages for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners save messages"
  on public.messages for insert to authenticated
  with check (user_id = (select private.my_user_id()));

create policy "owners delete their messages"
  on public.messages for delete to authenticated
  using (user_id = (select private.my_user_id()));
