/** Checkout of the stand-in: its page as a browser sees it, cards, 3-D Secure, bank debits, trials and expiry. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import { buyPack, checkout, createShop, createWorld, day, type StripeWorld, subscribe } from '../support/stripe.ts'

let world: StripeWorld
let shop: Awaited<ReturnType<typeof createShop>>
beforeEach(async () => {
  world = await createWorld()
  shop = await createShop(world)
  await world.told()
})
afterEach(() => world.close())

const buy = (given: object = {}) => checkout(world, shop.pack, { mode: 'payment', customer: shop.customer, ...given })
const order = (given: object = {}) => checkout(world, shop.monthly, { customer: shop.customer, ...given })
const read = (id: string) => world.stripe.checkout.sessions.retrieve(id)

test('a browser pays with a card and is led back with the id of its session', async () => {
  const session = await buy({ client_reference_id: 'ada', metadata: { order: '7' } })
  const page = await world.page(session.url ?? '')
  const html = await page.text()

  const paid = await world.page(`/c/pay/${session.id}`, { way: 'ok' })
  const after = await read(session.id)

  expect(html).toContain('$10.00')
  expect(html).toMatch(/<form method="post".*name="way" value="ok" checked/s)
  expect([paid.status, paid.headers.get('location')]).toEqual([303, `http://localhost:3000/done?session=${session.id}`])
  expect(after).toMatchObject({
    status: 'complete',
    payment_status: 'paid',
    url: null,
    client_reference_id: 'ada',
    metadata: { order: '7' },
  })
  expect(await world.told()).toEqual([
    'payment_intent.created',
    'charge.succeeded',
    'payment_intent.succeeded',
    'checkout.session.completed',
  ])
})

test('the page runs no script, is shown in no frame, leads nowhere else, and escapes what it shows', async () => {
  const { id } = await world.stripe.products.create({ name: '<script>alert(1)</script>' })
  const price = await world.stripe.prices.create({ product: id, currency: 'usd', unit_amount: 5 })
  const session = await buy({ line_items: [{ price: price.id, quantity: 1 }], cancel_url: 'https://app.example/"><b>' })

  const page = await world.page(session.url ?? '')
  const html = await page.text()

  expect(html).not.toContain('<script')
  expect(html).not.toContain('"><b>')
  expect(html).toContain('&lt;script&gt;')
  const policy = page.headers.get('content-security-policy')
  expect(policy).toMatch(/^default-src 'none'; style-src 'sha256-[^']+'; form-action 'self' http:\/\/localhost:3000;/)
  expect(policy).toContain("frame-ancestors 'none'")
})

test('a declined card leaves the session open, and another one pays', async () => {
  const session = await buy()

  const declined = await world.page(`/c/pay/${session.id}`, { way: 'declined' })
  const again = await (await world.page(declined.headers.get('location') ?? '')).text()
  const between = await read(session.id)
  await world.page(`/c/pay/${session.id}`, { way: 'ok' })
  const after = await read(session.id)

  expect(again).toContain('role="alert"')
  expect([between.status, between.payment_status]).toEqual(['open', 'unpaid'])
  expect(after.payment_status).toBe('paid')
  expect((await world.stripe.paymentIntents.list({ customer: shop.customer })).data).toHaveLength(1)
  expect(await world.told()).toContain('payment_intent.payment_failed')
})

test('3-D Secure is asked for, can be failed, and pays when it is passed', async () => {
  const session = await buy()
  const asked = await world.page(`/c/pay/${session.id}`, { way: 'requires_action' })
  const challenge = await world.page(asked.headers.get('location') ?? '')

  const failed = await world.page(`/c/pay/${session.id}/challenge`, { way: 'requires_action', answer: 'failed' })
  const between = await read(session.id)
  await world.page(`/c/pay/${session.id}`, { way: 'requires_action' })
  const passed = await world.page(`/c/pay/${session.id}/challenge`, { way: 'requires_action', answer: 'ok' })

  expect(await challenge.text()).toContain('3-D Secure')
  expect(failed.headers.get('location')).toContain('failed')
  expect(between.status).toBe('open')
  expect(passed.headers.get('location')).toContain('http://localhost:3000/done')
  expect((await read(session.id)).payment_status).toBe('paid')
})

test.each(['succeeded', 'failed'] as const)('a bank debit is complete and unpaid until it has %s', async (outcome) => {
  const session = await buy()
  await world.tell(`/complete/${session.id}`, { card: 'bank_debit' })
  const before = await read(session.id)
  await world.told()

  await world.tell(`/async/${session.id}`, { outcome })
  const after = await read(session.id)

  expect([before.status, before.payment_status]).toEqual(['complete', 'unpaid'])
  expect(after.payment_status).toBe(outcome === 'succeeded' ? 'paid' : 'unpaid')
  expect((await world.told()).at(-1)).toBe(`checkout.session.async_payment_${outcome}`)
})

test('a subscription paid by bank debit runs meanwhile, and owes when the debit fails', async () => {
  const session = await order()
  await world.tell(`/complete/${session.id}`, { card: 'bank_debit' })
  const { subscription, invoice } = await read(session.id)
  const before = await world.stripe.subscriptions.retrieve(String(subscription))

  await world.tell(`/async/${session.id}`, { outcome: 'failed' })

  expect(before.status).toBe('active')
  expect((await world.stripe.subscriptions.retrieve(before.id)).status).toBe('past_due')
  expect((await world.stripe.invoices.retrieve(String(invoice))).status).toBe('open')
})

test('a subscription begins with its first invoice paid and with the metadata of the order', async () => {
  const { session, id } = await subscribe(world, shop.monthly, shop.customer, {
    subscription_data: { metadata: { a: 'b' } },
  })

  const subscription = await world.stripe.subscriptions.retrieve(id, { expand: ['latest_invoice.payments'] })

  expect(subscription).toMatchObject({ status: 'active', customer: shop.customer, metadata: { a: 'b' } })
  expect(subscription.latest_invoice).toMatchObject({
    id: session.invoice,
    status: 'paid',
    billing_reason: 'subscription_create',
    amount_paid: 2000,
    payments: { data: [{ status: 'paid', amount_paid: 2000 }] },
  })
  expect((await world.told()).at(-1)).toBe('checkout.session.completed')
})

test('a trial costs nothing today, and says three days before that it ends', async () => {
  const { session, id } = await subscribe(world, shop.monthly, shop.customer, {
    subscription_data: { trial_period_days: 14 },
  })
  const begun = await world.stripe.subscriptions.retrieve(id, { expand: ['latest_invoice'] })
  await world.told()

  await world.advance(12 * day)
  const warned = await world.told()
  await world.advance(3 * day)
  const ended = await world.stripe.subscriptions.retrieve(id, { expand: ['latest_invoice'] })

  expect([session.payment_status, session.amount_total, begun.status]).toEqual(['no_payment_required', 0, 'trialing'])
  expect(begun.latest_invoice).toMatchObject({ status: 'paid', total: 0, billing_reason: 'subscription_create' })
  expect(begun.items.data[0]?.current_period_end).toBe(begun.trial_end)
  expect(warned).toEqual(['invoice.upcoming', 'customer.subscription.trial_will_end'])
  expect(ended.status).toBe('active')
  expect(ended.latest_invoice).toMatchObject({
    status: 'paid',
    amount_paid: 2000,
    billing_reason: 'subscription_cycle',
  })
})

test('a session that nobody pays expires at its time, and cannot be paid afterwards', async () => {
  const expires_at = Math.floor(Date.now() / 1000) + 3600
  const [session, given_up] = [await buy({ expires_at }), await buy()]
  await world.stripe.checkout.sessions.expire(given_up.id)

  await world.advance(3601)
  const page = await world.page(`/c/pay/${session.id}`, { way: 'ok' })

  expect([(await read(session.id)).status, (await read(given_up.id)).status]).toEqual(['expired', 'expired'])
  expect(page.status).toBe(409)
  expect(await world.told()).toEqual(['checkout.session.expired', 'checkout.session.expired'])
  await expect(world.stripe.checkout.sessions.expire(session.id)).rejects.toThrow('expired')
})

test('sessions are found by customer, status and payment intent', async () => {
  const { session, intent } = await buyPack(world, shop.pack, shop.customer)
  const open = await buy()
  const ids = async (query: object) => (await world.stripe.checkout.sessions.list(query)).data.map(({ id }) => id)

  expect(await ids({ payment_intent: intent })).toEqual([session])
  expect(await ids({ customer: shop.customer, status: 'open' })).toEqual([open.id])
  expect(await ids({ customer: 'cus_other' })).toEqual([])
})

test('a session without a customer makes one when it sells a subscription', async () => {
  const session = await checkout(world, shop.monthly, { customer_email: 'new@example.com' })
  await world.tell(`/complete/${session.id}`)

  const done = await read(session.id)

  expect(await world.stripe.customers.retrieve(String(done.customer))).toMatchObject({ email: 'new@example.com' })
})

test('a client names the end of a session by its own clock, however far ours was moved', async () => {
  await world.advance(400 * day)

  const session = await buy({ expires_at: Math.floor(Date.now() / 1000) + 3600 })
  await world.advance(3000)
  const before = await read(session.id)
  await world.advance(700)

  expect([before.status, (await read(session.id)).status]).toEqual(['open', 'expired'])
})
