/** What the tests of billing in SQL share: subscriptions and payments as the projections leave them. */
import type { Sql, Tx } from './support.ts'

/** Times are offsets from now, such as '-2 days'. */
export type Subscription = Partial<{
  id: string
  plan_id: string | null
  status: string
  period_start: string
  period_end: string | null
  trial_start: string | null
  trial_end: string | null
  cancel_at: string | null
  cancel_at_period_end: boolean
  past_due_since: string | null
  ended_at: string | null
  started_at: string
}>

/** Writes a subscription and what it entitles to, as one transaction of the projections does. */
export async function putSubscription(sql: Sql | Tx, userId: string, wish: Subscription = {}): Promise<string> {
  const s = {
    id: `sub_${crypto.randomUUID()}`,
    plan_id: 'premium',
    status: 'active',
    period_start: '-10 days',
    period_end: '20 days',
    trial_start: null,
    trial_end: null,
    cancel_at: null,
    cancel_at_period_end: false,
    past_due_since: null,
    ended_at: null,
    started_at: '-100 days',
    ...wish,
  }
  const at = (offset: string | null) => sql`now() + ${offset}::interval`
  await sql`
    insert into public.subscriptions (id, user_id, plan_id, status, current_period_start, current_period_end, trial_start, trial_end,
      cancel_at, cancel_at_period_end, past_due_since, ended_at, started_at)
    values (${s.id}, ${userId}, ${s.plan_id}, ${s.status}, ${at(s.period_start)}, ${at(s.period_end)}, ${at(s.trial_start)},
      ${at(s.trial_end)}, ${at(s.cancel_at)}, ${s.cancel_at_period_end}, ${at(s.past_due_since)}, ${at(s.ended_at)}, ${at(s.started_at)})
    on conflict (id) do update set plan_id = excluded.plan_id, status = excluded.status,
      current_period_start = excluded.current_period_start, current_period_end = excluded.current_period_end,
      trial_start = excluded.trial_start, trial_end = excluded.trial_end, cancel_at = excluded.cancel_at,
      cancel_at_period_end = excluded.cancel_at_period_end, past_due_since = excluded.past_due_since, ended_at = excluded.ended_at`
  await sql`select private.refresh_entitlement(${userId})`
  return s.id
}

export async function entitlementOf(sql: Sql | Tx, userId: string): Promise<Record<string, unknown>> {
  const [row] = await sql`
    select plan_id, state, is_paid, subscription_id, round(extract(epoch from valid_until - now()) / 86400, 2)::float8 as valid_days,
      round(extract(epoch from grace_until - now()) / 86400, 2)::float8 as grace_days
    from private.entitlement(${userId})`
  return { ...row }
}

/** An invoice that waits to be paid. */
export async function putInvoice(
  sql: Sql | Tx,
  userId: string,
  {
    subscription,
    payUrl = 'https://pay.test/1',
    age = '0',
    status = 'open',
    amount = 1200,
  }: { subscription?: string; payUrl?: string | null; age?: string; status?: string; amount?: number } = {},
): Promise<string> {
  const id = `in_${crypto.randomUUID()}`
  await sql`
    insert into public.payments (id, user_id, kind, status, description, amount, currency, subscription_id, pay_url, created_at)
    values (${id}, ${userId}, 'subscription', ${status}, 'Premium', ${amount}, 'usd', ${subscription ?? null}, ${payUrl},
      now() - ${age}::interval)`
  return id
}
