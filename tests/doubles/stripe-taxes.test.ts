/** Taxes of the stand-in, in the price and on top of it, quantities of nothing, and what it refuses. */
import type Stripe from 'stripe'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { createShop, createWorld, type StripeWorld, subscribe } from '../support/stripe.ts'

let world: StripeWorld
let shop: Awaited<ReturnType<typeof createShop>>
beforeEach(async () => {
  world = await createWorld({ startsAt: '2027-04-01T00:00:00Z' })
  shop = await createShop(world)
  await subscribe(world, shop.pack, shop.customer, { mode: 'payment' })
})
afterEach(() => world.close())

const rate = async (percentage: number, inclusive: boolean) =>
  (await world.stripe.taxRates.create({ display_name: 'VAT', percentage, inclusive })).id
const begin = async (default_tax_rates: string[], more: Partial<Stripe.SubscriptionCreateParams> = {}) => {
  const items = [{ price: shop.monthly }]
  const made = await world.stripe.subscriptions.create({ customer: shop.customer, items, default_tax_rates, ...more })
  return world.stripe.invoices.retrieve(String(made.latest_invoice))
}
const sums = (invoice: Stripe.Invoice) => [
  invoice.subtotal,
  invoice.subtotal_excluding_tax,
  invoice.total_excluding_tax,
  invoice.total_taxes?.reduce((sum, { amount }) => sum + amount, 0),
  invoice.total,
]

test('a tax on top is added, one in the price is taken out of it, and both may be', async () => {
  const [onTop, inside] = [await rate(19, false), await rate(7.7, true)]

  const [exclusive, inclusive, both] = [await begin([onTop]), await begin([inside]), await begin([inside, onTop])]

  expect([exclusive, inclusive, both].map(sums)).toEqual([
    [2000, 2000, 2000, 380, 2380],
    [2000, 1857, 1857, 143, 2000],
    [2000, 1857, 1857, 496, 2353],
  ])
  expect(exclusive.lines.data[0]?.taxes).toEqual([
    {
      amount: 380,
      tax_behavior: 'exclusive',
      tax_rate_details: { tax_rate: onTop },
      taxability_reason: 'standard_rated',
      taxable_amount: 2000,
      type: 'tax_rate_details',
    },
  ])
  expect([exclusive.amount_paid, exclusive.status]).toEqual([2380, 'paid'])
})

test('taxes are of what is left after discounts, and of prorations, too', async () => {
  const coupon = await world.stripe.coupons.create({ percent_off: 50, duration: 'forever' })
  const first = await begin([await rate(10, false)], { discounts: [{ coupon: coupon.id }] })
  const { subscription } = first.parent?.subscription_details ?? {}
  const { items } = await world.stripe.subscriptions.retrieve(String(subscription))
  await world.tell('/advance', { to: (items.data[0]?.current_period_start ?? 0) + 15 * 86_400 })

  await world.stripe.subscriptions.update(String(subscription), {
    items: [{ id: items.data[0]?.id ?? '', price: shop.dearer }],
    proration_behavior: 'always_invoice',
  })
  const [change] = (await world.stripe.invoices.list({ subscription: String(subscription) })).data

  expect([first.subtotal, first.total, first.total_excluding_tax]).toEqual([2000, 1100, 1000])
  expect(change?.lines.data.map(({ amount, taxes }) => [amount, taxes?.[0]?.amount])).toEqual([
    [-500, -50],
    [1250, 125],
  ])
  expect(change?.total).toBe(825)
})

test('who is exempt pays no tax', async () => {
  await world.stripe.customers.update(shop.customer, { tax_exempt: 'exempt' })

  const invoice = await begin([await rate(19, false)])

  expect(sums(invoice)).toEqual([2000, 2000, 2000, 0, 2000])
  expect(invoice.total_taxes?.map(({ taxability_reason }) => taxability_reason)).toEqual(['customer_exempt'])
})

test('a quantity of nothing costs nothing and keeps its place', async () => {
  const invoice = await begin([], { items: [{ price: shop.monthly }, { price: shop.dearer, quantity: 0 }] })

  expect(invoice.lines.data.map(({ amount, quantity }) => [amount, quantity])).toEqual([
    [2000, 1],
    [0, 0],
  ])
  expect(invoice).toMatchObject({ total: 2000, status: 'paid' })
})

test('a reference to nothing is expanded to nothing, and a list of ids to their objects', async () => {
  const coupon = await world.stripe.coupons.create({ percent_off: 50, duration: 'forever' })
  const { id } = await begin([], { discounts: [{ coupon: coupon.id }] })

  const expand = ['default_payment_method', 'on_behalf_of', 'discounts', 'discounts.source.coupon']
  const invoice = await world.stripe.invoices.retrieve(id, { expand: expand.slice(0, 3) })
  const deeper = await world.stripe.invoices.retrieve(id, { expand })

  expect([invoice.default_payment_method, invoice.on_behalf_of]).toEqual([null, null])
  expect(invoice.discounts).toMatchObject([{ object: 'discount', source: { coupon: coupon.id } }])
  expect(deeper.discounts).toMatchObject([{ source: { coupon: { id: coupon.id, percent_off: 50 } } }])
})

test.each([
  ['subscriptions', { payment_behavior: 'perhaps' }, 'payment_behavior', undefined],
  ['subscriptions', { nonsense: '1' }, 'nonsense', 'parameter_unknown'],
  ['subscriptions', { 'items[0][nonsense]': '1' }, 'items[0][nonsense]', 'parameter_unknown'],
  ['coupons', { duration: 'weekly' }, 'duration', undefined],
  ['coupons', { percent_off: '10', nonsense: '1' }, 'nonsense', 'parameter_unknown'],
  ['invoiceitems', { invoice_behavior: '1' }, 'invoice_behavior', 'parameter_unknown'],
  ['credit_notes', { reason: 'regret' }, 'reason', undefined],
  ['test_helpers/test_clocks', { frozen_time: 'soon' }, 'frozen_time', undefined],
])('%s refuses what it does not know: %j', async (path, wrong, param, code) => {
  const needed: Record<string, object> = {
    subscriptions: { customer: shop.customer, 'items[0][price]': shop.monthly },
    invoiceitems: { customer: shop.customer },
    credit_notes: { invoice: 'in_1' },
  }
  const body = new URLSearchParams({ ...needed[path], ...wrong })
  const headers = { authorization: `Bearer ${world.secretKey}` }

  const answer = await fetch(`${world.url}/v1/${path}`, { method: 'POST', headers, body })

  expect(answer.status).toBe(400)
  expect(await answer.json()).toMatchObject({ error: { param, ...(code ? { code } : {}) } })
})
