/** What real shops have beside one plan and one card: each story is a row of what goes wrong when billing does not follow the money. */
import postgres from 'postgres'
import type Stripe from 'stripe'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  balanceOf,
  checkout,
  control,
  customerOf,
  entitlementOf,
  renewAtStripe,
  settled,
  stripeClient,
} from '../support/billing.ts'
import { newUser, type TestUser } from '../support/users.ts'
import { target } from '../target.ts'

let sql: postgres.Sql
beforeAll(() => {
  sql = postgres(target().dbUrl, { max: 4, onnotice: () => {} })
})
afterAll(() => sql.end())

const premium = { plan_id: 'premium', is_paid: true, state: 'active' }
const month = 1200
const minutes = 120_000

/** A user whom Stripe knows, with a card that is good. */
async function shopper() {
  const user = await newUser()
  await stripeClient().checkout.sessions.expire(await checkout(user, { plan_price: 'premium_month' }))
  await settled(sql)
  const customer = await customerOf(sql, user)
  await control(`/customers/${customer}/card`, { outcome: 'ok' })
  return { user, customer }
}

async function stripePrice(planPrice: string): Promise<string> {
  const [row] = await sql`select id from private.stripe_prices where plan_price_id = ${planPrice} and is_current`
  return row?.id ?? ''
}

/** Premium by the month, without a trial, and what is added. */
async function begin(
  customer: string,
  given: Partial<Stripe.SubscriptionCreateParams> = {},
): Promise<Stripe.Subscription> {
  const items = [{ price: await stripePrice('premium_month') }, ...(given.items ?? [])]
  const made = await stripeClient().subscriptions.create({ customer, ...given, items })
  await settled(sql)
  return made
}

async function addOn(): Promise<string> {
  const product = await stripeClient().products.create({ name: 'Add-on' })
  const recurring = { interval: 'year' } as const
  const price = { product: product.id, currency: 'usd', unit_amount: 24_000, recurring }
  return (await stripeClient().prices.create(price)).id
}

/** What paid an invoice. */
async function intentOf(invoice: string): Promise<string> {
  const { data } = await stripeClient().invoicePayments.list({ invoice })
  return String(data[0]?.payment.payment_intent)
}
const latest = async (subscription: string) => (await stripeClient().invoices.list({ subscription })).data[0]

async function refund(invoice: string | undefined, amount?: number): Promise<void> {
  const payment_intent = await intentOf(invoice ?? '')
  await stripeClient().refunds.create({ payment_intent, ...(amount === undefined ? {} : { amount }) })
  await settled(sql)
}

/** Bills an amount for a year by hand, and has it paid. */
async function billYear(customer: string, subscription: string, amount: number): Promise<string> {
  const invoice = await stripeClient().invoices.create({ customer, subscription })
  const period = { start: invoice.created, end: invoice.created + 365 * 86_400 }
  const fee = { customer, subscription, invoice: invoice.id, amount, currency: 'usd', period }
  await stripeClient().invoiceItems.create(fee)
  await stripeClient().invoices.pay(invoice.id)
  await settled(sql)
  return invoice.id
}

async function addSeat({ id, items }: Stripe.Subscription): Promise<Stripe.Invoice | undefined> {
  await stripeClient().subscriptions.update(id, {
    items: [{ id: items.data[0]?.id ?? '', quantity: 2 }],
    proration_behavior: 'always_invoice',
  })
  await settled(sql)
  return latest(id)
}

/** After the days of grace, when nothing more has happened. */
async function planIn8Days({ id }: TestUser): Promise<unknown> {
  const [row] = await sql`
    select plan_id from private.entitlements
    where user_id = ${id} and starts_at <= now() + interval '8 days' and ends_at > now() + interval '8 days'`
  return row?.plan_id
}

const stands = async (user: TestUser) => expect(await entitlementOf(user)).toMatchObject(premium)

describe.runIf(target().own)('a plan follows the money', () => {
  test.each(['refunded', 'disputed'])(
    '1: a yearly add-on that is %s leaves the plan',
    async (how) => {
      const { user, customer } = await shopper()
      const { id } = await begin(customer)
      const items = [{ price: await addOn() }]
      await stripeClient().subscriptions.update(id, { items, proration_behavior: 'always_invoice' })
      await settled(sql)
      const bought = await latest(id)

      if (how === 'refunded') await refund(bought?.id)
      else await control('/disputes', { payment_intent: await intentOf(bought?.id ?? '') })
      await settled(sql)

      expect(bought?.amount_paid).toBeGreaterThan(23_000)
      await stands(user)
    },
    minutes,
  )

  test(
    '2: the month of the plan that is refunded whole is not paid, though an add-on runs for a year',
    async () => {
      const { user, customer } = await shopper()
      const { id } = await begin(customer, { items: [{ price: await addOn() }] })
      await renewAtStripe(customer)
      await settled(sql)

      await refund((await latest(id))?.id)

      expect(await entitlementOf(user)).toMatchObject({ plan_id: 'free', is_paid: false })
    },
    minutes,
  )

  test(
    '3: months that are void while collection is paused are not paid by an add-on that is',
    async () => {
      const { user, customer } = await shopper()
      const { id } = await begin(customer, { items: [{ price: await addOn() }] })
      await stripeClient().subscriptions.update(id, { pause_collection: { behavior: 'void' } })

      for (let i = 0; i < 3; i += 1) await renewAtStripe(customer)
      await settled(sql)

      expect((await latest(id))?.status).toBe('void')
      expect(await entitlementOf(user)).toMatchObject({ plan_id: 'free', is_paid: false, state: 'paused' })
    },
    minutes,
  )

  test(
    '4: a yearly fee by hand that is refunded leaves the plan',
    async () => {
      const { user, customer } = await shopper()
      const { id } = await begin(customer)

      await refund(await billYear(customer, id, 5000))

      await stands(user)
    },
    minutes,
  )

  test(
    '5: a month that was paid by balance stays paid when a seat by card is refunded',
    async () => {
      const { user, customer } = await shopper()
      await stripeClient().customers.createBalanceTransaction(customer, { amount: -month, currency: 'usd' })
      const seat = await addSeat(await begin(customer))

      await refund(seat?.id)

      expect(seat?.amount_paid).toBeGreaterThan(month / 2)
      await stands(user)
    },
    minutes,
  )

  test(
    '6: what is below the least charge is paid, and its credits are granted',
    async () => {
      const { user, customer } = await shopper()
      const coupon = await stripeClient().coupons.create({ amount_off: month - 30, currency: 'usd' })
      const before = await balanceOf(user)

      const { id } = await begin(customer, { discounts: [{ coupon: coupon.id }] })

      expect(await latest(id)).toMatchObject({ total: 30, amount_due: 0, starting_balance: 0, status: 'paid' })
      expect((await balanceOf(user)) - before).toBe(1000)
      await stands(user)
    },
    minutes,
  )

  test(
    '7: a seat that is declined leaves the month that was paid, and no grace begins for it',
    async () => {
      const { user, customer } = await shopper()
      const made = await begin(customer)
      await control(`/customers/${customer}/card`, { outcome: 'declined' })

      const seat = await addSeat(made)

      expect(seat).toMatchObject({ status: 'open', billing_reason: 'subscription_update' })
      expect(await planIn8Days(user)).toBe('premium')
    },
    minutes,
  )

  test(
    '8: a dearer price that is declined leaves the one that was paid',
    async () => {
      const { user, customer } = await shopper()
      const { id, items } = await begin(customer)
      await control(`/customers/${customer}/card`, { outcome: 'declined' })

      const [item] = items.data
      const price = await stripePrice('premium_year')
      await stripeClient().subscriptions.update(id, { items: [{ id: item?.id ?? '', price }] })
      await settled(sql)

      expect(await planIn8Days(user)).toBe('premium')
    },
    minutes,
  )
})
