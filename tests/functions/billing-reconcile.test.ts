/** Comparing with Stripe: what is missing is repaired, what cannot be is said. The stand-in for Stripe, and readings in memory. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { listings } from '../../functions/_shared/billing/list-objects.ts'
import { readObjects } from '../../functions/_shared/billing/read-objects.ts'
import type { Reading } from '../../functions/_shared/billing/reading.ts'
import { type ReconcileWorld, reconcile } from '../../functions/_shared/billing/reconcile.ts'
import { createStripe } from '../../functions/_shared/billing/stripe-client.ts'
import { createStripeReader } from '../../functions/_shared/billing/stripe-reader.ts'
import { buyPack, createShop, createWorld, day, type StripeWorld, subscribe } from '../support/stripe.ts'
import { list, startStripe } from './billing-stripe.ts'
import { invoice, userId } from './billing-world.ts'

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
    store: {
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
    },
    ...{ until: 1, now: () => 0, onProgress: () => {} },
    ...changes,
  }
  return { world, stripe, stored, batches }
}

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

    await reconcile({ ...world, store: { ...world.store, databaseTime: async () => times.shift() ?? 'rest' } })

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
    const applyReadings: ReconcileWorld['store']['applyReadings'] = async (readings) => {
      if (readings.some(({ id }) => id === made.session)) throw new TypeError('refused')
      return world.store.applyReadings(readings)
    }

    const { unrepaired, repaired } = await reconcile({ ...world, store: { ...world.store, applyReadings } })

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
      { object: 'subscription', id, why: 'unknown_customer' },
    ])
    expect(unrepaired.filter(({ why }) => why === 'mismatch')).toHaveLength(2)
    expect(foreign).not.toBe(id)
    expect(count).toBe(4)
  })
})
