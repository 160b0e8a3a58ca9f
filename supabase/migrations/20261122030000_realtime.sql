-- Written by npm run db:diff from sql/ and policies/; read the sources for the reasons.
set lock_timeout = '5s';
set statement_timeout = '60s';

create policy "only live, active and fully signed-in callers" on realtime.messages as restrictive for all to authenticated using (( SELECT private.access_is_allowed() AS access_is_allowed));

create policy "owners receive what is sent to their own topic" on realtime.messages as permissive for select to authenticated using (((extension = 'broadcast'::text) AND (topic = ('user:'::text || ( SELECT auth.uid() AS uid)))));
