/** No statement of the gateway reads a table from end to end: what is fast with ten users is as fast with a million. */
import type postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Explained, explaining } from '../../scripts/shared/explain-plans.ts'
import { target } from '../target.ts'
import { abandon, admit, baseModel, free, settle, type Wish } from './ai-support.ts'
import { type Account, connect, newAccount } from './support.ts'

// Only a superuser of the database can ask PostgreSQL for the plans inside functions.
const superuserUrl = target().superuserUrl ?? ''

const sql = connect()
const made: { account?: Account } = {}
beforeAll(async () => {
  made.account = await newAccount(sql, { credits: 10_000 })
})
afterAll(() => sql.end())

/** A meter, a key or a plan has a handful of rows by its nature: an index would read them all, too. */
const areFew = ['meters', 'session_limits']

const readWhole = (plans: Explained[]) => [
  ...new Set(
    plans.flatMap(({ scans }) => scans.flatMap(({ relation, node }) => (node === 'Seq Scan' ? [relation] : []))),
  ),
]

async function plansOf(act: (sql: postgres.Sql, account: Account) => Promise<unknown>): Promise<Explained[]> {
  const { account } = made
  if (!account) throw new Error('no account')
  return explaining(superuserUrl, async (connection, take) => {
    await act(connection, account)
    return take()
  })
}

const plain: Wish = { model: baseModel }
const withKey: Wish = { model: baseModel, idempotency_key: 'plans', body_hash: 'a'.repeat(64) }

test.runIf(target().superuserUrl).each<[string, (sql: postgres.Sql, account: Account) => Promise<unknown>]>([
  ['an admission and a settlement', async (c, a) => settle(c, (await admit(c, a, plain)).call_id)],
  ['a failed call', async (c, a) => settle(c, (await admit(c, a, plain)).call_id, free)],
  ['a refused call', (c, a) => admit(c, a, { model: 'no/model' })],
  [
    'a call with an idempotency key',
    async (c, a) => settle(c, (await admit(c, a, withKey)).call_id, { response: '{}' }),
  ],
  ['its replay', (c, a) => admit(c, a, withKey)],
  ['an unknown API key', (c, a) => admit(c, a, { model: baseModel, api_key_hash: 'ab'.repeat(32) })],
  [
    'the first byte of a stream, and the sweeper',
    async (c, a) => {
      const { call_id } = await admit(c, a, plain)
      await c`select private.start_ai_calls(array[${call_id}::uuid])`
      await abandon(sql, call_id)
      await c`select private.settle_abandoned_ai_calls()`
    },
  ],
])('%s', async (_name, act) => {
  const plans = await plansOf(act)

  expect(plans.length).toBeGreaterThan(3)
  expect(readWhole(plans).filter((relation) => !areFew.includes(relation))).toEqual([])
})

test.runIf(target().superuserUrl)('a table without an index is noticed', async () => {
  const plans = await plansOf((c) => c`select count(*) from private.ai_holds where micros < 0`)

  expect(readWhole(plans)).toEqual(['ai_holds'])
})
