-- What hosted Supabase brings before a project's first migration: roles, schemas, owners, grants and timeouts.
-- Runs once, as the superuser supabase_admin, on the empty database of the local stack. Where this is stricter than
-- hosted, docs/stack.md lists it; it must never be more permissive. Source: the platform facts in docs/stack.md.

-- Roles ------------------------------------------------------------------------------------------------------------
create role postgres login createdb createrole replication bypassrls;
create role anon;
create role authenticated;
create role service_role bypassrls;
create role authenticator login noinherit;
create role dashboard_user createdb createrole replication;
create role supabase_auth_admin login noinherit;
create role supabase_storage_admin login noinherit createrole;
create role supabase_realtime_admin login noinherit createrole replication;
create role supabase_functions_admin login noinherit createrole;
create role supabase_replication_admin login replication;
create role supabase_read_only_user login bypassrls;
create role supabase_superuser;
create role supabase_etl_admin;

-- postgres may act as the API roles, but gets no ADMIN option: with it, plain PostgreSQL would let it change their
-- attributes and passwords, which hosted refuses.
grant anon, authenticated, service_role, authenticator, supabase_superuser to postgres;
grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres with admin option;
grant anon, authenticated, service_role to authenticator, supabase_realtime_admin;
grant authenticator to supabase_storage_admin;
grant pg_read_all_data to supabase_read_only_user;
grant supabase_superuser to supabase_etl_admin;

-- Hosted preloads safeupdate for some of them, a module that this PostgreSQL has not.
alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';
-- The backslash is hosted's: no schema of the role's own name comes first.
alter role postgres set search_path = '\$user', public, extensions;
alter role supabase_admin set search_path = '\$user', public, auth, extensions;
alter role supabase_auth_admin set search_path = auth;
alter role supabase_auth_admin set idle_in_transaction_session_timeout = 60000;
alter role supabase_storage_admin set search_path = storage;
alter role supabase_realtime_admin set search_path = public, extensions, realtime;

grant set on parameter session_replication_role to postgres;
grant execute on function pg_catalog.pg_reload_conf() to postgres;

-- Database and public ----------------------------------------------------------------------------------------------
-- Schema public belongs to pg_database_owner, whose one member is the owner of the database.
alter database postgres owner to postgres;
revoke all on database postgres from public;
grant connect, temporary on database postgres to public;
alter database postgres set search_path = "$user", public, extensions;

grant usage on schema public to postgres, anon, authenticated, service_role;
grant usage, create on schema public to supabase_realtime_admin;

-- Since 2026-10-30 new objects get no SELECT/INSERT/UPDATE/DELETE/EXECUTE for the API roles; what hosted still grants
-- is kept here, so that migrations have to revoke it: TRUNCATE and friends on tables, UPDATE on sequences.
alter default privileges for role postgres in schema public
  grant all on tables to postgres, anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  revoke select, insert, update, delete on tables from anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant all on sequences to postgres;
alter default privileges for role postgres in schema public
  grant update on sequences to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant execute on functions to postgres;
alter default privileges for role supabase_admin in schema public
  grant all on tables to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public
  grant all on sequences to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public
  grant execute on functions to postgres, anon, authenticated, service_role;

-- Extensions -------------------------------------------------------------------------------------------------------
create schema extensions authorization postgres;
grant usage on schema extensions to anon, authenticated, service_role, supabase_realtime_admin;
grant all on schema extensions to dashboard_user;
alter default privileges for role supabase_admin in schema extensions
  grant all on tables to postgres with grant option;
alter default privileges for role supabase_admin in schema extensions
  grant all on sequences to postgres with grant option;
alter default privileges for role supabase_admin in schema extensions
  grant execute on functions to postgres with grant option;
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
grant all on schema auth to supabase_auth_admin, dashboard_user;
grant usage on schema auth to postgres, anon, authenticated, service_role, supabase_realtime_admin;
alter default privileges for role supabase_auth_admin in schema auth
  grant all on tables to postgres, dashboard_user;
alter default privileges for role supabase_auth_admin in schema auth
  grant all on sequences to postgres, dashboard_user;
alter default privileges for role supabase_auth_admin in schema auth
  grant execute on functions to postgres, dashboard_user;

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
