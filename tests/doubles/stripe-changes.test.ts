/** Changes of subscriptions in the stand-in: plans with prorations, ends, pauses, and the portal. */
import { expect, test } from 'vitest'
import { createShop, createWorld, day, type StripeWorld, starts, subscribe } from '../support/stripe.ts'

let world: StripeWorld
let shop: Awaited<ReturnType<typeof createShop>>
/** A promise that is kept however long the month is. */
const inEachMonth = (name: string, act: () => Promise<void>) =>
  test.each(starts)(`${name} (in a month of %i days)`, async (_days, startsAt) => {
    world = await createWorld({ startsAt })
    shop = await createShop(world)
    await act().finally(() => world.close())
  })

const begin = async (price = shop.monthly) => {
  const { id } = await subscribe(world, price, shop.customer)
  await world.told()
  return id
}
const read = (id: string) => world.stripe.subscriptions.retrieve(id)
const invoices = async (subscription: string) => (await world.stripe.invoices.list({ subscription })).data
const card = (outcome: string) => world.tell(`/customers/${shop.customer}/card`, { outcome })

inEachMonth('a dearer plan in the middle of a period is prorated at once, a cheaper one becomes credit', async () => {
  const id = await begin()
  const [item] = (await read(id)).items.data
  const length = (item?.current_period_end ?? 0) - (item?.current_period_start ?? 0)
  await world.advance(length / 2)
  const change = (price: string) =>
    world.stripe.subscriptions.update(id, {
      items: [{ id: item?.id ?? '', price }],
      proration_behavior: 'always_invoice',
    })

  await change(shop.dearer)
  const [up] = await invoices(id)
  await change(shop.monthly)
  const [down] = await invoices(id)

  expect(up).toMatchObject({ billing_reason: 'subscription_update', status: 'paid' })
  expect(Math.abs((up?.total ?? 0) - 1500)).toBeLessThan(2)
  expect(up?.lines.data.map(({ parent }) => parent?.subscription_item_details?.proration)).toEqual([true, true])
  expect([down?.amount_due, down?.status, down?.ending_balance]).toEqual([0, 'paid', down?.total])
  await world.advance(length / 2 + 7200)
  expect((await invoices(id))[0]).toMatchObject({ total: 2000, amount_due: 2000 + (down?.total ?? 0), status: 'paid' })
})

inEachMonth('a price of another currency is refused', async () => {
  const id = await begin()
  const price = await world.stripe.prices.create({
    product: shop.product,
    currency: 'eur',
    unit_amount: 1,
    recurring: { interval: 'month' },
  })

  const change = world.stripe.subscriptions.update(id, { items: [{ price: price.id }] })

  await expect(change).rejects.toMatchObject({ statusCode: 400, param: 'items' })
  expect((await read(id)).items.data).toHaveLength(1)
})

inEachMonth('prorations wait for the next invoice unless they are wanted at once', async () => {
  const id = await begin()
  const [item] = (await read(id)).items.data
  await world.advance(15 * day)

  await world.stripe.subscriptions.update(id, { items: [{ id: item?.id ?? '', price: shop.dearer }] })
  const before = await invoices(id)
  await world.advance(17 * day)

  expect(before).toHaveLength(1)
  expect((await invoices(id))[0]?.lines.data.map(({ parent }) => parent?.subscription_item_details?.proration)).toEqual(
    [true, true, false],
  )
})

inEachMonth('another interval begins a new period today', async () => {
  const id = await begin()
  const [item] = (await read(id)).items.data
  await world.advance(10 * day)

  const changed = await world.stripe.subscriptions.update(id, { items: [{ id: item?.id ?? '', price: shop.yearly }] })
  const [invoice] = await invoices(id)

  const [now] = changed.items.data
  expect((now?.current_period_end ?? 0) - (now?.current_period_start ?? 0)).toBeGreaterThanOrEqual(365 * day)
  expect(invoice).toMatchObject({ billing_reason: 'subscription_update', status: 'paid' })
  expect(invoice?.total).toBeLessThan(20_000)
  await world.tell('/advance', { to: (now?.current_period_end ?? 0) + 3600 })
  const [later] = (await read(id)).items.data
  expect(later?.current_period_start).toBe(now?.current_period_end)
  expect((later?.current_period_end ?? 0) - (later?.current_period_start ?? 0)).toBeGreaterThanOrEqual(365 * day)
})

inEachMonth('items of several intervals have periods of their own', async () => {
  const id = await begin()
  await world.stripe.subscriptions.update(id, { items: [{ price: shop.yearly }] })

  await world.advance(40 * day)
  const [monthly, yearly] = (await read(id)).items.data

  expect((yearly?.current_period_end ?? 0) - (monthly?.current_period_end ?? 0)).toBeGreaterThan(300 * day)
  expect((await invoices(id))[0]?.lines.data).toHaveLength(1)
})

inEachMonth('in the portal a customer cancels for the end of the period, thinks again, and cancels', async () => {
  const id = await begin()
  const portal = await world.stripe.billingPortal.sessions.create({
    customer: shop.customer,
    return_url: 'http://localhost:3000/account',
  })
  const press = (wish: string, more: object = {}) => world.page(portal.url, { do: wish, subscription: id, ...more })

  await press('cancel')
  const ending = await read(id)
  await press('resume')
  const going = await read(id)
  await press('cancel')
  await world.advance(32 * day)

  expect(ending).toMatchObject({
    status: 'active',
    cancel_at_period_end: true,
    cancel_at: ending.items.data[0]?.current_period_end,
  })
  expect(going).toMatchObject({ cancel_at_period_end: false, cancel_at: null, canceled_at: null })
  expect(await read(id)).toMatchObject({ status: 'canceled', ended_at: ending.items.data[0]?.current_period_end })
  expect(await (await world.page(portal.url)).text()).toContain('http://localhost:3000/account')
})

inEachMonth('invoices and pages name the product, and say in words how things stand', async () => {
  const id = await begin()
  const portal = await world.stripe.billingPortal.sessions.create({ customer: shop.customer })
  await world.page(portal.url, { do: 'change', subscription: id, price: shop.dearer })
  await card('declined')
  await world.advance(32 * day)
  const [renewal, change, first] = await invoices(id)
  const text = async (url: string) => (await (await world.page(url)).text()).replaceAll(/<[^>]+>|\s+/g, ' ')

  expect(first?.lines.data.map(({ description }) => description)).toEqual(['1 × Premium (at $20.00 / month)'])
  expect(change?.lines.data.map(({ description }) => description)).toEqual([
    'Unused time on 1 × Premium',
    'Remaining time on 1 × Premium',
  ])
  expect(await text(renewal?.hosted_invoice_url ?? '')).toMatch(
    /\$50\.00 +Open .* 1 × Premium \(at \$50\.00 \/ month\)/,
  )
  const shown = await text(portal.url)
  expect(shown).toMatch(/Payment overdue .* Is declined .* Open .* Paid/)
  expect(shown).not.toMatch(/price_|past_due|requires_action/)
})

inEachMonth(
  'the portal can also name the moment of the end instead of saying that it is the end of the period',
  async () => {
    await world.tell('/settings', { portal_cancels: 'at' })
    const id = await begin()
    const portal = await world.stripe.billingPortal.sessions.create({ customer: shop.customer })

    await world.page(portal.url, { do: 'cancel', subscription: id })
    const ending = await read(id)
    await world.page(portal.url, { do: 'resume', subscription: id })

    expect([ending.cancel_at_period_end, ending.cancel_at]).toEqual([false, ending.items.data[0]?.current_period_end])
    expect((await read(id)).cancel_at).toBeNull()
  },
)

inEachMonth('in the portal a customer changes the plan and the card, and only their own', async () => {
  const id = await begin()
  const stranger = await world.stripe.customers.create({})
  const [mine, other] = [
    await world.stripe.billingPortal.sessions.create({ customer: shop.customer }),
    await world.stripe.billingPortal.sessions.create({ customer: stranger.id }),
  ]

  await world.page(other.url, { do: 'cancel', subscription: id })
  await world.page(mine.url, { do: 'change', subscription: id, price: shop.dearer })
  await world.page(mine.url, { do: 'card', outcome: 'declined' })
  const changed = await read(id)
  await world.advance(32 * day)

  expect(changed.cancel_at_period_end).toBe(false)
  expect(changed.items.data[0]?.price.id).toBe(shop.dearer)
  expect((await read(id)).status).toBe('past_due')
})

inEachMonth('a subscription ends at a moment that was set, or at once', async () => {
  const [one, two] = [await begin(), await begin()]
  const cancel_at = (await world.now()) + 5 * day

  const planned = await world.stripe.subscriptions.update(one, { cancel_at })
  await world.stripe.subscriptions.cancel(two)
  await world.advance(6 * day)

  expect(planned).toMatchObject({ status: 'active', cancellation_details: { reason: 'cancellation_requested' } })
  expect(await read(one)).toMatchObject({ status: 'canceled', ended_at: cancel_at, cancel_at_period_end: false })
  expect((await read(two)).status).toBe('canceled')
  expect((await world.stripe.subscriptions.list({ customer: shop.customer })).data).toEqual([])
})

inEachMonth('collection can be paused: renewals are voided, and the subscription stays active', async () => {
  const id = await begin()

  await world.stripe.subscriptions.update(id, { pause_collection: { behavior: 'void' } })
  await world.advance(32 * day)

  expect((await invoices(id))[0]?.status).toBe('void')
  expect(await read(id)).toMatchObject({ status: 'active', pause_collection: { behavior: 'void' } })
})

inEachMonth('a trial without a card pauses when it should, and goes on when it is resumed', async () => {
  const end_behavior = { missing_payment_method: 'pause' as const }
  const { id } = await world.stripe.subscriptions.create({
    customer: shop.customer,
    items: [{ price: shop.monthly }],
    trial_period_days: 7,
    trial_settings: { end_behavior },
  })
  await world.told()

  await world.advance(8 * day)
  const paused = await read(id)
  const types = await world.told()
  await card('ok')
  await world.stripe.subscriptions.resume(id)

  expect(paused.status).toBe('paused')
  expect(types).toContain('customer.subscription.paused')
  expect((await read(id)).status).toBe('active')
  expect(await world.told()).toEqual(expect.arrayContaining(['customer.subscription.resumed', 'invoice.paid']))
})
