/** Comparing with Stripe: what is missing is repaired, what cannot be is said. The stand-in for Stripe, and readings in memory. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import Stripe from 'stripe'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { BillingDatabase } from '../../functions/_shared/billing/billing-database.ts'
import { reconcileWithStripe } from '../../functions/_shared/billing/billing-jobs.ts'
import { readObjects } from '../../functions/_shared/billing/read-objects.ts'
import { refundReading } from '../../functions/_shared/billing/read-returns.ts'
import type { Reading } from '../../functions/_shared/billing/readings.ts'
import { type ReconcileWorld, reconcile } from '../../functions/_shared/billing/reconcile.ts'
import { createStripe } from '../../functions/_shared/billing/stripe-client.ts'
import { createStripeReader, type Listing, listings } from '../../functions/_shared/billing/stripe-reader.ts'
import { buyPack, createShop, createWorld, day, type StripeWorld, subscribe } from '../support/stripe.ts'
import { failure, list, startStripe } from './billing-stripe.ts'
import { fakeDatabase, invoice, makeKey, refund, subscription, userId } from './billing-world.ts'

let shop: StripeWorld
beforeEach(async () => {
  shop = await createWorld()
})
afterEach(() => shop.close())

const content = ({ read_at: _, ...rest }: Reading) => JSON.stringify(rest)

/** `outcomeOf` says what a reading comes to where it is not what was stored before. */
function scene(changes: Partial<ReconcileWorld> = {}, outcomeOf: (reading: Reading) => string = () => 'changed') {
  const stripe = createStripe(shop.secretKey, shop.url)
  const stored = new Map<string, Reading>()
  const batches: string[][] = []
  const world: ReconcileWorld = {
    ...{ listings: listings(stripe, undefined), reader: createStripeReader(stripe), livemode: false, since: null },
    database: fakeDatabase({
      databaseTime: async () => new Date().toISOString(),
      knownObjects: async (kind) => [...stored.values()].filter(({ object }) => object === kind).map(({ id }) => id),
      applyReadings: async (readings) => {
        batches.push(readings.map(({ id }) => id))
        return readings.map((reading) => {
          const before = stored.get(reading.id)
          const outcome = before && content(before) === content(reading) ? 'same' : outcomeOf(reading)
          stored.set(reading.id, reading)
          return { object: reading.object, id: reading.id, outcome }
        })
      },
    }),
    ...{ until: 1, now: () => 0, onProgress: () => {} },
    ...changes,
  }
  return { world, stripe, stored, batches }
}

const noRefunds: Listing[] = [{ kind: 'refund', page: async () => ({ objects: [], next: undefined }) }]
const empty = ({ kind }: Listing): Listing => ({ kind, page: async () => ({ objects: [], next: undefined }) })

/** A user who subscribed and bought a pack, of which a part was refunded. */
async function sold() {
  const { customer, monthly, pack } = await createShop(shop)
  const { id } = await subscribe(shop, monthly, customer)
  const { session, intent } = await buyPack(shop, pack, customer)
  const refund = await shop.stripe.refunds.create({ payment_intent: intent, amount: 100 })
  return { customer, subscription: id, session, refund: refund.id }
}

describe('a comparison', () => {
  test('brings everything that was missed, and finds nothing the next time', async () => {
    const made = await sold()
    const { world, stored } = scene()

    const first = await reconcile(world)
    const second = await reconcile(world)

    expect(first).toMatchObject({ unrepaired: [], foreign: 0, is_complete: true })
    expect(first.repaired.map(({ object }) => object).sort()).toEqual(
      ['customer', 'subscription', 'checkout_session', 'checkout_session', 'invoice', 'refund'].sort(),
    )
    expect([...stored.keys()]).toEqual(expect.arrayContaining(Object.values(made)))
    expect(second).toMatchObject({ seen: first.seen, repaired: [], unrepaired: [] })
  })

  test('reads the same as an event does', async () => {
    const { subscription, session, refund, customer } = await sold()
    const { world, stored } = scene()
    await reconcile(world)
    const context = { reader: world.reader, readAt: '', livemode: false }
    const read = async (object: string, object_id: string) =>
      await readObjects({ type: `${object}.x`, object, object_id, payload: undefined }, context)

    const readings = [
      ...(await read('subscription', subscription)),
      ...(await read('checkout.session', session)),
      ...(await read('refund', refund)),
      ...(await read('customer', customer)),
    ]

    expect(readings).toHaveLength(5)
    for (const reading of readings) {
      const listed = stored.get(reading.id)
      expect(listed && content(listed)).toBe(content(reading))
    }
  })

  test('asks for lists as whole as single objects, and for open invoices one by one, which a list cannot be asked for', async () => {
    const small = await startStripe({
      'GET /checkout/sessions': () => list([]),
      'GET /invoices': () => list([invoice({ id: 'in_paid' }), invoice({ id: 'in_open', status: 'open' })]),
      'GET /invoices/in_open': () => invoice({ id: 'in_open', status: 'open' }),
    })
    const wanted = ['checkout_session', 'invoice']

    for (const { kind, page } of listings(small.stripe, undefined)) if (wanted.includes(kind)) await page(undefined)
    await createStripeReader(small.stripe).checkoutSession('cs_1')
    small.stop()

    const expanded = small.asked.map(({ what, params }) => [
      what,
      [...params].flatMap(([name, value]) => (name.startsWith('expand') ? value : [])),
    ])
    const session = ['line_items', 'payment_intent', 'payment_intent.latest_charge']
    expect(expanded).toEqual([
      ['GET /checkout/sessions', session.map((name) => `data.${name}`)],
      ['GET /invoices', ['data.payments']],
      ['GET /invoices/in_open', ['payments', 'payments.data.payment.payment_intent']],
      ['GET /checkout/sessions/cs_1', session],
    ])
  })

  test('finds what changed in old objects that still live: the window is for what has ended', async () => {
    const { customer, monthly } = await createShop(shop)
    const { id } = await subscribe(shop, monthly, customer)
    await shop.advance(100 * day)
    const { world, stripe, stored } = scene()
    const since = Math.floor(Date.now() / 1000) + 90 * day
    await reconcile({ ...world, listings: listings(stripe, since) })
    expect(stored.get(id)).toMatchObject({ status: 'active' })

    await shop.stripe.subscriptions.cancel(id)
    const result = await reconcile({ ...world, listings: listings(stripe, since) })

    expect(result.repaired).toContainEqual({ object: 'subscription', id, why: 'changed' })
    expect(stored.get(id)).toMatchObject({ status: 'canceled' })
  })

  test('goes through every page', async () => {
    await Promise.all(Array.from({ length: 205 }, () => shop.stripe.customers.create({})))
    const { world, batches } = scene()

    const { seen } = await reconcile(world)

    expect(seen).toBe(205)
    expect(batches.map((batch) => batch.length)).toEqual([100, 100, 5])
  })

  test('stamps each page with a time before it was read', async () => {
    await Promise.all(Array.from({ length: 101 }, () => shop.stripe.customers.create({})))
    const { world, stored } = scene()
    const times = ['first', 'second', 'rest', 'rest', 'rest', 'rest', 'rest']

    await reconcile({ ...world, database: { ...world.database, databaseTime: async () => times.shift() ?? 'rest' } })

    const stamps = [...stored.values()].map(({ read_at }) => read_at)
    expect([stamps.filter((at) => at === 'first').length, stamps.filter((at) => at === 'second').length]).toEqual([
      100, 1,
    ])
  })

  test('ends when its time is over, and says so', async () => {
    await sold()
    let time = 0
    const { world, stored } = scene({ until: 3, now: () => time++ })

    expect(await reconcile(world)).toMatchObject({ is_complete: false })
    expect(stored.size).toBeGreaterThan(0)
  })
})

describe('what Stripe does not give', () => {
  const failing = (listing: Listing, error: unknown): Listing => ({ ...listing, page: () => Promise.reject(error) })
  const limited = () => new Stripe.errors.StripeRateLimitError({ type: 'rate_limit_error', message: 'slow down' })

  test('a list that fails hides no other, and the comparison is not complete', async () => {
    const made = await sold()
    const { world, stripe, stored } = scene()
    const all = listings(stripe, undefined).map((one) => (one.kind === 'invoice' ? failing(one, limited()) : one))

    const result = await reconcile({ ...world, listings: all })

    expect(result).toMatchObject({
      is_complete: false,
      unrepaired: [{ object: 'invoice', id: '(list)', why: 'Stripe: StripeRateLimitError' }],
    })
    expect([...stored.keys()]).toEqual(expect.arrayContaining(Object.values(made)))
  })

  test('a page in the middle: what came before it is there, and the others are', async () => {
    const { world, stripe, stored } = scene()
    await Promise.all(Array.from({ length: 101 }, () => shop.stripe.customers.create({})))
    const made = await sold()
    const all = listings(stripe, undefined).map((one) => ({
      ...one,
      page: (after: string | undefined) => (after === undefined ? one.page(after) : Promise.reject(limited())),
    }))

    const result = await reconcile({ ...world, listings: all })

    expect(result.unrepaired).toEqual([{ object: 'customer', id: '(list)', why: 'Stripe: StripeRateLimitError' }])
    expect(stored.size).toBe(100 + 5)
    expect(stored.has(made.refund)).toBe(true)
  })

  test('an invoice of a list that cannot be read whole hides no other, and is said once; five are read at once', async () => {
    let [now, most] = [0, 0]
    const open = Array.from({ length: 25 }, (_, n) => invoice({ id: `in_${n}`, status: 'open' }))
    const small = await startStripe({ 'GET /invoices': () => list(open) })
    for (const { id } of open)
      small.answers[`GET /invoices/${id}`] = () =>
        id === 'in_7' ? failure(500, { type: 'api_error' }) : invoice({ id, status: 'open' })
    const retrieve = small.stripe.invoices.retrieve.bind(small.stripe.invoices)
    small.stripe.invoices.retrieve = async (...given: Parameters<typeof retrieve>) => {
      now += 1
      most = Math.max(most, now)
      return await retrieve(...given).finally(() => {
        now -= 1
      })
    }
    const { world, stored } = scene()
    const invoices = listings(small.stripe, 1).filter(({ kind }) => kind === 'invoice')

    const result = await reconcile({ ...world, listings: invoices })
    small.stop()

    expect(result).toMatchObject({ seen: 25, is_complete: true })
    expect(result.unrepaired).toMatchObject([{ object: 'invoice', id: 'in_7', why: 'Stripe: StripeAPIError 500' }])
    expect([stored.size, most]).toEqual([24, 5])
  })

  test('one that we know: the others are compared', async () => {
    await sold()
    const { world } = scene()
    await reconcile(world)
    const reader = { ...world.reader, subscription: () => Promise.reject(limited()) }

    const result = await reconcile({ ...world, reader, listings: world.listings.map(empty) })

    expect(result).toMatchObject({ is_complete: true, seen: 6 })
    expect(result.unrepaired).toMatchObject([{ object: 'subscription', why: 'Stripe: StripeRateLimitError' }])
  })

  test('ten that we know and not one of them: the rest of this kind is left', async () => {
    const { world, stored } = scene({ listings: noRefunds })
    for (let n = 0; n < 35; n += 1)
      stored.set(`re_${n}`, refundReading(refund({ id: `re_${n}` }), { read_at: '', deleted: false }, false))
    let asks = 0
    const refuse = () => {
      asks += 1
      return Promise.reject(limited())
    }

    const result = await reconcile({ ...world, reader: { ...world.reader, refund: refuse } })

    expect([asks, result.unrepaired.length, result.is_complete]).toEqual([10, 10, false])
  })

  test('to a key that it refuses: the comparison ends at once', async () => {
    const { world, stripe } = scene()
    const refused = new Stripe.errors.StripeAuthenticationError({ type: 'invalid_request_error', message: 'no' })
    let asks = 0
    const all = listings(stripe, undefined).map((one) => ({
      ...one,
      page: () => {
        asks += 1
        return Promise.reject(refused)
      },
    }))

    await expect(reconcile({ ...world, listings: all })).rejects.toBe(refused)
    expect(asks).toBe(1)
  })
})

describe('when there is not time for all', () => {
  test('each kind has its share: a list without an end leaves the others theirs', async () => {
    const made = await sold()
    let time = 0
    const { world, stripe, stored } = scene({ until: 100, now: () => time })
    const endless: Listing = {
      kind: 'customer',
      page: async () => {
        time += 1
        return { objects: [], next: 'cus_more' }
      },
    }

    const result = await reconcile({ ...world, listings: [endless, ...listings(stripe, 1)] })

    expect(result.is_complete).toBe(false)
    expect(time).toBeLessThan(20)
    expect(stored.has(made.refund)).toBe(true)
  })

  test('what Stripe did not list begins elsewhere each day', async () => {
    const asked: string[][] = []
    for (const day of [20_000, 20_001, 20_002]) {
      const { world, stored } = scene({ listings: noRefunds })
      for (let n = 0; n < 100; n += 1)
        stored.set(`re_${n}`, refundReading(refund({ id: `re_${n}` }), { read_at: '', deleted: false }, false))
      const ids: string[] = []
      let time = day * 86_400_000
      const find = async (id: string) => {
        time += 1
        ids.push(id)
        return refund({ id })
      }
      const result = await reconcile({
        ...world,
        reader: { ...world.reader, refund: find },
        now: () => time,
        until: time + 5,
      })
      expect(result.is_complete).toBe(false)
      asked.push(ids)
    }

    expect(new Set(asked.map((ids) => ids.length))).toEqual(new Set([10]))
    expect(new Set(asked.flat()).size).toBe(30)
  })
})

describe('what cannot be repaired is said', () => {
  const ours = (more: object = {}) => {
    const reading = {
      object: 'customer',
      id: 'cus_gone',
      read_at: '',
      livemode: false,
      customer_id: 'cus_gone',
    } as const
    return { ...reading, deleted: false, user_id: userId, ...more }
  }

  test('what we have and Stripe has not', async () => {
    const { world, stored } = scene()
    stored.set('cus_gone', ours())

    const { unrepaired } = await reconcile(world)

    expect(unrepaired).toEqual([{ object: 'customer', id: 'cus_gone', why: 'resource_missing' }])
  })

  test('an object that the database refuses hides no other', async () => {
    const made = await sold()
    const { world, stored } = scene()
    const applyReadings: BillingDatabase['applyReadings'] = async (readings) => {
      if (readings.some(({ id }) => id === made.session)) throw new TypeError('refused')
      return world.database.applyReadings(readings)
    }

    const { unrepaired, repaired } = await reconcile({ ...world, database: { ...world.database, applyReadings } })

    expect(unrepaired).toEqual([{ object: 'checkout_session', id: made.session, why: 'TypeError' }])
    expect(repaired).toHaveLength(5)
    expect(stored.has(made.refund)).toBe(true)
  })

  test('an object of a form that is not known', async () => {
    const { world } = scene({
      listings: [{ kind: 'refund', page: async () => ({ objects: [{ id: 're_odd' }], next: undefined }) }],
    })

    const { unrepaired } = await reconcile(world)

    expect(unrepaired).toMatchObject([{ object: 'refund', id: 're_odd', why: expect.stringContaining('amount') }])
  })

  test('a mismatch, and whoever pays and is not known here; other customers of the account are only counted', async () => {
    const { customer, monthly } = await createShop(shop)
    const own = { subscription_data: { metadata: { palisade_user_id: userId } } }
    const { id } = await subscribe(shop, monthly, customer, own)
    const { id: foreign } = await subscribe(shop, monthly, customer)
    const { world } = scene({}, (reading) => (reading.object === 'invoice' ? 'mismatch' : 'unknown_customer'))

    const { unrepaired, foreign: count } = await reconcile(world)

    expect(unrepaired.filter(({ object }) => object === 'subscription')).toEqual([
      { object: 'subscription', id, why: 'unknown_customer', customer_id: customer },
    ])
    expect(unrepaired.filter(({ why }) => why === 'mismatch')).toHaveLength(2)
    expect(foreign).not.toBe(id)
    expect(count).toBe(4)
  })

  test('not who pays no more, because the subscription ends with its period', async () => {
    const { customer, monthly } = await createShop(shop)
    const own = { subscription_data: { metadata: { palisade_user_id: userId } } }
    const { id } = await subscribe(shop, monthly, customer, own)
    const { world } = scene({}, () => 'unknown_customer')
    const before = (await reconcile(world)).unrepaired
    await shop.stripe.subscriptions.update(id, { cancel_at_period_end: true })

    const after = (await reconcile(world)).unrepaired

    expect([before, after].map((left) => left.some((one) => one.id === id))).toEqual([true, false])
  })
})

test('waits when Stripe says that it is asked too often, and goes on where it was', async () => {
  let refusals = 1
  const empty = () => list([])
  const stripe = await startStripe({
    'GET /subscriptions': () =>
      refusals-- > 0 ? failure(429, { type: 'rate_limit_error', message: 'slow down' }) : list([]),
    ...{ 'GET /invoices': empty, 'GET /checkout/sessions': empty, 'GET /refunds': empty, 'GET /disputes': empty },
    'GET /credit_notes': empty,
  })
  const { world } = scene()

  try {
    const result = await reconcileWithStripe({
      ...{ database: world.database, secretKey: makeKey(), apiUrl: stripe.url, days: 35 },
      ...{ until: Date.now() + 30_000, now: Date.now, onProgress: () => {} },
    })

    expect(result).toMatchObject({ seen: 0, unrepaired: [], is_complete: true })
    expect(stripe.asked.filter(({ what }) => what === 'GET /subscriptions').length).toBe(3)
  } finally {
    stripe.stop()
  }
})

describe('ten thousand subscriptions', () => {
  const many = 10_000
  setFlagsFromString('--expose-gc')
  const collect: () => void = runInNewContext('gc')
  /** Some 5 kB each, as Stripe's are. */
  const numbered = (n: number) => subscription({ id: `sub_${n}`, description: `${n} `.repeat(1_000).slice(0, 4_000) })
  const pageAfter = (last: string | null) => {
    const from = last === null ? 0 : Number(last.slice(4)) + 1
    return list(
      Array.from({ length: Math.min(100, many - from) }, (_, n) => numbered(from + n)),
      from + 100 < many,
    )
  }

  /** What a comparison has in memory: how many of the objects that it was given, and bytes, at every thousandth. */
  function watch(listing: Listing | undefined) {
    const given: WeakRef<object>[] = []
    const alive: number[] = []
    const heap: number[] = []
    const page: Listing['page'] = async (after) => {
      const read = (await listing?.page(after)) ?? { objects: [], next: undefined }
      given.push(...read.objects.map((one) => new WeakRef(one)))
      return read
    }
    const applyReadings: BillingDatabase['applyReadings'] = async (readings) => {
      if (given.length % 1_000 === 0) {
        // What was looked at through a weak reference lives until the turn is over.
        await new Promise(setImmediate)
        collect()
        alive.push(given.filter((one) => one.deref() !== undefined).length)
        heap.push(process.memoryUsage().heapUsed)
      }
      return readings.map(({ object, id }) => ({ object, id, outcome: 'same' }))
    }
    return { page, applyReadings, alive, heap }
  }

  test('are compared with a page of them in memory, and progress is told with each', async () => {
    const small = await startStripe({ 'GET /subscriptions': ({ params }) => pageAfter(params.get('starting_after')) })
    const { page, applyReadings, alive, heap } = watch(
      listings(small.stripe, undefined).find(({ kind }) => kind === 'subscription'),
    )
    const progress: number[] = []
    const { world } = scene({ listings: [{ kind: 'subscription', page }], onProgress: (_, n) => progress.push(n) })

    const result = await reconcile({ ...world, database: { ...world.database, applyReadings } })
    small.stop()

    expect([result.seen, result.is_complete, alive.length]).toEqual([many, true, 10])
    expect(Math.max(...alive)).toBeLessThanOrEqual(200)
    expect(Math.max(...heap) - (heap[0] ?? 0)).toBeLessThan(12_000_000)
    expect(progress).toEqual(Array.from({ length: 100 }, (_, n) => (n + 1) * 100))
  })
})
