/** Webhooks of the stand-in: signed as Stripe's, repeated until they are taken, and lost or mixed when told to. */
import Stripe from 'stripe'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { z } from 'zod'
import { createWorld, type StripeWorld } from '../support/stripe.ts'

let world: StripeWorld
beforeEach(async () => {
  world = await createWorld()
})
afterEach(() => world.close())

const noted = z.object({
  events: z.array(
    z.object({
      id: z.string(),
      type: z.string(),
      object_id: z.string().nullable(),
      deliveries: z.array(z.object({ state: z.string(), attempts: z.number(), status: z.number().nullable() })),
    }),
  ),
})
const delivered = z.object({
  delivered: z.array(z.object({ id: z.string(), type: z.string(), status: z.number().nullable() })),
})
const events = async () => (await world.control('/events', {}, noted, 'GET')).events
const verify = (body: string, signature: string, secret: string) =>
  world.stripe.webhooks.constructEventAsync(body, signature, secret)
const makeCustomers = async (count: number) => {
  for (let i = 0; i < count; i += 1) await world.stripe.customers.create({ name: `Customer ${i}` })
}
const names = () => world.hooks.map(({ object }) => object.name)

test('an event is signed for every secret of its endpoint, and for no other', async () => {
  await world.close()
  world = await createWorld({ secrets: ['old', 'new'].map((word) => ['whsec', word, 'x'.repeat(16)].join('')) })
  await makeCustomers(1)
  await world.tell('/settled')
  const [hook] = world.hooks

  const read = world.secrets.map((secret) => verify(hook?.body ?? '', hook?.signature ?? '', secret))

  expect((await Promise.all(read)).map(({ type }) => type)).toEqual(['customer.created', 'customer.created'])
  await expect(verify(hook?.body ?? '', hook?.signature ?? '', 'another')).rejects.toThrow('signature')
  await expect(verify(`${hook?.body} `, hook?.signature ?? '', world.secrets[0] ?? '')).rejects.toThrow('signature')
  expect(hook?.body).not.toBe(JSON.stringify(JSON.parse(hook?.body ?? '')))
})

test('a signature is of this moment, however far the clock was moved', async () => {
  await world.advance(400 * 86_400)
  await makeCustomers(1)
  await world.tell('/settled')
  const [hook] = world.hooks

  const event = await verify(hook?.body ?? '', hook?.signature ?? '', world.secrets[0] ?? '')

  const signedAt = Number(/^t=(\d+),/.exec(hook?.signature ?? '')?.[1])
  expect(Math.abs(signedAt - Date.now() / 1000)).toBeLessThan(60)
  expect(event.created - Date.now() / 1000).toBeGreaterThan(399 * 86_400)
  expect(event.api_version).toBe(Stripe.API_VERSION)
})

test('an event shows its object as it was, and what changed', async () => {
  const { id } = await world.stripe.customers.create({ name: 'Before' })
  await world.stripe.customers.update(id, { name: 'After' })
  const [second, first] = (await world.stripe.events.list({ types: ['customer.created', 'customer.updated'] })).data

  expect(first?.data.object).toMatchObject({ id, name: 'Before' })
  expect(second?.data).toMatchObject({ object: { name: 'After' }, previous_attributes: { name: 'Before' } })
  expect(second?.request?.id).toMatch(/^req_/)
})

test('an event that is not taken comes again, later and later, and not for ever', async () => {
  world.answers.push(500, 404)
  await makeCustomers(1)

  await world.tell('/settled')
  const [event] = await events()

  expect(world.hooks.map(({ type }) => type)).toEqual(['customer.created', 'customer.created', 'customer.created'])
  expect(event?.deliveries).toEqual([{ state: 'delivered', attempts: 3, status: 200 }])
})

test('held events are delivered when and in the order that is asked for', async () => {
  await world.tell('/delivery', { mode: 'hold' })
  await makeCustomers(3)
  await world.tell('/settled')
  const before = names()

  const { delivered: all } = await world.control('/deliver', { order: 'reverse' }, delivered)
  const again = await world.control('/deliver', { ids: [all[0]?.id, all[0]?.id] }, delivered)

  expect(before).toEqual([])
  expect(all.map(({ status }) => status)).toEqual([200, 200, 200])
  expect(names()).toEqual(['Customer 2', 'Customer 1', 'Customer 0', 'Customer 2', 'Customer 2'])
  expect(again.delivered).toHaveLength(2)
})

test('a held event that is not taken is still held', async () => {
  await world.tell('/delivery', { mode: 'hold' })
  await makeCustomers(1)
  world.answers.push(503)

  const first = await world.control('/deliver', {}, delivered)
  const second = await world.control('/deliver', {}, delivered)
  const third = await world.control('/deliver', {}, delivered)

  expect([first, second, third].map((one) => one.delivered.map(({ status }) => status))).toEqual([[503], [200], []])
})

test('events get lost, come twice, or mixed in an order that a seed decides', async () => {
  await world.tell('/delivery', { mode: 'drop' })
  await makeCustomers(2)
  const lost = await world.told()
  await world.tell('/delivery', { mode: 'duplicate' })
  await makeCustomers(1)
  const twice = await world.told()
  const mixed = async () => {
    await world.tell('/delivery', { mode: 'shuffle', seed: 7 })
    world.hooks.length = 0
    await makeCustomers(6)
    await world.tell('/settled')
    return names()
  }

  const orders = [await mixed(), await mixed()]

  expect([lost, twice]).toEqual([[], ['customer.created', 'customer.created']])
  expect((await world.stripe.events.list({ limit: 100 })).data).toHaveLength(15)
  expect(orders[0]?.toSorted()).toEqual(Array.from({ length: 6 }, (_, i) => `Customer ${i}`))
  expect(orders[0]).not.toEqual(orders[0]?.toSorted())
})

test('an event of one’s own making is delivered as it was asked for', async () => {
  await world.tell('/events', {
    type: 'foo.bar',
    object: { id: 'x_1', object: 'x' },
    account: 'acct_1',
    livemode: true,
    api_version: '2020-01-01',
  })
  await world.tell('/settled')

  expect(JSON.parse(world.hooks[0]?.body ?? '{}')).toMatchObject({
    type: 'foo.bar',
    account: 'acct_1',
    livemode: true,
    api_version: '2020-01-01',
    data: { object: { id: 'x_1', object: 'x' } },
  })
})

test('an endpoint gets only the events it asked for, with a secret and a version of its own', async () => {
  const { stripe } = world
  const [first] = (await stripe.webhookEndpoints.list()).data
  const made = await stripe.webhookEndpoints.create({
    url: first?.url ?? '',
    enabled_events: ['product.created'],
    api_version: '2024-06-20',
  })
  await stripe.webhookEndpoints.del(first?.id ?? '')
  await makeCustomers(1)
  await stripe.products.create({ name: 'Premium' })
  const types = await world.told()
  await stripe.products.create({ name: 'Another' })
  await world.tell('/settled')

  const event = await verify(world.hooks[0]?.body ?? '', world.hooks[0]?.signature ?? '', made.secret ?? '')

  expect(types).toEqual(['product.created'])
  expect(event.api_version).toBe('2024-06-20')
})

test('a reset forgets everything but the endpoints', async () => {
  await makeCustomers(1)
  await world.control('', {}, z.unknown(), 'DELETE')
  world.hooks.length = 0

  const left = (await world.stripe.customers.list()).data
  await makeCustomers(1)

  expect(left).toEqual([])
  expect(await world.told()).toEqual(['customer.created'])
})

test('control refuses what it does not understand', async () => {
  const ask = async (path: string, body: string) =>
    (await fetch(`${world.url}/control${path}`, { method: 'POST', body })).status

  expect([
    await ask('/delivery', '{"mode":"never"}'),
    await ask('/advance', '{"seconds":-1}'),
    await ask('/disputes', '{"payment_intent":"pi_none"}'),
    await ask('/nonsense', '{}'),
  ]).toEqual([400, 400, 404, 404])
})
