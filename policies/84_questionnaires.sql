create policy "signed-in users see the questionnaires"
  on public.questionnaires for select to authenticated
  using (true);

create policy "only live, active and fully signed-in callers"
  on public.questionnaires as restrictive for all to authenticated
  using ((select private.my_user_id()) is not null);

create policy "owners see their tests"
  on public.psychology_tests for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners start tests of enabled questionnaires"
  on public.psychology_tests for insert to authenticated
  with check (user_id = (select private.my_user_id()) and exists (
    select from public.questionnaires q
    where q.id = questionnaire_id and q.version = questionnaire_version and q.enabled));

create policy "owners answer their tests until they are completed"
  on public.psychology_tests for update to authenticated
  using (user_id = (select private.my_user_id()) and completed_at is null)
  with check (user_id = (select private.my_user_id()));

create policy "owners delete their tests"
  on public.psychology_tests for delete to authenticated
  using (user_id = (select private.my_user_id()));
