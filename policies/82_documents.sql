create policy "owners see their documents"
  on public.documents for select to authenticated
  using (user_id = (select auth.uid()));

create policy "owners write their documents"
  on public.documents for insert to authenticated
  with check (user_id = (select auth.uid()));

create policy "owners change their documents"
  on public.documents for update to authenticated
  using (user_id = (select auth.uid()))
  with check (user_id = (select auth.uid()));

create policy "owners delete their documents"
  on public.documents for delete to authenticated
  using (user_id = (select auth.uid()));

create policy "only live, active and fully signed-in callers"
  on public.documents as restrictive for all to authenticated
  using ((select private.access_is_allowed()));

create policy "owners see their images"
  on public.images for select to authenticated
  using (user_id = (select auth.uid()));

create policy "owners describe their images"
  on public.images for update to authenticated
  using (user_id = (select auth.uid()))
  with check (user_id = (select auth.uid()));

create policy "only live, active and fully signed-in callers"
  on public.images as restrictive for all to authenticated
  using ((select private.access_is_allowed()));
