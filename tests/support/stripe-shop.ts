/** A shop of the stand-in in which everything happens once: for looking at all that it answers and tells. */
import { checkout, createShop, day, type StripeWorld, subscribe } from './stripe.ts'

type Shop = Awaited<ReturnType<typeof createShop>>

export async function busyShop(world: StripeWorld): Promise<{ customer: string }> {
  const { stripe } = world
  const shop = await createShop(world)
  await discounts(world, shop)
  const { id } = await subscribe(world, shop.yearly, shop.customer)
  await changes(world, shop, id)
  await byHand(world, shop)
  await moneyBack(world, shop)
  await offers(world, shop)
  await methods(world, shop)
  await world.advance(40 * day)
  await stripe.subscriptions.cancel(id)
  return { customer: shop.customer }
}

async function discounts({ stripe }: StripeWorld, { customer, monthly }: Shop): Promise<void> {
  const coupon = await stripe.coupons.create({ percent_off: 25, duration: 'repeating', duration_in_months: 2 })
  const code = await stripe.promotionCodes.create({ promotion: { type: 'coupon', coupon: coupon.id }, code: 'SPRING' })
  const rate = await stripe.taxRates.create({ display_name: 'VAT', percentage: 19, inclusive: false })
  await stripe.customers.update(customer, { balance: -700 })
  await stripe.customers.createBalanceTransaction(customer, { amount: -50, currency: 'usd' })
  await stripe.subscriptions.create({
    customer,
    items: [{ price: monthly }],
    discounts: [{ promotion_code: code.id }],
    default_tax_rates: [rate.id],
  })
}

async function changes(world: StripeWorld, { monthly, dearer, pack, customer }: Shop, id: string): Promise<void> {
  const { stripe } = world
  await world.advance(10 * day)
  await stripe.subscriptions.update(id, { items: [{ price: monthly }], proration_behavior: 'always_invoice' })
  await world.tell(`/customers/${customer}/card`, { outcome: 'declined' })
  const [item] = (await stripe.subscriptions.retrieve(id)).items.data.slice(1)
  await stripe.subscriptions.update(id, {
    items: [{ id: item?.id ?? '', price: dearer }],
    proration_behavior: 'always_invoice',
    payment_behavior: 'pending_if_incomplete',
  })
  await world.advance(day)
  await world.tell(`/customers/${customer}/card`, { outcome: 'ok' })
  await stripe.subscriptions.update(id, { add_invoice_items: [{ price: pack }] })
  await world.tell('/finalization', { next: 1 })
}

async function byHand({ stripe }: StripeWorld, { customer }: Shop): Promise<void> {
  await stripe.invoiceItems.create({ customer, amount: 5000, currency: 'usd', description: 'Setup' })
  const draft = await stripe.invoices.create({ customer, pending_invoice_items_behavior: 'include' })
  const failed = await stripe.invoices.finalizeInvoice(draft.id).catch(() => undefined)
  if (failed === undefined) await stripe.invoices.finalizeInvoice(draft.id)
  await stripe.creditNotes.create({ invoice: draft.id, amount: 100 })
  await stripe.invoices.pay(draft.id)
  await stripe.creditNotes.create({
    invoice: draft.id,
    amount: 300,
    refund_amount: 100,
    credit_amount: 100,
    out_of_band_amount: 100,
  })
}

async function moneyBack(world: StripeWorld, shop: Shop): Promise<void> {
  const session = await checkout(world, shop.pack, { mode: 'payment', customer: shop.customer })
  await world.tell(`/complete/${session.id}`, { card: 'bank_debit' })
  await world.tell(`/async/${session.id}`, { outcome: 'succeeded' })
  const { payment_intent } = await world.stripe.checkout.sessions.retrieve(session.id)
  await world.stripe.refunds.create({ payment_intent: String(payment_intent), amount: 10 })
  await world.tell('/disputes', { payment_intent, amount: 90, currency: 'eur', charged: 100 })
}

async function offers({ stripe }: StripeWorld, { customer, monthly, pack }: Shop): Promise<void> {
  const quote = await stripe.quotes.create({ customer, line_items: [{ price: monthly }, { price: pack }] })
  await stripe.quotes.finalizeQuote(quote.id)
  await stripe.quotes.accept(quote.id)
}

async function methods(world: StripeWorld, { customer }: Shop): Promise<void> {
  const { stripe } = world
  const method = await stripe.paymentMethods.create({ type: 'card', card: { token: 'tok_visa' } })
  await stripe.setupIntents.create({ customer, payment_method: method.id, confirm: true })
  await stripe.customers.update(customer, { invoice_settings: { default_payment_method: method.id } })
  const clock = await stripe.testHelpers.testClocks.create({ frozen_time: (await world.now()) - 50 })
  await stripe.testHelpers.testClocks.advance(clock.id, { frozen_time: await world.now() })
}
