/** Older and rarer ways of money in the stand-in: payments by a charge alone, other currencies, quotes and thresholds. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import { buyPack, createShop, createWorld, type StripeWorld, subscribe } from '../support/stripe.ts'

let world: StripeWorld
let shop: Awaited<ReturnType<typeof createShop>>
let customer: string
beforeEach(async () => {
  world = await createWorld({ startsAt: '2027-04-01T00:00:00Z' })
  shop = await createShop(world)
  customer = shop.customer
})
afterEach(() => world.close())

const invoices = async (subscription: string) =>
  (await world.stripe.invoices.list({ subscription, expand: ['data.payments'] })).data
const balance = async (source: string) =>
  (await world.stripe.balanceTransactions.list({ source })).data.map(({ amount, currency, type }) => [
    type,
    amount,
    currency,
  ])

test('a payment may be a charge without a payment intent, and its refund and dispute name only that', async () => {
  await world.tell('/settings', { invoice_payments: 'charge' })
  const { id } = await subscribe(world, shop.monthly, customer)

  const [invoice] = await invoices(id)
  const payment = invoice?.payments?.data[0]?.payment
  const charge = String(payment?.charge)
  const refund = await world.stripe.refunds.create({ charge, amount: 500 })
  await world.tell('/disputes', { charge, amount: 100 })

  expect([invoice?.status, payment]).toEqual(['paid', { type: 'charge', charge: expect.stringMatching(/^ch_/) }])
  expect(refund).toMatchObject({ charge, payment_intent: null, amount: 500 })
  expect((await world.stripe.disputes.list({ charge })).data).toMatchObject([{ payment_intent: null, amount: 100 }])
  expect((await world.stripe.paymentIntents.list({ customer })).data).toEqual([])
})

test('a charge alone that is declined leaves the invoice open, without a payment', async () => {
  await world.tell('/settings', { invoice_payments: 'charge' })
  const { id } = await subscribe(world, shop.monthly, customer)
  await world.tell(`/customers/${customer}/card`, { outcome: 'declined' })

  await world.advance(31 * 86_400)

  expect((await invoices(id))[0]).toMatchObject({ status: 'open', attempt_count: 1, payments: { data: [] } })
  expect((await world.stripe.subscriptions.retrieve(id)).status).toBe('past_due')
})

test('a dispute in another currency says by its balance transactions what it took of the payment', async () => {
  const { intent } = await buyPack(world, shop.pack, customer)
  const [charge] = (await world.stripe.charges.list({ payment_intent: intent, expand: ['data.balance_transaction'] }))
    .data
  const open = world.tell('/disputes', { payment_intent: intent, currency: 'eur', amount: 450 })
  await expect(open).rejects.toThrow('how much of the charge')

  await world.tell('/disputes', { payment_intent: intent, currency: 'eur', amount: 450, charged: 500 })
  const [dispute] = (await world.stripe.disputes.list({ payment_intent: intent })).data
  await world.tell(`/disputes/${dispute?.id}/close`, { status: 'won' })

  expect(charge?.balance_transaction).toMatchObject({ amount: 1000, currency: 'usd', exchange_rate: null })
  expect(dispute).toMatchObject({ amount: 450, currency: 'eur' })
  expect(dispute?.balance_transactions).toMatchObject([{ amount: -500, currency: 'usd', fee: 1500, net: -2000 }])
  expect(await balance(dispute?.id ?? '')).toEqual([
    ['adjustment', 500, 'usd'],
    ['adjustment', -500, 'usd'],
  ])
})

test('an account of another currency settles each payment, refund and dispute at its rate', async () => {
  await world.tell('/settings', { settlement: { currency: 'eur', rate: 0.9 } })
  const { intent } = await buyPack(world, shop.pack, customer)
  const [charge] = (await world.stripe.charges.list({ payment_intent: intent })).data

  const refund = await world.stripe.refunds.create({ payment_intent: intent, amount: 100 })

  expect(await balance(charge?.id ?? '')).toEqual([['charge', 900, 'eur']])
  expect(await balance(refund.id)).toEqual([['refund', -90, 'eur']])
})

test('a quote that is accepted begins a subscription, with what is wanted once on its first invoice', async () => {
  await world.tell(`/customers/${customer}/card`, { outcome: 'ok' })
  const line_items = [{ price: shop.monthly }, { price: shop.pack }]
  const quote = await world.stripe.quotes.create({ customer, line_items, subscription_data: { metadata: { a: '1' } } })
  await expect(world.stripe.quotes.accept(quote.id)).rejects.toMatchObject({ code: 'status_transition_invalid' })

  const open = await world.stripe.quotes.finalizeQuote(quote.id)
  const accepted = await world.stripe.quotes.accept(quote.id, { expand: ['subscription', 'invoice'] })

  expect([quote.status, quote.amount_total, open.status, accepted.status]).toEqual(['draft', 3000, 'open', 'accepted'])
  expect(accepted.subscription).toMatchObject({ status: 'active', metadata: { a: '1' } })
  expect(accepted.invoice).toMatchObject({ billing_reason: 'quote_accept', total: 3000, status: 'paid' })
})

test('a quote of nothing that recurs becomes an invoice; one that nobody accepts is cancelled', async () => {
  await world.tell(`/customers/${customer}/card`, { outcome: 'ok' })
  const make = () => world.stripe.quotes.create({ customer, line_items: [{ price: shop.pack }] })
  const [once, never] = [await make(), await make()]
  await world.stripe.quotes.finalizeQuote(once.id)

  const { invoice, subscription } = await world.stripe.quotes.accept(once.id)
  await world.advance(31 * 86_400)

  expect(subscription).toBeNull()
  expect(await world.stripe.invoices.retrieve(String(invoice))).toMatchObject({
    status: 'paid',
    billing_reason: 'quote_accept',
    parent: { type: 'quote_details', quote_details: { quote: once.id } },
  })
  expect((await world.stripe.quotes.retrieve(never.id)).status).toBe('canceled')
})

test('a threshold that is reached bills at once, and may begin the period anew', async () => {
  const { id } = await subscribe(world, shop.monthly, customer)
  await expect(world.tell(`/subscriptions/${id}/threshold`)).rejects.toThrow('no threshold')
  const billing_thresholds = { amount_gte: 1000, reset_billing_cycle_anchor: true }
  await world.stripe.subscriptions.update(id, { billing_thresholds })
  await world.advance(10 * 86_400)

  await world.tell(`/subscriptions/${id}/threshold`)
  const [invoice] = await invoices(id)
  const { items } = await world.stripe.subscriptions.retrieve(id)

  expect(invoice).toMatchObject({ billing_reason: 'subscription_threshold', total: 2000, status: 'paid' })
  expect(invoice?.threshold_reason).toEqual({ amount_gte: 1000, item_reasons: [] })
  expect(items.data[0]?.current_period_start).toBe(invoice?.created)
})
