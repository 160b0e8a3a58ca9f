/** What the local bootstrap makes has the catalogue of the real platform, except what catalogue-differences.ts lists. */
import { readFileSync } from 'node:fs'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Scratch, startScratch } from '../../stack/platform/scratch.ts'
import { type Catalogue, compareCatalogues, readCatalogue } from '../support/catalogue.ts'
import { knownDifferences } from '../support/catalogue-differences.ts'

const hosted: Catalogue = JSON.parse(readFileSync(new URL('../support/platform-catalog.json', import.meta.url), 'utf8'))

let scratch: Scratch
let fresh: Catalogue
let found: ReturnType<typeof compareCatalogues>
beforeAll(async () => {
  scratch = await startScratch()
  fresh = await catalogueOf(await scratch.createDatabase('fresh'))
  found = compareCatalogues(hosted, fresh)
})
afterAll(() => scratch.stop())

/** With the three extensions that a project makes itself: the facts hold them, too. */
async function catalogueOf(url: string): Promise<Catalogue> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    await sql`create extension if not exists pg_cron`
    await sql`create extension if not exists pg_net with schema extensions`
    await sql`create extension if not exists pgsodium`
    return await readCatalogue(sql)
  } finally {
    await sql.end()
  }
}

const known = Object.fromEntries(
  Object.entries(knownDifferences).map(([section, groups]) => [
    section,
    Object.assign({}, ...groups.map(({ here }) => here)),
  ]),
)

test.each([...new Set([...Object.keys(hosted.schemas ?? {}), 'installed extensions', 'roles', 'event triggers'])])(
  '%s differs from hosted only where the list says so',
  (section) => {
    expect(found[section] ?? {}).toEqual(known[section] ?? {})
  },
)

test('no other schema is here, and the list names nothing else', () => {
  expect(Object.keys(found).sort()).toEqual(Object.keys(known).sort())
})

test('a change of any kind is a difference', async () => {
  await scratch.createDatabase('changed')
  const superuser = postgres(scratch.superuserUrl('changed'), { max: 1, onnotice: () => {} })
  await superuser.unsafe(`
    alter schema graphql_public owner to postgres;
    alter type auth.aal_level add value 'aal4';
    alter table auth.users alter column phone drop default, disable row level security;
    alter table auth.identities drop constraint identities_provider_id_provider_unique;
    drop index auth.users_email_partial_key;
    create policy everybody on auth.sessions using (true);
    create trigger gone after delete on auth.sessions for each statement execute function storage.protect_delete();
    grant select on auth.users to anon;
    alter function auth.uid() security definer;
    alter default privileges for role supabase_auth_admin in schema auth grant select on tables to anon;
    alter role anon set statement_timeout = '9s';
    grant pg_monitor to anon;
    drop extension "uuid-ossp";
    drop event trigger pgrst_drop_watch`)
  await superuser.end()

  const changed = await catalogueOf(scratch.superuserUrl('changed'))

  expect(compareCatalogues(fresh, changed)).toMatchObject({
    'installed extensions': { 'uuid-ossp': null },
    roles: { 'anon settings statement_timeout': '9s', 'anon member_of pg_monitor': 'there' },
    'event triggers': { 'pgrst_drop_watch on sql_drop (owner supabase_admin)': null },
    graphql_public: { owner: 'postgres' },
    auth: {
      'enums aal_level': 'aal1, aal2, aal3, aal4',
      'tables users columns phone': 'text',
      'tables users row_security': 'false',
      'tables users grants anon': 'r/supabase_auth_admin',
      'tables identities constraints identities_provider_id_provider_unique': null,
      'tables users unique_indexes CREATE UNIQUE INDEX users_email_partial_key ON auth.users USING btree (email) WHERE (is_sso_user = false)':
        null,
      'tables sessions policies everybody': 'there',
      'tables sessions triggers gone: after delete for each statement calls protect_delete': 'there',
      'functions uid() definer': 'true',
      'default_grants supabase_auth_admin tables anon': 'r/supabase_auth_admin',
    },
  })
})
