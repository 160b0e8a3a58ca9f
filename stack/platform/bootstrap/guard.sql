-- What role postgres may do in the services' schemas.
create schema local_platform;
revoke all on schema local_platform from public;

-- The local Realtime endpoint hears of every message when it is committed. The id only: NOTIFY carries 8000 bytes.
create function local_platform.announce_message() returns trigger language plpgsql set search_path = ''
as $$
begin
  perform pg_notify('realtime_messages', new.id::text);
  return null;
end $$;
create trigger announce_message after insert on realtime.messages
  for each row execute function local_platform.announce_message();
alter table realtime.messages enable always trigger announce_message;

-- Hosted lets postgres write policies and drop triggers on some tables of the services although it does not own them. Here it
-- is a member of their owners for the length of such a command and no longer: every other DDL meets PostgreSQL's own refusal.
-- Roles belong to the cluster, so two transactions with such commands wait for each other, in whichever databases they are.
-- Definer, to grant and revoke. Who gave the command is told by the setting `role`: in here current_user is the definer.
create function local_platform.lend_ownership() returns event_trigger language plpgsql security definer set search_path = ''
as $$
begin
  if coalesce(nullif(current_setting('role'), 'none'), session_user) = 'postgres' then
    grant supabase_auth_admin, supabase_storage_admin, supabase_realtime_admin to postgres;
  end if;
end $$;

create function local_platform.take_ownership_back() returns event_trigger language plpgsql security definer set search_path = ''
as $$
declare
  v_object record;
begin
  if coalesce(nullif(current_setting('role'), 'none'), session_user) <> 'postgres' then
    return;
  end if;
  revoke supabase_auth_admin, supabase_storage_admin, supabase_realtime_admin from postgres;
  for v_object in
    select c.relnamespace::regnamespace::text as schema, c.relname as name
    from pg_catalog.pg_event_trigger_ddl_commands() d
      join pg_catalog.pg_policy p on p.oid = d.objid
      join pg_catalog.pg_class c on c.oid = p.polrelid
    where d.classid = 'pg_catalog.pg_policy'::regclass
  loop
    if not local_platform.is_open(v_object.schema, v_object.name) then
      raise insufficient_privilege using message = 'must be owner of table ' || v_object.name;
    end if;
  end loop;
end $$;

create function local_platform.keep_closed() returns event_trigger language plpgsql security definer set search_path = ''
as $$
declare
  v_object record;
begin
  if coalesce(nullif(current_setting('role'), 'none'), session_user) <> 'postgres' then
    return;
  end if;
  for v_object in
    select address_names[2] as name from pg_catalog.pg_event_trigger_dropped_objects()
    where original
      and (object_type = 'policy' and not local_platform.is_open(address_names[1], address_names[2])
        or object_type = 'trigger' and (
          not local_platform.is_open(address_names[1], address_names[2])
          -- The service's own, and ours.
          or address_names[1] in ('storage', 'realtime') and address_names[3] in (
            'announce_message', 'enforce_bucket_name_length_trigger', 'protect_buckets_delete', 'protect_objects_delete',
            'update_objects_updated_at')))
  loop
    raise insufficient_privilege using message = 'must be owner of relation ' || v_object.name;
  end loop;
end $$;

create function local_platform.is_open(schema text, name text) returns boolean language sql immutable set search_path = ''
return case schema
  when 'auth' then name <> 'schema_migrations'
  when 'storage' then name in ('buckets', 'objects')
  when 'realtime' then name = 'messages'
  else true
end;

create event trigger lend_ownership on ddl_command_start
  when tag in ('CREATE POLICY', 'ALTER POLICY', 'DROP POLICY', 'DROP TRIGGER')
  execute function local_platform.lend_ownership();
create event trigger take_ownership_back on ddl_command_end
  when tag in ('CREATE POLICY', 'ALTER POLICY', 'DROP POLICY', 'DROP TRIGGER')
  execute function local_platform.take_ownership_back();
create event trigger keep_closed on sql_drop
  when tag in ('DROP POLICY', 'DROP TRIGGER')
  execute function local_platform.keep_closed();
-- Always: session_replication_role = replica, which postgres may set, would switch them off.
alter event trigger lend_ownership enable always;
alter event trigger take_ownership_back enable always;
alter event trigger keep_closed enable always;

-- As PostgREST asks for it: tell the REST service when the schema changes.
create function extensions.pgrst_ddl_watch() returns event_trigger language plpgsql set search_path = ''
as $$
begin
  notify pgrst, 'reload schema';
end $$;
create event trigger pgrst_ddl_watch on ddl_command_end execute function extensions.pgrst_ddl_watch();
create event trigger pgrst_drop_watch on sql_drop execute function extensions.pgrst_ddl_watch();

-- The CLI keeps its history here; hosted creates it for postgres on the first push.
create schema supabase_migrations authorization postgres;
