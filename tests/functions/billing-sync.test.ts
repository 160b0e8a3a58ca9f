/** What we sell in Stripe: the stand-in for it, and the note of prices in memory. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Item } from '../../functions/_shared/billing/billing-database.ts'
import { createStripe } from '../../functions/_shared/billing/stripe-client.ts'
import { syncCatalogue } from '../../functions/_shared/billing/sync-catalogue.ts'
import { createWorld, type StripeWorld } from '../support/stripe.ts'
import { fakeDatabase } from './billing-world.ts'

let shop: StripeWorld
beforeEach(async () => {
  shop = await createWorld()
})
afterEach(() => shop.close())

const plan = {
  kind: 'plan_price',
  product_id: 'palisade_plan_premium',
  product_name: 'Premium',
  currency: 'usd',
} as const
const monthly: Item = { ...plan, id: 'premium_month', amount: 1200, interval: 'month', enabled: true }
const yearly: Item = { ...plan, id: 'premium_year', amount: 12_000, interval: 'year', enabled: true }
const pack: Item = {
  ...{ kind: 'credit_pack', id: 'credits_500', product_id: 'palisade_pack_credits_500', product_name: '500 credits' },
  ...{ amount: 500, currency: 'usd', interval: null, enabled: true },
}
const all = [monthly, yearly, pack]

function scene(dryRun = false) {
  const noted = new Map<string, string>()
  const stripe = createStripe(shop.secretKey, shop.url)
  const database = fakeDatabase({ setPrice: async ({ id }, price) => void noted.set(id, price) })
  const sync = async (items: Item[]) =>
    (await syncCatalogue(items, { database, stripe, dryRun })).map(({ item, action }) => `${item.id} ${action}`)
  return { sync, noted, stripe, database }
}

test('what we sell is made in Stripe and noted, and the next time nothing changes', async () => {
  const { sync, noted, stripe } = scene()

  expect(await sync(all)).toEqual(['premium_month created', 'premium_year created', 'credits_500 created'])
  const first = new Map(noted)
  expect(await sync(all)).toEqual(['premium_month same', 'premium_year same', 'credits_500 same'])

  expect(noted).toEqual(first)
  const prices = (await stripe.prices.list({ limit: 100 })).data
  expect(
    prices.map(({ id, unit_amount, recurring, product }) => [id, unit_amount, recurring?.interval, product]),
  ).toEqual(
    expect.arrayContaining([
      [noted.get('premium_month'), 1200, 'month', 'palisade_plan_premium'],
      [noted.get('premium_year'), 12_000, 'year', 'palisade_plan_premium'],
      [noted.get('credits_500'), 500, undefined, 'palisade_pack_credits_500'],
    ]),
  )
  expect(prices).toHaveLength(3)
  expect((await stripe.products.list({ limit: 100 })).data.map(({ name }) => name).sort()).toEqual([
    '500 credits',
    'Premium',
  ])
})

test('what was deleted at Stripe is made again, with the same name or another', async () => {
  const { sync, noted, stripe } = scene()
  const create = stripe.prices.create.bind(stripe.prices)
  stripe.prices.create = async () => {
    throw new Error('no price')
  }
  for (const item of [pack, pack]) {
    await expect(sync([item])).rejects.toThrow('no price')
    // Stripe deletes a product as long as it has no price.
    await stripe.products.del(item.product_id)
  }
  stripe.prices.create = create

  expect(await sync([{ ...pack, product_name: 'Five hundred' }])).toEqual(['credits_500 created'])

  expect((await stripe.products.retrieve(pack.product_id)).name).toBe('Five hundred')
  expect((await stripe.prices.list()).data.map(({ id }) => id)).toEqual([noted.get('credits_500')])
})

test('another amount is another price; the earlier one is archived, and comes back as a new one', async () => {
  const { sync, noted, stripe } = scene()
  await sync([monthly])
  const before = noted.get('premium_month') ?? ''

  expect(await sync([{ ...monthly, amount: 1500 }])).toEqual(['premium_month replaced'])
  const after = noted.get('premium_month') ?? ''
  expect(await sync([monthly])).toEqual(['premium_month replaced'])

  const states = await Promise.all(
    [before, after, noted.get('premium_month') ?? ''].map((id) => stripe.prices.retrieve(id)),
  )
  expect(states.map(({ active, unit_amount }) => [active, unit_amount])).toEqual([
    [false, 1200],
    [false, 1500],
    [true, 1200],
  ])
})

test('another name is the same product', async () => {
  const { sync, stripe } = scene()
  await sync([pack])

  const renamed = [{ ...pack, product_name: 'Five hundred' }]
  expect(await scene(true).sync(renamed)).toEqual(['credits_500 renamed'])
  expect(await sync(renamed)).toEqual(['credits_500 renamed'])

  expect((await stripe.products.retrieve(pack.product_id)).name).toBe('Five hundred')
  expect(await sync(renamed)).toEqual(['credits_500 same'])
})

test('what happens to a product is said once, beside what happens to its prices', async () => {
  const { sync, stripe } = scene()
  await sync(all)
  await stripe.products.update(plan.product_id, { active: false })
  await stripe.products.update(pack.product_id, { active: false })
  const changed = [
    ...[monthly, { ...yearly, amount: 11_000 }].map((item) => ({ ...item, product_name: 'Gold' })),
    { ...pack, amount: 600 },
  ]
  const expected = ['premium_month renamed, activated', 'premium_year replaced', 'credits_500 replaced, activated']

  expect(await scene(true).sync(changed)).toEqual(expected)
  expect(await sync(changed)).toEqual(expected)
  expect(await sync(changed)).toEqual(['premium_month same', 'premium_year same', 'credits_500 same'])
})

test('what is not sold any more is archived, and comes back', async () => {
  const { sync, noted, stripe } = scene()
  await sync([pack])

  expect(await sync([{ ...pack, enabled: false }])).toEqual(['credits_500 archived'])
  expect((await stripe.prices.retrieve(noted.get('credits_500') ?? '')).active).toBe(false)
  expect(await sync([{ ...pack, enabled: false }])).toEqual(['credits_500 not sold'])
  expect(await sync([pack])).toEqual(['credits_500 restored'])
})

test('a dry run says the same and does nothing', async () => {
  const { sync, noted, stripe } = scene(true)

  expect(await sync(all)).toEqual(['premium_month created', 'premium_year created', 'credits_500 created'])

  expect(noted.size).toBe(0)
  expect((await stripe.prices.list()).data).toEqual([])
})

describe('what reads back differently', () => {
  test('is said, and not noted', async () => {
    const { stripe, database, noted, sync } = scene()
    await sync([pack])
    noted.clear()
    // Somebody archives the product while it is compared.
    const retrieve = stripe.products.retrieve.bind(stripe.products)
    stripe.products.retrieve = async (...args) => ({ ...(await retrieve(...args)), active: false })

    const [synced] = await syncCatalogue([pack], { database, stripe, dryRun: false })

    expect(synced?.differences).toEqual(['the product differs'])
    expect(noted.size).toBe(0)
  })
})
