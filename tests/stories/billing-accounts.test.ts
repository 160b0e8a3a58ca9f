/** Accounts that change while somebody pays: deleted, reinstated, erased, moved to another address. */
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { buy, changed, customerOf, renewAtStripe, settled, stripeClient } from '../support/billing.ts'
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
