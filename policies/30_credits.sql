create policy "owners see their ledger"
  on private.credit_bookings for select to authenticated
  using (user_id = (select private.my_user_id()));
