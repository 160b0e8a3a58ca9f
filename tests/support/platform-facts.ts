/**
 * What hosted Supabase answers to role postgres (NOSUPERUSER) on PostgreSQL 17, as it was run there in November 2026,
 * and where the local stack answers differently. tests/platform/platform.test.ts runs every statement; docs show the lists.
 *
 * An answer is `yes`, `yes: ` with the values of the last row, `yes [01007]` with a warning, or `SQLSTATE message`.
 * pgsodium, Vault, pg_cron and pg_net have a test of their own, tests/platform/extensions.test.ts.
 */
type Fact = [statement: string, hosted: string]

const trigger =
  'create function public.t() returns trigger language plpgsql as $$ begin return new; end $$; create trigger tr'
const no = (message: string) => `42501 ${message}`
const denied = (what: string) => no(`permission denied for ${what}`)
const notOwner = (what: string) => no(`must be owner of ${what}`)

export const facts: Record<string, Fact[]> = {
  'tables of the Auth service': [
    [`${trigger} after insert on auth.users for each row execute function public.t()`, 'yes'],
    [`${trigger} after insert on auth.mfa_factors for each row execute function public.t()`, 'yes'],
    [
      `${trigger} after insert on auth.users for each row execute function public.t(); drop trigger tr on auth.users`,
      'yes',
    ],
    ['create policy p on auth.users for select using (true)', 'yes'],
    ['create table public.x (id uuid primary key references auth.users (id) on delete cascade)', 'yes'],
    ['create view public.v as select id, email from auth.users; grant select on public.v to authenticated', 'yes'],
    ['select count(*) >= 0 from auth.users', 'yes: true'],
    ["insert into auth.users (id, email) values (gen_random_uuid(), 'platform@example.com')", 'yes'],
    ["update auth.users set email = 'x' where false; delete from auth.sessions where false", 'yes'],
    ['truncate auth.one_time_tokens', 'yes'],
    ['grant select on auth.users to authenticated', 'yes'],
    ['grant select on auth.users to supabase_auth_admin', 'yes'],
    ['grant update on auth.users to authenticated', 'yes [01007]'],
    ['grant usage on schema auth to anon', 'yes [01007]'],
    [
      "create role r1; grant usage on schema auth to r1; select has_schema_privilege('r1', 'auth', 'usage')",
      'yes: false [01007]',
    ],
    ['select count(*) > 0 from auth.schema_migrations', 'yes: true'],
    ['delete from auth.schema_migrations where false', denied('table schema_migrations')],
    ['alter table auth.users disable trigger all', notOwner('table users')],
    ['alter table auth.users add column x integer', notOwner('table users')],
    ['alter table auth.users enable row level security', notOwner('table users')],
    ['alter table auth.users owner to postgres', notOwner('table users')],
    ['create index on auth.users (created_at)', notOwner('table users')],
    ["comment on table auth.users is 'x'", notOwner('table users')],
    ['create table auth.t (id integer)', denied('schema auth')],
    ['create view auth.v as select 1', denied('schema auth')],
    ["create function auth.f() returns integer language sql as 'select 1'", denied('schema auth')],
    ["create or replace function auth.uid() returns uuid language sql as 'select null::uuid'", denied('schema auth')],
    ['drop schema auth cascade', notOwner('schema auth')],
  ],

  'tables of Storage and Realtime': [
    [`${trigger} after insert on storage.objects for each row execute function public.t()`, 'yes'],
    ["create policy p on storage.objects for select to authenticated using (bucket_id = 'x')", 'yes'],
    ['create policy p on storage.buckets for select to authenticated using (true)', 'yes'],
    ['create policy p on realtime.messages for select to authenticated using (true)', 'yes'],
    ["insert into storage.buckets (id, name, public) values ('b', 'b', false)", 'yes'],
    [
      "insert into storage.buckets (id, name) values ('b', 'b'); set local storage.allow_delete_query = 'true'; delete from storage.buckets where id = 'b'",
      'yes',
    ],
    ["do $$ begin perform realtime.send('{}'::jsonb, 'e', 't', false); end $$", 'yes'],
    ['create table public.x (id integer primary key); alter publication supabase_realtime add table public.x', 'yes'],
    ['alter publication supabase_realtime add table auth.users', 'yes'],
    ['create publication p for all tables', 'yes'],
    [
      "insert into storage.buckets (id, name) values ('b', 'b'); delete from storage.buckets where id = 'b'",
      no('Direct deletion from storage tables is not allowed. Use the Storage API instead.'),
    ],
    ['create policy p on storage.prefixes for select using (true)', '42P01 relation "storage.prefixes" does not exist'],
    ['create policy p on storage.vector_indexes for select using (true)', notOwner('table vector_indexes')],
    ['alter table storage.objects enable row level security', notOwner('table objects')],
    ['alter table storage.objects add column x integer', notOwner('table objects')],
    ['alter table storage.objects owner to postgres', notOwner('table objects')],
    ['create index on storage.objects (created_at)', notOwner('table objects')],
    ["comment on table storage.objects is 'x'", notOwner('table objects')],
    ['drop table storage.objects cascade', notOwner('table objects')],
    ['create table storage.t (id integer)', denied('schema storage')],
    ["create function storage.f() returns integer language sql as 'select 1'", denied('schema storage')],
    ["create function realtime.f() returns integer language sql as 'select 1'", denied('schema realtime')],
    ['drop schema storage cascade', notOwner('schema storage')],
    // Not run there: what PostgreSQL answers to a role that neither owns these tables nor is a member of their owner.
    ['alter table storage.objects set schema public', notOwner('table objects')],
    ['create table public.x () inherits (storage.objects)', notOwner('table objects')],
    ['create rule r as on delete to storage.objects do instead nothing', notOwner('table objects')],
    ['alter trigger protect_objects_delete on storage.objects rename to x', notOwner('table objects')],
    ['create statistics public.s on name, bucket_id from storage.objects', notOwner('table objects')],
    ['delete from storage.migrations where false', denied('table migrations')],
    ['grant select on storage.migrations to anon', 'yes [01007]'],
    ['reassign owned by supabase_storage_admin to postgres', no('permission denied to reassign objects')],
    [
      'alter default privileges for role supabase_storage_admin grant select on tables to anon',
      no('permission denied to change default privileges'),
    ],
    ['alter table realtime.messages disable row level security', notOwner('table messages')],
    ['alter table realtime.messages disable trigger all', notOwner('table messages')],
    ['drop table realtime.messages cascade', notOwner('table messages')],
    ['drop trigger announce_message on realtime.messages', notOwner('relation messages')],
    ['drop trigger protect_objects_delete on storage.objects', notOwner('relation objects')],
    ['create policy p on storage.migrations for select using (true)', notOwner('table migrations')],
    ['delete from storage.vector_indexes where false', denied('table vector_indexes')],
    [
      "create policy p on storage.objects for select using (true); select pg_has_role('postgres', 'supabase_storage_admin', 'usage')",
      'yes: false',
    ],
    [
      "create table public.x partition of realtime.messages for values from ('2001-01-01') to ('2001-01-02')",
      notOwner('table messages'),
    ],
    ['grant delete on realtime.messages to anon', 'yes [01007]'],
    ['grant update (payload) on realtime.messages to authenticated', 'yes [01007]'],
    [
      'alter default privileges for role supabase_realtime_admin grant select on tables to anon',
      no('permission denied to change default privileges'),
    ],
    ['reassign owned by supabase_realtime_admin to postgres', no('permission denied to reassign objects')],
    ['set role supabase_realtime_admin', no('permission denied to set role "supabase_realtime_admin"')],
    [
      "set local session_replication_role = 'replica'; create function storage.f() returns integer language sql as 'select 1'",
      denied('schema storage'),
    ],
    [
      "set local session_replication_role = 'replica'; alter table storage.objects add column x integer",
      notOwner('table objects'),
    ],
  ],

  extensions: [
    ...['pg_trgm', 'citext', 'ltree', 'btree_gist', 'moddatetime', 'pgtap', 'pgjwt', 'vector'].map(
      (name): Fact => [`create extension ${name} with schema extensions`, 'yes'],
    ),
    ...[
      'hypopg',
      'index_advisor',
      'plpgsql_check',
      'pgaudit',
      'pg_graphql',
      'pgmq',
      'dblink',
      'postgres_fdw',
      'http',
    ].map((name): Fact => [`create extension ${name}`, 'yes']),
    ['alter extension pgcrypto set schema public', 'yes'],
    ['create extension file_fdw', no('permission denied to create extension "file_fdw"')],
    ['create extension adminpack', '0A000 extension "adminpack" is not available'],
    [
      "drop extension if exists pgsodium; create extension pgsodium version '3.1.7'",
      'P0001 only pgsodium 3.1.8 is supported',
    ],
    ["create function public.c() returns integer language c as 'libc', 'getpid'", denied('language c')],
  ],

  'roles and settings': [
    [
      "select rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls from pg_roles where rolname = 'postgres'",
      'yes: false|true|true|true|true',
    ],
    ["select 'statement_timeout=3s' = any (rolconfig) from pg_roles where rolname = 'anon'", 'yes: true'],
    ["select 'statement_timeout=8s' = any (rolconfig) from pg_roles where rolname = 'authenticated'", 'yes: true'],
    ["select 'lock_timeout=8s' = any (rolconfig) from pg_roles where rolname = 'authenticator'", 'yes: true'],
    ["select rolconfig::text like '%safeupdate%' from pg_roles where rolname = 'authenticator'", 'yes: true'],
    ['set local role service_role; select current_user', 'yes: service_role'],
    ['set local role anon; set local role postgres; select current_user', 'yes: postgres'],
    ['set local role authenticator; select current_user', 'yes: authenticator'],
    ['set local role supabase_privileged_role; select 1', 'yes: 1'],
    ["set local session_replication_role = 'replica'; select 1", 'yes: 1'],
    ['select pg_reload_conf()', 'yes: true'],
    ["alter role authenticator set statement_timeout = '10s'", 'yes'],
    ["alter role authenticator set pgrst.db_pre_request = 'public.pre'", 'yes'],
    ["alter role anon set statement_timeout = '3s'; alter role service_role set statement_timeout = '60s'", 'yes'],
    ['create role r1; grant r1 to authenticated', 'yes'],
    ['create role r1 nologin; grant anon to r1', 'yes'],
    ['create role r1 nologin bypassrls', 'yes'],
    ['create role r1 nologin; grant r1 to authenticator', 'yes'],
    ["create role r1 login password 'x' noinherit; grant authenticated to r1", 'yes'],
    ["alter role authenticator set pgrst.db_schemas = 'public, api'; notify pgrst, 'reload config'", 'yes'],
    ['create database d2', 'yes'],
    ["alter system set work_mem = '8MB'", no('permission denied to set parameter "work_mem"')],
    ['create role r1; create schema x authorization r1', no('must be able to SET ROLE "r1"')],
    ['create role r1; grant r1 to postgres; create schema x authorization r1', 'yes'],
    ["security label for pgsodium on role postgres is 'x'", no('permission denied')],
    [
      'create function public.e() returns event_trigger language plpgsql as $$ begin end $$; create event trigger et on ddl_command_end execute function public.e()',
      'yes',
    ],
    ['drop event trigger pgrst_ddl_watch', notOwner('event trigger pgrst_ddl_watch')],
    ['create role r1 superuser', no('permission denied to create role')],
    ['alter role postgres superuser', no('permission denied to alter role')],
    ...[
      'authenticator password $$x$$',
      'authenticated bypassrls',
      'supabase_auth_admin set statement_timeout = $$1s$$',
    ].map(
      (change): Fact => [
        `alter role ${change}`,
        no(`"${change.split(' ')[0]}" is a reserved role, only superusers can modify it`),
      ],
    ),
    ...['supabase_auth_admin', 'supabase_admin', 'authenticator', 'pg_read_server_files'].map(
      (role): Fact => [
        `grant ${role} to postgres`,
        no(`"${role}" role memberships are reserved, only superusers can grant them`),
      ],
    ),
    ...['supabase_auth_admin', 'supabase_storage_admin', 'supabase_admin'].map(
      (role): Fact => [`set local role ${role}`, no(`permission denied to set role "${role}"`)],
    ),
    ["alter role postgres set app.k = '1'", no('permission denied to set parameter "app.k"')],
    ["alter database postgres set app.k = '1'", no('permission denied to set parameter "app.k"')],
    ['create schema x authorization supabase_admin', no('must be able to SET ROLE "supabase_admin"')],
    [
      'create table public.x (id integer); alter table public.x owner to supabase_admin',
      no('must be able to SET ROLE "supabase_admin"'),
    ],
    ['reassign owned by postgres to supabase_admin', no('permission denied to reassign objects')],
    [
      'alter default privileges for role supabase_admin grant all on tables to anon',
      no('permission denied to change default privileges'),
    ],
    ["copy (select 1) to '/tmp/palisade-copy'", no('permission denied to COPY to a file')],
    ['select pg_read_file($$postgresql.conf$$)', denied('function pg_read_file')],
  ],

  'the Data API and hooks': [
    [
      "create table public.x (id bigserial primary key); select relacl::text from pg_class where oid = 'public.x'::regclass",
      'yes: {postgres=arwdDxtm/postgres,anon=Dxtm/postgres,authenticated=Dxtm/postgres,service_role=Dxtm/postgres}',
    ],
    [
      "create table public.x (id bigserial primary key); select relacl::text from pg_class where oid = 'public.x_id_seq'::regclass",
      'yes: {postgres=rwU/postgres,anon=w/postgres,authenticated=w/postgres,service_role=w/postgres}',
    ],
    ['create table public.x (id integer); set local role anon; truncate public.x', 'yes'],
    ['create schema x; alter default privileges in schema x revoke execute on functions from public', 'yes'],
    [
      'create schema x; grant usage on schema x to supabase_auth_admin; create function x.hook(event jsonb) returns jsonb language sql return event; grant execute on function x.hook to supabase_auth_admin; revoke execute on function x.hook from authenticated, anon, public',
      'yes',
    ],
    ['alter table public.nope set schema auth', '42P01 relation "public.nope" does not exist'],
    ['create table public.x (id integer); set local role anon; insert into public.x values (1)', denied('table x')],
    ['create table public.x (id integer); set local role service_role; select * from public.x', denied('table x')],
    [
      'alter default privileges revoke execute on functions from public; create function public.f() returns integer language sql return 1; set local role anon; select public.f()',
      denied('function f'),
    ],
    ['set local role authenticated; select count(*) from auth.users', denied('table users')],
    ['set local role service_role; select count(*) from auth.users', denied('table users')],
    ['set local role authenticated; select * from vault.secrets', denied('schema vault')],
    ['select auth.uid() is null and auth.role() is null and auth.jwt() is null', 'yes: true'],
    [
      `set local request.jwt.claims = '{"sub": "6c1b9f6e-0000-4000-8000-000000000001", "role": "authenticated", "aal": "aal1"}'; set local role authenticated; select auth.uid(), auth.role(), auth.jwt() ->> 'aal'`,
      'yes: 6c1b9f6e-0000-4000-8000-000000000001|authenticated|aal1',
    ],
    [
      'create function public.hook(event jsonb) returns jsonb language sql return event; grant execute on function public.hook to supabase_auth_admin; create table public.x (id uuid); grant select on public.x to supabase_auth_admin; create policy p on public.x for select to supabase_auth_admin using (true)',
      'yes',
    ],
    [
      "create table public.x (id integer); create policy p on public.x using (true); select count(*) > 0 from pg_locks where pid = pg_backend_pid() and relation = 'auth.users'::regclass",
      'yes: true',
    ],
  ],
}

/** Where the local stack answers differently: the statement, what it answers, and why. */
export type Difference = { statement: string; here: string; reason: string }

const every = (statements: string[], here: (statement: string) => string, reason: string): Difference[] =>
  statements.map((statement) => ({ statement, here: here(statement), reason }))
const lastWord = (statement: string) => statement.split(' ').at(-1)
const always = (answer: string) => () => answer

/** Allowed on hosted, refused here: what runs here still runs there. */
export const knownStricter: Difference[] = [
  ...every(
    ['alter publication supabase_realtime add table auth.users'],
    always(notOwner('table users')),
    'Plain PostgreSQL asks for the owner; nothing of ours may publish tables of Auth.',
  ),
  ...every(
    ['create publication p for all tables'],
    always(no('must be superuser to create FOR ALL TABLES publication')),
    'Plain PostgreSQL asks for a superuser.',
  ),
  ...every(
    ['pgtap', 'pgjwt', 'vector'].map((name) => `create extension ${name} with schema extensions`),
    (statement) => `0A000 extension "${statement.split(' ')[2]}" is not available`,
    'The embedded PostgreSQL does not bring this extension.',
  ),
  ...every(
    ['hypopg', 'index_advisor', 'plpgsql_check', 'pgaudit', 'pg_graphql', 'pgmq', 'http'].map(
      (name) => `create extension ${name}`,
    ),
    (statement) => `0A000 extension "${lastWord(statement)}" is not available`,
    'The embedded PostgreSQL does not bring this extension.',
  ),
  ...every(
    ['create extension moddatetime with schema extensions', 'create extension dblink', 'create extension postgres_fdw'],
    (statement) => no(`permission denied to create extension "${statement.split(' ')[2]}"`),
    'Not a trusted extension, and there is no supautils that would create it for us.',
  ),
  ...every(
    ['alter extension pgcrypto set schema public'],
    always(notOwner('extension pgcrypto')),
    'The extension belongs to the superuser, as the platform made it.',
  ),
  ...every(
    [
      "alter role authenticator set statement_timeout = '10s'",
      "alter role authenticator set pgrst.db_pre_request = 'public.pre'",
      "alter role authenticator set pgrst.db_schemas = 'public, api'; notify pgrst, 'reload config'",
      "alter role anon set statement_timeout = '3s'; alter role service_role set statement_timeout = '60s'",
    ],
    always(no('permission denied to alter role')),
    'Without supautils the ADMIN option that allows it would also let postgres change passwords of these roles.',
  ),
  ...every(
    ['create role r1 nologin; grant anon to r1'],
    always(no('permission denied to grant role "anon"')),
    'Without supautils the ADMIN option that allows it would also let postgres change passwords of these roles.',
  ),
  ...every(
    ["create role r1 login password 'x' noinherit; grant authenticated to r1"],
    always(no('permission denied to grant role "authenticated"')),
    'Without supautils the ADMIN option that allows it would also let postgres change passwords of these roles.',
  ),
  ...every(
    ['create database d2'],
    always('25001 CREATE DATABASE cannot run inside a transaction block'),
    'Only because the test rolls back: outside a transaction it works here, too.',
  ),
  ...every(
    ['set local role supabase_privileged_role; select 1'],
    always('22023 role "supabase_privileged_role" does not exist'),
    'A role of supautils; nothing may depend on it.',
  ),
  ...every(
    [
      'create function public.e() returns event_trigger language plpgsql as $$ begin end $$; create event trigger et on ddl_command_end execute function public.e()',
    ],
    always(no('permission denied to create event trigger "et"')),
    'Plain PostgreSQL asks for a superuser.',
  ),
]

/** Refused on hosted, allowed here: nothing of ours may do it, and nothing but review would notice. */
export const knownLooser: Difference[] = [
  ...every(
    ["select rolconfig::text like '%safeupdate%' from pg_roles where rolname = 'authenticator'"],
    always('yes: false'),
    'The embedded PostgreSQL has no safeupdate. scripts/checks/where-clauses.ts reads every function instead.',
  ),
  ...every(
    [
      "create table public.x (id integer); create policy p on public.x using (true); select count(*) > 0 from pg_locks where pid = pg_backend_pid() and relation = 'auth.users'::regclass",
    ],
    always('yes: false'),
    'Only supautils locks the services\u2019 tables at policy DDL: keep migrations with policies short, with a lock_timeout.',
  ),
]

const reserved = 'Refused by PostgreSQL itself, not by supautils.'

/** Refused in both places, in other words. */
export const knownOtherWords: Difference[] = [
  ...every(
    [
      'alter role authenticator password $$x$$',
      'alter role authenticated bypassrls',
      'alter role supabase_auth_admin set statement_timeout = $$1s$$',
    ],
    always(no('permission denied to alter role')),
    reserved,
  ),
  ...every(
    ['supabase_auth_admin', 'supabase_admin', 'authenticator', 'pg_read_server_files'].map(
      (role) => `grant ${role} to postgres`,
    ),
    (statement) => no(`permission denied to grant role "${statement.split(' ')[1]}"`),
    reserved,
  ),
  ...every(
    ["alter system set work_mem = '8MB'"],
    always('25001 ALTER SYSTEM cannot run inside a transaction block'),
    'Only because the test rolls back: outside a transaction the words are the same.',
  ),
  ...every(
    ["security label for pgsodium on role postgres is 'x'"],
    always('22023 security label provider "pgsodium" is not loaded'),
    'The stand-in for pgsodium brings no security labels.',
  ),
  ...every(
    ["drop extension if exists pgsodium; create extension pgsodium version '3.1.7'"],
    always('22023 extension "pgsodium" has no installation script nor update path for version "3.1.7"'),
    'Refused by PostgreSQL itself, not by a script of the platform.',
  ),
]
