/** What shops bill by hand in the stand-in: invoice items, one-off invoices, credit balances, and the least that is charged. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import { createShop, createWorld, day, type StripeWorld, subscribe } from '../support/stripe.ts'

let world: StripeWorld
let shop: Awaited<ReturnType<typeof createShop>>
let customer: string
beforeEach(async () => {
  world = await createWorld({ startsAt: '2027-04-01T00:00:00Z' })
  shop = await createShop(world)
  customer = shop.customer
})
afterEach(() => world.close())

const item = (amount: number, given: object = {}) =>
  world.stripe.invoiceItems.create({ customer, amount, currency: 'usd', ...given })
const latest = async (subscription: string) => (await world.stripe.invoices.list({ subscription })).data[0]
const entries = async () =>
  (await world.stripe.customers.listBalanceTransactions(customer)).data
    .map(({ type, amount, ending_balance }) => [type, amount, ending_balance])
    .reverse()
const card = (outcome: string) => world.tell(`/customers/${customer}/card`, { outcome })

test('items by hand, positive and negative, wait for the next invoice and are not of its plan', async () => {
  const { id } = await subscribe(world, shop.monthly, customer)
  const fee = await item(5000, { description: 'Setup', subscription: id })
  const credit = await item(-1500)
  const pending = await world.stripe.invoiceItems.list({ customer, pending: true })

  await world.advance(31 * day)
  const invoice = await latest(id)

  expect(pending.data.map((one) => one.id)).toEqual([credit.id, fee.id])
  expect(invoice?.lines.data.map(({ amount, parent, discountable }) => [amount, parent?.type, discountable])).toEqual([
    [5000, 'invoice_item_details', true],
    [-1500, 'invoice_item_details', false],
    [2000, 'subscription_item_details', true],
  ])
  expect(invoice).toMatchObject({ total: 5500, status: 'paid', billing_reason: 'subscription_cycle' })
  expect((await world.stripe.invoiceItems.retrieve(fee.id)).invoice).toBe(invoice?.id)
})

test('an invoice by hand is a draft, is finalised, and is paid when somebody says so', async () => {
  await item(700)
  const empty = await world.stripe.invoices.create({ customer })
  const draft = await world.stripe.invoices.create({ customer, pending_invoice_items_behavior: 'include' })
  await item(300, { invoice: draft.id })
  await card('ok')

  const open = await world.stripe.invoices.finalizeInvoice(draft.id)
  await world.advance(2 * day)
  const still = await world.stripe.invoices.retrieve(draft.id)
  const paid = await world.stripe.invoices.pay(draft.id)

  expect([empty.total, empty.lines.data.length, draft.total, draft.parent]).toEqual([0, 0, 700, null])
  expect(open).toMatchObject({ status: 'open', billing_reason: 'manual', amount_due: 1000, auto_advance: false })
  expect([still.status, paid.status, paid.amount_paid]).toEqual(['open', 'paid', 1000])
  await expect(item(1, { invoice: draft.id })).rejects.toMatchObject({ code: 'invoice_not_editable' })
})

test('one that advances by itself is finalised and paid after an hour', async () => {
  await card('ok')
  const draft = await world.stripe.invoices.create({ customer, auto_advance: true })
  await item(900, { invoice: draft.id })

  await world.advance(3700)

  expect(await world.stripe.invoices.retrieve(draft.id)).toMatchObject({ status: 'paid', amount_paid: 900 })
})

test('what is paid outside of Stripe is paid, and its payment is not asked for any more', async () => {
  const { id } = await subscribe(world, shop.monthly, customer)
  await card('declined')
  await world.advance(31 * day)
  const open = await latest(id)

  const paid = await world.stripe.invoices.pay(open?.id ?? '', { paid_out_of_band: true, expand: ['payments'] })

  expect([open?.status, paid.status, paid.amount_paid, paid.amount_paid_off_stripe]).toEqual([
    'open',
    'paid',
    2000,
    2000,
  ])
  expect(paid.payments?.data.map(({ status }) => status)).toEqual(['canceled'])
  expect((await world.stripe.subscriptions.retrieve(id)).status).toBe('active')
  expect((await world.stripe.charges.list({ customer })).data.filter((charge) => charge.paid)).toHaveLength(1)
})

test('an invoice by hand that nobody pays is no matter of the plan', async () => {
  const { id } = await subscribe(world, shop.monthly, customer)
  await card('declined')
  const draft = await world.stripe.invoices.create({ customer, subscription: id })
  await item(300, { invoice: draft.id, subscription: id })

  await expect(world.stripe.invoices.pay(draft.id)).rejects.toMatchObject({ code: 'card_declined' })
  const written = await world.stripe.invoices.markUncollectible(draft.id)
  const voided = await world.stripe.invoices.voidInvoice(draft.id)

  expect((await world.stripe.subscriptions.retrieve(id)).status).toBe('active')
  expect([written.status, voided.status]).toEqual(['uncollectible', 'void'])
  expect(draft.parent?.subscription_details?.subscription).toBe(id)
})

test('credit is used when an invoice is finalised, and comes back when that is void', async () => {
  await world.stripe.customers.createBalanceTransaction(customer, { amount: -500, currency: 'usd' })
  const draft = await world.stripe.invoices.create({ customer })
  await item(2000, { invoice: draft.id })
  const open = await world.stripe.invoices.finalizeInvoice(draft.id)
  const used = await world.stripe.customers.retrieve(customer)

  await world.stripe.invoices.voidInvoice(draft.id)

  expect(open).toMatchObject({ starting_balance: -500, ending_balance: 0, amount_due: 1500 })
  expect(used).toMatchObject({ balance: 0 })
  expect(await entries()).toEqual([
    ['adjustment', -500, -500],
    ['applied_to_invoice', 500, 0],
    ['unapplied_from_invoice', -500, -500],
  ])
})

test('less than the least charge is paid without a payment, and owed with the next invoice', async () => {
  const bill = async (amount: number) => {
    const { id } = await world.stripe.invoices.create({ customer })
    await item(amount, { invoice: id })
    return world.stripe.invoices.finalizeInvoice(id, { expand: ['payments'] })
  }

  const small = await bill(30)
  const next = await bill(100)

  expect(small).toMatchObject({
    total: 30,
    amount_due: 0,
    amount_paid: 0,
    status: 'paid',
    starting_balance: 0,
    ending_balance: 30,
  })
  expect(small.payments?.data).toEqual([])
  expect(next).toMatchObject({ total: 100, amount_due: 130, starting_balance: 30, ending_balance: 0, status: 'open' })
  expect(await entries()).toEqual([
    ['invoice_too_small', 30, 30],
    ['applied_to_invoice', -30, 0],
  ])
})

test('an invoice of less than nothing is credit', async () => {
  const draft = await world.stripe.invoices.create({ customer })
  await item(-1500, { invoice: draft.id })

  const paid = await world.stripe.invoices.finalizeInvoice(draft.id)

  expect(paid).toMatchObject({ total: -1500, amount_due: 0, status: 'paid', ending_balance: -1500 })
  expect(await entries()).toEqual([['applied_to_invoice', -1500, -1500]])
})

test('what is wanted once with a change of the plan stands on the next invoice beside it', async () => {
  const { id } = await subscribe(world, shop.monthly, customer)

  await world.stripe.subscriptions.update(id, { add_invoice_items: [{ price: shop.pack }] })
  await world.advance(31 * day)

  expect((await latest(id))?.lines.data.map(({ amount }) => amount)).toEqual([1000, 2000])
})
