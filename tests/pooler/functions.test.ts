/** Functions of a whole stack by way of PgBouncer in transaction mode, in two processes. The stories run on the same stack. */
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { newUser, type TestUser } from '../support/users.ts'
import { target } from '../target.ts'

let sql: postgres.Sql
let superuser: postgres.Sql
let user: TestUser
beforeAll(async () => {
  sql = postgres(target().dbUrl, { max: 2, onnotice: () => {} })
  superuser = postgres(target().superuserUrl ?? '', { max: 1, onnotice: () => {} })
  user = await newUser()
})
afterAll(() => Promise.all([sql.end(), superuser.end()]))

/** What the server has logged. */
const serverLog = async () => String((await superuser`select pg_read_file(pg_current_logfile()) as text`)[0]?.text)
/** How often the server itself ended a statement that has this in it. */
const timedOut = async (statement: string) =>
  (await serverLog())
    .split(/canceling statement due to (?:statement|lock) timeout/)
    .slice(1)
    .filter((rest) => rest.split(/ (?:ERROR|FATAL|WARNING|LOG): /)[0]?.includes(statement)).length

const call = (path: string, body: object) =>
  fetch(`${target().functionsUrl}${path}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${user.accessToken}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
const chat = () =>
  call('/ai/v1/chat/completions', { model: 'demo/echo', messages: [{ role: 'user', content: 'Hello' }] })
const addCredential = (name: string) => call('/credentials', { provider: 'demo', name, api_key: 'their-own-key-Zz12' })

/** While a table is locked, whoever needs it waits until they have had enough. */
async function whileLocked<T>(table: string, act: () => Promise<T>): Promise<T> {
  return sql.begin(async (tx) => {
    await tx.unsafe(`lock table ${table} in access exclusive mode`)
    return act()
  }) as Promise<T>
}

test('functions are clients of PgBouncer, as the gateway and as postgres', async () => {
  expect((await chat()).status).toBe(200)
  expect((await addCredential('First')).status).toBe(201)

  const url = new URL(target().superuserUrl ?? '')
  Object.assign(url, { port: String(target().poolerPort), pathname: '/pgbouncer' })
  const console = postgres(url.href, { max: 1, fetch_types: false, onnotice: () => {} })
  const clients = await console.unsafe('show clients').simple()
  await console.end()
  const logins = clients.filter(({ database }) => database === 'postgres').map(({ user }) => user)
  expect(new Set(logins)).toEqual(new Set(['palisade_gateway', 'postgres']))
})

test.each([
  // It waits for a lock a shorter time than for anything else: others are in its statement.
  ['the gateway has the timeouts of its role', 'private.accounts', 'ai_step', chat, 503],
  [
    'a statement of postgres has one of its own',
    'private.secret_transfers',
    'start_secret_transfer',
    () => addCredential('Later'),
    500,
  ],
] as const)('%s', async (_, table, statement, act, status) => {
  const before = await timedOut(statement)

  expect((await whileLocked(table, act)).status).toBe(status)

  expect(await timedOut(statement)).toBe(before + 1)
  expect((await act()).ok).toBe(true)
})

test('no statement misses what another session had prepared', async () => {
  const answers = await Promise.all(Array.from({ length: 30 }, chat))

  expect(answers.filter(({ status }) => ![200, 429].includes(status))).toEqual([])
  expect(answers.some(({ ok }) => ok)).toBe(true)
  // In the stories that ran here before, too.
  expect(await serverLog()).not.toMatch(/prepared statement "[^"]*" (?:does not exist|already exists)/)
})
