-- What hosted Supabase brings before a project's first migration: roles, schemas, owners, grants and timeouts.
-- Runs once, as the superuser supabase_admin, on the empty database of the local stack. Where this is stricter than
-- hosted, docs/stack.md lists it; it must never be more permissive. Source: the platform facts in docs/stack.md.

-- Roles ------------------------------------------------------------------------------------------------------------
create role postgres login createdb createrole replication bypassrls;
create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit bypassrls;
create role authenticator login noinherit;
create role supabase_auth_admin login noinherit createrole;
create role supabase_storage_admin login noinherit createrole;
create role supabase_realtime_admin login noinherit;

-- postgres may act as the API roles, but gets no ADMIN option: with it, plain PostgreSQL would let it change their
-- attributes and passwords, which hosted refuses.
grant anon, authenticated, service_role to postgres with inherit true, set true;
grant authenticator to postgres with inherit false, set true;
grant anon, authenticated, service_role to authenticator with inherit false, set true;
grant anon, authenticated, service_role to supabase_storage_admin with inherit false, set true;
grant anon, authenticated, service_role to supabase_realtime_admin with inherit false, set true;
grant pg_monitor, pg_read_all_data, pg_signal_backend, pg_create_subscription to postgres with admin option;

alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';
alter role authenticator set idle_in_transaction_session_timeout = '60s';
alter role supabase_auth_admin set search_path = auth;
alter role supabase_auth_admin set idle_in_transaction_session_timeout = '60s';
alter role supabase_storage_admin set search_path = storage;
alter role supabase_realtime_admin set search_path = realtime;
alter role supabase_realtime_admin set statement_timeout = '8s';
alter role supabase_realtime_admin set idle_in_transaction_session_timeout = '60s';
alter role postgres set search_path = '"$user"', public, extensions;

grant set on parameter session_replication_role to postgres;
grant execute on function pg_catalog.pg_reload_conf() to postgres;

-- Database and public ----------------------------------------------------------------------------------------------
revoke all on database postgres from public;
grant connect, temporary on database postgres to public;
grant connect, temporary, create on database postgres to postgres;
alter database postgres set search_path = '"$user"', public, extensions;

alter schema public owner to postgres;
revoke all on schema public from public;
grant usage on schema public to anon, authenticated, service_role, supabase_auth_admin, supabase_storage_admin;

-- Since 2026-10-30 new objects get no SELECT/INSERT/UPDATE/DELETE/EXECUTE for the API roles; what hosted still grants
-- is kept here, so that migrations have to revoke it: TRUNCATE and friends on tables, UPDATE on sequences.
alter default privileges for role postgres in schema public
  grant truncate, references, trigger, maintain on tables to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant update on sequences to anon, authenticated, service_role;

-- Extensions -------------------------------------------------------------------------------------------------------
create schema extensions;
grant usage, create on schema extensions to postgres;
grant usage on schema extensions to anon, authenticated, service_role, supabase_auth_admin, supabase_storage_admin;
create extension pgcrypto with schema extensions;
create extension "uuid-ossp" with schema extensions;
create extension pg_stat_statements with schema extensions;

create schema vault;
grant usage on schema vault to postgres with grant option;
grant usage on schema vault to service_role;
set role postgres;
create extension supabase_vault;
reset role;

-- graphql_public: the schema is there, the extension is off, as on new projects. ---------------------------------------
create schema graphql_public;
grant usage on schema graphql_public to postgres, anon, authenticated, service_role;
create function graphql_public.graphql(
  "operationName" text default null, query text default null, variables jsonb default null, extensions jsonb default null
) returns jsonb language sql immutable set search_path = ''
return jsonb_build_object('errors', jsonb_build_array(jsonb_build_object('message', 'pg_graphql extension is not enabled.')));

-- realtime: messages, and the functions that write them. Policies on the table say who may receive and who may send. ---
create schema realtime;
grant usage on schema realtime to postgres, anon, authenticated, service_role, supabase_realtime_admin;
create table realtime.messages (
  id uuid not null default gen_random_uuid(),
  topic text not null,
  extension text not null,
  payload jsonb,
  event text,
  private boolean default false,
  inserted_at timestamp not null default now(),
  updated_at timestamp not null default now(),
  primary key (id, inserted_at)
) partition by range (inserted_at);
create table realtime.messages_default partition of realtime.messages default;
create index messages_inserted_at_idx on realtime.messages (inserted_at);
alter table realtime.messages enable row level security;
alter table realtime.messages_default enable row level security;
alter table realtime.messages owner to supabase_realtime_admin;
grant select, insert, update, delete on realtime.messages to postgres;
grant select, insert, update on realtime.messages to anon, authenticated, service_role;

create function realtime.topic() returns text language sql stable
return nullif(current_setting('realtime.topic', true), '');

-- With the rights of its caller, whose policies decide; and a message that cannot be written is no reason to undo what it
-- is about: the caller gets a warning.
create function realtime.send(payload jsonb, event text, topic text, private boolean default true) returns void
language plpgsql security invoker set search_path = ''
as $$
declare
  v_id uuid := gen_random_uuid();
begin
  perform set_config('realtime.topic', send.topic, true);
  insert into realtime.messages (id, topic, extension, event, private, payload)
  values (v_id, send.topic, 'broadcast', send.event, send.private,
    case when send.payload ? 'id' then send.payload else jsonb_set(send.payload, '{id}', to_jsonb(v_id)) end);
exception when others then
  raise warning 'ErrorSendingBroadcastMessage: %', sqlerrm;
end $$;

-- For row triggers: the row before and after, to a private topic.
create function realtime.broadcast_changes(
  topic_name text, event_name text, operation text, table_name text, table_schema text, new record, old record, level text default 'ROW'
) returns void
language plpgsql security invoker set search_path = ''
as $$
begin
  if broadcast_changes.level = 'STATEMENT' then
    raise exception 'Failed to process the row: function can only be triggered for each row, not for each statement';
  elsif broadcast_changes.operation not in ('INSERT', 'UPDATE', 'DELETE') then
    raise exception 'Failed to process the row: Unexpected operation type: %', broadcast_changes.operation;
  end if;
  perform realtime.send(
    jsonb_build_object('schema', table_schema, 'table', table_name, 'operation', operation, 'record', new, 'old_record', old),
    event_name, topic_name);
end $$;

create publication supabase_realtime;
alter publication supabase_realtime owner to postgres;

-- auth and storage: the schemas ---------------------------------------------------------------------------------------
create schema auth;
grant all on schema auth to supabase_auth_admin;
grant usage on schema auth to postgres, anon, authenticated, service_role, supabase_storage_admin;
create schema storage;
grant all on schema storage to supabase_storage_admin;
grant usage on schema storage to postgres, anon, authenticated, service_role;

--@auth: after @supabase/lite's getAuthSchemaSql; left to the real Auth service where there is one ------------------------

-- Columns and tables of the real Auth service that @supabase/lite has no use for, but SQL reads.
alter table auth.users
  add column instance_id uuid default '00000000-0000-0000-0000-000000000000',
  add column is_super_admin boolean;
alter table auth.sessions alter column aal set default 'aal1';
create table auth.mfa_factors (
  id uuid primary key,
  user_id uuid not null references auth.users (id) on delete cascade,
  friendly_name text,
  factor_type text not null check (factor_type in ('totp', 'webauthn', 'phone')),
  status text not null check (status in ('unverified', 'verified')),
  created_at timestamptz not null,
  updated_at timestamptz not null,
  secret text,
  phone text,
  last_challenged_at timestamptz unique
);
create index mfa_factors_user_id_idx on auth.mfa_factors (user_id);
create table auth.mfa_challenges (
  id uuid primary key,
  factor_id uuid not null references auth.mfa_factors (id) on delete cascade,
  created_at timestamptz not null,
  verified_at timestamptz,
  ip_address inet not null,
  otp_code text
);
create index mfa_challenges_factor_id_idx on auth.mfa_challenges (factor_id);
create table auth.mfa_amr_claims (
  id uuid primary key,
  session_id uuid not null references auth.sessions (id) on delete cascade,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  authentication_method text not null,
  unique (session_id, authentication_method)
);
create table auth.one_time_tokens (
  id uuid primary key,
  user_id uuid not null references auth.users (id) on delete cascade,
  token_type text not null,
  token_hash text not null check (char_length(token_hash) > 0),
  relates_to text not null,
  created_at timestamp not null default now(),
  updated_at timestamp not null default now()
);
create index one_time_tokens_user_id_idx on auth.one_time_tokens (user_id);
create table auth.schema_migrations (version varchar(255) primary key);
insert into auth.schema_migrations values ('00');

create function auth.jwt() returns jsonb language sql stable
return coalesce(
  nullif(current_setting('request.jwt.claim', true), ''),
  nullif(current_setting('request.jwt.claims', true), '')
)::jsonb;
create function auth.uid() returns uuid language sql stable
return coalesce(
  nullif(current_setting('request.jwt.claim.sub', true), ''),
  nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
)::uuid;
create function auth.role() returns text language sql stable
return coalesce(
  nullif(current_setting('request.jwt.claim.role', true), ''),
  nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'
);
create function auth.email() returns text language sql stable
return coalesce(
  nullif(current_setting('request.jwt.claim.email', true), ''),
  nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email'
);

do $$
declare
  v_object record;
begin
  for v_object in select relname from pg_class where relnamespace = 'auth'::regnamespace and relkind = 'r' loop
    execute format('alter table auth.%I owner to supabase_auth_admin', v_object.relname);
    execute format('alter table auth.%I enable row level security', v_object.relname);
    execute format('grant select on auth.%I to postgres with grant option', v_object.relname);
    execute format(
      'grant insert, update, delete, truncate, references, trigger, maintain on auth.%I to postgres', v_object.relname);
  end loop;
  for v_object in select oid::regprocedure as signature from pg_proc where pronamespace = 'auth'::regnamespace loop
    execute format('alter function %s owner to supabase_auth_admin', v_object.signature);
  end loop;
end $$;
revoke all on auth.schema_migrations from postgres;
grant select on auth.schema_migrations to postgres;

--@storage: after @supabase/lite's getStorageSchemaSql; left to the real Storage service where there is one ----------------
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

--@guard: what role postgres may do in the services' schemas --------------------------------------------------------------
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
