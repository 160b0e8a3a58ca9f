/** Paying, as a user meets it: every story through checkout, webhook, job and SQL, with the stand-in's clock. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { root } from '../../stack/config.ts'
import {
  advance,
  balanceOf,
  billing,
  buy,
  checkout,
  control,
  customerOf,
  entitlementOf,
  monthOf,
  pay,
  settled,
  stripeClient,
  stripeKeys,
  stripeUrl,
  toNextPeriod,
} from '../support/billing.ts'
import { newUser, type TestUser } from '../support/users.ts'
import { target } from '../target.ts'

const premium = { plan_price: 'premium_month' }
const pack = { credit_pack: 'credits_500' }

let sql: postgres.Sql
beforeAll(() => {
  sql = postgres(target().dbUrl, { max: 4, onnotice: () => {} })
})
afterAll(() => sql.end())

const callsADay = async (user: TestUser) => {
  const { data } = await user.client.rpc('get_my_limits').throwOnError()
  return data.find(({ meter, period }) => meter === 'ai_calls' && period === 'day')?.amount
}
const subscription = async (user: TestUser) => {
  const { data } = await user.client.from('subscriptions').select('*').order('started_at').throwOnError()
  return data.at(-1) ?? { id: '', plan_price_id: null, status: null, past_due_since: null }
}
const payments = async (user: TestUser) => {
  const { data } = await user.client.from('payments').select('*').order('created_at').order('id').throwOnError()
  return data
}
const notices = async (user: TestUser) => {
  const { data } = await user.client.from('notifications').select('type, body').order('id').throwOnError()
  return data
}
const setCard = async (user: TestUser, outcome: 'ok' | 'declined') =>
  control(`/customers/${await customerOf(sql, user)}/card`, { outcome })

const free = { plan_id: 'free', is_paid: false }
const paid = { plan_id: 'premium', is_paid: true }

/** A subscriber after the trial, with one period paid. */
async function subscriber(): Promise<TestUser> {
  const user = await newUser()
  await buy(sql, user, premium)
  await toNextPeriod(sql, user)
  expect(await entitlementOf(user)).toMatchObject({ ...paid, state: 'active' })
  return user
}

/** The same, whose period that is paid for began in a month of so many days: the trial, which an operator gave, lasted until then. */
async function subscriberIn(days: number, planPrice = 'premium_month'): Promise<TestUser> {
  const user = await newUser()
  await stripeClient().checkout.sessions.expire(await checkout(user, premium))
  await settled(sql)
  await setCard(user, 'ok')
  await stripeClient().subscriptions.create({
    customer: await customerOf(sql, user),
    items: [{ price: await stripePrice(planPrice) }],
    trial_end: await monthOf(days),
  })
  await settled(sql)
  await toNextPeriod(sql, user)
  expect(await entitlementOf(user)).toMatchObject({ ...paid, state: 'active' })
  return user
}
const months = [28, 30, 31]

describe.runIf(target().own)('a subscription', () => {
  test('begins with a trial that brings the plan at once and the credits with the first payment', async () => {
    const user = await newUser()
    expect([await entitlementOf(user), await callsADay(user)]).toMatchObject([{ ...free, state: 'none' }, 50])

    await buy(sql, user, premium)

    expect(await entitlementOf(user)).toMatchObject({ ...paid, state: 'trialing', trial_end: expect.any(String) })
    expect([await callsADay(user), await balanceOf(user)]).toEqual([1000, 100])

    await toNextPeriod(sql, user)

    expect(await entitlementOf(user)).toMatchObject({ ...paid, state: 'active' })
    expect(await balanceOf(user)).toBe(1100)
    expect((await payments(user)).map(({ amount, status }) => [amount, status])).toEqual(
      expect.arrayContaining([[1200, 'paid']]),
    )
  }, 120_000)

  test.each(months)(
    'is renewed after a month of %i days with new credits; a payment that fails leaves it in grace, and paying mends it',
    async (days) => {
      const user = await subscriberIn(days)

      await toNextPeriod(sql, user)
      expect(await balanceOf(user)).toBe(2100)

      await setCard(user, 'declined')
      await toNextPeriod(sql, user)

      const owing = await entitlementOf(user)
      expect(owing).toMatchObject({ ...paid, state: 'past_due', grace_until: expect.any(String) })
      expect(owing.pay_url).toContain('/i/')
      expect(await notices(user)).toContainEqual(
        expect.objectContaining({ type: expect.stringContaining('payment_failed') }),
      )
      expect(await balanceOf(user)).toBe(2100)

      await setCard(user, 'ok')
      await fetch(`${owing.pay_url}`, { method: 'POST', body: new URLSearchParams({ way: 'ok' }), redirect: 'manual' })
      await settled(sql)

      expect(await entitlementOf(user)).toMatchObject({ ...paid, state: 'active', grace_until: null })
      expect(await balanceOf(user)).toBe(3100)
      expect((await payments(user)).filter(({ status }) => status === 'open')).toEqual([])
    },
    120_000,
  )

  test('that stays unpaid entitles to nothing on the second its grace ends, without a job; limits follow', async () => {
    const user = await subscriber()
    await setCard(user, 'declined')
    await toNextPeriod(sql, user)
    expect(await entitlementOf(user)).toMatchObject({ ...paid, state: 'past_due' })

    // The stand-in's clock is ahead of the database's: what was due lies a week and a second back instead.
    const { id } = await subscription(user)
    await sql`update public.subscriptions set past_due_since = now() - interval '7 days 1 second' where id = ${id}`
    await sql`select private.refresh_entitlement(${user.id})`

    expect(await entitlementOf(user)).toMatchObject({
      ...free,
      state: 'past_due',
      pay_url: expect.stringContaining('/i/'),
    })
    expect(await callsADay(user)).toBe(50)

    // Stripe gives up after its own tries, and says so.
    await advance(sql, user, 40)
    expect(await subscription(user)).toMatchObject({ status: 'canceled' })
    expect(await entitlementOf(user)).toMatchObject(free)
  }, 120_000)

  test('whose bank asks for 3-D Secure at a renewal: its owner is told, confirms on the page, and goes on', async () => {
    const user = await newUser()
    await buy(sql, user, premium, 'always_requires_action')
    await toNextPeriod(sql, user)

    const owing = await entitlementOf(user)
    expect(owing).toMatchObject({ ...paid, state: 'past_due' })
    expect(await notices(user)).toContainEqual(
      expect.objectContaining({
        type: 'billing_payment_action_required',
        body: expect.stringContaining(String(owing.pay_url)),
      }),
    )

    const page = { way: 'always_requires_action' }
    const challenge = await fetch(`${owing.pay_url}`, {
      method: 'POST',
      body: new URLSearchParams(page),
      redirect: 'manual',
    })
    const url = new URL(challenge.headers.get('location') ?? '', `${owing.pay_url}`)
    await fetch(url, { method: 'POST', body: new URLSearchParams({ ...page, answer: 'ok' }), redirect: 'manual' })
    await settled(sql)

    expect(await entitlementOf(user)).toMatchObject({ ...paid, state: 'active' })
    expect(await balanceOf(user)).toBe(1100)
  }, 120_000)

  test('that was cancelled is paid until its period ends, and can be taken up again until then', async () => {
    const user = await subscriber()
    const { id } = await subscription(user)

    await stripeClient().subscriptions.update(id, { cancel_at_period_end: true })
    await settled(sql)
    expect(await entitlementOf(user)).toMatchObject({ ...paid, state: 'canceling', cancel_at: expect.any(String) })

    await stripeClient().subscriptions.update(id, { cancel_at_period_end: false })
    await settled(sql)
    expect(await entitlementOf(user)).toMatchObject({ ...paid, state: 'active', cancel_at: null })

    await stripeClient().subscriptions.update(id, { cancel_at_period_end: true })
    await toNextPeriod(sql, user)
    expect(await entitlementOf(user)).toMatchObject({ ...free, state: 'canceled' })
    expect(await callsADay(user)).toBe(50)
    expect(await notices(user)).toContainEqual(expect.objectContaining({ type: 'billing_subscription_ended' }))
    await sql`select private.start_retention_clocks()`
    const clocks =
      await sql`select ends_at - started_at as kept from private.retention_clocks where user_id = ${user.id}`
    expect(clocks).toEqual([{ kept: '30 days' }])
  }, 120_000)

  test('can be changed in the middle of a period: credits come for what is paid anew, and none for a proration', async () => {
    const user = await subscriber()
    const { id } = await subscription(user)
    const [item] = (await stripeClient().subscriptions.retrieve(id)).items.data
    const change = async (planPrice: string) => {
      const items = [{ id: item?.id ?? '', price: await stripePrice(planPrice) }]
      await stripeClient().subscriptions.update(id, { items })
      await settled(sql)
    }
    await advance(sql, user, 10)

    await change('premium_year')

    expect(await subscription(user)).toMatchObject({ plan_price_id: 'premium_year', status: 'active' })
    const [bought] = (await payments(user)).filter(({ amount }) => amount > 1200)
    // The unused two thirds of a month's 1200 cents are no new money; a year has a credit for each cent.
    expect(bought).toMatchObject({ status: 'paid', credits: bought?.amount })
    expect(bought?.amount).toBeGreaterThan(11_000)
    expect(bought?.amount).toBeLessThan(11_300)
    expect(await balanceOf(user)).toBe(1100 + Number(bought?.amount))

    await change('premium_month')

    expect(await subscription(user)).toMatchObject({ plan_price_id: 'premium_month' })
    expect(await balanceOf(user)).toBe(1100 + Number(bought?.amount))
    expect(await entitlementOf(user)).toMatchObject(paid)
  }, 120_000)

  test.each(months)(
    'that goes from year to month, of %i days, and back again brings credits only for what was paid',
    async (days) => {
      const user = await subscriberIn(days, 'premium_year')
      const { id } = await subscription(user)
      const [item] = (await stripeClient().subscriptions.retrieve(id)).items.data
      const change = async (planPrice: string) => {
        const items = [{ id: item?.id ?? '', price: await stripePrice(planPrice) }]
        await stripeClient().subscriptions.update(id, { items })
        await settled(sql)
      }
      const charged = async () => {
        const { data } = await stripeClient().invoices.list({ customer: await customerOf(sql, user) })
        // What is less than Stripe charges at all is owed, and has its credits, too.
        return data.reduce(
          (sum, { amount_paid, ending_balance }) => sum + amount_paid + Math.max(0, ending_balance ?? 0),
          0,
        )
      }
      expect([await balanceOf(user), await charged()]).toEqual([12_100, 12_000])

      await change('premium_month')
      await change('premium_year')
      await change('premium_month')

      expect(await subscription(user)).toMatchObject({ plan_price_id: 'premium_month', status: 'active' })
      // A year has a credit for each cent; the time that was used meanwhile costs a few.
      const cents = await charged()
      expect(cents).toBeLessThan(12_010)
      expect(await balanceOf(user)).toBe(100 + cents)
      const before = (await payments(user)).map(({ id }) => id)

      await toNextPeriod(sql, user)

      const renewed = (await payments(user)).filter(({ id }) => !before.includes(id))
      expect(renewed).toMatchObject([{ amount: 1200, status: 'paid', credits: 0, payment_intent_id: null }])
      expect([await balanceOf(user), await charged()]).toEqual([100 + cents, cents])
      expect(await entitlementOf(user)).toMatchObject(paid)
    },
    120_000,
  )

  test('is raised to a better plan and lowered again: limits follow at once, money by the part of the period', async () => {
    const [plan] = await sql`insert into public.plans (id, name, position) values ('studio', 'Studio', 3) returning id`
    await sql`insert into public.plan_limits (plan_id, meter, period, amount) values ('studio', 'ai_calls', 'day', 9000)`
    await sql`insert into public.plan_prices (id, plan_id, interval, amount, credits) values ('studio_month', 'studio', 'month', 3600, 0)`
    expect(await script('stripe-sync')).toMatchObject({ code: 0, stdout: expect.stringContaining('studio_month') })
    const user = await subscriber()
    try {
      const { id } = await subscription(user)
      const [item] = (await stripeClient().subscriptions.retrieve(id)).items.data
      const change = async (planPrice: string) => {
        await stripeClient().subscriptions.update(id, {
          items: [{ id: item?.id ?? '', price: await stripePrice(planPrice) }],
          proration_behavior: 'always_invoice',
        })
        await settled(sql)
      }
      await advance(sql, user, 15)

      await change('studio_month')

      expect([await entitlementOf(user), await callsADay(user)]).toMatchObject([
        { plan_id: plan?.id, is_paid: true },
        9000,
      ])
      const [raised] = (await payments(user)).filter(({ amount }) => amount > 0 && amount !== 1200)
      expect(raised).toMatchObject({ status: 'paid', credits: 0 })
      // Half a month of the difference of 24.00.
      expect(raised?.amount).toBeGreaterThan(1100)
      expect(raised?.amount).toBeLessThan(1300)

      await change('premium_month')

      expect([await entitlementOf(user), await callsADay(user)]).toMatchObject([paid, 1000])
      expect(await balanceOf(user)).toBe(1100)
    } finally {
      await stripeClient().customers.del(await customerOf(sql, user))
      await settled(sql)
      await sql`delete from auth.users where id = ${user.id}`
      await sql`delete from private.stripe_prices where plan_price_id = 'studio_month'`
      await sql`delete from public.plan_prices where id = 'studio_month'`
      await sql`delete from public.plans where id = 'studio'`
    }
  }, 120_000)

  test('beside another one: the best that is paid for counts, and when it ends the other does', async () => {
    const user = await subscriber()
    const first = await subscription(user)
    // The function refuses a second one; an operator can still make it.
    expect(
      await billing(user, 'checkout', {
        ...premium,
        success_url: 'http://localhost:3000/',
        cancel_url: 'http://localhost:3000/',
      }),
    ).toMatchObject({
      status: 409,
      body: { error: { code: 'already_subscribed' } },
    })
    const second = await stripeClient().subscriptions.create({
      customer: await customerOf(sql, user),
      items: [{ price: await stripePrice('premium_year') }],
    })
    await settled(sql)

    await stripeClient().subscriptions.cancel(first.id)
    await settled(sql)
    expect(await entitlementOf(user)).toMatchObject({ ...paid, subscription_id: second.id })

    await stripeClient().subscriptions.cancel(second.id)
    await settled(sql)
    expect(await entitlementOf(user)).toMatchObject(free)
  }, 120_000)

  test('of a customer who is deleted at Stripe ends; the user stays, and can buy again without a second trial', async () => {
    const user = await subscriber()
    const before = await customerOf(sql, user)

    await stripeClient().customers.del(before)
    await settled(sql)
    expect(await entitlementOf(user)).toMatchObject(free)
    expect((await user.client.from('profiles').select('status').single()).data).toEqual({ status: 'active' })

    await buy(sql, user, premium)
    expect(await customerOf(sql, user)).not.toBe(before)
    expect(await entitlementOf(user)).toMatchObject({ ...paid, state: 'active', trial_end: null })
  }, 120_000)
})

describe.runIf(target().own)('a credit pack', () => {
  test('brings its credits once it is paid; a declined card and a failed delayed payment bring none', async () => {
    const user = await newUser()
    const declined = await checkout(user, pack)
    await pay(declined, 'declined')
    await settled(sql)
    expect(await balanceOf(user)).toBe(100)

    await pay(declined, 'ok')
    await settled(sql)
    expect(await balanceOf(user)).toBe(600)

    const late = await buy(sql, user, pack, 'bank_debit')
    expect(await balanceOf(user)).toBe(600)
    expect(await payments(user)).toContainEqual(expect.objectContaining({ id: late, status: 'processing' }))
    await control(`/async/${late}`, { outcome: 'succeeded' })
    await settled(sql)
    expect(await balanceOf(user)).toBe(1100)

    const never = await buy(sql, user, pack, 'bank_debit')
    await control(`/async/${never}`, { outcome: 'failed' })
    await settled(sql)
    expect(await balanceOf(user)).toBe(1100)
    expect(await payments(user)).toContainEqual(expect.objectContaining({ id: never, status: 'failed', credits: 0 }))
  }, 120_000)

  test('that is refunded in part and then whole is taken back in proportion; a refund that fails gives it back', async () => {
    const user = await newUser()
    const session = await buy(sql, user, pack)
    const intent = (await payments(user)).find(({ id }) => id === session)?.payment_intent_id ?? ''

    await stripeClient().refunds.create({ payment_intent: intent, amount: 200 })
    await settled(sql)
    expect(await balanceOf(user)).toBe(400)

    const rest = await stripeClient().refunds.create({ payment_intent: intent })
    await settled(sql)
    expect(await balanceOf(user)).toBe(100)
    expect(await payments(user)).toMatchObject([{ amount_refunded: 500, credits: 500, credits_clawed_back: 500 }])

    await control(`/refunds/${rest.id}`, { status: 'failed' })
    await settled(sql)
    expect(await balanceOf(user)).toBe(400)
    const { data } = await user.client.from('refunds').select('amount, status').order('amount').throwOnError()
    expect(data).toEqual([
      { amount: 200, status: 'succeeded' },
      { amount: 300, status: 'failed' },
    ])
  }, 120_000)

  test('that is disputed is frozen; won, it comes back; lost, it stays gone, also when it was spent', async () => {
    const user = await newUser()
    const sessions = [await buy(sql, user, pack), await buy(sql, user, pack)]
    const intents = (await payments(user)).filter(({ id }) => sessions.includes(id)).map((row) => row.payment_intent_id)
    await sql`select public.deduct_credits(${user.id}, 1000, 'spent', ${crypto.randomUUID()})`
    const dispute = async (payment_intent: string | null | undefined) =>
      String(Object(await control('/disputes', { payment_intent })).id)

    const won = await dispute(intents[0])
    await settled(sql)
    expect(await balanceOf(user)).toBe(-400)
    await control(`/disputes/${won}/close`, { status: 'won' })
    await settled(sql)
    expect(await balanceOf(user)).toBe(100)

    const lost = await dispute(intents[1])
    await control(`/disputes/${lost}/close`, { status: 'lost' })
    await settled(sql)
    expect(await balanceOf(user)).toBe(-400)
    const { data } = await user.client.from('disputes').select('status').order('status').throwOnError()
    expect(data).toEqual([{ status: 'lost' }, { status: 'won' }])
  }, 120_000)
})

/** One of the commands, against the tests' own stack. */
function script(name: string, ...args: string[]): Promise<{ code: number; stdout: string }> {
  const { port, data } = target().own ?? { port: 0, data: '' }
  const elsewhere = { DB_URL: target().dbUrl, STRIPE_SECRET_KEY: stripeKeys().secretKey, STRIPE_API_URL: stripeUrl() }
  const place = { PALISADE_PORT: String(port), PALISADE_DATA: data }
  const env = { ...process.env, ...place, ...(process.env.PALISADE_DB_URL ? elsewhere : {}) }
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [join(root, 'scripts', `${name}.ts`), ...args],
      { cwd: root, env },
      (_, stdout) => resolve({ code: child.exitCode ?? -1, stdout }),
    )
  })
}

async function stripePrice(planPrice: string): Promise<string> {
  const [row] = await sql`select id from private.stripe_prices where plan_price_id = ${planPrice} and is_current`
  return row?.id ?? ''
}

describe.runIf(target().own)('npm run stripe:reconcile', () => {
  test('repairs what no event brought, and then finds nothing', async () => {
    const user = await newUser()
    await control('/delivery', { mode: 'drop' })
    try {
      await pay(await checkout(user, premium))
      await pay(await checkout(user, pack))
    } finally {
      await control('/delivery', { mode: 'normal' })
    }
    await settled(sql)
    expect([await entitlementOf(user), await balanceOf(user)]).toMatchObject([free, 100])

    // Other tests leave what nobody can repair, such as a payment of somebody else's customer: the exit code speaks of that, too.
    const [{ id = '' } = {}] = (await stripeClient().subscriptions.list({ limit: 1 })).data
    expect((await script('stripe-reconcile', '--dry-run')).stdout).toMatch(
      new RegExp(`subscription +${id} +(?!repaired)`),
    )
    expect(await balanceOf(user)).toBe(100)

    const repaired = await script('stripe-reconcile')
    expect(repaired.stdout).toMatch(new RegExp(`subscription +${id} +repaired`))
    expect([await entitlementOf(user), await balanceOf(user)]).toMatchObject([{ ...paid, state: 'trialing' }, 600])

    const again = await script('stripe-reconcile')
    expect([again.code === 2, again.stdout]).toEqual([false, expect.stringContaining(' compared, 0 repaired, ')])
    expect(again.stdout).not.toContain(id)
  }, 120_000)
})
