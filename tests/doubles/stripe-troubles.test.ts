/** What goes wrong between a shop and its customers in the stand-in: drafts that cannot be finalised, changes that nobody pays, debits. */
import type Stripe from 'stripe'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { checkout, createShop, createWorld, day, type StripeWorld, subscribe } from '../support/stripe.ts'

let world: StripeWorld
let shop: Awaited<ReturnType<typeof createShop>>
let id: string
let item: string
beforeEach(async () => {
  world = await createWorld({ startsAt: '2027-04-01T00:00:00Z' })
  shop = await createShop(world)
  id = (await subscribe(world, shop.monthly, shop.customer)).id
  item = (await read()).items.data[0]?.id ?? ''
  await world.told()
})
afterEach(() => world.close())

const read = () => world.stripe.subscriptions.retrieve(id)
const invoices = async () => (await world.stripe.invoices.list({ subscription: id })).data
const card = (outcome: string) => world.tell(`/customers/${shop.customer}/card`, { outcome })
const upgrade = (payment_behavior: Stripe.SubscriptionUpdateParams.PaymentBehavior, more: object = {}) =>
  world.stripe.subscriptions.update(id, {
    items: [{ id: item, price: shop.dearer }],
    proration_behavior: 'always_invoice',
    payment_behavior,
    ...more,
  })

test('a renewal that cannot be finalised stays a draft, says why, and goes on when that is mended', async () => {
  await world.tell('/finalization', { next: 1 })

  await world.advance(31 * day)
  const [draft] = await invoices()
  const told = await world.told()
  const mended = await world.stripe.invoices.finalizeInvoice(draft?.id ?? '')

  expect(draft).toMatchObject({ status: 'draft', last_finalization_error: { code: 'customer_tax_location_invalid' } })
  expect(told).toContain('invoice.finalization_failed')
  expect(told).not.toContain('invoice.finalized')
  expect([(await read()).status, mended.status, mended.last_finalization_error]).toEqual(['active', 'open', null])
})

test('who finalises by hand is told, and what would begin with such an invoice does not begin', async () => {
  const other = await world.stripe.customers.create({})
  const draft = await world.stripe.invoices.create({ customer: other.id })
  await world.tell('/finalization', { next: 2, customer: other.id, code: 'tax_id_invalid', message: 'No.' })

  await expect(world.stripe.invoices.finalizeInvoice(draft.id)).rejects.toMatchObject({ code: 'tax_id_invalid' })
  const begun = world.stripe.subscriptions.create({ customer: other.id, items: [{ price: shop.monthly }] })
  await expect(begun).rejects.toMatchObject({ code: 'tax_id_invalid' })
  expect((await world.stripe.subscriptions.list({ customer: other.id })).data).toEqual([])
  expect((await world.stripe.invoices.retrieve(draft.id)).status).toBe('draft')
})

test('a change that is allowed to be unpaid is made, and the subscription is past due', async () => {
  await card('declined')

  const changed = await upgrade('allow_incomplete')
  const [invoice, first] = await invoices()

  expect([changed.status, changed.items.data[0]?.price.id]).toEqual(['past_due', shop.dearer])
  expect([invoice?.status, invoice?.billing_reason, first?.status]).toEqual(['open', 'subscription_update', 'paid'])
  expect(invoice?.next_payment_attempt).toEqual(expect.any(Number))
})

test('a seat that is declined leaves the period that was paid, and the subscription past due', async () => {
  await card('declined')

  await upgrade('allow_incomplete', { items: [{ id: item, quantity: 2 }] })
  const [invoice, first] = await invoices()

  expect([(await read()).status, invoice?.status, first?.status]).toEqual(['past_due', 'open', 'paid'])
  expect(first?.lines.data[0]?.period.end).toBe((await read()).items.data[0]?.current_period_end)
})

test('a change that must be paid is refused whole', async () => {
  await card('declined')
  const before = await read()

  await expect(upgrade('error_if_incomplete')).rejects.toMatchObject({ statusCode: 402, code: 'card_declined' })

  expect(await read()).toEqual(before)
  expect(await invoices()).toHaveLength(1)
  expect(await world.told()).toEqual([])
})

test('a change may wait until it is paid', async () => {
  await card('declined')
  const waiting = await upgrade('pending_if_incomplete')
  const [invoice] = await invoices()
  await card('ok')
  await world.told()

  await world.stripe.invoices.pay(invoice?.id ?? '')

  expect(waiting).toMatchObject({
    status: 'active',
    pending_update: { subscription_items: [{ price: { id: shop.dearer } }] },
  })
  expect([waiting.items.data[0]?.price.id, invoice?.status]).toEqual([shop.monthly, 'open'])
  expect(await read()).toMatchObject({
    pending_update: null,
    items: { data: [{ id: item, price: { id: shop.dearer } }] },
  })
  expect(await world.told()).toContain('customer.subscription.pending_update_applied')
})

test('a change that waited for a day is forgotten, and its invoice is void', async () => {
  await card('declined')
  await upgrade('pending_if_incomplete')

  await world.advance(day)

  expect(await read()).toMatchObject({
    status: 'active',
    pending_update: null,
    items: { data: [{ price: { id: shop.monthly } }] },
  })
  expect((await invoices()).map(({ status }) => status)).toEqual(['void', 'paid'])
  expect(await world.told()).toContain('customer.subscription.pending_update_expired')
  await expect(upgrade('pending_if_incomplete', { metadata: { a: '1' } })).rejects.toMatchObject({ param: 'metadata' })
})

test('a bank debit is on its way for days: the subscription runs meanwhile, and is past due when it fails', async () => {
  const other = await world.stripe.customers.create({})
  const session = await checkout(world, shop.monthly, { customer: other.id })
  await world.tell(`/complete/${session.id}`, { card: 'bank_debit' })
  const [first] = (await world.stripe.invoices.list({ customer: other.id, expand: ['data.payments'] })).data
  const status = async () =>
    (await world.stripe.subscriptions.list({ customer: other.id, status: 'all' })).data[0]?.status
  const before = await status()

  await world.tell(`/async/${first?.id}`, { outcome: 'failed' })
  const failed = await world.stripe.invoices.retrieve(first?.id ?? '')
  await world.tell('/advance', { to: failed.next_payment_attempt ?? 0 })
  const [charge] = (await world.stripe.charges.list({ customer: other.id })).data
  const between = await status()
  await world.tell(`/async/${first?.id}`, { outcome: 'succeeded' })

  expect([before, first?.status, first?.payments?.data[0]?.status]).toEqual(['active', 'open', 'open'])
  expect([between, failed.attempt_count, charge?.status]).toEqual(['past_due', 1, 'pending'])
  expect([await status(), (await world.stripe.invoices.retrieve(first?.id ?? '')).status]).toEqual(['active', 'paid'])
})

test.each([
  ['void', 'void'],
  ['mark_uncollectible', 'uncollectible'],
  ['keep_as_draft', 'draft'],
] as const)('collection that is paused by %s leaves every invoice %s until it goes on', async (behavior, status) => {
  const resumes_at = (await world.now()) + 40 * day
  const paused = await world.stripe.subscriptions.update(id, { pause_collection: { behavior, resumes_at } })

  await world.advance(31 * day)
  const [renewal] = await invoices()
  await upgrade('allow_incomplete')
  const [change] = await invoices()
  await world.advance(31 * day)

  expect([paused.status, paused.pause_collection]).toEqual(['active', { behavior, resumes_at }])
  expect([renewal?.status, change?.status, change?.billing_reason]).toEqual([status, status, 'subscription_update'])
  expect(await read()).toMatchObject({ status: 'active', pause_collection: null })
  expect((await invoices())[0]).toMatchObject({ status: 'paid', billing_reason: 'subscription_cycle' })
})
