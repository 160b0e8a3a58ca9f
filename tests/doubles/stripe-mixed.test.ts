/** Subscriptions of the stand-in whose items have intervals of their own, and the anchor that they all keep to. */
import type Stripe from 'stripe'
import { expect, test } from 'vitest'
import { createShop, createWorld, day, type StripeWorld, starts, subscribe } from '../support/stripe.ts'

let world: StripeWorld
let shop: Awaited<ReturnType<typeof createShop>>
async function inAWorld(startsAt: string, act: () => Promise<void>): Promise<void> {
  world = await createWorld({ startsAt })
  shop = await createShop(world)
  await subscribe(world, shop.pack, shop.customer, { mode: 'payment' })
  await act().finally(() => world.close())
}
const inEachMonth = (name: string, act: () => Promise<void>) =>
  test.each(starts)(`${name} (in a month of %i days)`, (_days, startsAt) => inAWorld(startsAt, act))

const begin = (given: object = {}) =>
  world.stripe.subscriptions.create({
    customer: shop.customer,
    items: [{ price: shop.monthly }, { price: shop.yearly }],
    ...given,
  })
const read = (id: string) => world.stripe.subscriptions.retrieve(id)
const invoices = async (subscription: string) => (await world.stripe.invoices.list({ subscription, limit: 100 })).data
const amounts = (invoice: Stripe.Invoice | undefined) => invoice?.lines.data.map(({ amount }) => amount)

inEachMonth('a monthly plan and a yearly add-on have periods of their own, and begin on one invoice', async () => {
  const { id, items } = await begin()

  const [monthly, yearly] = items.data
  const [first] = await invoices(id)

  expect(amounts(first)).toEqual([2000, 20_000])
  expect(monthly?.current_period_start).toBe(yearly?.current_period_start)
  expect((yearly?.current_period_end ?? 0) - (monthly?.current_period_end ?? 0)).toBeGreaterThan(330 * day)
  expect(first?.lines.data.map(({ period }) => period.end)).toEqual(items.data.map((one) => one.current_period_end))
})

inEachMonth('each invoice has what renews and nothing else; where the periods meet it has both', async () => {
  const { id, items } = await begin()
  const yearEnds = items.data[1]?.current_period_end ?? 0

  await world.tell('/advance', { to: yearEnds + 7200 })
  const all = await invoices(id)

  expect(all).toHaveLength(13)
  expect(amounts(all[0])).toEqual([2000, 20_000])
  expect(all.slice(1, 12).map(amounts)).toEqual(Array(11).fill([2000]))
  expect((await read(id)).items.data.map((one) => one.current_period_start)).toEqual([yearEnds, yearEnds])
})

inEachMonth('an add-on that joins in the middle is paid in part until the anchor, then in full', async () => {
  const { id, billing_cycle_anchor, items } = await begin({ items: [{ price: shop.monthly }] })
  await world.tell('/advance', { to: (items.data[0]?.current_period_end ?? 0) + 73 * day })

  const joined = await world.stripe.subscriptions.update(id, {
    items: [{ price: shop.yearly }],
    proration_behavior: 'always_invoice',
  })
  const [invoice] = await invoices(id)
  const yearly = joined.items.data[1]
  const left = (yearly?.current_period_end ?? 0) - (yearly?.current_period_start ?? 0)
  const year = (yearly?.current_period_end ?? 0) - billing_cycle_anchor

  expect([365 * day, 366 * day]).toContain(year)
  expect(left).toBeLessThan(290 * day)
  expect(Math.abs((invoice?.total ?? 0) - (20_000 * left) / year)).toBeLessThan(1)
  await world.tell('/advance', { to: (yearly?.current_period_end ?? 0) + 7200 })
  expect(amounts((await invoices(id))[0])).toEqual([2000, 20_000])
})

inEachMonth('an add-on that is taken off gives back its own rest, and leaves the plan alone', async () => {
  const { id, items } = await begin()
  const [monthly, yearly] = items.data
  await world.advance(20 * day)

  const changed = await world.stripe.subscriptions.update(id, {
    items: [{ id: yearly?.id ?? '', deleted: true }],
    proration_behavior: 'always_invoice',
  })
  const [invoice] = await invoices(id)

  expect(changed.items.data.map((one) => [one.id, one.current_period_end])).toEqual([
    [monthly?.id, monthly?.current_period_end],
  ])
  const year = (yearly?.current_period_end ?? 0) - (yearly?.current_period_start ?? 0)
  expect(Math.abs((invoice?.total ?? 0) + (20_000 * (year - 20 * day)) / year)).toBeLessThan(2)
  expect(invoice?.lines.data[0]?.parent?.subscription_item_details?.subscription_item).toBe(yearly?.id)
})

inEachMonth('what is upcoming is what renews then', async () => {
  const { id } = await begin()
  await world.tell('/advance', { to: ((await read(id)).items.data[0]?.current_period_end ?? 0) - 2 * day })
  await world.tell('/settled')

  const upcoming = world.hooks.find(({ type }) => type === 'invoice.upcoming')

  expect(upcoming?.object).toMatchObject({ total: 2000, lines: { data: [{ amount: 2000 }] } })
})

test('an anchor in the future makes a stub, which is paid in part or is free', async () => {
  await inAWorld('2027-04-16T00:00:00Z', async () => {
    const items = [{ price: shop.monthly }]
    const billing_cycle_anchor = Date.parse('2027-05-01T00:00:00Z') / 1000
    const paid = await begin({ items, billing_cycle_anchor })
    const free = await begin({ items, billing_cycle_anchor, proration_behavior: 'none' })

    const [[stub], [nothing]] = [await invoices(paid.id), await invoices(free.id)]
    await world.tell('/advance', { to: billing_cycle_anchor + 3700 })

    expect(stub).toMatchObject({ total: 1000, status: 'paid', billing_reason: 'subscription_create' })
    expect(stub?.lines.data[0]?.parent?.subscription_item_details).toMatchObject({
      proration: true,
      invoice_item: null,
    })
    expect([nothing?.total, nothing?.lines.data, free.status]).toEqual([0, [], 'active'])
    expect((await invoices(paid.id)).map(({ total }) => total)).toEqual([2000, 1000])
    const late = begin({ items, billing_cycle_anchor: billing_cycle_anchor + 90 * day })
    await expect(late).rejects.toMatchObject({ param: 'billing_cycle_anchor' })
  })
})

test('the cycle may begin anew today: the rest is given back, and a whole period is charged', async () => {
  await inAWorld('2027-04-01T00:00:00Z', async () => {
    const { id, items } = await begin({ items: [{ price: shop.monthly }] })
    await world.tell('/advance', { to: (items.data[0]?.current_period_start ?? 0) + 15 * day })

    await world.stripe.subscriptions.update(id, { billing_cycle_anchor: { type: 'now' } })
    const [invoice] = await invoices(id)

    expect(amounts(invoice)).toEqual([-1000, 2000])
    expect((await read(id)).billing_cycle_anchor).toBe(invoice?.created)
  })
})

test('who is cancelled at once may get the rest back on a last invoice', async () => {
  await inAWorld('2027-04-01T00:00:00Z', async () => {
    const { id, items } = await begin({ items: [{ price: shop.monthly }] })
    await world.tell('/advance', { to: (items.data[0]?.current_period_start ?? 0) + 15 * day })

    const ended = await world.stripe.subscriptions.cancel(id, { invoice_now: true, prorate: true })
    const [last] = await invoices(id)

    expect([ended.status, amounts(last), last?.status, last?.ending_balance]).toEqual([
      'canceled',
      [-1000],
      'paid',
      -1000,
    ])
  })
})
