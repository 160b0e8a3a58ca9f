/** Money that goes back through the stand-in: refunds, whole, in parts and failing, and disputes, won and lost. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import { buyPack, createShop, createWorld, type StripeWorld } from '../support/stripe.ts'

let world: StripeWorld
let intent: string
beforeEach(async () => {
  world = await createWorld()
  const { pack, customer } = await createShop(world)
  intent = (await buyPack(world, pack, customer)).intent
  await world.told()
})
afterEach(() => world.close())

const charge = async () => (await world.stripe.charges.list({ payment_intent: intent })).data[0]
const disputes = async () => (await world.stripe.disputes.list({ payment_intent: intent })).data

test('a payment is refunded in parts until nothing is left', async () => {
  const { stripe } = world
  const part = await stripe.refunds.create({ payment_intent: intent, amount: 300 })
  const between = await charge()
  const rest = await stripe.refunds.create({ charge: between?.id ?? '', reason: 'requested_by_customer' })

  expect([part.status, part.amount, rest.amount]).toEqual(['succeeded', 300, 700])
  expect(between).toMatchObject({ amount_refunded: 300, refunded: false })
  expect(await charge()).toMatchObject({ amount_refunded: 1000, refunded: true })
  expect(await world.told()).toEqual(['refund.created', 'charge.refunded', 'refund.created', 'charge.refunded'])
  await expect(stripe.refunds.create({ payment_intent: intent })).rejects.toMatchObject({
    code: 'charge_already_refunded',
  })
})

test('more than what is left cannot be refunded', async () => {
  await world.stripe.refunds.create({ payment_intent: intent, amount: 600 })

  const tooMuch = world.stripe.refunds.create({ payment_intent: intent, amount: 500 })

  await expect(tooMuch).rejects.toMatchObject({ statusCode: 400, param: 'amount' })
})

test('a refund can fail afterwards: the charge is as if there had been none', async () => {
  const { id } = await world.stripe.refunds.create({ payment_intent: intent })
  await world.told()

  await world.tell(`/refunds/${id}`, { status: 'failed' })

  expect(await world.stripe.refunds.retrieve(id)).toMatchObject({
    status: 'failed',
    failure_reason: expect.any(String),
  })
  expect(await charge()).toMatchObject({ amount_refunded: 0, refunded: false })
  expect(await world.told()).toEqual(['refund.updated', 'charge.refund.updated', 'refund.failed'])
  await expect(world.tell(`/refunds/${id}`, { status: 'succeeded' })).rejects.toThrow('failed already')
})

test('refunds can begin as pending, and be found by what they refund', async () => {
  await world.tell('/settings', { refund_status: 'pending' })
  const { id, status } = await world.stripe.refunds.create({ payment_intent: intent, amount: 1 })

  await world.tell(`/refunds/${id}`, { status: 'succeeded' })
  const shown = await world.stripe.charges.retrieve((await charge())?.id ?? '', { expand: ['refunds'] })

  expect(status).toBe('pending')
  expect((await world.stripe.refunds.list({ payment_intent: intent })).data).toMatchObject([
    { id, status: 'succeeded' },
  ])
  expect(shown.refunds?.data.map((refund) => refund.id)).toEqual([id])
})

test.each([
  ['won', ['charge.dispute.closed', 'charge.dispute.funds_reinstated']],
  ['lost', ['charge.dispute.closed']],
])('a dispute takes the money, and is %s', async (status, expected) => {
  await world.tell('/disputes', { payment_intent: intent })
  const [open] = await disputes()
  const opened = await world.told()
  const refund = world.stripe.refunds.create({ payment_intent: intent })
  await expect(refund).rejects.toMatchObject({ code: 'charge_disputed' })

  await world.tell(`/disputes/${open?.id}/close`, { status })

  expect(open).toMatchObject({ status: 'needs_response', amount: 1000, reason: 'fraudulent', payment_intent: intent })
  expect(opened).toEqual(['charge.dispute.created', 'charge.dispute.funds_withdrawn'])
  expect(await world.told()).toEqual(expected)
  expect((await disputes())[0]?.status).toBe(status)
  await expect(world.tell(`/disputes/${open?.id}/close`, { status })).rejects.toThrow(`${status} already`)
})

test.each([
  ['won', ['charge.dispute.closed', 'charge.dispute.funds_reinstated']],
  ['lost', ['charge.dispute.closed']],
])('a dispute that was lost is appealed, and is %s; the money is gone all the while', async (status, expected) => {
  await world.tell('/disputes', { payment_intent: intent })
  const path = `/disputes/${(await disputes())[0]?.id}`
  const appeal = (to: string) => world.tell(path, { status: to })
  await expect(appeal('appeal_needs_response')).rejects.toThrow('Only a dispute that is lost')
  await world.tell(`${path}/close`, { status: 'lost' })
  await world.told()

  await appeal('appeal_needs_response')
  await expect(appeal('needs_response')).rejects.toThrow('is appealed')
  await appeal('appeal_under_review')
  const refund = world.stripe.refunds.create({ payment_intent: intent })
  await expect(refund).rejects.toMatchObject({ code: 'charge_disputed' })
  const moved = await world.told()
  const [appealed] = await disputes()
  await world.tell(`${path}/close`, { status })

  expect(moved).toEqual(['charge.dispute.updated', 'charge.dispute.updated'])
  expect(appealed).toMatchObject({ status: 'appeal_under_review', is_charge_refundable: false })
  expect(await world.told()).toEqual(expected)
  expect((await disputes())[0]?.status).toBe(status)
})

test('an inquiry takes no money until it becomes a dispute', async () => {
  await world.tell('/disputes', { payment_intent: intent, amount: 400, status: 'warning_needs_response' })
  const [inquiry] = await disputes()
  const opened = await world.told()

  await world.tell(`/disputes/${inquiry?.id}`, { status: 'needs_response' })

  expect([inquiry?.amount, opened]).toEqual([400, ['charge.dispute.created']])
  expect(await world.told()).toEqual(['charge.dispute.updated', 'charge.dispute.funds_withdrawn'])
})
