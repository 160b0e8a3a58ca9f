create policy "owners see their documents"
  on public.documents for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners write their documents"
  on public.documents for insert to authenticated
  with check (user_id = (select private.my_user_id()));

create policy "owners change their documents"
  on public.documents for update to authenticated
  using (user_id = (select private.my_user_id()))
  with check (user_id = (select private.my_user_id()));

create policy "owners delete their documents"
  on public.documents for delete to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners see their images"
  on public.images for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners describe their images"
  on public.images for update to authenticated
  using (user_id = (select private.my_user_id()))
  with check (user_id = (select private.my_user_id()));
