/** Users who were there before a migration get what the migration makes everybody have. */
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Scratch, startScratch } from '../../stack/platform/scratch.ts'
import { applyMigrations, migrationVersions } from '../../stack/schema.ts'

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
      { ...complete, name: 'unverified', status: 'pending' },
      { ...complete, name: 'verified', status: 'active' },
      { ...complete, name: 'with-metadata-that-is-no-object', status: 'active' },
      { ...complete, name: 'without-metadata', status: 'active' },
    ])
  } finally {
    await sql.end()
  }
}, 120_000)

test('users of the first version keep what they have, and what was lost half-way is completed', async () => {
  const url = await scratch.createDatabase('first_version')
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    const versions = await migrationVersions()
    await applyMigrations(url, versions.slice(0, 2))
    await insertUsers(sql)
    await sql`update public.profiles set status = 'suspended' where first_name = 'Old'`
    await sql`alter table public.credit_entries disable trigger user`
    await sql`
      with bare as (select id from auth.users where email = 'without-metadata@example.com'),
        entries as (delete from public.credit_entries where user_id in (select id from bare))
      delete from private.credit_accounts where user_id in (select id from bare)`
    await sql`delete from public.profiles where id = (select id from auth.users where email = 'unverified@example.com')`
    await sql`alter table public.credit_entries enable trigger user`

    await applyMigrations(url, versions.slice(2))

    const accounts = await accountsOf(sql)
    expect(accounts.map(({ name, status, balance }) => [name, status, balance])).toEqual([
      ['too-young', 'active', 100],
      ['unverified', 'pending', 100],
      ['verified', 'suspended', 100],
      ['with-metadata-that-is-no-object', 'active', 100],
      ['without-metadata', 'active', 100],
    ])
  } finally {
    await sql.end()
  }
}, 120_000)

test('credits, counters and calls that run go on through the migration that moves them', async () => {
  const url = await scratch.createDatabase('before_accounts')
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  const [id, session] = [crypto.randomUUID(), crypto.randomUUID()]
  const request = {
    ...{ request_id: 'r', user_id: id, session_id: session, endpoint: 'chat.completions', model: 'openai/gpt-4o-mini' },
    ...{ prompt_tokens_max: 100, max_output_tokens: 50, choices: 1, images: 0, stream: false, request_bytes: 300 },
  }
  const usage = { prompt_tokens: 10, completion_tokens: 5, cached_tokens: 0, reasoning_tokens: 0 }
  const outcome = { result: 'succeeded', http_status: 200, usage, usage_source: 'provider', response_bytes: 9 }
  const admit = async () => {
    const [row] = await sql`select private.admit_ai_call(${sql.json(request)}) ->> 'call_id' as call_id`
    return row?.call_id as string
  }
  const settle = async (call: string) =>
    (await sql`select private.settle_ai_call(${call}::uuid, ${sql.json(outcome)}) as answer`)[0]?.answer
  const limits = () => sql`
    select meter, used::int, held::int from private.limits_of(${id}) where meter in ('ai_calls', 'ai_tokens') order by meter`
  try {
    const versions = await migrationVersions()
    const moved = versions.indexOf('20261122005000')
    await applyMigrations(url, versions.slice(0, moved))
    await sql`
      insert into auth.users (id, email, email_confirmed_at, raw_user_meta_data, aud, role, created_at)
      values (${id}, 'moving@example.com', now(), '{}', 'authenticated', 'authenticated', now() - interval '40 days')`
    await sql`insert into auth.sessions (id, user_id) values (${session}, ${id})`
    await settle(await admit())
    const open = await admit()
    const before = [...(await limits())]
    expect(before).toEqual([
      { meter: 'ai_calls', used: 1, held: 1 },
      { meter: 'ai_tokens', used: 15, held: 150 },
    ])

    await applyMigrations(url, versions.slice(moved))

    expect([...(await limits())]).toEqual(before)
    expect(await settle(open)).toMatchObject({ settled: true, credits_charged: 1, credits_remaining: 98 })
    expect([...(await limits())]).toEqual([
      { meter: 'ai_calls', used: 2, held: 0 },
      { meter: 'ai_tokens', used: 30, held: 0 },
    ])
    expect([...(await sql`select * from private.verify_accounts()`)]).toEqual([])
    await settle(await admit())
  } finally {
    await sql.end()
  }
}, 120_000)
