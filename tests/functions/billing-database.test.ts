/** The whole way of a purchase with the real SQL and the stand-in for Stripe, in a transaction that is taken back. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { applyEvents } from '../../functions/_shared/billing/apply-events.ts'
import {
  alone,
  createBillingDatabase,
  createDryBillingDatabase,
} from '../../functions/_shared/billing/billing-database.ts'
import { createBillingJobs } from '../../functions/_shared/billing/billing-jobs.ts'
import { handleBillingRequest } from '../../functions/_shared/billing/handle-billing-request.ts'
import { handleWebhookRequest } from '../../functions/_shared/billing/handle-webhook-request.ts'
import { reconcile } from '../../functions/_shared/billing/reconcile.ts'
import { startCheckout } from '../../functions/_shared/billing/start-checkout.ts'
import { createStripe } from '../../functions/_shared/billing/stripe-client.ts'
import { createStripeReader, listings } from '../../functions/_shared/billing/stripe-reader.ts'
import { syncCatalogue } from '../../functions/_shared/billing/sync-catalogue.ts'
import { describeFailure } from '../../functions/_shared/failure.ts'
import { type Account, connect, creditsOf, newAccount, rolledBack, type Tx } from '../sql/support.ts'
import { createWorld, type StripeWorld } from '../support/stripe.ts'
import { failure, list, startStripe } from './billing-stripe.ts'
import { customer, event, makeKey } from './billing-world.ts'

let shop: StripeWorld
beforeEach(async () => {
  shop = await createWorld()
})
afterEach(() => shop.close())

const returns = { success_url: 'http://localhost:3000/yes', cancel_url: 'http://localhost:3000/no' }
const clock = { now: Date.now, log: () => {} }

/** Everything that functions do with one transaction. Events of others wait until it is taken back. */
async function scene(tx: Tx) {
  await tx`update private.stripe_events set next_attempt_at = now() + interval '1 hour' where state = 'waiting'`
  const stripe = createStripe(shop.secretKey, shop.url)
  const reader = createStripeReader(stripe)
  const database = createBillingDatabase(tx, false)
  await syncCatalogue(await database.listItems(), { database, stripe, dryRun: false })
  await shop.told()
  const account = await newAccount(tx)
  return { stripe, reader, database, account }
}
type Scene = Awaited<ReturnType<typeof scene>>

const buy = ({ database, stripe, account }: Scene, plan_price: string | null, credit_pack: string | null) => {
  const request = { aal: 'aal1', ip: null, user_agent: null, request_id: 'r-1' }
  const buyer = { userId: account.id, sessionId: account.sessionId, request }
  return startCheckout(buyer, { plan_price, credit_pack, return_urls: returns }, { database, stripe, livemode: false })
}

/** Delivers what the stand-in has sent, and applies it. */
async function deliver({ database, reader }: Scene) {
  await shop.tell('/settled')
  const world = { database, stripe: { secrets: shop.secrets, livemode: false }, mayRaise: () => true, ...clock }
  const statuses = []
  for (const { body, signature } of shop.hooks.splice(0)) {
    const init = { method: 'POST', body, headers: { 'stripe-signature': signature } }
    const request = new Request('http://127.0.0.1/stripe-webhook', init)
    statuses.push((await handleWebhookRequest(request, { ...world, startApplying: () => {} })).status)
  }
  return { statuses, counts: await applyEvents({ database, reader, livemode: false, ...clock }) }
}
const complete = (url: string) => shop.tell(`/complete/${/cs_[A-Za-z0-9_]+/.exec(url)?.[0]}`)
const paymentsOf = (tx: Tx, { id }: Account) =>
  tx`select kind, status, amount::int, credits::int from public.payments where user_id = ${id} order by kind`

test('what is bought is there, once', () =>
  rolledBack(async (tx) => {
    const world = await scene(tx)
    const before = await creditsOf(tx, world.account.id)
    await complete(await buy(world, null, 'credits_500'))

    const { statuses, counts } = await deliver(world)

    expect(new Set(statuses)).toEqual(new Set([200]))
    expect(counts).toMatchObject({ failed: 0, dead: 0 })
    expect(await paymentsOf(tx, world.account)).toEqual([
      { kind: 'credit_pack', status: 'paid', amount: 500, credits: 500 },
    ])
    expect((await creditsOf(tx, world.account.id)).balance - before.balance).toBe(500)
  }))

test('a plan with a trial entitles, and a second one is refused although nothing was delivered yet', () =>
  rolledBack(async (tx) => {
    const world = await scene(tx)
    const url = await buy(world, 'premium_month', null)
    expect(await buy(world, 'premium_month', null)).toBe(url)
    await complete(url)

    const again = tx.savepoint((inner) =>
      buy({ ...world, database: createBillingDatabase(inner, false) }, 'premium_year', null),
    )
    await expect(again).rejects.toMatchObject({ code: 'already_subscribed' })

    const { counts } = await deliver(world)
    expect(counts).toMatchObject({ failed: 0, dead: 0 })
    const rows = await tx`select plan_id, status from public.subscriptions where user_id = ${world.account.id}`
    expect(rows).toEqual([{ plan_id: 'premium', status: 'trialing' }])
    const [entitled] = await tx`select plan_id, state from private.entitlement(${world.account.id})`
    expect(entitled).toEqual({ plan_id: 'premium', state: 'trialing' })
  }))

/** As if the hour of a checkout had passed since. */
const anHourLater = (tx: Tx, { account }: Scene) =>
  tx`update private.checkouts set expires_at = now() - interval '1 minute' where user_id = ${account.id}`

test.each<[string, (tx: Tx, world: Scene) => Promise<unknown>]>([
  ['whose hour is over', async () => {}],
  [
    'that was given up when Stripe did not answer',
    (tx, { account }) => tx`update private.checkouts set closed_at = now() where user_id = ${account.id}`,
  ],
  ['that nobody knows of here', (tx, { account }) => tx`delete from private.checkouts where user_id = ${account.id}`],
])(
  'a plan that was bought with a checkout %s is found before another is sold, although nothing was delivered',
  (_, change) =>
    rolledBack(async (tx) => {
      const world = await scene(tx)
      await complete(await buy(world, 'premium_month', null))
      await anHourLater(tx, world)
      await change(tx, world)

      const again = tx.savepoint((inner) =>
        buy({ ...world, database: createBillingDatabase(inner, false) }, 'premium_month', null),
      )

      await expect(again).rejects.toMatchObject({ code: 'already_subscribed' })
      expect((await shop.stripe.checkout.sessions.list()).data).toHaveLength(1)
    }),
)

test.each(['the customer', 'the subscription'])(
  'no second trial after %s was deleted, although nothing was delivered',
  (what) =>
    rolledBack(async (tx) => {
      const world = await scene(tx)
      await complete(await buy(world, 'premium_month', null))
      const [first] = (await shop.stripe.subscriptions.list()).data
      if (what === 'the customer') await shop.stripe.customers.del(String(first?.customer))
      else await shop.stripe.subscriptions.cancel(String(first?.id))
      await anHourLater(tx, world)

      await complete(await buy(world, 'premium_month', null))

      const { data } = await shop.stripe.subscriptions.list({ status: 'all' })
      expect(data.map(({ id, trial_end }) => [id === first?.id, trial_end !== null]).sort()).toEqual([
        [false, false],
        [true, true],
      ])
    }),
)

test('a customer that was deleted in Stripe is forgotten, and the next purchase makes another', () =>
  rolledBack(async (tx) => {
    const world = await scene(tx)
    await buy(world, null, 'credits_500')
    const customers = () =>
      tx`select id, deleted_at is null as lives from private.stripe_customers where user_id = ${world.account.id} order by created_at, deleted_at`
    const [first] = await customers()
    await shop.stripe.customers.del(String(first?.id))

    await complete(await buy(world, null, 'credits_500'))

    const { counts } = await deliver(world)
    expect(counts).toMatchObject({ failed: 0, dead: 0 })
    expect((await customers()).map(({ lives }) => lives).sort()).toEqual([false, true])
    expect((await paymentsOf(tx, world.account)).map(({ credits }) => credits)).toEqual([500])
  }))

test('with the key of another account for a while nobody loses what they bought', () =>
  rolledBack(async (tx) => {
    const world = await scene(tx)
    await complete(await buy(world, 'premium_month', null))
    await deliver(world)
    const other = await createWorld()
    const caller = { userId: world.account.id, sessionId: world.account.sessionId, isAnonymous: false } as const
    const request = new Request('http://127.0.0.1/billing/portal', {
      ...{ method: 'POST', headers: { authorization: 'Bearer token' } },
      body: JSON.stringify({ return_url: returns.success_url }),
    })

    const answer = await handleBillingRequest(request, {
      verifyUserToken: async () => ({ kind: 'user', aal: 'aal1', ...caller }),
      ...{ database: world.database, stripe: createStripe(other.secretKey, other.url), livemode: false },
      ...{ returnUrls: ['http://localhost:3000'], newId: () => 'request-1', ...clock },
    })
    await other.close()

    expect([answer.status, await answer.json()]).toMatchObject([503, { error: { code: 'billing_unavailable' } }])

    const [entitled] = await tx`select plan_id, state from private.entitlement(${world.account.id})`
    expect(entitled).toEqual({ plan_id: 'premium', state: 'trialing' })
    expect(await buy(world, null, 'credits_500')).toContain('cs_')
  }))

test('what was never delivered is brought by a comparison, and the next finds nothing', () =>
  rolledBack(async (tx) => {
    const world = await scene(tx)
    await complete(await buy(world, 'premium_month', null))
    await complete(await buy(world, null, 'credits_500'))
    const { stripe, reader } = world
    const compare = () =>
      reconcile({
        ...{
          listings: listings(stripe, undefined),
          reader,
          database: world.database,
          livemode: false,
          since: null,
        },
        ...{ until: 1, now: () => 0, onProgress: () => {} },
      })

    const first = await compare()
    const second = await compare()

    expect(first.repaired.map(({ object }) => object)).toEqual(
      expect.arrayContaining(['subscription', 'checkout_session', 'invoice']),
    )
    expect(second.repaired).toEqual([])
    // Others have objects in this database, which this Stripe has not.
    expect(first.unrepaired.filter(({ why }) => why !== 'resource_missing')).toEqual([])
    expect((await paymentsOf(tx, world.account)).map(({ status }) => status)).toEqual(['paid', 'paid'])
  }))

test.each([
  ['a NUL', String.raw`a\u0000b`, 'a\ufffdb'],
  ['the first half of a pair', String.raw`a\ud83db`, 'a\ufffdb'],
  ['the second half of a pair', String.raw`a\uDE00b`, 'a\ufffdb'],
  ['halves in the wrong order', String.raw`\ude00\ud83d`, '\ufffd\ufffd'],
  ['two first halves before a second', String.raw`\ud83d\ud83d\ude00`, '\ufffd😀'],
  ['a whole pair', String.raw`\ud83d\ude00\n`, '😀\n'],
  ['a backslash before such letters', String.raw`\\u0000 \\\\ud800 \\\u0000`, '\\u0000 \\\\ud800 \\\ufffd'],
])('%s in a name keeps no event out', (_what, written, name) =>
  rolledBack(async (tx) => {
    const { database } = await scene(tx)
    const about = event('customer.updated', customer({ name: 'NAME' }), { id: 'evt_text' })
    const payload = JSON.stringify(about).replace('NAME', () => written)
    const received = { id: 'evt_text', type: 'customer.updated', api_version: null, livemode: false, account: null }

    const isNew = await database.receiveEvent({
      ...received,
      created: 1.7e9,
      object: 'customer',
      object_id: 'cus_1',
      payload,
    })

    expect(isNew).toBe(true)
    const [row] = await tx`
      select payload #>> '{data,object,name}' as name, extract(epoch from created_at)::int as at
      from private.stripe_events where id = 'evt_text'`
    expect(row).toEqual({ name, at: 1.7e9 })
  }),
)

test('an event that the database refuses does not take those down that came together with it', async () => {
  const sql = connect(4)
  const { receiveEvent } = createBillingDatabase(sql, false)
  const run = crypto.randomUUID()
  const received = (n: number, type: string) => {
    const payload = JSON.stringify({ id: `evt_${run}_${n}` })
    const about = { id: `evt_${run}_${n}`, type, api_version: null, livemode: false, account: null, created: 1.7e9 }
    return receiveEvent({ ...about, object: null, object_id: null, payload })
  }

  try {
    const kept = await Promise.allSettled(
      Array.from({ length: 12 }, (_, n) => received(n, n === 8 ? 'x'.repeat(300) : 'customer.updated')),
    )

    const refused = kept.flatMap((one) => (one.status === 'rejected' ? [describeFailure(one.reason)] : []))
    expect(refused).toEqual([expect.stringMatching(/^Postgres: 23514 stripe_events_type_check /)])
    expect(kept.filter((one) => one.status === 'fulfilled' && one.value)).toHaveLength(11)
  } finally {
    await sql`delete from private.stripe_events where id like ${`evt_${run}_%`}`
    await sql.end()
  }
})

test('a security event of a refused delivery is written', () =>
  rolledBack(async (tx) => {
    const { database } = await scene(tx)
    const key = crypto.randomUUID()

    await database.raiseSecurityEvent({
      ...{ type: 'stripe_signature_invalid', severity: 'medium', details: { has_signature: true } },
      ...{ dedupeKey: key, ip: '203.0.113.9' },
    })

    const rows =
      await tx`select type, severity, host(ip) as ip, details from public.security_events where dedupe_key = ${key}`
    expect(rows).toEqual([
      { type: 'stripe_signature_invalid', severity: 'medium', ip: '203.0.113.9', details: { has_signature: true } },
    ])
  }))

describe('the comparison of every night', () => {
  /** What others have in this database, this Stripe has not: nothing is known. */
  const knowingNothing = (tx: Tx) =>
    new Proxy(tx, {
      apply: (query, self, given) =>
        String(given[0]).includes('known_stripe_objects') ? Promise.resolve([]) : Reflect.apply(query, self, given),
    })
  /** With a day of its own, which is the key of its security event. */
  const nightly = async (tx: Tx, secretKey: string, url: string) => {
    const time = Date.now() + 86_400_000 * (1_000 + Math.floor(Math.random() * 100_000))
    const jobs = createBillingJobs({ sql: knowingNothing(tx), secretKey, apiUrl: url, now: () => time, log: () => {} })
    const result = await jobs.reconcile().catch((error: unknown) => ({ error }))
    const key = new Date(time).toISOString().slice(0, 10)
    const raised = await tx`
      select severity, details from public.security_events where type = 'stripe_reconcile_incomplete' and dedupe_key = ${key}`
    return { result, raised: [...raised] }
  }
  const nothing = {
    ...{
      'GET /subscriptions': () => list([]),
      'GET /checkout/sessions': () => list([]),
      'GET /refunds': () => list([]),
    },
    ...{ 'GET /disputes': () => list([]), 'GET /invoices': () => list([]), 'GET /credit_notes': () => list([]) },
  }
  test('that leaves nothing raises no alarm', () =>
    rolledBack(async (tx) => {
      const stripe = await startStripe(nothing)

      const { result, raised } = await nightly(tx, makeKey(), stripe.url)
      stripe.stop()

      expect([result, raised]).toEqual([{ seen: 0, repaired: 0, foreign: 0, is_complete: true, unrepaired: [] }, []])
    }))

  test('that could not see or repair everything raises one, with counts', () =>
    rolledBack(async (tx) => {
      const odd = { id: 're_odd', object: 'refund' }
      const stripe = await startStripe({
        ...nothing,
        'GET /refunds': () => list([odd]),
        'GET /invoices': () => failure(400, { message: 'no' }),
      })

      const { raised } = await nightly(tx, makeKey(), stripe.url)
      stripe.stop()

      expect(raised).toEqual([
        {
          severity: 'medium',
          details: { seen: 1, repaired: 0, foreign: 0, is_complete: false, unrepaired: 3 },
        },
      ])
    }))

  test('that ended with an error raises one that names it', () =>
    rolledBack(async (tx) => {
      const stripe = await startStripe({
        ...nothing,
        'GET /subscriptions': () => failure(401, { message: 'Invalid key' }),
      })

      const { result, raised } = await nightly(tx, makeKey(), stripe.url)
      stripe.stop()

      expect(result).toMatchObject({ error: { type: 'StripeAuthenticationError' } })
      const error = 'Stripe: StripeAuthenticationError 401'
      expect(raised).toEqual([{ severity: 'medium', details: { is_complete: false, error } }])
    }))
})

test('a dry comparison says what would change, and leaves nothing', async () => {
  const sql = connect(2)
  try {
    const id = `cus_${crypto.randomUUID()}`
    const common = { object: 'customer', id, livemode: false, customer_id: id, deleted: false } as const
    const reading = { ...common, user_id: null, read_at: new Date().toISOString() }

    const outcomes = await createDryBillingDatabase(sql, false).applyReadings([reading])

    expect(outcomes).toMatchObject([{ object: 'customer', id }])
    expect(await sql`select 1 from private.stripe_objects where id = ${id}`).toEqual([])
  } finally {
    await sql.end()
  }
})

test('of two that bring the catalogue to Stripe at once, one waits for the other', async () => {
  const sql = connect(4)
  const said: string[] = []
  const run = (name: string, ms: number) =>
    alone(sql, async () => {
      said.push(`${name} begins`)
      await new Promise((done) => setTimeout(done, ms))
      said.push(`${name} ends`)
      return name
    })

  const names = await Promise.all([run('first', 200), run('second', 0)])

  expect(names).toEqual(['first', 'second'])
  expect([said[1], said[3]]).toEqual([said[0], said[2]].map((line) => line?.replace('begins', 'ends')))
  await sql.end()
})

describe('an account that is deleted', () => {
  /** Somebody in a trial; what others have to change at Stripe is none of this one's. */
  async function subscriber(tx: Tx) {
    const world = await scene(tx)
    await tx`update private.stripe_changes set done_at = now()`
    await complete(await buy(world, 'premium_month', null))
    await deliver(world)
    const jobs = createBillingJobs({ sql: tx, secretKey: shop.secretKey, apiUrl: shop.url, ...clock })
    const ofStripe = async () => (await shop.stripe.subscriptions.list({ status: 'all' })).data
    const ending = async () => (await ofStripe()).map((one) => [one.status, one.cancel_at_period_end])
    const setStatus = (status: string) =>
      tx`select private.change_account_status(${world.account.id}, ${status}, 'a test')`
    return { ...world, jobs, ending, setStatus }
  }

  test('pays until the end of the period and no longer; reinstated it goes on as before', () =>
    rolledBack(async (tx) => {
      const { jobs, ending, setStatus } = await subscriber(tx)

      await setStatus('deleted')
      const before = await ending()
      const counts = await jobs.changeStripe()
      const deleted = await ending()
      await setStatus('reinstated')
      await jobs.changeStripe()

      expect(counts).toEqual({ done: 1, waiting: 0, superseded: 0 })
      expect([before, deleted, await ending()]).toEqual([
        [['trialing', false]],
        [['trialing', true]],
        [['trialing', false]],
      ])
    }))

  test('ends at once where the setting says so', () =>
    rolledBack(async (tx) => {
      const { jobs, ending, setStatus } = await subscriber(tx)
      await tx`update private.settings set value = '"now"' where key = 'billing.cancel_on_deletion'`

      await setStatus('deleted')
      await jobs.changeStripe()

      expect(await ending()).toEqual([['canceled', false]])
    }))

  test('of a user who was erased at Auth ends, too; until it does, the night names it', () =>
    rolledBack(async (tx) => {
      const { jobs, ending, account } = await subscriber(tx)
      await tx`delete from auth.users where id = ${account.id}`
      const named = async () => {
        await jobs.reconcile()
        const [one] = (await shop.stripe.subscriptions.list({ status: 'all' })).data
        return tx`
          select severity, details from public.security_events
          where type = 'stripe_subscription_of_nobody' and dedupe_key = ${one?.id ?? ''}`
      }
      const [before] = await named()
      await tx`delete from private.security_events where type = 'stripe_subscription_of_nobody'`

      await jobs.changeStripe()

      const details = { subscription_id: expect.any(String), customer_id: expect.stringContaining('cus_') }
      expect([before, await ending(), [...(await named())]]).toEqual([
        { severity: 'high', details },
        [['trialing', true]],
        [],
      ])
    }))

  test('cannot be subscribed on a page that is still open', () =>
    rolledBack(async (tx) => {
      const world = await subscriber(tx)
      await buy(world, null, 'credits_500')

      await world.setStatus('deleted')
      await world.jobs.changeStripe()

      const pages = (await shop.stripe.checkout.sessions.list({ status: 'open' })).data
      expect(pages).toEqual([])
    }))
})

test('an address that was confirmed anew is the one that Stripe has', () =>
  rolledBack(async (tx) => {
    const world = await scene(tx)
    await tx`update private.stripe_changes set done_at = now()`
    await buy(world, 'premium_month', null)
    const emails = async () => (await shop.stripe.customers.list()).data.map(({ email }) => email)
    const before = await emails()

    await tx`update auth.users set email = 'moved@example.com' where id = ${world.account.id}`
    await createBillingJobs({ sql: tx, secretKey: shop.secretKey, apiUrl: shop.url, ...clock }).changeStripe()

    expect([before, await emails()]).toEqual([[`sql-${world.account.id}@example.com`], ['moved@example.com']])
  }))

test('a refusal of Stripe’s is told once an hour for each code, however many buy', () =>
  rolledBack(async (tx) => {
    const world = await scene(tx)
    const stripe = await startStripe({ 'POST /customers': () => failure(400, { code: 'tax_id_invalid' }) })
    const asked = async () => {
      const request = new Request('http://127.0.0.1/billing/checkout', {
        ...{ method: 'POST', headers: { authorization: 'Bearer token' } },
        body: JSON.stringify({ plan_price: 'premium_month', ...returns }),
      })
      const { id: userId, sessionId } = world.account
      const answer = await handleBillingRequest(request, {
        ...{ database: world.database, stripe: stripe.stripe, livemode: false, returnUrls: ['http://localhost:3000'] },
        verifyUserToken: async () => ({ kind: 'user', userId, sessionId, aal: 'aal1', isAnonymous: false }),
        ...{ ...clock, newId: () => 'request-1' },
      })
      return answer.status
    }
    await tx`delete from private.security_events where type = 'stripe_refuses_checkout'`

    expect([await asked(), await asked()]).toEqual([502, 502])
    stripe.stop()

    expect(new Set(stripe.asked.map(({ key }) => key)).size).toBe(2)
    const told = await tx`
      select occurrences, details ->> 'code' as code from public.security_events where type = 'stripe_refuses_checkout'`
    expect(told).toEqual([{ occurrences: 2, code: 'tax_id_invalid' }])
  }))
