/** What a database holds when the migrations come: users who were there before, halves of accounts, other migrations. */
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { StackError } from '../../stack/config.ts'
import { applyMigrations, migrationVersions, refuseOtherHistory } from '../../stack/migrations.ts'
import { bootstrap } from '../../stack/platform/bootstrap.ts'
import { type Scratch, startScratch } from '../../stack/platform/scratch.ts'

let scratch: Scratch
beforeAll(async () => {
  scratch = await startScratch()
}, 120_000)
afterAll(() => scratch?.stop())

const users = [
  { name: 'verified', confirmed: true, data: { first_name: 'Old', birth_date: '1990-01-01' } },
  { name: 'unverified', confirmed: false, data: {} },
  { name: 'without metadata', confirmed: true, data: null },
  { name: 'with metadata that is no object', confirmed: true, data: [1, 'x'] },
  { name: 'too young', confirmed: true, data: { birth_date: `${new Date().getUTCFullYear() - 5}-01-01` } },
]

async function insertUsers(sql: postgres.Sql): Promise<void> {
  for (const { name, confirmed, data } of users) {
    await sql`
      insert into auth.users (id, email, email_confirmed_at, raw_user_meta_data, aud, role, created_at)
      values (gen_random_uuid(), ${`${name.replaceAll(' ', '-')}@example.com`}, ${confirmed ? new Date() : null},
        ${JSON.stringify(data)}::text::jsonb, 'authenticated', 'authenticated', now() - interval '400 days')`
  }
}

const accountsOf = (sql: postgres.Sql) => sql`
  select split_part(u.email, '@', 1) as name, p.status, p.parked_reason, c.balance::int,
    (select sum(e.amount)::int from public.credit_entries e where e.user_id = u.id) as booked,
    (select count(*)::int from private.limits_of(u.id)) > 0 as has_limits
  from auth.users u join public.profiles p using (id) join private.accounts c on c.user_id = u.id
  order by u.email`

const complete = { balance: 100, booked: 100, has_limits: true, parked_reason: null }

test('users who were there before Palisade have profile, credits and limits after its migrations', async () => {
  const url = await scratch.createDatabase('before_palisade')
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    await insertUsers(sql)

    await applyMigrations(url, await migrationVersions())

    expect([...(await accountsOf(sql))]).toEqual([
      {
        ...complete,
        name: 'too-young',
        status: expect.any(String),
        parked_reason: expect.toBeOneOf([null, 'guardian_consent']),
      },
      // The credits come with the confirmation.
      { ...complete, balance: 0, booked: null, name: 'unverified', status: 'pending' },
      { ...complete, name: 'verified', status: 'active' },
      { ...complete, name: 'with-metadata-that-is-no-object', status: 'active' },
      { ...complete, name: 'without-metadata', status: 'active' },
    ])
  } finally {
    await sql.end()
  }
}, 120_000)

test('an account of which a half was lost is completed, and what is there stays', async () => {
  const url = await scratch.createDatabase('half_lost')
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    await insertUsers(sql)
    await applyMigrations(url, await migrationVersions())
    await sql`update public.profiles set status = 'suspended' where first_name = 'Old'`
    await sql`alter table private.credit_bookings disable trigger user`
    await sql`
      with bare as (select id from auth.users where email = 'without-metadata@example.com'),
        entries as (delete from private.credit_bookings where user_id in (select id from bare))
      delete from private.accounts where user_id in (select id from bare)`
    await sql`delete from public.profiles where id = (select id from auth.users where email = 'unverified@example.com')`
    await sql`alter table private.credit_bookings enable trigger user`

    await sql`select private.create_account(id) from auth.users`

    const accounts = await accountsOf(sql)
    expect(accounts.map(({ name, status, balance }) => [name, status, balance])).toEqual([
      ['too-young', 'pending', 100],
      ['unverified', 'pending', 0],
      ['verified', 'suspended', 100],
      ['with-metadata-that-is-no-object', 'active', 100],
      ['without-metadata', 'active', 100],
    ])
  } finally {
    await sql.end()
  }
}, 120_000)

test('a data folder that other migrations made is refused in one line; one that ours made is not', async () => {
  const url = await scratch.createDatabase('other_history')
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  const refusal = (version: string) =>
    `data was made by another version of Palisade (migration ${version}). Throw the data away with "npm run reset", or set PALISADE_DATA to another folder.`
  try {
    const versions = await migrationVersions()
    await refuseOtherHistory(url, 'data')
    await applyMigrations(url, versions)
    await refuseOtherHistory(url, 'data')

    await sql`update supabase_migrations.schema_migrations set statements = '{select 1}' where version = ${versions[1] ?? ''}`
    await expect(refuseOtherHistory(url, 'data')).rejects.toThrow(new StackError(refusal(`${versions[1]}`)))
    await sql`insert into supabase_migrations.schema_migrations (version) values ('20261121000000')`
    await expect(refuseOtherHistory(url, 'data')).rejects.toThrow(new StackError(refusal('20261121000000')))
  } finally {
    await sql.end()
  }
}, 120_000)

test('a database that an older version of the platform made is refused, and a finished one is left as it is', async () => {
  await expect(bootstrap(scratch.port, scratch.keys)).resolves.toBeUndefined()
  const admin = postgres(scratch.superuserUrl('postgres'), { max: 1, onnotice: () => {} })
  await admin`drop schema local_platform cascade`
  await admin.end()

  await expect(bootstrap(scratch.port, scratch.keys)).rejects.toThrow('made by another version')
})
