/** A price that somebody made in Stripe's dashboard for a plan's product: nobody pays for nothing, and nobody is sold a plan twice. */
import { describe, expect, test } from 'vitest'
import {
  apply,
  everythingOf,
  id,
  invoice,
  item,
  ledgerOf,
  line,
  newShop,
  nextCustomer,
  type Shop,
  subscription,
  subscriptionOf,
} from './billing-support.ts'
import { asUser, refusal, rolledBack, type Tx } from './support.ts'

type Dashboard = Shop & { price: string; sub: string }

/** A subscriber whose price is not known here, of a product that is; the month is paid. */
async function subscribed(tx: Tx, product = 'prod_1'): Promise<Dashboard> {
  const shop = await newShop(tx)
  return subscribe(tx, shop, id('price'), product)
}
async function subscribe(tx: Tx, shop: Shop, price: string, product = 'prod_1'): Promise<Dashboard> {
  const sub = subscription(shop, 1, { items: [{ ...item(price), product_id: product }] })
  await apply(
    tx,
    sub,
    invoice(shop, 1, { subscription_id: sub.id, total: 2000, lines: [line(price, { amount: 2000 })] }),
  )
  return { ...shop, price, sub: sub.id }
}
const unknowns = (tx: Tx, price: string) =>
  tx`select object_id, details, handled_at is not null as is_handled from private.stripe_unknowns where kind = 'price' and value = ${price}`
const map = async (tx: Tx, price: string, planPrice: string): Promise<number> =>
  Number((await tx`select public.map_stripe_price(${price}, ${planPrice}) as changed`)[0]?.changed)
const checkout = (tx: Tx, { account, planPrice }: Shop) => tx`
  select private.prepare_checkout(${account.id}, ${account.sessionId}, ${planPrice}, null, false, '{}')`

describe('a price that is not known here, of a product that is', () => {
  test('is told once, with product, subscription and customer', () =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx)

      const details = { product_id: 'prod_1', subscription_id: shop.sub, customer_id: shop.customer }
      expect(Array.from(await unknowns(tx, shop.price))).toEqual([{ object_id: shop.sub, details, is_handled: false }])
      const told = await tx`
        select type from public.security_events where type = 'stripe_unknown' and details ->> 'value' = ${shop.price}`
      expect(told).toHaveLength(1)
    }))

  test.each([
    ['trialing', 'already_subscribed'],
    ['active', 'already_subscribed'],
    ['past_due', 'already_subscribed'],
    ['unpaid', 'already_subscribed'],
    ['paused', 'already_subscribed'],
  ])('is in the way of a second checkout while it is %s', (status, code) =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx)
      const items = [{ ...item(shop.price), product_id: 'prod_1' }]
      await apply(tx, subscription(shop, 2, { id: shop.sub, status, items }))

      expect((await refusal(tx, (sp) => checkout(sp, shop))).code).toBe(code)
    }),
  )

  test('is in nobody’s way when it has ended, or is of a product that is no plan of ours', () =>
    rolledBack(async (tx) => {
      const other = await subscribed(tx, 'prod_other')
      const pack = await subscribed(tx, 'prod_2')
      const ended = await subscribed(tx)
      await apply(
        tx,
        subscription(ended, 2, {
          id: ended.sub,
          status: 'canceled',
          items: [{ ...item(ended.price), product_id: 'prod_1' }],
        }),
      )

      for (const shop of [other, pack, ended]) expect(await checkout(tx, shop)).toHaveLength(1)
      expect([...(await unknowns(tx, other.price)), ...(await unknowns(tx, pack.price))]).toEqual([])
    }))
})

test('a paused subscription says how it goes on, and where', () =>
  rolledBack(async (tx) => {
    const shop = await newShop(tx)
    await apply(tx, subscription(shop, 1, { status: 'paused' }))

    const { code, message } = await refusal(tx, (sp) => checkout(sp, shop))

    expect([code, message]).toEqual(['already_subscribed', expect.stringContaining('POST /billing/resume')])
  }))

describe('map_stripe_price', () => {
  test('makes it count as a price of ours, also for what was paid already, for everybody who has it', () =>
    rolledBack(async (tx) => {
      const first = await subscribed(tx)
      const second = await subscribe(tx, await nextCustomer(tx, first), first.price)
      expect(await subscriptionOf(tx, first.sub)).toMatchObject({ plan_id: null })

      expect(await map(tx, first.price, first.planPrice)).toBeGreaterThan(0)

      for (const shop of [first, second]) {
        expect(await subscriptionOf(tx, shop.sub)).toMatchObject({ plan_id: 'premium', plan_price_id: shop.planPrice })
        expect(await ledgerOf(tx, shop)).toEqual(['grant 1000'])
      }
      expect(await unknowns(tx, first.price)).toMatchObject([{ is_handled: true }])
    }))

  test('called again changes nothing, and nothing new is sold at that price', () =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx)
      await map(tx, shop.price, shop.planPrice)
      const before = await everythingOf(tx, [shop.account.id])

      expect(await map(tx, shop.price, shop.planPrice)).toBe(0)

      expect(await everythingOf(tx, [shop.account.id])).toEqual(before)
      const current =
        await tx`select id from private.stripe_prices where plan_price_id = ${shop.planPrice} and is_current`
      expect(current).toEqual([{ id: shop.month }])
    }))

  test('refuses what nobody has seen, what is no price of ours, and a price that is another’s already', () =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx)
      const code = async (price: string, planPrice: string) =>
        (await refusal(tx, (sp) => map(sp, price, planPrice))).code

      expect(await code(id('price'), shop.planPrice)).toBe('not_found')
      expect(await code(shop.price, 'enterprise_month')).toBe('not_found')
      expect(await code(shop.year, shop.planPrice)).toBe('invalid_request_error')
      expect(await code(shop.pack, shop.planPrice)).toBe('invalid_request_error')
    }))

  test('is for admins and the service role', () =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx)

      const { code } = await refusal(tx, (sp) => asUser(sp, shop.account.id, () => map(sp, shop.price, shop.planPrice)))

      expect(code).toBe('not_allowed')
    }))
})
