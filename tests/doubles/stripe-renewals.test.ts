/** What time does to subscriptions of the stand-in: renewals, payments that fail, and how they are made good. */
import { expect, test } from 'vitest'
import { createShop, createWorld, day, type StripeWorld, starts, subscribe } from '../support/stripe.ts'

let world: StripeWorld
let shop: Awaited<ReturnType<typeof createShop>>
async function inAWorld(startsAt: string, act: () => Promise<void>): Promise<void> {
  world = await createWorld({ startsAt })
  shop = await createShop(world)
  await act().finally(() => world.close())
}
/** A promise that is kept however long the month is. */
const inEachMonth = (name: string, act: () => Promise<void>) =>
  test.each(starts)(`${name} (in a month of %i days)`, (_days, startsAt) => inAWorld(startsAt, act))

const begin = async (price = shop.monthly) => {
  const { id } = await subscribe(world, price, shop.customer)
  await world.told()
  return id
}
const read = (id: string) => world.stripe.subscriptions.retrieve(id)
const invoices = async (subscription: string) => (await world.stripe.invoices.list({ subscription })).data
/** To the end of the period, or a while after it: months differ. */
const toRenewal = async (id: string, after = 3600) =>
  world.tell('/advance', { to: ((await read(id)).items.data[0]?.current_period_end ?? 0) + after })
const card = (outcome: string) => world.tell(`/customers/${shop.customer}/card`, { outcome })

inEachMonth('a renewal is a draft for an hour, then paid, and begins where the last period ended', async () => {
  const id = await begin()
  const before = (await read(id)).items.data[0]

  await toRenewal(id, 0)
  const [draft] = await invoices(id)
  const renewed = (await read(id)).items.data[0]
  await world.advance(3600)
  const [paid] = await invoices(id)

  expect(draft).toMatchObject({ status: 'draft', billing_reason: 'subscription_cycle', total: 2000 })
  expect(renewed?.current_period_start).toBe(before?.current_period_end)
  expect(paid).toMatchObject({
    id: draft?.id,
    status: 'paid',
    lines: { data: [{ period: { start: before?.current_period_end } }] },
  })
  expect(await world.told()).toEqual(
    expect.arrayContaining(['invoice.upcoming', 'invoice.created', 'invoice.finalized', 'invoice.paid']),
  )
})

inEachMonth('an upcoming invoice has no id yet', async () => {
  await toRenewal(await begin(), -2 * day)
  await world.tell('/settled')

  const hook = world.hooks.find(({ type }) => type === 'invoice.upcoming')

  expect(hook?.object).toMatchObject({ object: 'invoice', billing_reason: 'upcoming', total: 2000 })
  expect('id' in (hook?.object ?? {})).toBe(false)
})

test.each([
  [2027, '02-28'],
  [2028, '02-29'],
])('the 31st comes back after February %i', async (year, february) => {
  await inAWorld(`${year}-01-31T12:00:00Z`, async () => {
    const id = await begin()
    await toRenewal(id)
    await toRenewal(id)

    const begins = (await invoices(id)).map(({ lines }) =>
      new Date((lines.data[0]?.period.start ?? 0) * 1000).toISOString(),
    )

    expect(begins.map((at) => at.slice(5, 10))).toEqual(['03-31', february, '01-31'])
  })
})

inEachMonth('a payment that fails is tried again, each time later, and the last failure cancels', async () => {
  const id = await begin()
  await card('declined')

  await toRenewal(id)
  const [failed] = await invoices(id)
  const late = await read(id)
  await world.advance(3 * day)
  const [again] = await invoices(id)
  await world.advance(13 * day)

  expect(late.status).toBe('past_due')
  expect(failed).toMatchObject({ status: 'open', attempt_count: 1, attempted: true, amount_paid: 0 })
  expect(again?.attempt_count).toBe(2)
  expect((again?.next_payment_attempt ?? 0) - (failed?.next_payment_attempt ?? 0)).toBe(5 * day)
  expect(await read(id)).toMatchObject({ status: 'canceled', cancellation_details: { reason: 'payment_failed' } })
  expect((await world.told()).filter((type) => type === 'invoice.payment_failed')).toHaveLength(4)
})

inEachMonth('what happens after the last try is a setting', async () => {
  await world.tell('/settings', { dunning_days: [], after_dunning: 'unpaid' })
  const id = await begin()
  await card('declined')

  await toRenewal(id)
  const unpaid = await read(id)
  await toRenewal(id)
  const drafts = await world.stripe.invoices.list({ subscription: id, status: 'draft' })

  expect(unpaid.status).toBe('unpaid')
  expect(drafts.data).toMatchObject([{ auto_advance: false }])
})

inEachMonth('an open invoice is paid on its page, and the subscription goes on', async () => {
  const id = await begin()
  await card('declined')
  await toRenewal(id)
  const [open] = await invoices(id)
  await world.told()

  const shown = await (await world.page(open?.hosted_invoice_url ?? '')).text()
  const declined = await world.page(open?.hosted_invoice_url ?? '', { way: 'declined' })
  const between = await read(id)
  await world.page(open?.hosted_invoice_url ?? '', { way: 'ok' })

  expect(shown).toContain('$20.00')
  expect(declined.headers.get('location')).toContain('failed')
  expect(between.status).toBe('past_due')
  expect((await invoices(id))[0]).toMatchObject({ status: 'paid', amount_paid: 2000, next_payment_attempt: null })
  expect((await read(id)).status).toBe('active')
  expect(await world.told()).toEqual(
    expect.arrayContaining(['invoice_payment.paid', 'invoice.paid', 'customer.subscription.updated']),
  )
})

inEachMonth('a renewal that asks for 3-D Secure waits for its customer', async () => {
  const id = await begin()
  await card('requires_action')
  await toRenewal(id)
  const [open] = await invoices(id)
  const types = await world.told()

  const refused = await world.page(`/i/${open?.id}/challenge`, { answer: 'failed' })
  await world.page(`/i/${open?.id}`, { way: 'requires_action' })
  await world.page(`/i/${open?.id}/challenge`, { answer: 'ok' })

  expect(types).toEqual(
    expect.arrayContaining([
      'invoice.payment_failed',
      'invoice.payment_action_required',
      'payment_intent.requires_action',
    ]),
  )
  expect(refused.headers.get('location')).toContain('failed')
  expect((await invoices(id))[0]?.status).toBe('paid')
  expect((await read(id)).status).toBe('active')
})

inEachMonth('paying through the API says why it failed', async () => {
  const id = await begin()
  await card('declined')
  await toRenewal(id)
  const [open] = await invoices(id)

  const failed = world.stripe.invoices.pay(open?.id ?? '')
  await expect(failed).rejects.toMatchObject({ statusCode: 402, code: 'card_declined' })
  await card('ok')

  expect((await world.stripe.invoices.pay(open?.id ?? '')).status).toBe('paid')
})

inEachMonth('a first invoice that nobody pays for a day ends the subscription before it began', async () => {
  const { id, status } = await world.stripe.subscriptions.create({
    customer: shop.customer,
    items: [{ price: shop.monthly }],
  })

  await world.advance(day)

  expect(status).toBe('incomplete')
  expect((await read(id)).status).toBe('incomplete_expired')
  expect((await invoices(id))[0]?.status).toBe('void')
})

inEachMonth(
  'the time of one customer runs ahead alone: renewals, tries and changes of theirs happen in it',
  async () => {
    const id = await begin()
    const other = await world.stripe.customers.create({})
    const { id: still } = await subscribe(world, shop.monthly, other.id)
    const ahead = (to: number) => world.tell('/advance', { to, customer: shop.customer })
    const end = (await read(id)).items.data[0]?.current_period_end ?? 0

    await ahead(end + 3600)
    await card('declined')
    const second = (await read(id)).items.data[0]?.current_period_end ?? 0
    await ahead(second + 3600)
    const failed = (await invoices(id))[0]
    await ahead(failed?.next_payment_attempt ?? 0)
    const canceled = await world.stripe.subscriptions.cancel(id)

    expect((await invoices(still)).length).toBe(1)
    expect((await invoices(id)).map(({ status }) => status)).toEqual(['open', 'paid', 'paid'])
    expect([failed?.created, (await invoices(id))[0]?.attempt_count]).toEqual([second, 2])
    expect(Math.abs((canceled.ended_at ?? 0) - (failed?.next_payment_attempt ?? 0))).toBeLessThan(5)
  },
)

inEachMonth('what one customer did ahead of time is not done again when the common clock follows', async () => {
  const id = await begin()
  await world.tell('/advance', { seconds: 40 * day, customer: shop.customer })

  await world.advance(15 * day)
  const between = await invoices(id)
  await world.advance(10 * day)

  expect(between).toHaveLength(2)
  expect(await invoices(id)).toHaveLength(3)
})
