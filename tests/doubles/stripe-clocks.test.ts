/** Test clocks by Stripe's own API in the stand-in, and the cards that its customers have as objects. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import { createShop, createWorld, day, type StripeWorld, subscribe } from '../support/stripe.ts'

let world: StripeWorld
let shop: Awaited<ReturnType<typeof createShop>>
const frozen_time = Date.parse('2027-01-31T12:00:00Z') / 1000
beforeEach(async () => {
  world = await createWorld({ startsAt: '2027-04-01T00:00:00Z' })
  shop = await createShop(world)
})
afterEach(() => world.close())

const clocks = () => world.stripe.testHelpers.testClocks
const method = async (token = 'tok_visa') =>
  (await world.stripe.paymentMethods.create({ type: 'card', card: { token } })).id
const customerOf = async (test_clock: string) => {
  const payment_method = await method()
  const { id } = await world.stripe.customers.create({ test_clock, payment_method })
  await world.stripe.customers.update(id, { invoice_settings: { default_payment_method: payment_method } })
  return id
}

test('the time of a test clock stands still but for being moved, and what falls due on the way happens', async () => {
  const clock = await clocks().create({ frozen_time, name: 'Winter' })
  const customer = await customerOf(clock.id)
  const begun = await world.stripe.subscriptions.create({ customer, items: [{ price: shop.monthly }] })
  await world.advance(90 * day)
  const still = await world.stripe.invoices.list({ customer })

  const advancing = await clocks().advance(clock.id, { frozen_time: frozen_time + 40 * day })
  const ready = await clocks().retrieve(clock.id)
  const moved = await world.stripe.invoices.list({ customer })

  expect([begun.start_date, begun.test_clock, still.data.length]).toEqual([frozen_time, clock.id, 1])
  expect([advancing.status, ready.status, ready.frozen_time]).toEqual(['advancing', 'ready', frozen_time + 40 * day])
  expect(moved.data.map(({ status, created }) => [status, new Date(created * 1000).toISOString()])).toEqual([
    ['paid', '2027-02-28T12:00:00.000Z'],
    ['paid', '2027-01-31T12:00:00.000Z'],
  ])
})

test('a test clock goes forward, not too far, and has few customers', async () => {
  const clock = await clocks().create({ frozen_time })
  const advance = (by: number) => clocks().advance(clock.id, { frozen_time: frozen_time + by })
  const customer = await customerOf(clock.id)
  await world.stripe.subscriptions.create({ customer, items: [{ price: shop.monthly }] })
  await customerOf(clock.id)
  await customerOf(clock.id)

  await expect(advance(-1)).rejects.toMatchObject({ statusCode: 400, param: 'frozen_time' })
  await expect(advance(70 * day)).rejects.toMatchObject({ param: 'frozen_time' })
  await expect(customerOf(clock.id)).rejects.toMatchObject({ param: 'test_clock' })
  await expect(world.tell('/advance', { seconds: 1, customer })).rejects.toThrow('test clock')
  expect((await world.stripe.customers.list({ test_clock: clock.id })).data).toHaveLength(3)
  expect((await world.stripe.customers.list()).data.map(({ id }) => id)).toEqual([shop.customer])
})

test('a test clock that is deleted takes its customers with it', async () => {
  const clock = await clocks().create({ frozen_time })
  const customer = await customerOf(clock.id)
  const { id } = await world.stripe.subscriptions.create({ customer, items: [{ price: shop.monthly }] })
  await world.told()

  await clocks().del(clock.id)

  expect(await world.stripe.customers.retrieve(customer)).toMatchObject({ deleted: true })
  expect((await world.stripe.subscriptions.retrieve(id)).status).toBe('canceled')
  expect(await world.told()).toEqual(expect.arrayContaining(['customer.deleted', 'test_helpers.test_clock.deleted']))
  await expect(clocks().retrieve(clock.id)).rejects.toMatchObject({ statusCode: 404 })
})

test('a card is attached, chosen, paid with, and taken off', async () => {
  const { stripe } = world
  const { customer } = shop
  const [good, bad] = [await method(), await method('tok_chargeCustomerFail')]
  await stripe.paymentMethods.attach(good, { customer })
  await stripe.paymentMethods.attach(bad, { customer })
  await stripe.customers.update(customer, { invoice_settings: { default_payment_method: good } })
  const create = (given: object) =>
    stripe.subscriptions.create({ customer, items: [{ price: shop.monthly }], ...given })

  const [paid, unpaid] = [await create({}), await create({ default_payment_method: bad })]
  await stripe.paymentMethods.detach(good)
  const none = await create({})

  expect([paid.status, unpaid.status, none.status]).toEqual(['active', 'incomplete', 'incomplete'])
  const [, , charge] = (await stripe.charges.list({ customer, expand: ['data.payment_method'] })).data
  expect(charge).toMatchObject({ paid: true, payment_method: { id: good } })
  expect((await stripe.customers.listPaymentMethods(customer)).data.map(({ id }) => id)).toEqual([bad])
  await expect(stripe.paymentMethods.attach('pm_none', { customer })).rejects.toMatchObject({
    code: 'resource_missing',
  })
})

test('a setup intent keeps a card, is declined, or asks its owner', async () => {
  const { stripe } = world
  const { customer } = shop
  const setUp = (payment_method: string) => stripe.setupIntents.create({ customer, payment_method, confirm: true })

  const done = await setUp('pm_card_visa')
  const asked = await setUp('pm_card_authenticationRequired')
  await expect(setUp('pm_card_chargeDeclined')).rejects.toMatchObject({ statusCode: 402, code: 'card_declined' })

  expect([done.status, asked.status, asked.next_action?.type]).toEqual([
    'succeeded',
    'requires_action',
    'use_stripe_sdk',
  ])
  expect((await stripe.paymentMethods.list({ customer })).data.map(({ id }) => id)).toEqual([done.payment_method])
  await expect(stripe.setupIntents.cancel(done.id)).rejects.toMatchObject({ code: 'setup_intent_unexpected_state' })
  expect(await world.told()).toEqual(expect.arrayContaining(['setup_intent.succeeded', 'setup_intent.setup_failed']))
})

test('a first payment may wait for its customer, and is made with the secret of its invoice', async () => {
  await subscribe(world, shop.pack, shop.customer, { mode: 'payment' })

  const made = await world.stripe.subscriptions.create({
    customer: shop.customer,
    items: [{ price: shop.monthly }],
    payment_behavior: 'default_incomplete',
    expand: ['latest_invoice.confirmation_secret', 'pending_setup_intent'],
  })

  expect(made).toMatchObject({ status: 'incomplete', pending_setup_intent: null })
  expect(made.latest_invoice).toMatchObject({
    status: 'open',
    attempt_count: 0,
    confirmation_secret: { type: 'payment_intent', client_secret: expect.stringMatching(/^pi_/) },
  })
})
