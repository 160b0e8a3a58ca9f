/** However Stripe's events arrive, the end is the same: twice, shuffled, late, with Stripe failing and workers dying. */
import postgres from 'postgres'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { applyAll, checkout, control, pay, renewAtStripe, settled, stripeClient } from '../support/billing.ts'
import { newUser, type TestUser } from '../support/users.ts'
import { target } from '../target.ts'

let sql: postgres.Sql
beforeAll(() => {
  sql = postgres(target().dbUrl, { max: 4, onnotice: () => {} })
})
afterEach(() => control('/delivery', { mode: 'normal' }))
afterAll(() => sql.end())

const heard = z.object({
  events: z.array(z.object({ id: z.string(), deliveries: z.array(z.object({ state: z.string() })) })),
})
const disputed = z.object({ id: z.string() })

/** A year of a customer in a minute: trial, renewal, failure, recovery, a pack, refunds, a dispute, the end. */
async function story(user: TestUser, step: () => Promise<unknown>): Promise<void> {
  const stripe = stripeClient()
  const subscribing = await checkout(user, { plan_price: 'premium_month' })
  const buying = await checkout(user, { credit_pack: 'credits_500' })
  await pay(subscribing)
  await pay(buying)
  await step()
  const bought = await stripe.checkout.sessions.retrieve(buying)
  const customer = String(bought.customer)
  const intent = String(bought.payment_intent)
  await renewAtStripe(customer)
  await stripe.refunds.create({ payment_intent: intent, amount: 125 })
  await renewAtStripe(customer)
  await step()
  await control(`/customers/${customer}/card`, { outcome: 'declined' })
  await renewAtStripe(customer)
  const [open] = (await stripe.invoices.list({ customer, status: 'open' })).data
  await control(`/customers/${customer}/card`, { outcome: 'ok' })
  await stripe.invoices.pay(open?.id ?? '')
  await step()
  const { id } = disputed.parse(await control('/disputes', { payment_intent: intent, amount: 250 }))
  await control(`/disputes/${id}/close`, { status: 'lost' })
  const [subscription] = (await stripe.subscriptions.list({ customer })).data
  await stripe.subscriptions.update(subscription?.id ?? '', { cancel_at_period_end: true })
  await step()
}

/** Everything that billing wrote of a user, without the ids and clock times in which two runs of the story differ. */
async function outcome(user: TestUser) {
  const [row] = await sql`
    select
      (select jsonb_agg(jsonb_build_array(plan_id, plan_price_id, status, cancel_at_period_end, current_period_end - current_period_start between interval '28 days' and interval '31 days',
        trial_end - trial_start, past_due_since)) from public.subscriptions where user_id = ${user.id}) as subscriptions,
      (select jsonb_agg(jsonb_build_array(kind, status, amount, amount_refunded, amount_disputed, credits, credits_clawed_back) order by kind, amount, credits, status)
        from public.payments where user_id = ${user.id}) as payments,
      (select jsonb_agg(jsonb_build_array(amount, status) order by amount) from public.refunds where user_id = ${user.id}) as refunds,
      (select jsonb_agg(jsonb_build_array(amount, status) order by amount) from public.disputes where user_id = ${user.id}) as disputes,
      (select jsonb_agg(jsonb_build_array(kind, amount) order by amount) from public.credit_entries
        where user_id = ${user.id} and kind = 'grant') as grants,
      (select sum(amount)::int from public.credit_entries where user_id = ${user.id}) as sum,
      (select balance::int from private.accounts where user_id = ${user.id}) as balance,
      (select to_jsonb(e) - 'subscription_id' - 'valid_until' from private.entitlement(${user.id}) e) as entitlement`
  return row
}

/** Rows as they are, ids and times included. */
async function rows(user: TestUser) {
  const [row] = await sql`
    select
      (select jsonb_agg(to_jsonb(s) - 'updated_at' order by s.id) from public.subscriptions s where s.user_id = ${user.id}) as subscriptions,
      (select jsonb_agg(to_jsonb(p) - 'updated_at' order by p.id) from public.payments p where p.user_id = ${user.id}) as payments,
      (select jsonb_agg(to_jsonb(r) - 'updated_at' order by r.id) from public.refunds r where r.user_id = ${user.id}) as refunds,
      (select jsonb_agg(to_jsonb(d) - 'updated_at' order by d.id) from public.disputes d where d.user_id = ${user.id}) as disputes,
      -- On the way, what is not read again yet may be given back and taken again; nothing is granted anew.
      (select jsonb_agg(to_jsonb(e) order by e.id) from public.credit_entries e where e.user_id = ${user.id} and e.kind = 'grant') as grants,
      (select balance from private.accounts a where a.user_id = ${user.id}) as balance,
      (select count(*)::int from public.notifications n where n.user_id = ${user.id}) as notifications,
      (select to_jsonb(e) from private.entitlement(${user.id}) e) as entitlement`
  return row
}

/** A worker that takes events and dies: its lease is over at once. */
async function dyingWorker(): Promise<void> {
  const taken = await sql`select id from private.claim_stripe_events(3)`
  await sql`update private.stripe_events set next_attempt_at = now() where id = any(${taken.map(({ id }) => id)})`
}

/** Brings what is held, each event at least twice, in drawn orders, while Stripe and workers fail. */
async function chaos(seed: number): Promise<void> {
  await control('/fail', { next: 5, status: seed % 2 === 0 ? 500 : 429 })
  const { events } = heard.parse(
    await (await fetch(`http://127.0.0.1:${(target().own?.port ?? 0) + 8}/control/events`)).json(),
  )
  const held = events.filter(({ deliveries }) => deliveries.some(({ state }) => state === 'held')).map(({ id }) => id)
  // A gap: every third event comes only at the end.
  const early = held.filter((_, i) => (i + seed) % 3 !== 0)
  await control('/deliver', { ids: [...early, ...early], order: 'shuffle', seed })
  await dyingWorker()
  await control('/deliver', { ids: [...held].reverse(), order: 'shuffle', seed: seed + 1 })
  await dyingWorker()
  await applyAll(sql)
}

describe.runIf(target().own)('whatever happens to the deliveries', () => {
  test('the end is that of the same story in order, and the whole inbox can be played again', async () => {
    const calm = await newUser()
    await story(calm, () => settled(sql))
    const expected = await outcome(calm)
    expect(expected).toMatchObject({ sum: expected?.balance, refunds: [[125, 'succeeded']], disputes: [[250, 'lost']] })
    // 100 at the sign-up, three paid periods, and the quarter of the pack that was neither refunded nor disputed.
    expect(expected?.balance).toBe(100 + 3000 + 125)

    const users: TestUser[] = [calm]
    for (const seed of [1, 2, 3]) {
      const user = await newUser()
      users.push(user)
      await control('/delivery', { mode: 'hold' })
      await story(user, () => chaos(seed))
      await control('/delivery', { mode: 'normal' })
      await applyAll(sql)

      expect(await outcome(user), `seed ${seed}`).toEqual(expected)
    }

    const before = await Promise.all(users.map(rows))
    await sql.begin(async (tx) => {
      const ids = users.map(({ id }) => id)
      for (const table of ['subscriptions', 'payments'])
        await tx`delete from ${tx(`public.${table}`)} where user_id = any(${ids}::uuid[])`
      await tx`delete from private.entitlements where user_id = any(${ids}::uuid[])`
      await tx`
        delete from private.stripe_objects o using private.stripe_customers c
        where c.id = coalesce(o.customer_id, o.id) and c.user_id = any(${ids}::uuid[])`
      await tx`
        update private.stripe_events e set state = 'waiting', finished_at = null, attempts = 0, attempts_before_retry = 0, next_attempt_at = now()
        where e.customer_id in (select c.id from private.stripe_customers c where c.user_id = any(${ids}::uuid[]))`
    })
    expect(await Promise.all(users.map(rows))).not.toEqual(before)
    await applyAll(sql)

    expect(await Promise.all(users.map(rows))).toEqual(before)
  }, 600_000)
})
