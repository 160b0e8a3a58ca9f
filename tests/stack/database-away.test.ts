/** A stack whose database goes away, for long or for good: it lives on, says so in every service's own words, and goes on when it is back. */
import { chownSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import postgres from 'postgres'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { readConfig } from '../../stack/config.ts'
import { signInDemoUser } from '../../stack/demo-user.ts'
import { loadKeys, type StackKeys } from '../../stack/keys.ts'
import { localDbUrl } from '../../stack/platform/bootstrap.ts'
import { clusterPid } from '../../stack/platform/postgres.ts'
import { closeRealtimeClients, listenTo, realtimeClient, subscribed } from '../support/realtime.ts'
import { newPlace, type Place, remove, type Started, start } from '../support/start-stack.ts'

let place: Place
let stack: Started
let keys: StackKeys
let folder: string
let settings: { file: string; text: string }
const url = () => `http://127.0.0.1:${place.port}`
const superuser = () => postgres(localDbUrl(place.port + 1, keys, 'supabase_admin'), { max: 1, onnotice: () => {} })

beforeAll(async () => {
  const home = await newPlace()
  // The same user signs in again and again.
  place = { ...home, env: { ...home.env, PALISADE_AUTH_RATE_LIMITS: 'off', PALISADE_AUTH_HASH_COST: '4' } }
  stack = await start(place)
  const { files } = readConfig(place.env)
  keys = await loadKeys(files.keys)
  folder = files.postgres
  const file = join(folder, 'postgresql.auto.conf')
  settings = { file, text: readFileSync(file, 'utf8') }
}, 120_000)
afterEach(() => writeFileSync(settings.file, settings.text))
afterAll(() => remove(place, stack.child))

/** What is logged from now on. */
function listen(): () => string {
  const from = stack.output().length
  return () => stack.output().slice(from)
}
function killDatabase(): void {
  const pid = clusterPid(folder)
  if (pid !== undefined) process.kill(pid, 'SIGKILL')
}
const isBack = { timeout: 60_000 }

type Refusal = { status: number; retryAfter: string | null; origin: string | null; body: unknown }
async function ask(path: string, headers: Record<string, string> = {}): Promise<Refusal> {
  const answer = await fetch(`${url()}${path}`, { headers: { apikey: keys.secretKey, ...headers } })
  const header = (name: string) => answer.headers.get(name)
  const body: unknown = await answer.json()
  return {
    status: answer.status,
    retryAfter: header('retry-after'),
    origin: header('access-control-allow-origin'),
    body,
  }
}

const message = 'The database does not answer at this moment.'
const refused = (body: unknown) => ({ status: 503, retryAfter: '1', origin: '*', body })

describe('a database that does not start', { timeout: 120_000 }, () => {
  test('takes nothing with it; the log says once why; each service refuses in its own words; then all goes on', async () => {
    const log = listen()
    writeFileSync(settings.file, `${settings.text}no_such_setting = 1\n`)
    killDatabase()
    await expect
      .poll(log)
      .toMatch(/^postgres: PostgreSQL did not start: .* contains errors; it is tried again until it works$/m)

    const newApi = { 'x-supabase-api-version': '2024-01-01' }
    expect(await ask('/functions/v1/ai/v1/models')).toEqual(
      refused({ error: { message, type: 'server_error', param: null, code: 'service_unavailable' } }),
    )
    expect(await ask('/rest/v1/plans')).toEqual(refused({ code: 'PGRST001', details: null, hint: null, message }))
    expect(await ask('/auth/v1/health')).toEqual(refused({ code: 503, error_code: 'unexpected_failure', msg: message }))
    expect(await ask('/auth/v1/health', newApi)).toEqual(refused({ code: 'unexpected_failure', message }))
    expect(await ask('/storage/v1/bucket')).toEqual(
      refused({ statusCode: '503', error: 'ServiceUnavailable', message }),
    )
    expect(await ask('/auth/v1/.well-known/jwks.json')).toMatchObject({ status: 200 })

    // Another attempt, of which nothing is said that was not said.
    const attemptAt = () => statSync(join(folder, 'startup.log'), { throwIfNoEntry: false })?.mtimeMs
    const first = attemptAt() ?? 0
    await expect.poll(attemptAt, isBack).toBeGreaterThan(first)
    writeFileSync(settings.file, settings.text)
    await expect.poll(log, isBack).toMatch(/^postgres: it is back after [\d.]+ s$/m)
    expect(log().match(/contains errors/g)).toHaveLength(1)
    expect(await ask('/rest/v1/plans?select=id')).toMatchObject({
      status: 200,
      body: [{ id: 'free' }, { id: 'premium' }],
    })
    expect(await ask('/storage/v1/bucket')).toMatchObject({ status: 200 })
    await expectMeteredCall()
  })
})

/** Auth, the functions and their accounting, in one. */
async function expectMeteredCall(): Promise<void> {
  const { access_token } = await signInDemoUser(readConfig(place.env), keys)
  const answer = await fetch(`${url()}/functions/v1/ai/v1/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${access_token}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'demo/echo', messages: [{ role: 'user', content: 'Are you back?' }] }),
  })
  expect(answer.status).toBe(200)
}

test('a recovery that lasts longer than anybody waits is waited for, and the gateway answers meanwhile', async () => {
  const log = listen()
  // It asks for an archive of WAL, which keeps it waiting for as long as this file is there.
  const hold = join(place.data, 'postgres', 'hold')
  const signal = join(folder, 'recovery.signal')
  for (const file of [hold, signal]) {
    writeFileSync(file, '')
    const { uid, gid } = statSync(folder)
    chownSync(file, uid, gid)
  }
  writeFileSync(
    settings.file,
    `${settings.text}restore_command = 'while test -e "${hold}"; do sleep 0.1; done; false'\n`,
  )
  killDatabase()

  await expect.poll(log, isBack).toContain('postgres: it recovers what it had written; that takes as long as it takes')
  expect(await ask('/rest/v1/plans')).toMatchObject({ status: 503, retryAfter: '1' })
  rmSync(hold)
  await expect.poll(log, isBack).toContain('postgres: it is back')
  expect(existsSync(signal)).toBe(false)
  expect(await ask('/rest/v1/plans')).toMatchObject({ status: 200 })
}, 120_000)

describe('connections from before', { timeout: 120_000 }, () => {
  test('a listener hears what is sent afterwards, and REST hears that its schema changed', async () => {
    const where = { url: url(), key: keys.publishableKey }
    const anon = await realtimeClient(null, { heartbeatIntervalMs: 200, reconnectAfterMs: () => 10 }, where)
    const { result, received } = await listenTo(anon, 'after', { private: false })
    expect(result).toEqual(subscribed)
    const log = listen()
    killDatabase()
    await expect.poll(log, isBack).toContain('postgres: it is back')

    const sql = superuser()
    await sql`select realtime.send('{}', 'again', 'after', false)`
    await sql`create table public.made_afterwards as select 42 as answer`
    await sql`grant select on public.made_afterwards to service_role`
    await sql`notify pgrst, 'reload schema'`
    await sql.end()

    await expect.poll(() => received.map(({ event }) => event)).toEqual(['again'])
    await expect.poll(() => ask('/rest/v1/made_afterwards')).toMatchObject({ status: 200, body: [{ answer: 42 }] })
    await closeRealtimeClients()
  })

  /** Ten sign-ins, as many as Auth has connections, that wait inside their transactions; their end, and how to let them go. */
  async function waitingSignIns(): Promise<{ ended: Promise<unknown>; sql: postgres.Sql }> {
    const sql = superuser()
    await sql.unsafe('begin; lock table auth.sessions in exclusive mode')
    const ended = Promise.all(signIns())
    await expect.poll(async () => (await sql`select from pg_locks where not granted`).length, isBack).toBeGreaterThan(8)
    return { ended, sql }
  }
  const signIns = () =>
    Array.from({ length: 10 }, async () => {
      const body = JSON.stringify({ email: 'demo@example.com', password: keys.demoPassword })
      const headers = { apikey: keys.publishableKey, 'content-type': 'application/json' }
      return (await fetch(`${url()}/auth/v1/token?grant_type=password`, { method: 'POST', headers, body })).status
    })
  const all = (status: number) => Array.from({ length: 10 }, () => status)

  test('that the database took along inside a transaction are not used again', async () => {
    const { ended, sql } = await waitingSignIns()
    const log = listen()
    killDatabase()
    expect(await ended).toEqual(all(503))
    await sql.end({ timeout: 0 })
    await expect.poll(log, isBack).toContain('postgres: it is back')

    expect(await Promise.all(signIns())).toEqual(all(200))
    expect(stack.child.exitCode).toBe(null)
  })

  test('that end one by one, while the database lives, are replaced, too', async () => {
    const { ended, sql } = await waitingSignIns()
    const log = listen()
    await sql`select pg_terminate_backend(pid) from pg_locks where not granted`
    await sql.unsafe('rollback')
    await ended
    await sql.end()

    await expect.poll(log).toContain('a connection to the database broke inside a transaction; all are opened anew')
    await expect.poll(() => Promise.all(signIns()), isBack).toEqual(all(200))
  })
})

test('a stack whose database is away stops when it is told to, although a step of that fails', async () => {
  const log = listen()
  // A file of its own that it cannot take away.
  const { state } = readConfig(place.env).files
  rmSync(state)
  mkdirSync(join(state, 'in the way'), { recursive: true })
  writeFileSync(settings.file, `${settings.text}no_such_setting = 1\n`)
  killDatabase()
  await expect.poll(log).toContain('it is tried again until it works')

  stack.child.kill('SIGTERM')

  expect(await stack.ended).toBe(0)
  expect(log()).toContain('stopping: ')
  expect(clusterPid(folder)).toBe(undefined)
  rmSync(state, { recursive: true })
})
