/** Accounts that change while somebody pays: deleted, reinstated, erased, moved to another address; and prices made at Stripe. */
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  advance,
  balanceOf,
  billing,
  buy,
  changed,
  checkout,
  control,
  customerOf,
  entitlementOf,
  renewAtStripe,
  returnUrls,
  settled,
  stripeClient,
} from '../support/billing.ts'
import { clientWith, newEmail, newUser, type TestUser } from '../support/users.ts'
import { target } from '../target.ts'

const premium = { plan_price: 'premium_month' }

let sql: postgres.Sql
beforeAll(() => {
  sql = postgres(target().dbUrl, { max: 4, onnotice: () => {} })
})
afterAll(() => sql.end())

const service = () => clientWith(target().secretKey)

/** Somebody in a trial, whose customer at Stripe is still known when the user is not. */
async function subscriber(): Promise<{ user: TestUser; customer: string }> {
  const user = await newUser()
  await buy(sql, user, premium)
  return { user, customer: await customerOf(sql, user) }
}
const atStripe = async (customer: string) => {
  const { data } = await stripeClient().subscriptions.list({ customer, status: 'all' })
  return data.map(({ status, cancel_at_period_end }) => [status, cancel_at_period_end])
}
const paidAtStripe = async (customer: string) => {
  const { data } = await stripeClient().invoices.list({ customer, status: 'paid' })
  return data.reduce((sum, { amount_paid }) => sum + amount_paid, 0)
}

describe.runIf(target().own)('an account that pays', () => {
  test('and is deleted by its owner is charged no more', async () => {
    const { user, customer } = await subscriber()

    await user.client.rpc('delete_my_account').throwOnError()
    await changed(sql, user.id)
    const deleted = await atStripe(customer)
    await renewAtStripe(customer)

    expect([deleted, await atStripe(customer), await paidAtStripe(customer)]).toEqual([
      [['trialing', true]],
      [['canceled', true]],
      0,
    ])
  }, 60_000)

  test('and is reinstated before its period ends pays and is paid for as before', async () => {
    const { user, customer } = await subscriber()
    await user.client.rpc('delete_my_account').throwOnError()
    await changed(sql, user.id)

    await service().rpc('reinstate_account', { user_id: user.id, reason: 'a mistake' }).throwOnError()
    await changed(sql, user.id)
    await renewAtStripe(customer)
    await settled(sql)

    expect([await atStripe(customer), await paidAtStripe(customer)]).toEqual([[['active', false]], 1200])
  }, 60_000)

  test('and is erased at Auth is charged no more', async () => {
    const { user, customer } = await subscriber()

    await service().auth.admin.deleteUser(user.id)
    await changed(sql, user.id)

    expect(await atStripe(customer)).toEqual([['trialing', true]])
  }, 60_000)

  test('and moves to another address has its receipts sent there', async () => {
    const { user, customer } = await subscriber()
    const email = newEmail()

    await service().auth.admin.updateUserById(user.id, { email, email_confirm: true })
    await changed(sql, user.id)

    expect(await stripeClient().customers.retrieve(customer)).toMatchObject({ email })
  }, 60_000)
})

describe.runIf(target().own)('a price that was made at Stripe', () => {
  test('is in the way of a second subscription, and counts once somebody says as what', async () => {
    const user = await newUser()
    await stripeClient().checkout.sessions.expire(await checkout(user, premium))
    const customer = await customerOf(sql, user)
    await control(`/customers/${customer}/card`, { outcome: 'ok' })
    const [product] =
      await sql`select product_id as id from private.stripe_prices where plan_price_id = 'premium_month'`
    const { id: price } = await stripeClient().prices.create({
      ...{ product: String(product?.id), currency: 'usd', unit_amount: 2000, recurring: { interval: 'month' } },
    })
    await stripeClient().subscriptions.create({ customer, items: [{ price }] })
    await settled(sql)
    const before = [await entitlementOf(user), await billing(user, 'checkout', { ...premium, ...returnUrls })]

    await service().rpc('map_stripe_price', { stripe_price_id: price, plan_price: 'premium_month' }).throwOnError()

    expect(before).toMatchObject([
      { plan_id: 'free' },
      { status: 409, body: { error: { code: 'already_subscribed' } } },
    ])
    expect(await entitlementOf(user)).toMatchObject({ plan_id: 'premium', state: 'active' })
    expect(await balanceOf(user)).toBe(1100)
  }, 60_000)
})

describe.runIf(target().own)('a trial that ended without a card and is paused', () => {
  test('goes on with the card that its owner has given since, paid from that moment', async () => {
    const user = await newUser()
    await stripeClient().checkout.sessions.expire(await checkout(user, premium))
    const customer = await customerOf(sql, user)
    const [price] = await sql`select id from private.stripe_prices where plan_price_id = 'premium_month' and is_current`
    await stripeClient().subscriptions.create({
      ...{ customer, items: [{ price: String(price?.id) }], trial_period_days: 7 },
      trial_settings: { end_behavior: { missing_payment_method: 'pause' } },
    })
    await advance(sql, user, 8)
    const refused = await billing(user, 'checkout', { ...premium, ...returnUrls })
    const card = await stripeClient().paymentMethods.attach('pm_card_visa', { customer })
    await stripeClient().customers.update(customer, { invoice_settings: { default_payment_method: card.id } })

    const { body } = await billing(user, 'resume', returnUrls)
    await settled(sql)

    expect(refused.body.error?.message).toContain('POST /billing/resume')
    expect(body).toEqual({ state: 'active', url: null })
    expect(await entitlementOf(user)).toMatchObject({ plan_id: 'premium', state: 'active' })
    expect([await balanceOf(user), await paidAtStripe(customer)]).toEqual([1100, 1200])
  }, 60_000)
})
