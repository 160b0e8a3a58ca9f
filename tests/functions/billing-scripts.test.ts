/** The commands as an operator runs them: what they print, and how they end. Dry runs only: the database is everybody's. */
import postgres from 'postgres'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { runScript } from '../support/run-script.ts'
import { createWorld, type StripeWorld } from '../support/stripe.ts'
import { target } from '../target.ts'
import { list, startStripe } from './billing-stripe.ts'
import { makeKey, subscription } from './billing-world.ts'

let shop: StripeWorld
beforeEach(async () => {
  shop = await createWorld()
})
afterEach(() => shop.close())

const run = async (name: string, args: string[], changes: Record<string, string> = {}) => {
  const stripe = { STRIPE_SECRET_KEY: shop.secretKey, STRIPE_API_URL: shop.url }
  const env = { PATH: process.env.PATH, DB_URL: target().dbUrl, ...stripe, NO_COLOR: '1', ...changes }
  const { code, stdout, stderr } = await runScript(name, args, env)
  return { code, out: stdout, err: stderr }
}

test('stripe:sync shows what it would do, and does not do it', async () => {
  const { code, out } = await run('stripe-sync', ['--dry-run'])

  expect(code).toBe(0)
  expect(out).toMatch(/^what +costs +would be/)
  expect(out).toMatch(/^premium_month +12\.00 USD a month +created$/m)
  expect(out).toMatch(/^credits_500 +5\.00 USD +created$/m)
  expect((await shop.stripe.products.list()).data).toEqual([])
})

test('stripe:sync writes amounts with the digits that Stripe gives their currency', async () => {
  const sql = postgres(target().dbUrl, { max: 1 })
  const ids = ['isk', 'jpy', 'kwd', 'all'].map((currency) => `sync_${currency}`)
  await sql`
    insert into public.credit_packs (id, name, credits, amount, currency)
    select id, id, 1, 5000, split_part(id, '_', 2) from unnest(${ids}::text[]) id`
  try {
    const { out } = await run('stripe-sync', ['--dry-run'])

    const costs = ids.map((id) => out.match(new RegExp(`^${id} +(\\S+ \\S+)`, 'm'))?.[1])
    expect(costs).toEqual(['50 ISK', '5000 JPY', '5.000 KWD', '50.00 ALL'])
  } finally {
    await sql`delete from public.credit_packs where id = any (${ids}::text[])`
    await sql.end()
  }
})

test('stripe:reconcile counts what it compares, and names what is left', async () => {
  await shop.stripe.customers.create({})

  const { code, out, err } = await run('stripe-reconcile', ['--dry-run', '--all'])

  // Others may have objects in this database, which this Stripe has not: each is a line of its own.
  const left = out.match(/NOT repaired +resource_missing$/gm)?.length ?? 0
  expect(out).toMatch(new RegExp(`^\\d+ compared, \\d+ would be repaired, ${left} left`, 'm'))
  expect(code).toBe(left > 0 ? 1 : 0)
  expect(err).toContain('1 compared, customers')
})

test('stripe:reconcile tells of ten thousand subscriptions as it goes, and not of each page', async () => {
  const many = 10_000
  const page = (after: string | null) => {
    const from = after === null ? 0 : Number(after.slice(4)) + 1
    const one = (n: number) => subscription({ id: `sub_${from + n}`, customer: `cus_${from + n}`, metadata: {} })
    return list(
      Array.from({ length: 100 }, (_, n) => one(n)),
      from + 100 < many,
    )
  }
  const kinds = ['customers', 'checkout/sessions', 'invoices', 'refunds', 'disputes', 'credit_notes']
  const small = await startStripe({
    ...Object.fromEntries(kinds.map((kind) => [`GET /${kind}`, () => list([])])),
    'GET /subscriptions': ({ params }) => page(params.get('starting_after')),
  })

  const { out, err } = await run('stripe-reconcile', ['--dry-run', '--all'], { STRIPE_API_URL: small.url })
  small.stop()

  const told = [...err.matchAll(/^… (\d+) compared, subscriptions$/gm)].map(([, seen]) => Number(seen))
  expect(out).toContain(`${many} of customers that are not ours`)
  expect(told[0]).toBe(100)
  expect(told).toEqual(told.toSorted((a, b) => a - b))
  expect(told.length).toBeLessThan(many / 100)
})

const password = 'topsecretpw'
const database = (host: string) => ({ DB_URL: `postgresql://postgres:${password}@${host}/postgres` })
const isDown = 'The database cannot be reached (ECONNREFUSED).'

test.each([
  ['stripe-reconcile', ['--days', '0'], {}, '--days is a number'],
  ['stripe-reconcile', ['--days', '5', '--all'], {}, 'Either --days or --all'],
  ['stripe-reconcile', ['--nonsense'], {}, "Unknown option '--nonsense'. See --help."],
  ['stripe-reconcile', [], database('127.0.0.1:1'), isDown],
  ['stripe-reconcile', [], { STRIPE_API_URL: 'http://127.0.0.1:1' }, 'StripeConnectionError'],
  ['stripe-sync', ['--days'], {}, "Unknown option '--days'. See --help."],
  ['stripe-sync', [], database('host:99999'), 'DB_URL is not a postgres URL.'],
  ['stripe-sync', [], { DB_URL: 'garbage' }, 'DB_URL is not a postgres URL.'],
  ['stripe-sync', [], database('127.0.0.1:1'), isDown],
  ['stripe-sync', [], { STRIPE_API_URL: 'garbage' }, 'STRIPE_API_URL is not an http URL.'],
  ['stripe-sync', [], { STRIPE_SECRET_KEY: '' }, 'STRIPE_SECRET_KEY must be set'],
  ['stripe-sync', ['--dry-run'], { STRIPE_SECRET_KEY: makeKey() }, 'StripeAuthenticationError'],
])('%s %j %o ends with 2 and says why in one line', async (name, args, changes, why) => {
  const { code, err } = await run(name, args, changes)

  expect(code).toBe(2)
  expect(err).toContain(why)
  expect(err).toMatch(/^palisade: .+\n$/)
  expect(err).not.toContain(password)
  for (const secret of Object.values(changes)) expect(secret === '' || !err.includes(secret)).toBe(true)
})

test('keys:rotate, too, never shows the password of its database', async () => {
  const { code, err } = await run('keys-rotate', [], database('host:99999'))

  expect([code, err]).toEqual([1, expect.stringMatching(/^palisade: DB_URL is not a postgres URL\. .+\n$/)])
  expect(err).not.toContain(password)
})
