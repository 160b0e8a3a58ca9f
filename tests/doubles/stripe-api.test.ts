/** The stand-in for Stripe answers the official client as Stripe does: keys, errors, lists, expansion and repetition. */
import Stripe from 'stripe'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { z } from 'zod'
import { createShop, createWorld, day, returns, type StripeWorld, subscribe } from '../support/stripe.ts'

let world: StripeWorld
beforeEach(async () => {
  world = await createWorld()
})
afterEach(() => world.close())

const failure = (work: Promise<unknown>) =>
  work.then(
    () => undefined,
    (error: unknown) => (error instanceof Stripe.errors.StripeError ? error : undefined),
  )
const told = async (work: Promise<unknown>) => {
  const error = await failure(work)
  return error && `${error.statusCode} ${error.type} ${error.code ?? '-'} ${error.param ?? '-'}`
}

test('a wrong key and none are refused', async () => {
  const wrong = await told(world.client(['sk', 'test', 'x'.repeat(20)].join('_')).customers.list())
  const none = await fetch(`${world.url}/v1/customers`)

  expect(wrong).toBe('401 StripeAuthenticationError - -')
  expect(none.status).toBe(401)
})

test('what is not there, not allowed or not known is refused by its name', async () => {
  const { stripe } = world
  const { customer, monthly, pack } = await createShop(world)
  const line_items = [{ price: monthly, quantity: 1 }]
  const session = (given: object) =>
    told(stripe.checkout.sessions.create({ mode: 'payment', line_items, ...returns, ...given }))

  expect(await told(stripe.customers.retrieve('cus_none'))).toBe('404 StripeInvalidRequestError resource_missing id')
  expect(await session({})).toBe('400 StripeInvalidRequestError - line_items')
  expect(await session({ mode: 'subscription', customer: 'cus_none' })).toBe(
    '404 StripeInvalidRequestError resource_missing customer',
  )
  expect(await session({ mode: 'subscription', customer, expires_at: 1 })).toBe(
    '400 StripeInvalidRequestError - expires_at',
  )
  expect(await session({ line_items: [{ price: pack, quantity: 1 }], nonsense: 1 })).toBe(
    '400 StripeInvalidRequestError parameter_unknown nonsense',
  )
  expect(await session({ line_items: [{ price: pack }], success_url: undefined })).toBe(
    '400 StripeInvalidRequestError parameter_missing success_url',
  )
  expect(await session({ line_items: [{ price: pack }], success_url: 'javascript:alert(1)' })).toBe(
    '400 StripeInvalidRequestError - success_url',
  )
})

test('the same idempotency key gets the same answer, and is refused for another request', async () => {
  const { stripe } = world
  const first = await stripe.customers.create({ email: 'a@example.com' }, { idempotencyKey: 'k1' })

  const again = await stripe.customers.create({ email: 'a@example.com' }, { idempotencyKey: 'k1' })
  const other = await told(stripe.customers.create({ email: 'b@example.com' }, { idempotencyKey: 'k1' }))

  expect(again).toEqual(first)
  expect(again.lastResponse.headers['idempotent-replayed']).toBe('true')
  expect(other).toMatch(/^400 StripeIdempotencyError/)
  expect((await stripe.customers.list()).data).toHaveLength(1)
})

test('a second request under a key whose first one still runs gets 409', async () => {
  await world.tell('/slow', { ms: 150 })
  const send = () => told(world.stripe.customers.create({}, { idempotencyKey: 'k2' }))

  const both = await Promise.all([send(), send()])

  expect(both.filter((answer) => answer === undefined)).toHaveLength(1)
  expect(both.filter((answer) => answer?.startsWith('409'))).toHaveLength(1)
})

test('calls fail when they are told to, before the work or after it; the client tries again', async () => {
  const [hasty, patient] = [world.stripe, world.client(world.secretKey, 2)]
  await world.tell('/fail', { next: 1, status: 429, path_prefix: '/v1/customers' })
  const limited = await told(hasty.customers.create({}))
  await world.tell('/fail', { next: 1, status: 500, after: true })

  const lost = await told(hasty.customers.create({}, { idempotencyKey: 'lost' }))
  const made = await patient.customers.create({}, { idempotencyKey: 'lost' })
  await world.tell('/fail', { next: 2, status: 503, path_prefix: '/v1/customers' })

  expect(limited).toMatch(/^429 StripeRateLimitError/)
  expect(lost).toMatch(/^500 StripeAPIError/)
  expect(made.lastResponse.headers['idempotent-replayed']).toBe('true')
  expect((await patient.customers.list()).data.map(({ id }) => id)).toEqual([made.id])
})

test('what began to run keeps its answer under the key, refusals too; what did not begin keeps none', async () => {
  const { stripe } = world
  const { product } = await createShop(world)
  const make = (id: string, key: string) =>
    failure(stripe.products.create({ id, name: 'Gold' }, { idempotencyKey: key }))
  const price = (unit_amount: number) =>
    told(stripe.prices.create({ product: 'gold', currency: 'usd', unit_amount }, { idempotencyKey: 'price' }))

  const [malformed, missing] = [await price(-1), await price(1)]
  const [taken, again] = [await make(product, 'taken'), await make(product, 'taken')]
  expect(await make('gold', 'gold')).toBeUndefined()

  expect([malformed, missing]).toEqual([
    '400 StripeInvalidRequestError - unit_amount',
    '404 StripeInvalidRequestError resource_missing product',
  ])
  // There is one now, and Stripe repeats what it said.
  expect(await price(1)).toBe(missing)
  expect([taken?.code, again?.code]).toEqual(['resource_already_exists', 'resource_already_exists'])
  expect([taken, again].map((error) => error?.headers?.['idempotent-replayed'])).toEqual([undefined, 'true'])
})

test('a failure may be the result that is kept; an account that is emptied forgets all keys', async () => {
  const { stripe } = world
  const create = () => told(stripe.customers.create({}, { idempotencyKey: 'k3' }))
  await world.tell('/fail', { status: 500, saved: true })
  const failed = [await create(), await create()]
  await world.tell('/fail', { status: 500, saved: true, after: true })
  const done = await told(stripe.customers.create({}, { idempotencyKey: 'k4' }))

  expect([...failed, done]).toEqual(Array(3).fill('500 StripeAPIError - -'))
  expect((await stripe.customers.list()).data).toHaveLength(1)
  await expect(world.tell('/fail', { status: 429, saved: true })).rejects.toThrow('429')
  await world.control('', {}, z.undefined(), 'DELETE')
  expect(await create()).toBeUndefined()
})

test('lists come in pages, newest first, and by their filters', async () => {
  const { stripe } = world
  const shop = await createShop(world)
  for (let i = 0; i < 25; i += 1) await stripe.customers.create({ name: `Customer ${i}` })
  await subscribe(world, shop.monthly, shop.customer)

  const all = await stripe.customers.list({ limit: 10 }).autoPagingToArray({ limit: 100 })
  const one = await stripe.customers.list({ limit: 2, starting_after: all[3]?.id ?? '' })
  const before = await stripe.customers.list({ limit: 2, ending_before: all[3]?.id ?? '' })
  const later = await stripe.customers.list({ created: { gt: Math.floor(Date.now() / 1000) + 60 } })
  const of = await stripe.subscriptions.list({ customer: shop.customer, status: 'all' })
  const none = await stripe.invoices.list({ customer: shop.customer, status: 'open' })

  expect([all.length, all[0]?.name, all[25]?.email]).toEqual([26, 'Customer 24', 'ada@example.com'])
  expect([one.data[0]?.id, one.has_more]).toEqual([all[4]?.id, true])
  expect(before.data.map(({ id }) => id)).toEqual([all[1]?.id, all[2]?.id])
  expect([later.data.length, of.data.length, none.data.length]).toEqual([0, 1, 0])
})

test('what is expanded stands in the place of its id, and lists that are hidden appear', async () => {
  const { stripe } = world
  const shop = await createShop(world)
  const { session } = await subscribe(world, shop.monthly, shop.customer)

  const shown = await stripe.checkout.sessions.retrieve(session.id, {
    expand: ['line_items', 'invoice.payments', 'customer'],
  })
  const [invoice] = (await stripe.invoices.list({ expand: ['data.payments'] })).data
  const payment = await stripe.invoicePayments.retrieve(invoice?.payments?.data[0]?.id ?? '', {
    expand: ['payment.payment_intent.latest_charge'],
  })

  expect(shown.line_items?.data[0]?.price?.id).toBe(shop.monthly)
  expect(shown.customer).toMatchObject({ email: 'ada@example.com' })
  expect(shown.invoice).toMatchObject({ id: invoice?.id, payments: { data: [{ id: payment.id }] } })
  expect(payment.payment.payment_intent).toMatchObject({
    status: 'succeeded',
    latest_charge: { object: 'charge', amount: 2000 },
  })
  expect(session.customer).toBe(shop.customer)
})

test('nonsense cannot be expanded, nor anything deeper than four levels', async () => {
  const { stripe } = world
  const shop = await createShop(world)
  const { id } = await subscribe(world, shop.monthly, shop.customer)
  const expand = (path: string) => told(stripe.subscriptions.list({ expand: [path] }))

  expect(await told(stripe.subscriptions.retrieve(id, { expand: ['items.data.price.product'] }))).toBeUndefined()
  expect(await expand('data.nothing')).toBe('400 StripeInvalidRequestError - expand')
  expect(await expand('data.items.data.price.product')).toBe(
    '400 StripeInvalidRequestError property_expansion_max_depth expand',
  )
})

test('objects have the shape of the pinned version', async () => {
  const shop = await createShop(world)
  const { id } = await subscribe(world, shop.monthly, shop.customer, { subscription_data: { metadata: { a: '1' } } })

  const subscription = await world.stripe.subscriptions.retrieve(id)
  const [invoice] = (await world.stripe.invoices.list({ subscription: id })).data
  const [item] = subscription.items.data
  const [line] = invoice?.lines.data ?? []

  expect('current_period_end' in subscription).toBe(false)
  expect((item?.current_period_end ?? 0) - (item?.current_period_start ?? 0)).toBeGreaterThanOrEqual(28 * day)
  expect(invoice?.parent?.subscription_details).toEqual({ metadata: { a: '1' }, subscription: id })
  expect(line?.pricing?.price_details?.price).toBe(shop.monthly)
  expect(line?.parent?.subscription_item_details?.proration).toBe(false)
  expect(item?.price.unit_amount_decimal?.toString()).toBe('2000')
})

test('a customer who is deleted says only that, and their subscriptions are over', async () => {
  const { stripe } = world
  const shop = await createShop(world)
  const { id } = await subscribe(world, shop.monthly, shop.customer)

  await stripe.customers.del(shop.customer)

  expect(await stripe.customers.retrieve(shop.customer)).toMatchObject({ id: shop.customer, deleted: true })
  expect((await stripe.subscriptions.retrieve(id)).status).toBe('canceled')
  expect(await told(stripe.customers.update(shop.customer, { name: 'x' }))).toMatch(/^404/)
  expect(await told(stripe.billingPortal.sessions.create({ customer: shop.customer }))).toMatch(/^404/)
})

test('prices have lookup keys that move when asked, and an archived price sells nothing', async () => {
  const { stripe } = world
  const { product } = await createShop(world)
  const price = (given: object = {}) =>
    stripe.prices.create({ product, currency: 'usd', unit_amount: 5, lookup_key: 'pack', ...given })
  const first = await price()

  const taken = await told(price())
  const second = await price({ transfer_lookup_key: true })
  await stripe.prices.update(first.id, { active: false })
  const sold = await told(
    stripe.checkout.sessions.create({ mode: 'payment', line_items: [{ price: first.id, quantity: 1 }], ...returns }),
  )

  expect(taken).toBe('400 StripeInvalidRequestError - lookup_key')
  expect((await stripe.prices.list({ lookup_keys: ['pack'] })).data.map(({ id }) => id)).toEqual([second.id])
  expect(sold).toMatch(/^400/)
})

test('an empty value takes metadata away, and others stay', async () => {
  const { stripe } = world
  const { id } = await stripe.customers.create({ metadata: { a: '1', b: '2' } })

  const changed = await stripe.customers.update(id, { metadata: { a: '', c: '3' } })

  expect(changed.metadata).toEqual({ b: '2', c: '3' })
})
