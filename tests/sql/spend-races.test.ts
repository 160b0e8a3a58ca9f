/**
 * The project's cap between two months: calls of the last one and of this one end at the same time, cost more than they held, others
 * ask, and an operator changes the cap. Nobody waits in a circle, and no micro-dollar is lost or made.
 */
import postgres from 'postgres'
import { expect, test } from 'vitest'
import { runs } from '../support/runs.ts'
import { target } from '../target.ts'
import { abandon, baseModel } from './ai-support.ts'
import { type Account, changeCredits, db, racing, rolledBack, type Sql, setLimit } from './support.ts'

const micros = 8
/** More than the calls here hold, and more than any shard has left. */
const overrun = { prompt_tokens: 10_000_000, completion_tokens: 10_000_000 }
const modest = { prompt_tokens: 1, completion_tokens: 1 }

type Call = { call_id: string; user_id: string }
type Used = typeof modest
type Row = { call_id: string | null; user_id: string | null; settles: boolean; refusal: { code: string } | null }

/** A connection of its own that notices a circle of locks at once, where it may say so. */
function impatient(): Sql {
  const { dbUrl, superuserUrl } = target()
  const connection = superuserUrl ? { deadlock_timeout: 10 } : {}
  return postgres(superuserUrl ?? dbUrl, { max: 1, onnotice: () => {}, connection })
}

const pidOf = async (on: Sql): Promise<number> => (await on`select pg_backend_pid() as pid`)[0]?.pid
/** Until a connection waits for a lock that another one has. */
const waits = (watcher: Sql, pid: number) =>
  expect
    .poll(async () => (await watcher`select cardinality(pg_blocking_pids(${pid})) > 0 as waits`)[0]?.waits, {
      timeout: 20_000,
    })
    .toBe(true)

/** What the gateway's one statement does: calls that ended, with what they used, and accounts that ask. */
async function step(on: Sql, ended: [Call, Used][], asking: Account[] = []): Promise<Row[]> {
  const outcomes = ended.map(([call, used]) => ({ ...call, ...used, result: 'succeeded', usage_source: 'provider' }))
  const requests = asking.map(({ id, sessionId }) => ({
    ...{ request_id: 'race', user_id: id, session_id: sessionId, endpoint: 'chat.completions', model_id: baseModel },
    ...{ plans: -1, probes: false, stream: false, request_bytes: 1, lasts_ms: 600_000 },
    ...{ prompt_tokens: 10, output_tokens: 10, credits: 1, micros },
  }))
  return on<Row[]>`
    select s.* from private.ai_config c, private.ai_step(
      array(select jsonb_populate_record(null::private.ai_outcome, o) from jsonb_array_elements(${on.json(outcomes)}) o),
      array(
        select jsonb_populate_record(null::private.ai_request, r || jsonb_build_object('price_refs', array[p.ref]))
        from jsonb_array_elements(${on.json(requests)}) r, private.price_refs p where p.model_id = ${baseModel} and p.above_prompt_tokens = 0),
      c.version) s`
}

const callsIn = (rows: Row[]): Call[] =>
  rows.flatMap(({ settles, refusal, call_id, user_id }) =>
    settles || refusal || !call_id || !user_id ? [] : [{ call_id, user_id }],
  )

async function open(on: Sql, account: Account, count: number): Promise<Call[]> {
  const calls = callsIn(await step(on, [], Array(count).fill(account)))
  expect(calls).toHaveLength(count)
  return calls
}

/** The first days of the last month and of this one (UTC). */
async function monthsOf(sql: Sql): Promise<[string, string]> {
  const [row] = await sql`
    select ((t.month - interval '1 month')::date)::text as last, t.month::text as this
    from (select date_trunc('month', now() at time zone 'UTC')::date as month) t`
  return [row?.last, row?.this]
}

/** Open calls that were admitted in the last month, and hold of its cap. */
async function openLastMonth(on: Sql, account: Account, count: number): Promise<Call[]> {
  const calls = await open(on, account, count)
  const [last, month] = await monthsOf(on)
  await on`
    update private.ai_holds set created_at = ${month}::timestamp at time zone 'UTC' - interval '1 hour'
    where call_id = any(${calls.map(({ call_id }) => call_id)}::uuid[])`
  await on`select private.open_spend_month(${last}::date)`
  await on`update private.spend_months set handed_out_micros = handed_out_micros + ${count * micros} where month = ${last}::date`
  await on`select private.give_back_spend(${month}::date, ${count * micros})`
  return calls
}

/** By month, what the cap has handed out and no shard has left, less what calls cost and hold: always the same. */
async function unexplained(sql: Sql): Promise<unknown> {
  const rows = await sql`
    select m.month::text, (m.handed_out_micros
      - (select sum(s.left_micros) from private.spend_shards s where s.month = m.month)
      - (select coalesce(sum(c.cost_micros), 0) from public.ai_calls c where date_trunc('month', c.created_at at time zone 'UTC')::date = m.month)
      - (select coalesce(sum(h.micros), 0) from private.ai_holds h where date_trunc('month', h.created_at at time zone 'UTC')::date = m.month)
      )::text as micros
    from private.spend_months m order by m.month`
  return [...rows]
}

const limits = [
  ['ai_requests', 'minute'],
  ['ai_concurrency', 'total'],
  ['ai_calls', 'day'],
  ['ai_tokens', 'month'],
  ['ai_spend_micros', 'month'],
] as const

async function unlimited(sql: Sql, account: Account): Promise<Account> {
  for (const [meter, period] of limits) await setLimit(sql, account.id, meter, period, null)
  await changeCredits(sql, 'grant', account.id, 1_000)
  return account
}

/** With accounts that no limit stops, connections of their own, and the cap as it was afterwards. */
async function inRace(
  count: number,
  race: (connections: Sql[], accounts: Account[], sql: Sql) => Promise<void>,
): Promise<void> {
  const connections = Array.from({ length: count }, impatient)
  const [cap] = await db()`select value from private.settings where key = 'ai.project_usd_per_month'`
  try {
    await racing(1, async (sql, newOne) => {
      // As the gateway does first: then every price has its number.
      await sql`select private.ai_snapshot()`
      const accounts: Account[] = []
      for (let i = 0; i < count; i += 1) accounts.push(await unlimited(sql, await newOne()))
      await race(connections, accounts, sql)
    })
  } finally {
    await db()`update private.settings set value = ${db().json(cap?.value)} where key = 'ai.project_usd_per_month'`
    await Promise.all(connections.map((one) => one.end()))
  }
}

test('calls that end and calls that ask in one statement, beside one that cost more than it held, do not wait in a circle', () =>
  inRace(4, async ([both, over, month, watcher], [one, other], sql) => {
    if (!both || !over || !month || !watcher || !one || !other) throw new Error('too few')
    const pids = [await pidOf(both), await pidOf(over)] as const
    const [earlier, later, dear] = [...(await open(both, one, 2)), ...(await open(both, other, 1))]
    if (!earlier || !later || !dear) throw new Error('too few')
    const before = await unexplained(sql)
    // Something is left in the shard of what settlements give back.
    await step(both, [[earlier, modest]])

    const [ended, taken] = await month.begin(async (tx) => {
      await tx`select from private.spend_months for update`
      const taken = step(over, [[dear, overrun]])
      await waits(watcher, pids[1])
      const ended = step(both, [[later, modest]], [one])
      await waits(watcher, pids[0])
      return [ended, taken]
    })

    expect((await Promise.all([ended, taken])).flat().every(({ refusal }) => refusal === null)).toBe(true)
    expect(await unexplained(sql)).toEqual(before)
  }))

test('who paid for a dear call from a shard does not wait with it for another, which somebody has who takes from all', () =>
  inRace(5, async ([both, watcher, month, all, spare], [one], sql) => {
    if (!both || !watcher || !month || !all || !spare || !one) throw new Error('too few')
    const [asker, shard] = (await shardOf(both)) < 120 ? [both, await shardOf(both)] : [spare, await shardOf(spare)]
    const pids = [await pidOf(asker), await pidOf(all)] as const
    const [dear] = await open(asker, one, 1)
    if (!dear) throw new Error('too few')
    const [, now] = await monthsOf(sql)
    // Only a shard that calls are taken from has enough, and it comes after the asker's own.
    await sql`update private.spend_shards set left_micros = case shard when 127 then 50000000 else 0 end where month = ${now}::date`
    const before = await unexplained(sql)

    const [taken, asked] = await month.begin(async (tx) => {
      await tx`select from private.spend_shards where month = ${now}::date and shard = ${shard + 1} for update`
      const taken = outcome(all`select private.take_back_spend(${now}::date, 0)`)
      await waits(watcher, pids[1])
      const asked = outcome(step(asker, [[dear, overrun]], [one]))
      await waits(watcher, pids[0])
      return [taken, asked]
    })

    expect(await Promise.all([taken, asked])).toEqual(['done', 'done'])
    expect(await unexplained(sql)).toEqual(before)
  }))

test('what comes back of the last month waits for nobody, although somebody has all of it', () =>
  inRace(2, async ([asking, all], [one], sql) => {
    if (!asking || !all || !one) throw new Error('too few')
    const [lost] = await openLastMonth(asking, one, 1)
    const [last] = await monthsOf(sql)
    await setLimit(sql, one.id, 'ai_concurrency', 'total', 1)
    await abandon(sql, lost?.call_id ?? '')
    const before = await unexplained(sql)
    await asking`set lock_timeout = '10s'`

    // A call of this month is admitted by closing the one that holds its place: it has of this month's cap already.
    const rows = await all.begin(async (tx) => {
      await tx`select from private.spend_shards where month = ${last}::date for update`
      await tx`select from private.spend_months where month = ${last}::date for update`
      return step(asking, [], [one])
    })

    expect(callsIn(rows)).toHaveLength(1)
    expect(await unexplained(sql)).toEqual(before)
  }))

test.each([
  ['2026-11-30T23:59:59.990Z', '2026-12-01T00:00:00.100Z', '2026-11-30T23:59:59.999Z'],
  ['2026-12-01T00:00:00.000Z', '2026-12-01T00:00:00.100Z', '2026-12-01T00:00:00.100Z'],
])('a call that asks at %s and is held at %s is of the month whose cap it takes from', (began, moment, held) =>
  rolledBack(async (tx) => {
    const [row] = await tx`select private.moment_of_month(${began}, ${moment}) as held`

    expect(row?.held.toISOString()).toBe(held)
  }),
)

test('at the turn of a month nobody waits in a circle, and every micro-dollar is spent, held or left', () =>
  inRace(10, async (connections, accounts, sql) => {
    const rounds = runs(15)
    const calls: Record<'last' | 'now', Call[]>[] = []
    for (const [at, on] of connections.entries()) {
      const account = accounts[at] as Account
      calls.push({ last: await openLastMonth(on, account, 2 * rounds), now: await open(on, account, 3 * rounds) })
    }
    const before = await unexplained(sql)

    const ends = await Promise.all(
      connections.map(async (on, at) => {
        const seen: string[] = []
        for (let round = 0; round < rounds; round += 1)
          seen.push(await outcome(turn(at + round, on, accounts[at] as Account, calls[at] ?? { last: [], now: [] })))
        return seen
      }),
    )

    expect(ends.flat().filter((end) => end !== 'done')).toEqual([])
    expect(await unexplained(sql)).toEqual(before)
  }))

/** What one connection does while others do the rest: each kind meets each other one. */
async function turn(kind: number, on: Sql, account: Account, calls: Record<'last' | 'now', Call[]>): Promise<unknown> {
  const next = (month: 'last' | 'now'): Call => {
    const call = calls[month].pop()
    if (!call) throw new Error('too few')
    return call
  }
  // Something comes back first: where nothing is left, nobody takes it.
  await step(on, [[next('last'), modest]])
  await step(on, [[next('now'), modest]])
  const acts = [
    () => step(on, [[next('now'), overrun], [next('last'), overrun]]), // biome-ignore format: one line says it
    () => step(on, [[next('now'), modest], [next('now'), modest]], [account]), // biome-ignore format: one line says it
    () => step(on, [[next('now'), overrun]], [account]),
    () => step(on, [[next('last'), overrun], [next('now'), modest]], [account]), // biome-ignore format: one line says it
    () => on`update private.settings set value = to_jsonb(3000 + random()) where key = 'ai.project_usd_per_month'`,
    () => step(on, [[next('now'), modest]], [account, account]),
  ]
  await acts[kind % acts.length]?.()
  return step(on, [], [account])
}

const shardOf = async (on: Sql): Promise<number> => (await pidOf(on)) % 128

const outcome = (what: PromiseLike<unknown>): Promise<string> =>
  Promise.resolve(what).then(
    () => 'done',
    (error: Error) => error.message,
  )
