/** Accounts of an old system arrive with the passwords that people know. Needs the admin API of the Auth service. */
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { argon2id, bcrypt } from 'hash-wasm'
import { afterAll, expect, test } from 'vitest'
import { root } from '../../stack/config.ts'
import { connect } from '../sql/support.ts'
import { clientWith, newEmail, newUser } from '../support/users.ts'
import { target } from '../target.ts'

const folder = mkdtempSync(join(tmpdir(), 'palisade-import-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const oldPassword = 'Horse1Battery'
const salt = () => crypto.getRandomValues(new Uint8Array(16))
const bcryptHash = () => bcrypt({ password: oldPassword, salt: salt(), costFactor: 4, outputType: 'encoded' })
const argonHash = () =>
  argon2id({
    password: oldPassword,
    salt: salt(),
    parallelism: 1,
    iterations: 2,
    memorySize: 512,
    hashLength: 32,
    outputType: 'encoded',
  })

function start(rows: object[], ...options: string[]) {
  const file = join(folder, `${crypto.randomUUID()}.ndjson`)
  writeFileSync(file, rows.map((row) => `${JSON.stringify(row)}\n`).join(''))
  return startFile(file, ...options)
}
function startFile(file: string, ...options: string[]) {
  const child = spawn(process.execPath, ['scripts/users-import.ts', file, ...options], {
    cwd: root,
    env: { ...process.env, SUPABASE_URL: target().apiUrl, SUPABASE_SECRET_KEY: target().secretKey },
    stdio: 'ignore',
  })
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve))
  const outcomes = () =>
    readFileSync(`${file}.report.ndjson`, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line).outcome)
  return { child, file, ended, outcomes }
}

const usersAmong = async (emails: string[]) => {
  const sql = connect()
  const rows = await sql`
    select u.email from auth.users u join public.profiles p using (id) join private.accounts c on c.user_id = u.id
    where u.email = any(${emails}::text[])`
  await sql.end()
  return rows.map((row) => row.email)
}

test('an account that exists is reported and keeps its password', async () => {
  const user = await newUser()

  const { ended, outcomes } = start([{ email: user.email, password_hash: await bcryptHash(), email_confirmed: true }])

  expect([await ended, outcomes()]).toEqual([1, ['exists']])
  const client = clientWith(target().publishableKey)
  expect((await client.auth.signInWithPassword({ email: user.email, password: user.password })).error).toBeNull()
  expect((await client.auth.signInWithPassword({ email: user.email, password: oldPassword })).error).not.toBeNull()
})

test('a dry run makes nobody', async () => {
  const email = newEmail()

  const { ended, outcomes } = start([{ email }], '--dry-run')

  expect([await ended, outcomes(), await usersAmong([email])]).toEqual([0, ['would_create'], []])
})

test.each([
  ['bcrypt', bcryptHash],
  ['argon2id', argonHash],
])('who had a %s hash signs in with the old password, and has profile, plan and credits', async (_name, hash) => {
  const email = newEmail()
  const more = { email_confirmed: true, first_name: 'Ada', birth_date: '1990-01-01', locale: 'de', plan: 'premium' }

  const { ended } = start([{ email, password_hash: await hash(), ...more }])

  expect(await ended).toBe(0)
  const client = clientWith(target().publishableKey)
  expect((await client.auth.signInWithPassword({ email, password: oldPassword })).error).toBeNull()
  const { data: profile } = await client.from('profiles').select().single()
  expect(profile).toMatchObject({ status: 'active', first_name: 'Ada', plan_id: 'premium', locale: 'de' })
  expect((await client.rpc('get_my_credits')).data).toMatchObject({ balance: 100 })
})

test('who was disabled in the old system arrives suspended: no sign-in, until somebody reinstates the account', async () => {
  const email = newEmail()
  const more = { email_confirmed: true, disabled: true, time_zone: 'europe/zurich' }

  const { ended, outcomes } = start([{ email, password_hash: await bcryptHash(), ...more }])

  expect([await ended, outcomes()]).toEqual([0, ['created']])
  const client = clientWith(target().publishableKey)
  const signIn = () => client.auth.signInWithPassword({ email, password: oldPassword })
  expect((await signIn()).error?.code).toBe('user_banned')
  const admin = clientWith(target().secretKey)
  const { data } = await admin.rpc('find_account', { email })
  expect(data).toMatchObject([{ status: 'suspended' }])
  const reinstated = await admin.rpc('reinstate_account', { user_id: data?.[0]?.id ?? '', reason: 'test' })
  expect(reinstated.data).toBe('active')
  expect((await signIn()).error).toBeNull()
  expect((await client.from('profiles').select('time_zone').single()).data).toEqual({ time_zone: 'Europe/Zurich' })
})

test('killed half-way and run again, every account is there exactly once', { timeout: 120_000 }, async () => {
  const hash = await bcryptHash()
  const emails = Array.from({ length: 200 }, () => newEmail())
  const first = start(emails.map((email) => ({ email, password_hash: hash, email_confirmed: true })))
  await expect.poll(async () => (await usersAmong(emails)).length, { timeout: 60_000 }).toBeGreaterThan(20)
  first.child.kill('SIGKILL')
  await first.ended

  const second = startFile(first.file)

  expect(await second.ended).toBe(0)
  expect((await usersAmong(emails)).sort()).toEqual([...emails].sort())
  expect(second.outcomes()).toHaveLength(200)
})
