-- A file is its owner's when its name begins with the owner's id; the range is what the Storage service's index on names answers.

create policy "owners see their files"
  on storage.objects for select to authenticated
  using (bucket_id in ('avatars', 'images')
    and name ~>=~ ((select auth.uid()) || '/') and name ~<~ ((select auth.uid()) || '0'));

create policy "owners upload their files"
  on storage.objects for insert to authenticated
  with check (bucket_id in ('avatars', 'images')
    and name ~>=~ ((select auth.uid()) || '/') and name ~<~ ((select auth.uid()) || '0'));

create policy "owners replace and move their files"
  on storage.objects for update to authenticated
  using (bucket_id in ('avatars', 'images')
    and name ~>=~ ((select auth.uid()) || '/') and name ~<~ ((select auth.uid()) || '0'))
  with check (bucket_id in ('avatars', 'images')
    and name ~>=~ ((select auth.uid()) || '/') and name ~<~ ((select auth.uid()) || '0'));

create policy "owners delete their files"
  on storage.objects for delete to authenticated
  using (bucket_id in ('avatars', 'images')
    and name ~>=~ ((select auth.uid()) || '/') and name ~<~ ((select auth.uid()) || '0'));

create policy "only live, active and fully signed-in callers"
  on storage.objects as restrictive for all to authenticated
  using ((select private.my_user_id()) is not null);

create policy "callers sign addresses where the setting lets them"
  on storage.objects as restrictive for select to authenticated
  using ((select private.may_sign_addresses()));
