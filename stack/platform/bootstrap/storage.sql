-- storage: after @supabase/lite's getStorageSchemaSql; left to the real Storage service where there is one.
create table storage.migrations (
  id integer primary key,
  name varchar(100) not null unique,
  hash varchar(40) not null,
  executed_at timestamp default now()
);

-- Hosted refuses DELETE on storage tables unless the transaction says otherwise; the Storage service says so itself.
create function storage.protect_delete() returns trigger language plpgsql set search_path = ''
as $$
begin
  if coalesce(current_setting('storage.allow_delete_query', true), 'false') <> 'true'
    and session_user <> 'supabase_storage_admin' then
    raise exception using
      errcode = '42501',
      message = 'Direct deletion from storage tables is not allowed. Use the Storage API instead.',
      hint = 'This prevents accidental data loss from orphaned objects.';
  end if;
  return null;
end $$;
create trigger protect_buckets_delete before delete on storage.buckets
  for each statement execute function storage.protect_delete();
create trigger protect_objects_delete before delete on storage.objects
  for each statement execute function storage.protect_delete();

do $$
declare
  v_object record;
begin
  for v_object in select relname from pg_class where relnamespace = 'storage'::regnamespace and relkind = 'r' loop
    execute format('alter table storage.%I owner to supabase_storage_admin', v_object.relname);
    execute format('alter table storage.%I enable row level security', v_object.relname);
  end loop;
  for v_object in select oid::regprocedure as signature from pg_proc where pronamespace = 'storage'::regnamespace loop
    execute format('alter function %s owner to supabase_storage_admin', v_object.signature);
  end loop;
end $$;
-- postgres inherits from the Storage service's role (see below), so this table must not belong to it.
alter table storage.migrations owner to supabase_admin;
grant all on storage.buckets, storage.objects to postgres with grant option;
grant all on storage.buckets, storage.objects to anon, authenticated, service_role;
