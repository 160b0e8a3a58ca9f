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
create role dashboard_user createdb createrole replication;
create role supabase_functions_admin login noinherit createrole;

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

-- auth and storage: the schemas ---------------------------------------------------------------------------------------
create schema auth;
grant all on schema auth to supabase_auth_admin;
grant usage on schema auth to postgres, anon, authenticated, service_role, supabase_storage_admin;
create schema storage;
grant all on schema storage to supabase_storage_admin, dashboard_user;
grant usage on schema storage to postgres with grant option;
grant usage on schema storage to anon, authenticated, service_role;
alter default privileges for role postgres in schema storage
  grant all on tables to postgres, anon, authenticated, service_role;
alter default privileges for role postgres in schema storage
  grant all on sequences to postgres, anon, authenticated, service_role;
alter default privileges for role postgres in schema storage
  grant execute on functions to postgres, anon, authenticated, service_role;
