create policy "everybody sees the published documents"
  on public.legal_documents for select to anon, authenticated
  using (published_at <= now());

create policy "owners see their consents"
  on public.consents for select to authenticated
  using (user_id = (select private.my_user_id()));
