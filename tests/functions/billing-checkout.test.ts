/** Checkout and portal: the real client, a few answers of Stripe's, and what SQL decides in memory. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type {
  BillingDatabase,
  PreparedCheckout,
  SecurityEvent,
} from '../../functions/_shared/billing/billing-database.ts'
import {
  type BillingWorld,
  handleBillingRequest,
  requireReturnUrl,
} from '../../functions/_shared/billing/handle-billing-request.ts'
import type { Reading } from '../../functions/_shared/billing/readings.ts'
import { apiVersion } from '../../functions/_shared/billing/stripe-client.ts'
import { AppError } from '../../functions/_shared/errors.ts'
import { type Answers, failure, list, missing, startStripe } from './billing-stripe.ts'
import { checkoutId, customer, fakeDatabase, now, session, subscription, userId } from './billing-world.ts'

const sessionId = '0198c2a1-6a54-7d1e-9d6e-2d2a3f5b7c03'
const prepared: PreparedCheckout = {
  ...{ checkout_id: checkoutId, customer_id: 'cus_1', customer_key: 'customer:1', stripe_price_id: 'price_1' },
  ...{ mode: 'subscription', trial_days: 14, url: null, stale_sessions: [], expires_at: 1_800_000_000 },
}
const pay = 'https://checkout.example.com/c/pay/cs_new'
const usual: Answers = {
  'POST /customers': () => ({ id: 'cus_new', object: 'customer' }),
  'POST /customers/cus_new': () => ({ id: 'cus_new', object: 'customer' }),
  'GET /checkout/sessions': () => list([]),
  'POST /checkout/sessions': () => ({ id: 'cs_new', object: 'checkout.session', url: pay }),
  'GET /subscriptions': () => list([]),
  'POST /billing_portal/sessions': () => ({ object: 'billing_portal.session', url: 'https://billing.example.com/p' }),
}
const usualBody = {
  plan_price: 'premium_month',
  success_url: 'http://localhost:3000/paid?id={CHECKOUT_SESSION_ID}',
  cancel_url: 'http://localhost:3000/prices',
}

let stripe: Awaited<ReturnType<typeof startStripe>>
beforeEach(async () => {
  stripe = await startStripe({ ...usual })
})
afterEach(() => stripe.stop())

/** `checkouts` are what SQL decides, one after the other; the last one again and again. */
function createWorld(checkouts: PreparedCheckout[] = [prepared], changes: Partial<BillingDatabase> = {}) {
  const seen = {
    wanted: [] as unknown[],
    linked: [] as string[],
    noted: [] as string[],
    failed: [] as string[],
    readings: [] as Reading[],
    events: [] as SecurityEvent[],
  }
  const lines: unknown[] = []
  const left = [...checkouts]
  const database = fakeDatabase({
    prepareCheckout: async (_buyer, wanted) => {
      seen.wanted.push(wanted)
      const next = left.length > 1 ? left.shift() : left[0]
      if (!next) throw new AppError('already_subscribed')
      return next
    },
    preparePortal: async () => 'cus_1',
    linkCustomer: async (_user, id) => {
      seen.linked.push(id)
      return id
    },
    noteCheckout: async (_checkout, id) => {
      seen.noted.push(id)
      return true
    },
    failCheckout: async (checkout) => void seen.failed.push(checkout),
    emailOf: async () => 'someone@example.com',
    raiseSecurityEvent: async (event) => void seen.events.push(event),
    databaseTime: async () => '2026-11-20T00:00:00Z',
    applyReadings: async (readings) => {
      const isKnown = (id: string) => seen.readings.some((reading) => reading.id === id)
      const outcomes = readings.map(({ object, id }) => ({ object, id, outcome: isKnown(id) ? 'same' : 'changed' }))
      seen.readings.push(...readings)
      return outcomes
    },
    ...changes,
  })
  const world: BillingWorld = {
    verifyUserToken: async () => ({ kind: 'user', userId, sessionId, aal: 'aal1', isAnonymous: false }),
    ...{ database, stripe: stripe.stripe, livemode: false, returnUrls: ['http://localhost:3000'], now: () => now },
    newId: () => 'request-1',
    log: (line) => void lines.push(line),
  }
  return { world, seen, lines }
}

async function ask(world: BillingWorld, body: object = usualBody, path = 'checkout', init: RequestInit = {}) {
  const headers = { authorization: 'Bearer token' }
  const request = new Request(`http://127.0.0.1/billing/${path}`, {
    ...{ method: 'POST', headers, body: JSON.stringify(body) },
    ...init,
  })
  const response = await handleBillingRequest(request, world)
  return { status: response.status, headers: response.headers, body: await response.json().catch(() => null) }
}
const asked = () => stripe.asked.map(({ what }) => what)
const param = (what: string, name: string) => stripe.asked.find((one) => one.what === what)?.params.get(name)

describe('refused', () => {
  test.each([
    ['a price of Stripe', { price: 'price_cheap' }, 'price', 'is not a field here.'],
    ['a customer', { customer: 'cus_other' }, 'customer', 'is not a field here.'],
    ['a trial', { trial_days: 999 }, 'trial_days', 'is not a field here.'],
    ['a quantity', { quantity: 0 }, 'quantity', 'is not a field here.'],
    ['a pack besides a plan', { credit_pack: 'credits_1000' }, 'plan_price', 'give either plan_price or credit_pack.'],
    ['neither plan nor pack', { plan_price: undefined }, 'plan_price', 'give either plan_price or credit_pack.'],
    ["an id of Stripe's in the place of ours", { plan_price: 'price_1ABC' }, 'plan_price', 'is missing or not valid.'],
    ['an address elsewhere', { success_url: 'https://evil.example.com/' }, 'success_url', ''],
    ['an address elsewhere to go back to', { cancel_url: 'javascript:alert(1)' }, 'cancel_url', ''],
  ])('%s from the caller', async (_name, more, field, why) => {
    const { world } = createWorld()

    const answer = await ask(world, { ...usualBody, ...more })

    const error = { code: 'invalid_request_error', param: field, message: expect.stringContaining(`${field}: ${why}`) }
    expect(answer).toMatchObject({ status: 400, body: { error } })
    expect(stripe.asked).toEqual([])
  })

  test('API keys and nobody, other paths and methods, and everything where Stripe is not set up', async () => {
    const { world } = createWorld()
    const status = async (init: RequestInit, path = 'checkout') => (await ask(world, usualBody, path, init)).status

    expect(await status({ headers: {} })).toBe(401)
    expect(await status({ headers: { authorization: 'Bearer pal_live_x' } })).toBe(401)
    expect(await status({}, 'refund')).toBe(404)
    expect(await status({ method: 'PUT' })).toBe(405)
    expect(await ask({ ...world, stripe: undefined })).toMatchObject({
      status: 503,
      body: { error: { code: 'billing_not_configured' } },
    })
    expect(stripe.asked).toEqual([])
  })

  test('what SQL refuses, with its words, and Stripe is asked nothing', async () => {
    const refuse = async () =>
      Promise.reject(new AppError('already_subscribed', { message: 'Change it in the portal.' }))
    const { world } = createWorld([prepared], { prepareCheckout: refuse })

    expect(await ask(world)).toMatchObject({
      status: 409,
      body: { error: { code: 'already_subscribed', message: 'Change it in the portal.' } },
    })
    expect(stripe.asked).toEqual([])
  })
})

describe('a checkout', () => {
  test('of a plan is made with what SQL decides, and belongs to the user', async () => {
    const { world, seen } = createWorld()

    expect(await ask(world)).toMatchObject({ status: 200, body: { url: pay } })

    const made = stripe.asked.find(({ what }) => what === 'POST /checkout/sessions')
    expect(Object.fromEntries(made?.params ?? [])).toEqual({
      ...{ mode: 'subscription', customer: 'cus_1', client_reference_id: userId, expires_at: '1800000000' },
      ...{ 'metadata[palisade_user_id]': userId, 'metadata[palisade_checkout_id]': checkoutId },
      ...{ 'line_items[0][price]': 'price_1', 'line_items[0][quantity]': '1' },
      ...{ success_url: usualBody.success_url, cancel_url: usualBody.cancel_url },
      'subscription_data[metadata][palisade_user_id]': userId,
      'subscription_data[metadata][palisade_checkout_id]': checkoutId,
      'subscription_data[trial_period_days]': '14',
    })
    expect([made?.key, made?.version]).toEqual([`checkout:${checkoutId}:cus_1`, apiVersion])
    expect(seen.noted).toEqual(['cs_new'])
    expect(seen.wanted).toMatchObject([{ plan_price: 'premium_month', credit_pack: null }])
  })

  test('without a trial has none, and one of a pack is a payment', async () => {
    const { world } = createWorld([{ ...prepared, mode: 'payment', trial_days: 0 }])

    await ask(world, { ...usualBody, plan_price: undefined, credit_pack: 'credits_1000' })

    expect(param('POST /checkout/sessions', 'mode')).toBe('payment')
    expect(param('POST /checkout/sessions', 'payment_intent_data[metadata][palisade_user_id]')).toBe(userId)
    expect(stripe.asked.at(-1)?.params.toString()).not.toContain('subscription_data')
  })

  test('that is open already is shown again, and Stripe is asked nothing', async () => {
    const { world } = createWorld([{ ...prepared, url: 'https://checkout.example.com/old' }])

    expect((await ask(world)).body).toEqual({ url: 'https://checkout.example.com/old' })
    expect(stripe.asked).toEqual([])
  })

  test('makes a customer that is known by our metadata, once', async () => {
    const { world, seen } = createWorld([{ ...prepared, customer_id: null }])

    await ask(world)

    const [created, updated] = stripe.asked
    expect([created?.what, created?.key]).toEqual(['POST /customers', 'customer:1'])
    // Always the same, so that the key gives the same customer however often it is asked.
    expect(created?.params.toString()).toBe(`metadata%5Bpalisade_user_id%5D=${userId}`)
    expect(updated?.params.get('email')).toBe('someone@example.com')
    expect(seen.linked).toEqual(['cus_new'])
  })

  test('of somebody whose address Stripe refuses goes on without it; another error does not lose the customer', async () => {
    stripe.answers['POST /customers/cus_new'] = () => failure(400, { code: 'email_invalid', param: 'email' })
    const { world, seen } = createWorld([{ ...prepared, customer_id: null }])

    expect(await ask(world)).toMatchObject({ status: 200, body: { url: pay } })
    stripe.answers['POST /customers/cus_new'] = () => failure(500, { type: 'api_error' })
    expect((await ask(world)).status).toBe(503)

    expect(seen.linked).toEqual(['cus_new', 'cus_new'])
  })

  test('uses the customer that was linked first when two were made', async () => {
    const { world } = createWorld([{ ...prepared, customer_id: null }], { linkCustomer: async () => 'cus_first' })

    await ask(world)

    expect(param('POST /checkout/sessions', 'customer')).toBe('cus_first')
  })
})

describe('what changed meanwhile', () => {
  test('a customer that was deleted in Stripe is forgotten, and another is made', async () => {
    stripe.answers['POST /checkout/sessions'] = ({ params }) =>
      params.get('customer') === 'cus_1' ? missing('customer') : { id: 'cs_new', object: 'checkout.session', url: pay }
    stripe.answers['GET /customers/cus_1'] = () => ({ id: 'cus_1', object: 'customer', deleted: true })
    const { world, seen } = createWorld([prepared, { ...prepared, customer_id: null }])

    expect((await ask(world)).body).toEqual({ url: pay })

    expect(seen.readings).toMatchObject([{ object: 'customer', id: 'cus_1', deleted: true }])
    expect(seen.linked).toEqual(['cus_new'])
  })

  // The key may be of another account of the same mode: what was bought with the right one goes on there.
  test.each(['checkout', 'portal'])(
    'a customer whom Stripe does not know is kept, refused and logged: %s',
    async (path) => {
      stripe.answers['POST /checkout/sessions'] = () => missing('customer')
      stripe.answers['POST /billing_portal/sessions'] = () => missing('customer')
      const { world, seen, lines } = createWorld()

      const body = path === 'portal' ? { return_url: 'http://localhost:3000/account' } : usualBody
      const answer = await ask(world, body, path)

      expect(answer).toMatchObject({ status: 503, body: { error: { code: 'billing_unavailable' } } })
      expect(asked()).toContain('GET /customers/cus_1')
      expect(seen).toMatchObject({ readings: [], linked: [] })
      expect(JSON.stringify(lines)).toContain('resource_missing')
    },
  )

  test('a customer who lives is kept, whatever a session said of it', async () => {
    stripe.answers['POST /checkout/sessions'] = () => missing('customer')
    stripe.answers['GET /customers/cus_1'] = () => customer({ id: 'cus_1' })
    const { world, seen } = createWorld()

    expect((await ask(world)).status).toBe(503)
    expect(seen.readings).toEqual([])
  })

  test('sessions that were given up are expired before another begins, also those only Stripe knows of', async () => {
    stripe.answers['GET /checkout/sessions'] = () =>
      list([
        session({ id: 'cs_open', mode: 'subscription', metadata: { palisade_checkout_id: 'an earlier one' } }),
        // Made a moment ago for this very checkout, by who asked at the same time.
        session({ id: 'cs_own', mode: 'subscription' }),
        session({ id: 'cs_pack', mode: 'payment', metadata: {} }),
      ])
    for (const id of ['cs_stale', 'cs_open'])
      stripe.answers[`POST /checkout/sessions/${id}/expire`] = () => session({ id })
    const { world } = createWorld([{ ...prepared, stale_sessions: ['cs_stale'] }])

    await ask(world)

    expect(asked()).toEqual([
      'GET /checkout/sessions',
      'POST /checkout/sessions/cs_stale/expire',
      'POST /checkout/sessions/cs_open/expire',
      'GET /subscriptions',
      'POST /checkout/sessions',
    ])
  })

  test('a session that was given up is found behind a page of others', async () => {
    const hidden = session({ id: 'cs_hidden', mode: 'subscription', metadata: {} })
    stripe.answers['GET /checkout/sessions'] = ({ params }) =>
      params.get('starting_after') === 'cs_pack'
        ? list([hidden])
        : list([session({ id: 'cs_pack', mode: 'payment', metadata: {} })], true)
    stripe.answers['POST /checkout/sessions/cs_hidden/expire'] = () => session({ id: 'cs_hidden' })
    const { world } = createWorld()

    expect((await ask(world)).status).toBe(200)

    expect(asked()).toContain('POST /checkout/sessions/cs_hidden/expire')
  })

  test('a session that was completed a moment ago counts, although its event is not here yet', async () => {
    const done = session({ id: 'cs_stale', mode: 'subscription', subscription: 'sub_1', payment_intent: null })
    stripe.answers['POST /checkout/sessions/cs_stale/expire'] = () => failure(400, { message: 'Only open ones.' })
    stripe.answers['GET /checkout/sessions/cs_stale'] = () => done
    stripe.answers['GET /subscriptions/sub_1'] = () => subscription()
    let asks = 0
    const prepareCheckout = async () => {
      asks += 1
      if (asks > 1) throw new AppError('already_subscribed')
      return { ...prepared, stale_sessions: ['cs_stale'] }
    }
    const { world, seen } = createWorld([prepared], { prepareCheckout })

    expect((await ask(world)).status).toBe(409)

    expect(seen.readings.map(({ id }) => id)).toEqual(['cs_stale', 'sub_1'])
    expect(asked()).not.toContain('POST /checkout/sessions')
  })

  test('a subscription that only Stripe knows of is applied, and the checkout decided anew', async () => {
    stripe.answers['GET /subscriptions'] = () => list([subscription({ id: 'sub_by_hand', status: 'canceled' })])
    const { world, seen } = createWorld([prepared, { ...prepared, trial_days: 0 }])

    expect((await ask(world)).body).toEqual({ url: pay })

    expect(seen.readings).toMatchObject([{ id: 'sub_by_hand' }, { id: 'sub_by_hand' }])
    const made = stripe.asked.filter(({ what }) => what === 'POST /checkout/sessions')
    expect(made.map(({ params }) => params.get('subscription_data[trial_period_days]'))).toEqual([null])
    expect([param('GET /subscriptions', 'customer'), param('GET /subscriptions', 'status')]).toEqual(['cus_1', 'all'])
  })

  test('of a pack nothing is asked but the session itself', async () => {
    const { world } = createWorld([{ ...prepared, mode: 'payment', trial_days: 0 }])

    await ask(world, { ...usualBody, plan_price: undefined, credit_pack: 'credits_1000' })

    expect(asked()).toEqual(['POST /checkout/sessions'])
  })

  test('a session that Stripe neither expires nor has completed yet keeps another from beginning', async () => {
    stripe.answers['POST /checkout/sessions/cs_stale/expire'] = () => failure(400, { message: 'It is being paid.' })
    stripe.answers['GET /checkout/sessions/cs_stale'] = () => session({ id: 'cs_stale', status: 'open' })
    const { world } = createWorld([{ ...prepared, stale_sessions: ['cs_stale'] }])

    expect(await ask(world)).toMatchObject({ status: 503, body: { error: { code: 'billing_unavailable' } } })
    expect(asked()).not.toContain('POST /checkout/sessions')
  })

  test('a session that had expired by itself or is gone is in nobody’s way', async () => {
    stripe.answers['POST /checkout/sessions/cs_stale/expire'] = () => failure(400, { message: 'Only open ones.' })
    stripe.answers['GET /checkout/sessions/cs_stale'] = () => session({ id: 'cs_stale', status: 'expired' })
    const { world, seen } = createWorld([{ ...prepared, stale_sessions: ['cs_stale', 'cs_gone'] }])

    expect((await ask(world)).body).toEqual({ url: pay })
    expect(seen.readings).toEqual([])
  })

  test('a checkout that was given up while its session was made is not shown: the session is expired', async () => {
    stripe.answers['POST /checkout/sessions/cs_new/expire'] = () => session({ id: 'cs_new' })
    const { world } = createWorld([prepared], { noteCheckout: async () => false })

    expect(await ask(world)).toMatchObject({ status: 503, body: { error: { code: 'billing_unavailable' } } })
    expect(asked().filter((what) => what.endsWith('/cs_new/expire'))).toHaveLength(3)
  })
})

describe("Stripe's errors", () => {
  test.each([
    [500, 'api_error', 503, 'billing_unavailable'],
    [429, 'rate_limit_error', 503, 'billing_unavailable'],
    [400, 'invalid_request_error', 502, 'billing_refused'],
    [401, 'authentication_error', 502, 'billing_refused'],
    [403, 'invalid_request_error', 502, 'billing_refused'],
  ])('%i %s: the caller gets %i, and the log no words of it', async (status, type, answered, code) => {
    stripe.answers['POST /checkout/sessions'] = () => ({ status, error: { type, message: 'someone@example.com' } })
    const { world, lines, seen } = createWorld()

    expect(await ask(world)).toMatchObject({ status: answered, body: { error: { code } } })

    // Stripe would answer the same to the same key for a day.
    expect(seen.failed).toEqual([checkoutId])
    expect(JSON.stringify(lines)).toContain('Stripe: Stripe')
    expect(JSON.stringify([lines, seen.events])).not.toContain('someone@')
    expect(seen.events).toHaveLength(code === 'billing_refused' ? 1 : 0)
  })

  test('about how something is set up are told to operators by code, of checkout and portal; no client tries again', async () => {
    const refused = (code: string, param: string) => () => failure(400, { code, param, message: 'no' })
    stripe.answers['POST /checkout/sessions'] = refused('resource_missing', 'line_items[0][price]')
    stripe.answers['POST /billing_portal/sessions'] = refused('portal_not_set_up', 'configuration')
    const { world, seen } = createWorld()

    const { headers } = await ask(world)
    await ask(world, { return_url: 'http://localhost:3000/account' }, 'portal')

    const details = { code: 'resource_missing', param: 'line_items[0][price]', status: 400 }
    expect(seen.events).toMatchObject([
      { type: 'stripe_refuses_checkout', severity: 'high', dedupeKey: 'resource_missing', details },
      { type: 'stripe_refuses_portal', severity: 'high', dedupeKey: 'portal_not_set_up' },
    ])
    expect(headers.get('x-should-retry')).toBe('false')
  })
})

describe('a try after which nothing is known', () => {
  test('keeps its key, so that the next finds what was made', async () => {
    stripe.answers['POST /checkout/sessions'] = () => failure(409, { type: 'idempotency_error', message: 'in use' })
    const { world, seen } = createWorld()

    expect((await ask(world)).status).toBeGreaterThanOrEqual(500)
    await stripe.stop()
    expect((await ask(world)).status).toBe(503)

    expect(seen.failed).toEqual([])
  })
})

describe('the portal', () => {
  const body = { return_url: 'http://localhost:3000/account' }

  test("is the caller's own", async () => {
    const { world } = createWorld()

    expect((await ask(world, body, 'portal')).body).toEqual({ url: 'https://billing.example.com/p' })
    expect(param('POST /billing_portal/sessions', 'customer')).toBe('cus_1')
    expect(param('POST /billing_portal/sessions', 'return_url')).toBe(body.return_url)
  })

  test('takes neither a customer nor an address elsewhere from the caller', async () => {
    const { world } = createWorld()

    expect((await ask(world, { ...body, customer: 'cus_2' }, 'portal')).status).toBe(400)
    expect((await ask(world, { return_url: 'https://evil.example.com' }, 'portal')).status).toBe(400)
    expect(stripe.asked).toEqual([])
  })

  test('of a customer that was deleted says that there is nothing to manage', async () => {
    stripe.answers['POST /billing_portal/sessions'] = () => missing('customer')
    stripe.answers['GET /customers/cus_1'] = () => ({ id: 'cus_1', object: 'customer', deleted: true })
    let asks = 0
    const preparePortal = async () => {
      asks += 1
      if (asks > 1) throw new AppError('not_found')
      return 'cus_1'
    }
    const { world, seen } = createWorld([prepared], { preparePortal })

    expect((await ask(world, body, 'portal')).status).toBe(404)
    expect(seen.readings).toMatchObject([{ id: 'cus_1', deleted: true }])
  })
})

describe('where callers may be sent', () => {
  const allowed = ['https://app.example.com/app', 'http://localhost:3000']

  test.each([
    'https://app.example.com/app',
    'https://app.example.com/app/paid?x=1#y',
    'http://localhost:3000/anything',
    'https://APP.example.com:443/app/',
  ])('to %s', (url) => {
    expect(() => requireReturnUrl(url, allowed, 'success_url')).not.toThrow()
  })

  test.each([
    'https://app.example.com/apparel',
    'https://app.example.com/app/../admin',
    'https://app.example.com/app/%2e%2e/admin',
    'https://app.example.com.evil.example/app',
    'https://app.example.com@evil.example/app',
    'https://user@app.example.com/app',
    'http://app.example.com/app',
    'https://app.example.com:8443/app',
    'http://localhost:3001/',
    '//localhost:3000/',
    'https:\\\\evil.example\\app',
    'data:text/html,x',
    'null',
    '',
  ])('not to %s', (url) => {
    expect(() => requireReturnUrl(url, allowed, 'success_url')).toThrow('success_url')
  })

  test('not to what is too long once it is written as Stripe gets it', () => {
    const given = `http://localhost:3000/${'\u00e4'.repeat(1_000)}`

    expect(() => requireReturnUrl(given, allowed, 'success_url')).toThrow('longer than 2000')
  })

  test("Stripe's placeholder stays one, in the query and in the path", () => {
    const url = 'http://localhost:3000/paid/{CHECKOUT_SESSION_ID}?id={CHECKOUT_SESSION_ID}'

    expect(requireReturnUrl(url, allowed, 'success_url')).toBe(url)
  })
})

test('a browser may ask', async () => {
  const { world } = createWorld()
  const preflight = await ask(world, {}, 'checkout', { method: 'OPTIONS', body: null })
  const answer = await ask(world)

  expect(preflight.headers.get('access-control-allow-methods')).toBe('POST, OPTIONS')
  expect(answer.headers.get('access-control-allow-origin')).toBe('*')
  expect([answer.headers.get('cache-control'), answer.headers.get('x-request-id')]).toEqual(['no-store', 'request-1'])
})
