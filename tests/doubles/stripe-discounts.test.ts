/** Coupons and promotion codes in the stand-in: how much they take off, of what, for how long, and of prorations. */
import type Stripe from 'stripe'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { checkout, createShop, createWorld, day, type StripeWorld, subscribe } from '../support/stripe.ts'

let world: StripeWorld
let shop: Awaited<ReturnType<typeof createShop>>
beforeEach(async () => {
  world = await createWorld({ startsAt: '2027-04-01T00:00:00Z' })
  shop = await createShop(world)
  await subscribe(world, shop.monthly, shop.customer).then(({ id }) => world.stripe.subscriptions.cancel(id))
})
afterEach(() => world.close())

const coupon = async (given: Stripe.CouponCreateParams) => (await world.stripe.coupons.create(given)).id
const begin = (discounts: { coupon?: string; promotion_code?: string }[], price = shop.monthly, given: object = {}) =>
  world.stripe.subscriptions.create({ customer: shop.customer, items: [{ price }], discounts, ...given })
const invoices = async (subscription: string) => (await world.stripe.invoices.list({ subscription })).data
const sums = ({ subtotal, total, total_discount_amounts }: Stripe.Invoice) => [
  subtotal,
  total_discount_amounts?.reduce((sum, { amount }) => sum + amount, 0),
  total,
]

test.each([
  ['once', {}, [1000, 2000, 2000, 2000]],
  ['repeating', { duration_in_months: 2 }, [1000, 1000, 2000, 2000]],
  ['forever', {}, [1000, 1000, 1000, 1000]],
] as const)('a coupon of half the price lasts %s', async (duration, more, totals) => {
  const { id, discounts } = await begin([{ coupon: await coupon({ percent_off: 50, duration, ...more }) }])

  await world.advance(92 * day)
  const paid = await invoices(id)

  expect(discounts).toHaveLength(duration === 'once' ? 0 : 1)
  expect(paid.map(({ total }) => total).reverse()).toEqual(totals)
  expect(paid.map(({ amount_paid }) => amount_paid).reverse()).toEqual(totals)
  expect(paid.at(-1)?.lines.data[0]).toMatchObject({ amount: 2000, discount_amounts: [{ amount: 1000 }] })
})

test('an amount is divided between the lines, and never more than they cost', async () => {
  const items = [{ price: shop.monthly }, { price: shop.dearer }]
  const off = (amount_off: number) => coupon({ amount_off, currency: 'usd', duration: 'forever' })
  const first = await begin([{ coupon: await off(1000) }], shop.monthly, { items })
  const second = await begin([{ coupon: await off(9000) }], shop.monthly, { items })

  const [[divided], [free]] = [await invoices(first.id), await invoices(second.id)]

  expect(divided?.lines.data.map(({ discount_amounts }) => discount_amounts?.[0]?.amount)).toEqual([286, 714])
  expect(divided && sums(divided)).toEqual([7000, 1000, 6000])
  expect(free && sums(free)).toEqual([7000, 7000, 0])
  expect(free).toMatchObject({ status: 'paid', amount_due: 0, total_pretax_credit_amounts: [{ amount: 7000 }] })
})

test('a coupon for one product leaves the others alone', async () => {
  const { stripe } = world
  const other = await stripe.products.create({ name: 'Add-on' })
  const price = await stripe.prices.create({
    product: other.id,
    currency: 'usd',
    unit_amount: 300,
    recurring: { interval: 'month' },
  })
  const id = await coupon({ percent_off: 100, applies_to: { products: [other.id] } })

  const made = await begin([{ coupon: id }], shop.monthly, { items: [{ price: shop.monthly }, { price: price.id }] })

  expect((await invoices(made.id)).map(sums)).toEqual([[2300, 300, 2000]])
})

test('a coupon for one item is in the subtotal already', async () => {
  const discounts = [{ coupon: await coupon({ percent_off: 10, duration: 'forever' }) }]
  const made = await begin([], shop.monthly, { items: [{ price: shop.monthly, discounts }] })

  expect(made.items.data[0]?.discounts).toHaveLength(1)
  expect((await invoices(made.id)).map(sums)).toEqual([[1800, 200, 1800]])
})

const lineOf = ({ amount, discount_amounts }: Stripe.InvoiceLineItem) => [
  amount,
  discount_amounts?.map((taken) => taken.amount),
]

test('prorations are net of what runs, and say so by a discount of nothing', async () => {
  const made = await begin([{ coupon: await coupon({ percent_off: 50, duration: 'forever' }) }])
  const [item] = made.items.data
  await world.tell('/advance', { to: (item?.current_period_start ?? 0) + 15 * day })

  await world.stripe.subscriptions.update(made.id, {
    items: [{ id: item?.id ?? '', price: shop.dearer }],
    proration_behavior: 'always_invoice',
  })
  const [invoice] = await invoices(made.id)

  expect(invoice?.lines.data.map(lineOf)).toEqual([
    [-500, [0]],
    [1250, [0]],
  ])
  expect(invoice?.total).toBe(750)
})

test('a switch makes prorations gross, with their discounts listed', async () => {
  await world.tell('/settings', { proration_discounts: 'itemized' })
  const made = await begin([{ coupon: await coupon({ percent_off: 50, duration: 'forever' }) }])
  const [item] = made.items.data
  await world.tell('/advance', { to: (item?.current_period_start ?? 0) + 15 * day })

  await world.stripe.subscriptions.update(made.id, {
    items: [{ id: item?.id ?? '', price: shop.dearer }],
    proration_behavior: 'always_invoice',
  })
  const [invoice] = await invoices(made.id)

  expect(made.billing_mode.flexible).toEqual({ proration_discounts: 'itemized' })
  expect(invoice?.lines.data.map(lineOf)).toEqual([
    [-1000, [-500]],
    [2500, [1250]],
  ])
  expect(invoice && sums(invoice)).toEqual([1500, 750, 750])
})

test('a credit is a share of what was charged, though the coupon of it is used up', async () => {
  const made = await begin([{ coupon: await coupon({ percent_off: 50, duration: 'once' }) }])
  const [item] = made.items.data
  const [first] = await invoices(made.id)

  await world.stripe.subscriptions.update(made.id, { items: [{ id: item?.id ?? '', price: shop.yearly }] })
  const [invoice] = await invoices(made.id)

  expect(invoice?.lines.data.map(({ amount }) => amount)).toEqual([-1000, 20_000])
  expect(invoice?.lines.data[0]?.parent?.subscription_item_details).toMatchObject({
    proration: true,
    proration_details: { credited_items: { invoice: first?.id, invoice_line_items: [first?.lines.data[0]?.id] } },
  })
})

test('a checkout takes a coupon, and the codes that are typed on its page', async () => {
  const ten = await coupon({ percent_off: 10 })
  const code = await world.stripe.promotionCodes.create({ promotion: { type: 'coupon', coupon: ten }, code: 'TEN' })
  const given = await checkout(world, shop.pack, { mode: 'payment', discounts: [{ coupon: ten }] })
  const typed = await checkout(world, shop.monthly, { customer: shop.customer, allow_promotion_codes: true })
  const closed = await checkout(world, shop.monthly, { customer: shop.customer })

  await world.tell(`/complete/${typed.id}`, { promotion_code: 'ten' })
  const done = await world.stripe.checkout.sessions.retrieve(typed.id, { expand: ['invoice.discounts'] })

  expect([given.amount_subtotal, given.amount_total, given.total_details?.amount_discount]).toEqual([1000, 900, 100])
  expect(done).toMatchObject({ amount_total: 1800, payment_status: 'paid', discounts: [{ promotion_code: code.id }] })
  expect(done.invoice).toMatchObject({ total: 1800, discounts: [{ object: 'discount', source: { coupon: ten } }] })
  expect((await world.stripe.promotionCodes.retrieve(code.id)).times_redeemed).toBe(1)
  await expect(world.tell(`/complete/${closed.id}`, { promotion_code: 'TEN' })).rejects.toThrow('no promotion codes')
})

test('what nobody may have any more is refused, and who has it keeps it', async () => {
  const { stripe } = world
  const used = await coupon({ percent_off: 10, duration: 'forever', max_redemptions: 1 })
  const first = await begin([{ coupon: used }])
  const euro = await coupon({ amount_off: 100, currency: 'eur' })
  const promotion = { type: 'coupon' as const, coupon: await coupon({ percent_off: 10 }) }
  const restrictions = { first_time_transaction: true }
  const newcomers = await stripe.promotionCodes.create({ promotion, restrictions })
  await stripe.coupons.del(used)

  await expect(begin([{ coupon: used }])).rejects.toMatchObject({ code: 'coupon_expired' })
  await expect(begin([{ coupon: euro }])).rejects.toMatchObject({ statusCode: 400, param: 'coupon' })
  await expect(begin([{ promotion_code: newcomers.id }])).rejects.toMatchObject({
    code: 'promotion_code_customer_not_first_time',
  })
  await expect(stripe.coupons.create({ percent_off: 101 })).rejects.toMatchObject({ param: 'percent_off' })
  await world.advance(32 * day)
  expect((await invoices(first.id))[0]?.total).toBe(1800)
})

test('a discount that is taken away is told, and the next invoice is whole', async () => {
  const made = await begin([{ coupon: await coupon({ percent_off: 50, duration: 'forever' }) }])
  await world.told()

  await world.stripe.subscriptions.deleteDiscount(made.id)
  const told = await world.told()
  await world.advance(32 * day)

  expect(told).toEqual(['customer.discount.deleted', 'customer.subscription.updated'])
  expect((await invoices(made.id))[0]?.total).toBe(2000)
})
