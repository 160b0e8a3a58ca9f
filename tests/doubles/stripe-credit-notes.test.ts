/** Credit notes of the stand-in: before an invoice is paid, after it, and the ways in which money goes back. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import { createShop, createWorld, day, type StripeWorld, subscribe } from '../support/stripe.ts'

let world: StripeWorld
let customer: string
let subscription: string
beforeEach(async () => {
  world = await createWorld({ startsAt: '2027-04-01T00:00:00Z' })
  const shop = await createShop(world)
  customer = shop.customer
  subscription = (await subscribe(world, shop.monthly, customer)).id
  await world.told()
})
afterEach(() => world.close())

const latest = async () => {
  const [invoice] = (await world.stripe.invoices.list({ subscription })).data
  if (!invoice) throw new Error('There is no invoice.')
  return invoice
}
const renewUnpaid = async () => {
  await world.tell(`/customers/${customer}/card`, { outcome: 'declined' })
  await world.advance(31 * day)
  await world.told()
  return latest()
}
const note = (invoice: string, given: object) => world.stripe.creditNotes.create({ invoice, ...given })

test('before payment it makes less of what is due, and nothing when all is credited', async () => {
  const { id } = await renewUnpaid()

  const first = await note(id, { amount: 500 })
  const between = await latest()
  await note(id, { amount: 1500 })

  expect(first).toMatchObject({
    type: 'pre_payment',
    pre_payment_amount: 500,
    post_payment_amount: 0,
    status: 'issued',
  })
  expect(between).toMatchObject({ amount_due: 1500, amount_remaining: 1500, pre_payment_credit_notes_amount: 500 })
  expect(await latest()).toMatchObject({ status: 'paid', amount_due: 0, amount_paid: 0, total: 2000 })
  expect((await world.stripe.subscriptions.retrieve(subscription)).status).toBe('active')
})

test('after payment it is a refund, credit, money outside of Stripe, or parts of each', async () => {
  const { id } = await latest()

  const given = await note(id, { amount: 900, refund_amount: 300, credit_amount: 200, out_of_band_amount: 400 })
  const [refund] = (await world.stripe.refunds.list()).data

  expect(given).toMatchObject({
    type: 'post_payment',
    post_payment_amount: 900,
    out_of_band_amount: 400,
    refunds: [{ refund: refund?.id, amount_refunded: 300 }],
  })
  expect(refund).toMatchObject({ amount: 300, status: 'succeeded' })
  expect((await world.stripe.customers.listBalanceTransactions(customer)).data).toMatchObject([
    { type: 'credit_note', amount: -200, credit_note: given.id, id: given.customer_balance_transaction },
  ])
  expect(await latest()).toMatchObject({ post_payment_credit_notes_amount: 900, amount_paid: 2000, status: 'paid' })
  expect(await world.told()).toEqual(
    expect.arrayContaining(['credit_note.created', 'refund.created', 'charge.refunded', 'invoice.updated']),
  )
})

test('a refund that was made before is linked, and not made again', async () => {
  const { id } = await latest()
  const [charge] = (await world.stripe.charges.list({ customer })).data
  const refund = await world.stripe.refunds.create({ charge: charge?.id ?? '', amount: 700 })

  const given = await note(id, { amount: 700, refunds: [{ refund: refund.id, amount_refunded: 700 }] })

  expect(given.refunds).toMatchObject([{ refund: refund.id, amount_refunded: 700 }])
  expect((await world.stripe.refunds.list()).data).toHaveLength(1)
})

test('ways that do not add up, and more than was billed, are refused', async () => {
  const { id } = await latest()

  await expect(note(id, { amount: 900, refund_amount: 300 })).rejects.toMatchObject({
    statusCode: 400,
    param: 'amount',
  })
  await expect(note(id, { amount: 2001, credit_amount: 2001 })).rejects.toMatchObject({ statusCode: 400 })
  await expect(note(id, {})).rejects.toMatchObject({ code: 'parameter_missing' })
  expect((await world.stripe.creditNotes.list({ invoice: id })).data).toEqual([])
})

test('lines are credited with their share of discounts', async () => {
  const coupon = await world.stripe.coupons.create({ percent_off: 50 })
  const draft = await world.stripe.invoices.create({ customer, discounts: [{ coupon: coupon.id }] })
  await world.stripe.invoiceItems.create({ customer, invoice: draft.id, amount: 3000, currency: 'usd' })
  const paid = await world.stripe.invoices.pay(draft.id)
  const line = paid.lines.data[0]?.id ?? ''

  const given = await note(draft.id, {
    lines: [{ type: 'invoice_line_item', invoice_line_item: line, amount: 1000 }],
    out_of_band_amount: 500,
  })

  expect(given).toMatchObject({ subtotal: 1000, discount_amount: 500, total: 500, amount: 500 })
  expect(given.lines.data).toMatchObject([
    { invoice_line_item: line, amount: 1000, discount_amounts: [{ amount: 500 }] },
  ])
})

test('one of an open invoice can be void, and the invoice is due again', async () => {
  const { id } = await renewUnpaid()
  const given = await note(id, { amount: 500 })
  await world.told()

  const voided = await world.stripe.creditNotes.voidCreditNote(given.id)

  expect(voided).toMatchObject({ status: 'void', voided_at: expect.any(Number) })
  expect(await latest()).toMatchObject({ amount_due: 2000, amount_remaining: 2000, pre_payment_credit_notes_amount: 0 })
  expect(await world.told()).toEqual(['invoice.updated', 'credit_note.voided'])
})
