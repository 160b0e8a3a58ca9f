/** What must be true when everything has come to rest, whatever happened before. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { ChaosWorld } from './world.ts'

export type Finding = { what: string; details: unknown }

/** On connections of its own: one of the run's may still hang since it met a crash, and time out under a question. */
export async function countEverything(world: ChaosWorld): Promise<Finding[]> {
  const sql = world.connect()
  return await count({ ...world, sql }).finally(() => sql.end({ timeout: 5 }))
}

async function count(world: ChaosWorld): Promise<Finding[]> {
  const { sql, warnings } = world
  // Gateways that live settle what they can, no later than their last call ends; the rest is the sweeper's.
  const restMs = 8_000
  for (const until = Date.now() + restMs; Date.now() < until; await sleep(100)) {
    const [row] = await sql`select exists (select from private.ai_holds) as is_open`
    if (!row?.is_open) break
  }
  await sql`update private.ai_holds set expires_at = now() - interval '1 second' where true`
  const before = warnings.length
  for (let closed = 1; closed > 0; ) {
    const [row] = await sql`select private.settle_abandoned_ai_calls() as closed`
    closed = row?.closed ?? 0
  }
  const checks: Record<string, () => PromiseLike<readonly unknown[]>> = {
    'a hold that nobody ended': () => sql`select call_id, expires_at from private.ai_holds`,
    'books that do not balance': () => sql`select * from private.verify_accounts()`,
    'a call that ended twice': () => sql`select id, count(*) from public.ai_calls group by id having count(*) > 1`,
    'a refused call that was charged': () =>
      sql`select id from public.ai_calls where state in ('refused', 'released') and (credits_charged > 0 or cost_micros > 0)`,
    // In the order in which they were made; none came between two, and none is missing.
    'a balance that does not follow from the one before': () => sql`
      select * from (
        select e.user_id, e.idempotency_key, e.amount, e.balance_after,
          coalesce(lag(e.balance_after) over account, 0) as balance_before
        from public.credit_entries e window account as (partition by e.user_id order by e.created_at, e.id)) c
      where balance_after is distinct from balance_before + amount`,
    'an account without the balance of its last entry': () => sql`
      select a.user_id, a.balance, e.balance_after from private.accounts a cross join lateral (
        select balance_after from public.credit_entries where user_id = a.user_id order by created_at desc, id desc limit 1) e
      where a.balance <> e.balance_after`,
    'a limit that was exceeded': () => sql`
      select p.id, l.meter, l.amount, l.used, l.held from public.profiles p cross join lateral private.limits_of(p.id) l
      where l.meter <> 'storage_bytes' and (l.used + l.held > l.amount or l.held <> 0)`,
    'a key that exceeded its limit of a day': () => sql`
      select l.* from public.api_key_limits l
      where l.amount < any (
        select count(*) from public.ai_calls c where c.api_key_id = l.api_key_id and c.credits_charged > 0
        group by (c.created_at at time zone 'UTC')::date)`,
    'an idempotency key that was charged twice': () => sql`
      select user_id, endpoint, key, count(*) from private.ai_idempotency_keys group by 1, 2, 3 having count(*) > 1`,
    'money of this month that does not add up': () => sql`
      select * from (
        select (select spent_and_held_micros from private.project_spend()) as spent,
          (select coalesce(sum(coalesce(c.cost_micros, 0) + coalesce(c.project_micros, 0)), 0)::bigint from public.ai_calls c
            where c.created_at >= date_trunc('month', now(), 'UTC')) as cost) s where spent <> cost`,
  }
  // The sweeper goes on after what it could not close; here it says why.
  const findings: Finding[] = warnings.slice(before).map((details) => ({ what: 'a warning of the sweeper', details }))
  for (const [what, find] of Object.entries(checks))
    for (const details of await find()) findings.push({ what, details })
  return [...findings, ...(await compareWithProvider(world))]
}

/**
 * An attempt that ran into a timeout or lost its connection may never have been read by the provider. How many do depends on how
 * slow the machine is, since timeouts here are half a second; what they may be is known call by call, see below.
 */
const unseenShare = 0.05

/** The provider never saw a request more often than we forwarded it, nor one that was refused, nor one that we do not know. */
async function compareWithProvider({ sql, asked }: ChaosWorld): Promise<Finding[]> {
  const calls = await sql<
    { request_id: string; state: string; attempts: number; has_answer: boolean; hung_up: boolean }[]
  >`
    select request_id, state, attempts, coalesce(error_code, '') = 'client_closed_request' as hung_up,
      coalesce(error_code, '') not in ('client_closed_request', 'upstream_error', 'upstream_timeout') as has_answer
    from public.ai_calls`
  const known = new Map(calls.map((call) => [call.request_id, call]))
  const findings: Finding[] = []
  let forwarded = 0
  let unseen = 0
  for (const call of calls) {
    const count = asked.get(call.request_id) ?? 0
    if (call.state === 'refused' && count > 0)
      findings.push({ what: 'a refused call that was forwarded', details: { ...call, count } })
    if (call.state !== 'settled' && call.state !== 'released') continue
    forwarded += call.attempts
    // A caller who hangs up takes back what is on its way: at most the last attempt.
    unseen += Math.max(0, call.attempts - count - (call.hung_up ? 1 : 0))
    // The attempt that was answered was seen; those before it need not have been.
    if (count > call.attempts || (call.has_answer && call.attempts > 0 && count === 0))
      findings.push({ what: 'a number of attempts that is not the provider’s', details: { ...call, count } })
  }
  if (unseen > Math.max(10, forwarded * unseenShare))
    findings.push({ what: 'more attempts than the provider saw', details: { forwarded, unseen } })
  for (const [id, count] of asked)
    if (!known.has(id)) findings.push({ what: 'a forwarded call that nobody knows', details: { id, count } })
  return findings
}
