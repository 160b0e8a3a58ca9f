/** No statement of the gateway reads a table from end to end: what is fast with ten users is as fast with a million. */
import type postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createLedger, type Ledger } from '../../functions/_shared/ai/ledger.ts'
import { type Explained, explaining } from '../../scripts/shared/explain-plans.ts'
import { target } from '../target.ts'
import { abandon, baseModel, free, outcomeOf, requestOf, type Wish } from './ai-support.ts'
import { type Account, connect, newAccount } from './support.ts'

// Only a superuser of the database can ask PostgreSQL for the plans inside functions.
const superuserUrl = target().superuserUrl ?? ''

const sql = connect()
const made: { account?: Account } = {}
beforeAll(async () => {
  made.account = await newAccount(sql, { credits: 10_000 })
})
afterAll(() => sql.end())

/** One row by its nature: an index would read it, too. */
const isOne = ['ai_config', 'session_limits']
/** What is configured, of which there are some dozens of rows, and what is asked for once a version. */
const isConfiguration = ['models', 'model_prices', 'providers', 'plan_models', 'model_fallbacks', 'circuit_breakers']
const areSnapshots = [...isOne, ...isConfiguration, 'limit_sets', 'price_refs', 'settings']

const readWhole = (plans: Explained[], allowed: string[] = isOne) =>
  [
    ...new Set(
      plans.flatMap(({ scans }) => scans.flatMap(({ relation, node }) => (node === 'Seq Scan' ? [relation] : []))),
    ),
  ].filter((relation) => !allowed.includes(relation))

type Act = (world: { sql: postgres.Sql; ledger: Ledger; account: Account }) => Promise<unknown>

/** As the gateway's login: what is planned depends on the settings of its role. */
async function plansOf(act: Act): Promise<Explained[]> {
  const { account } = made
  if (!account) throw new Error('no account')
  return explaining(superuserUrl, async (connection, take) => {
    await connection`
      select set_config(split_part(s.one, '=', 1), substr(s.one, strpos(s.one, '=') + 1), false)
      from pg_db_role_setting r cross join lateral unnest(r.setconfig) s (one)
      where r.setrole = 'palisade_gateway'::regrole and r.setdatabase = 0`
    const ledger = createLedger(connection)
    // The first call loads the snapshot, which the hot statements of the others do not.
    await ledger.admit(requestOf(account, { model: 'no/model' }))
    take()
    await act({ sql: connection, ledger, account })
    return take()
  })
}

const plain: Wish = { model: baseModel }
const withKey: Wish = { model: baseModel, idempotency_key: 'plans', body_hash: 'a'.repeat(64) }

async function open(ledger: Ledger, account: Account, wish: Wish) {
  const admission = await ledger.admit(requestOf(account, wish))
  if (!admission.admitted) throw new Error(admission.code)
  return admission
}

test.runIf(target().superuserUrl).each<[string, Act, allowed?: string[]]>([
  [
    'an admission and a settlement',
    async ({ ledger, account }) => ledger.settle(await open(ledger, account, plain), outcomeOf({})),
  ],
  ['a failed call', async ({ ledger, account }) => ledger.settle(await open(ledger, account, plain), outcomeOf(free))],
  ['a refused call', ({ ledger, account }) => ledger.admit(requestOf(account, { model: 'no/model' }))],
  [
    'a call with an idempotency key',
    async ({ ledger, account }) => ledger.settle(await open(ledger, account, withKey), outcomeOf({ response: '{}' })),
  ],
  ['its replay', ({ ledger, account }) => ledger.admit(requestOf(account, withKey))],
  [
    'an unknown API key',
    ({ ledger, account }) => ledger.admit(requestOf(account, { model: baseModel, api_key_hash: 'ab'.repeat(32) })),
  ],
  [
    'the first byte of a stream',
    async ({ ledger, account }) => ledger.start([(await open(ledger, account, plain)).call_id]),
  ],
  [
    // Holds are calls that run: few, and without a second index, which every call would keep.
    'the sweeper, but for the holds',
    async ({ sql: connection, ledger, account }) => {
      await abandon(sql, (await open(ledger, account, plain)).call_id)
      await connection`select private.settle_abandoned_ai_calls()`
    },
    [...isOne, 'ai_holds'],
  ],
  [
    'the snapshot, but for the configuration',
    ({ sql: connection }) => connection`select private.ai_snapshot()`,
    areSnapshots,
  ],
])('%s', async (_name, act, allowed) => {
  const plans = await plansOf(act)

  expect(plans.length).toBeGreaterThan(3)
  expect(readWhole(plans, allowed)).toEqual([])
})

test.runIf(target().superuserUrl)('a table without an index is noticed', async () => {
  const plans = await plansOf(({ sql: c }) => c`select count(*) from private.ai_holds where micros < 0`)

  expect(readWhole(plans)).toEqual(['ai_holds'])
})
