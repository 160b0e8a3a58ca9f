-- What role postgres may do in the services' schemas.
-- Hosted lets postgres write policies on the tables of auth, storage and realtime although it does not own them. Here it
-- inherits from the owners of storage's and realtime's tables (without SET ROLE), and the guard below refuses every other
-- DDL there.
grant supabase_storage_admin, supabase_realtime_admin to postgres with inherit true, set false;

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

create function local_platform.guard() returns event_trigger language plpgsql set search_path = ''
as $$
declare
  v_command record;
begin
  if (select rolsuper from pg_catalog.pg_roles where rolname = current_user)
    or session_user in ('supabase_admin', 'supabase_auth_admin', 'supabase_storage_admin', 'supabase_realtime_admin') then
    return;
  end if;
  if tg_event = 'ddl_command_end' then
    for v_command in
      select command_tag as tag, schema_name as schema, object_type as type, object_identity as name
      from pg_catalog.pg_event_trigger_ddl_commands()
      where schema_name in ('auth', 'storage', 'realtime') and not in_extension
    loop
      if v_command.tag not in ('CREATE POLICY', 'ALTER POLICY', 'CREATE TRIGGER', 'GRANT', 'REVOKE')
        or (v_command.schema = 'realtime' and v_command.tag = 'CREATE TRIGGER') then
        raise exception using errcode = '42501', message = case
          when v_command.tag in ('CREATE TABLE', 'CREATE FUNCTION', 'CREATE VIEW', 'CREATE TYPE')
            then format('permission denied for schema %s', v_command.schema)
          else format('must be owner of %s %s', v_command.type, split_part(v_command.name, '.', 2))
        end;
      end if;
    end loop;
    -- What those commands do not show: SET SCHEMA, children, rules, statistics, default privileges.
    for v_command in
      select format('must be owner of table %s', o.name) as message
      from (values
          ('storage', 'buckets', 'supabase_storage_admin'),
          ('storage', 'objects', 'supabase_storage_admin'),
          ('realtime', 'messages', 'supabase_realtime_admin')) o (schema, name, owner)
        left join pg_catalog.pg_class c
          on c.relname = o.name and c.relnamespace = o.schema::regnamespace and c.relowner = o.owner::regrole
      where c.oid is null
        or exists (
          select from pg_catalog.pg_inherits i join pg_catalog.pg_class child on child.oid = i.inhrelid
          where i.inhparent = c.oid and child.relnamespace <> c.relnamespace)
        or exists (select from pg_catalog.pg_rewrite r where r.ev_class = c.oid)
        or exists (select from pg_catalog.pg_statistic_ext s where s.stxrelid = c.oid)
      union all
      -- postgres may grant what it has on storage's tables, but nothing on this one.
      select 'permission denied for table messages' from pg_catalog.pg_class c
      where c.oid = 'realtime.messages'::regclass and (
        exists (select from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attacl is not null)
        or exists (
          select from pg_catalog.aclexplode(c.relacl) a
          where a.grantee not in (c.relowner, 'postgres'::regrole)
            and (a.grantee not in ('anon'::regrole, 'authenticated'::regrole, 'service_role'::regrole)
              or a.privilege_type not in ('SELECT', 'INSERT', 'UPDATE'))))
      union all
      select format('must be owner of function %s', p.proname) from pg_catalog.pg_proc p
      where (p.proowner = 'supabase_storage_admin'::regrole and p.pronamespace <> 'storage'::regnamespace)
        or p.proowner = 'supabase_realtime_admin'::regrole
      union all
      select 'permission denied to change default privileges' from pg_catalog.pg_default_acl d
      where d.defaclrole in ('supabase_storage_admin'::regrole, 'supabase_realtime_admin'::regrole)
    loop
      raise exception using errcode = '42501', message = v_command.message;
    end loop;
  else
    for v_command in
      select object_type as type, schema_name as schema, object_identity as name
      from pg_catalog.pg_event_trigger_dropped_objects()
      where schema_name in ('auth', 'storage', 'realtime')
        and original and object_type not in ('policy', 'trigger')
    loop
      raise exception using errcode = '42501',
        message = format('must be owner of %s %s', v_command.type, split_part(v_command.name, '.', 2));
    end loop;
    -- The commands' list names no schema for triggers.
    if not exists (
      select from pg_catalog.pg_trigger t
      where t.tgrelid = 'realtime.messages'::regclass and t.tgname = 'announce_message') then
      raise exception using errcode = '42501', message = 'must be owner of relation messages';
    end if;
  end if;
end $$;
create event trigger guard_services_ddl on ddl_command_end execute function local_platform.guard();
create event trigger guard_services_drop on sql_drop execute function local_platform.guard();
-- Always: session_replication_role = replica, which postgres may set, would switch them off.
alter event trigger guard_services_ddl enable always;
alter event trigger guard_services_drop enable always;

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
