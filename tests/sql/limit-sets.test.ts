/** Limits as a call reads them: whatever they come from changes, the account's row points at what counts, in the same transaction. */
import { describe, expect, test } from 'vitest'
import { admit, baseModel } from './ai-support.ts'
import { putSubscription } from './entitlement-support.ts'
import { newAccount, racing, refusal, rolledBack, type Sql, setLimit, type Tx, together } from './support.ts'

/** What counts for AI calls: of which plan, whether it is the account's own set, and two of its amounts. */
const limitsOf = async (sql: Sql | Tx, id: string) => {
  const [row] = await sql`
    select s.plan_id as plan, s.user_id is not null as is_own, s.ai_calls as calls, s.ai_tokens as tokens,
      a.entitled_until < 'infinity' as ends
    from private.accounts a join private.limit_sets s on s.id = a.limits_id where a.user_id = ${id}`
  return row
}
const wrong = (sql: Sql | Tx) => sql`select user_id, stored, expected from private.compare_account_limits()`
const sets = async (tx: Tx, id: string) =>
  (await tx`select plan_id from private.limit_sets where user_id = ${id}`).map(({ plan_id }) => plan_id)

const noLimit = '9223372036854775807'
const none = '-1'
const free = { plan: 'free', is_own: false, calls: '50', tokens: '100000', ends: false }
const premium = { plan: 'premium', calls: '1000', tokens: '5000000' }

/** One after the other on one account; after each of them the limits are these beside what they were. */
const changes: [what: string, change: (tx: Tx, id: string) => PromiseLike<unknown>, limits: object][] = [
  ['a plan', (tx, id) => tx`update public.profiles set plan_id = 'premium' where id = ${id}`, premium],
  ['the plan of before', (tx, id) => tx`update public.profiles set plan_id = 'free' where id = ${id}`, free],
  ['an own limit', (tx, id) => setLimit(tx, id, 'ai_calls', 'day', 7), { is_own: true, calls: '7' }],
  ['another amount of it', (tx, id) => setLimit(tx, id, 'ai_calls', 'day', null), { calls: noLimit }],
  ['a second one', (tx, id) => setLimit(tx, id, 'ai_tokens', 'month', 0), { tokens: '0' }],
  [
    'a limit of the plan beside the own ones, and under one of them',
    (tx) =>
      tx`update public.plan_limits set amount = amount + 1 where plan_id = 'free' and meter in ('ai_calls', 'ai_tokens')`,
    {},
  ],
  [
    'a plan with the own limits',
    (tx, id) => tx`update public.profiles set plan_id = 'premium' where id = ${id}`,
    { plan: 'premium' },
  ],
  [
    'one own limit less',
    (tx, id) => tx`delete from public.limit_overrides where user_id = ${id} and meter = 'ai_tokens'`,
    { tokens: '5000000' },
  ],
  [
    'an own limit that becomes another meter’s',
    (tx, id) =>
      tx`update public.limit_overrides set meter = 'ai_tokens', period = 'month', amount = 3 where user_id = ${id}`,
    { calls: '1000', tokens: '3' },
  ],
  [
    'none left',
    (tx, id) => tx`delete from public.limit_overrides where user_id = ${id}`,
    { is_own: false, tokens: '5000000' },
  ],
  [
    'another amount of the plan',
    (tx) => tx`update public.plan_limits set amount = 5 where plan_id = 'premium' and meter = 'ai_calls'`,
    { calls: '5' },
  ],
  [
    'no limit in the plan',
    (tx) => tx`update public.plan_limits set amount = null where plan_id = 'premium' and meter = 'ai_calls'`,
    { calls: noLimit },
  ],
  [
    'no row in the plan, which is none of it',
    (tx) => tx`delete from public.plan_limits where plan_id = 'premium' and meter = 'ai_calls'`,
    { calls: none },
  ],
  [
    'a row again',
    (tx) =>
      tx`insert into public.plan_limits (plan_id, meter, period, amount) values ('premium', 'ai_calls', 'day', 9)`,
    { calls: '9' },
  ],
  [
    'a plan that was not there, without limits',
    async (tx, id) => {
      await tx`insert into public.plans (id, name) values ('bare', 'Bare')`
      await tx`update public.profiles set plan_id = 'bare' where id = ${id}`
    },
    { plan: 'bare', calls: none, tokens: none },
  ],
  [
    'a limit that another plan gives away',
    (tx) => tx`update public.plan_limits set plan_id = 'bare' where plan_id = 'premium' and meter = 'ai_calls'`,
    { calls: '9' },
  ],
]

describe('the limits of an account', () => {
  test('follow everything that they come from', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const expected: object[] = [free]
      const seen = [await limitsOf(tx, id)]

      for (const [what, change, limits] of changes) {
        await change(tx, id)
        expected.push({ ...expected.at(-1), ...limits })
        seen.push(await limitsOf(tx, id))
        expect([...(await wrong(tx))], what).toEqual([])
      }

      expect(seen).toEqual(expected)
    }))

  test('are those of what is paid for, until it ends; the next call sees the end', () =>
    rolledBack(async (tx) => {
      const { id, sessionId } = await newAccount(tx)
      const subscription = await putSubscription(tx, id, { cancel_at_period_end: true, period_end: '1 day' })
      expect(await limitsOf(tx, id)).toMatchObject({ ...premium, ends: true })
      await setLimit(tx, id, 'ai_tokens', 'month', 4)
      expect(await limitsOf(tx, id)).toMatchObject({ plan: 'premium', is_own: true, calls: '1000', tokens: '4' })
      expect([...(await wrong(tx))]).toEqual([])

      // The end comes by itself: nobody writes anything.
      await tx`alter table private.entitlements disable trigger user`
      await tx`update private.entitlements set starts_at = starts_at - interval '30 days', ends_at = ends_at - interval '30 days' where user_id = ${id} and plan_id is not null`
      await tx`update private.entitlements set starts_at = starts_at - interval '30 days' where user_id = ${id} and plan_id is null and ends_at = 'infinity'`
      await tx`alter table private.entitlements enable trigger user`
      await tx`update private.accounts set entitled_until = now() - interval '1 second' where user_id = ${id}`
      expect([...(await wrong(tx))], 'until a call comes it is no mistake').toEqual([])
      await admit(tx, { id, sessionId }, { model: baseModel })

      expect(await limitsOf(tx, id)).toMatchObject({ plan: 'free', is_own: true, calls: '50', tokens: '4' })
      expect(await sets(tx, id)).toEqual(['free'])
      expect([...(await wrong(tx))]).toEqual([])

      await putSubscription(tx, id, { id: subscription, period_end: '20 days' })
      expect(await limitsOf(tx, id)).toMatchObject({ plan: 'premium', is_own: true })
      await tx`delete from private.entitlements where user_id = ${id}`
      expect(await limitsOf(tx, id)).toMatchObject({ plan: 'free', ends: false })
      expect([...(await wrong(tx))]).toEqual([])
    }))

  test('of its own go with it', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await setLimit(tx, id, 'ai_calls', 'day', 7)
      expect(await sets(tx, id)).toEqual(['free'])

      await tx`delete from auth.users where id = ${id}`

      expect(await sets(tx, id)).toEqual([])
      expect([...(await wrong(tx))]).toEqual([])
    }))

  test('that are wrong are found and told: another set, another end, another amount', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const found = async () => (await wrong(tx)).map((row) => [row.user_id, row.stored, row.expected])
      const [sets] = await tx`
        select max(id) filter (where plan_id = 'free') as free, max(id) filter (where plan_id = 'premium') as premium
        from private.limit_sets where user_id is null`
      await tx`update private.accounts set limits_id = ${sets?.premium} where user_id = ${id}`
      expect(await found()).toMatchObject([[id, { limits_id: sets?.premium }, { limits_id: sets?.free }]])
      await tx`select private.warn_of_wrong_gates()`
      const events = await tx`select details from public.security_events where type = 'account_gates_wrong'`
      expect(events).toMatchObject([{ details: { accounts: 1, some: [id] } }])
      await tx`select private.refresh_account_limits(${id})`
      expect(await found()).toEqual([])

      await tx`update private.accounts set entitled_until = now() + interval '1 day' where user_id = ${id}`
      expect(await found()).toHaveLength(1)
      await tx`select private.refresh_account_limits(${id})`

      await tx`update private.limit_sets set ai_calls = 51 where id = ${sets?.free}`
      expect(await found()).toMatchObject([[null, { ai_calls: 51 }, { ai_calls: 50 }]])
      await tx`select private.refresh_limit_set('free')`
      expect(await found()).toEqual([])
    }))

  test('are right, and nobody waits in a circle, when plans, own limits and paid times change at the same time', () =>
    racing(8, async (sql, newAccountOf) => {
      const plan = 'race_limits'
      await sql`insert into public.plans (id, name) values (${plan}, 'Race')`
      const accounts = [await newAccountOf(), await newAccountOf(), await newAccountOf()]
      const acts: ((id: string, n: number) => PromiseLike<unknown>)[] = [
        (id, n) => sql`update public.profiles set plan_id = ${n % 2 ? plan : 'free'} where id = ${id}`,
        (id, n) => setLimit(sql, id, 'ai_calls', 'day', n),
        (id) => sql`delete from public.limit_overrides where user_id = ${id}`,
        (_, n) => sql`
          insert into public.plan_limits (plan_id, meter, period, amount) values (${plan}, 'ai_calls', 'day', ${n})
          on conflict (plan_id, meter, period) do update set amount = excluded.amount`,
        (id, n) =>
          sql.begin(async (tx) => {
            if (n % 2) await putSubscription(tx, id, { plan_id: plan })
            else await tx`delete from private.entitlements where user_id = ${id}`
          }),
      ]

      const answers = await together(120, (n) =>
        Promise.resolve(acts[n % acts.length]?.(accounts[n % accounts.length]?.id ?? '', n)),
      )

      expect(answers.filter((answer) => answer && 'sqlstate' in (answer as object))).toEqual([])
      expect([...(await wrong(sql))]).toEqual([])
      await sql`update public.profiles set plan_id = 'free' where id = any (${accounts.map(({ id }) => id)})`
      await sql`delete from public.subscriptions where user_id = any (${accounts.map(({ id }) => id)})`
      await sql`delete from private.entitlements where user_id = any (${accounts.map(({ id }) => id)})`
      await sql`delete from public.plans where id = ${plan}`
    }))
})

test('there are 63 plans, since a call names those it was worked out for in the bits of a number', () =>
  rolledBack(async (tx) => {
    await tx`
      insert into public.plans (id, name)
      select 'plan_' || n, n from generate_series(1, 63 - (select count(*)::integer from public.plans)) n`
    const numbers = await tx`select plan_number as n from private.limit_sets where user_id is null order by 1`
    expect(numbers.map(({ n }) => n)).toEqual(Array.from({ length: 63 }, (_, n) => n))

    const another = (sp: Tx) => sp`insert into public.plans (id, name) values ('too_many', 'x')`
    expect(await refusal(tx, another)).toMatchObject({ code: 'invalid_request_error' })
    await tx`delete from public.plans where id = 'plan_5'`
    await another(tx)

    const [row] =
      await tx`select min(plan_number) as number, count(*)::int as sets from private.limit_sets where plan_id = 'too_many'`
    expect(row?.sets).toBe(1)
    expect([...(await wrong(tx))]).toEqual([])
  }))
