create policy "owners see their ledger"
  on public.credit_entries for select to authenticated
  using (user_id = (select private.my_user_id()));
