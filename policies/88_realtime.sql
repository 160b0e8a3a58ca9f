-- Live updates. Realtime asks these policies when somebody joins a private channel, with a probe row that it rolls back.
-- The topic `user:<id>` is that user's alone, and only the server writes there (realtime.send, from functions that bypass
-- these policies): no policy lets an API role insert. The row's own topic is compared, not realtime.topic(), which any SQL
-- session can set. Hosted Realtime asks again only when a channel's token changes: an ended session hears on until its token expires,
-- and is told session_ended.

create policy "owners receive what is sent to their own topic"
  on realtime.messages for select to authenticated
  using (extension = 'broadcast' and topic = 'user:' || (select auth.uid()));

create policy "only live, active and fully signed-in callers"
  on realtime.messages as restrictive for all to authenticated
  using ((select private.my_user_id()) is not null);
