/** Usage added up by day: the same numbers as the log, before and after a day is added up. */
import { describe, expect, test } from 'vitest'
import { admit, baseModel, free, newModel, settle } from './ai-support.ts'
import { type Account, asUser, newAccount, refusal, rolledBack, type Tx } from './support.ts'

const usage = (tx: Tx, { id }: Account, from = '2000-01-01', to = '2000-12-31') =>
  asUser(
    tx,
    id,
    (as) => as`
    select to_char(day, 'YYYY-MM-DD') as day, model_id, calls::int, failed_calls::int as failed, prompt_tokens::int as prompt,
      completion_tokens::int as completion, cost_micros::int as cost, credits::int
    from public.get_my_usage(${from}, ${to})`,
  )

/** The day, in UTC, on which the test's transaction began: what now() says throughout. */
const dayOf = async (tx: Tx, ago = 0): Promise<string> =>
  (await tx`select ((now() at time zone 'UTC')::date - ${ago}::int)::text as day`)[0]?.day

/** The log is append-only; what a test does to its past it does without that trigger, in a transaction that rolls back. */
async function inThePast(tx: Tx, change: (tx: Tx) => Promise<unknown>): Promise<void> {
  await tx`alter table public.ai_calls disable trigger user`
  await change(tx)
  await tx`alter table public.ai_calls enable trigger user`
}

/** Moves the account's calls, and what is open of them, to a day. */
const moveTo = async (tx: Tx, { id }: Account, day: string) => {
  await inThePast(
    tx,
    (sp) =>
      sp`update public.ai_calls set created_at = ${`${day}T12:00:00Z`} where user_id = ${id} and created_at > '2020-01-01'`,
  )
  await tx`update private.ai_holds set created_at = ${`${day}T12:00:00Z`} where user_id = ${id} and created_at > '2020-01-01'`
}
/** A past of two days: three calls on the first, one of them failed, and one on the second. */
async function withPast(tx: Tx): Promise<Account> {
  await tx`delete from private.ai_usage_days`
  await inThePast(tx, (sp) => sp`delete from public.ai_calls`)
  await tx`delete from private.ai_holds`
  await newModel(tx)
  const account = await newAccount(tx)
  await settle(tx, (await admit(tx, account)).call_id)
  await settle(tx, (await admit(tx, account)).call_id, free)
  await settle(tx, (await admit(tx, account, { model: baseModel })).call_id)
  await moveTo(tx, account, '2000-03-01')
  await settle(tx, (await admit(tx, account)).call_id)
  await moveTo(tx, account, '2000-03-02')
  return account
}
const model = {
  day: '2000-03-01',
  model_id: 'sql/model',
  calls: 2,
  failed: 1,
  prompt: 10,
  completion: 5,
  cost: 9,
  credits: 2,
}

describe('usage by day', () => {
  test('is added up from the log by model, and nobody sees another’s', () =>
    rolledBack(async (tx) => {
      const account = await withPast(tx)

      const rows = await usage(tx, account)

      expect([...rows]).toEqual([
        { ...model, model_id: baseModel, calls: 1, failed: 0, cost: 5, credits: 1 },
        model,
        { ...model, day: '2000-03-02', calls: 1, failed: 0 },
      ])
      expect(await usage(tx, await newAccount(tx))).toHaveLength(0)
    }))

  test('is the same after the days are added up, once, and stays when the log’s month is dropped', () =>
    rolledBack(async (tx) => {
      const account = await withPast(tx)
      const before = [...(await usage(tx, account))]

      const [first] = await tx`select private.add_up_ai_usage() as days`
      const [again] = await tx`select private.add_up_ai_usage() as days`
      await inThePast(tx, (sp) => sp`delete from public.ai_calls where created_at < '2020-01-01'`)

      expect(first?.days).toBeGreaterThan(9000)
      expect(again?.days).toBe(0)
      expect([...(await usage(tx, account))]).toEqual(before)
    }))

  test('of a day with a running call waits for it', () =>
    rolledBack(async (tx) => {
      const account = await withPast(tx)
      const { call_id } = await admit(tx, account)
      await moveTo(tx, account, '2000-03-02')

      const [first] = await tx`select private.add_up_ai_usage() as days`
      await settle(tx, call_id)
      await tx`select private.add_up_ai_usage()`

      expect(first?.days).toBe(1)
      expect((await usage(tx, account, '2000-03-02', '2000-03-02'))[0]).toMatchObject({ calls: 2, credits: 4 })
    }))

  test('keeps, by the model that worked in vain, what the project paid for, and stays when the month is dropped', () =>
    rolledBack(async (tx) => {
      const account = await withPast(tx)
      await tx`insert into private.model_fallbacks values ('sql/model', 1, ${baseModel})`
      const usage = { prompt_tokens: 90, completion_tokens: 40 }
      for (const model of ['sql/model', baseModel, 'sql/model'])
        await settle(tx, (await admit(tx, account)).call_id, { ...free, model, usage, usage_source: 'project' })
      await moveTo(tx, account, '2000-03-02')
      const losses = async () => [
        ...(await tx`
          select to_char(day, 'YYYY-MM-DD') as day, model_id, sum(project_micros)::int as micros from public.ai_usage_daily
          where project_micros > 0 group by 1, 2 order by 2`),
      ]

      await tx`select private.add_up_ai_usage()`
      const before = await losses()
      await inThePast(tx, (sp) => sp`delete from public.ai_calls where created_at < '2020-01-01'`)

      // 90 × 0.15 + 40 × 0.6 = 37.5, and twice 90 × 0.3 + 40 × 1.1 = 71.
      expect(before).toEqual([
        { day: '2000-03-02', model_id: baseModel, micros: 38 },
        { day: '2000-03-02', model_id: 'sql/model', micros: 142 },
      ])
      expect(await losses()).toEqual(before)
    }))

  test('has refused calls that are only counted, before and after the day is added up, and then forgets their hours', () =>
    rolledBack(async (tx) => {
      const account = await withPast(tx)
      await tx`update private.settings set value = '1' where key = 'ai.refused_calls_per_hour'`
      for (let index = 0; index < 5; index++) await admit(tx, account, { model: 'no/such-model' })
      await moveTo(tx, account, '2000-03-02')
      await tx`update private.ai_refusals set hour = '2000-03-02T11:00:00Z' where user_id = ${account.id}`
      const refused = async () =>
        (await usage(tx, account, '2000-03-02', '2000-03-02')).filter(({ model_id }) => model_id === '(refused)')

      const before = await refused()
      await tx`select private.add_up_ai_usage()`

      expect(before).toMatchObject([{ calls: 4, failed: 4, credits: 0, cost: 0 }])
      expect(await refused()).toEqual(before)
      expect(await tx`select from private.ai_refusals where user_id = ${account.id}`).toHaveLength(0)
    }))

  test('of today is there at once', () =>
    rolledBack(async (tx) => {
      const account = await withPast(tx)
      await tx`select private.add_up_ai_usage()`
      await settle(tx, (await admit(tx, account)).call_id)
      const today = await dayOf(tx)

      expect([...(await usage(tx, account, today, today))]).toMatchObject([{ day: today, calls: 1, credits: 2 }])
    }))

  test.each([
    ['2000-01-02', '2000-01-01'],
    ['2000-01-01', '2001-01-05'],
    [null, '2000-01-01'],
  ])('from %s to %s is refused', (from, to) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)

      const refused = await refusal(tx, (sp) =>
        asUser(sp, account.id, (as) => as`select * from public.get_my_usage(${from}::date, ${to}::date)`),
      )

      expect(refused.code).toBe('invalid_request_error')
    }),
  )
})

describe('prices that drift from what the provider charges', () => {
  const events = (tx: Tx) => tx`
    select severity, (details ->> 'calls')::int as calls, details ->> 'model' as model from public.security_events
    where type = 'price_drift'`

  test.each([
    [1, 0],
    [1.04, 0],
    [1.2, 1],
    [0.8, 1],
  ])('%d times our price yesterday: %i events, once', (factor, count) =>
    rolledBack(async (tx) => {
      await inThePast(tx, (sp) => sp`delete from public.ai_calls`)
      await newModel(tx)
      const account = await newAccount(tx)
      const usage = { prompt_tokens: 100_000, completion_tokens: 0, cached_tokens: 0, reasoning_tokens: 0 }
      // $0.30 per million tokens; what no provider priced says nothing.
      await settle(tx, (await admit(tx, account)).call_id, { usage: { ...usage, cost_usd: 0.03 * factor } })
      await settle(tx, (await admit(tx, account)).call_id, { usage: { ...usage, cost_usd: null } })
      await moveTo(tx, account, await dayOf(tx, 1))

      await tx`select private.warn_of_price_drift()`
      await tx`select private.warn_of_price_drift()`
      expect([...(await events(tx))]).toEqual(count === 0 ? [] : [{ severity: 'medium', calls: 1, model: 'sql/model' }])
    }),
  )

  test('a call that the caller’s own key paid drifts by what it would have cost', () =>
    rolledBack(async (tx) => {
      await newModel(tx)
      const account = await newAccount(tx)
      const own = async (usd: number) => {
        const { call_id } = await admit(tx, account)
        await tx`update private.ai_holds set own_key = true, credits = 0, micros = 0 where call_id = ${call_id}`
        await tx`update private.accounts set held = 0, ai_spend_micros_held = 0 where user_id = ${account.id}`
        return settle(tx, call_id, { usage: { prompt_tokens: 100_000, completion_tokens: 0, cost_usd: usd } })
      }

      const { cost_micros } = await own(0.03)
      const [drift] = await tx`
        select calls::int, cost_micros::int as ours, provider_cost_micros::int as theirs, drift_percent::float as percent
        from private.price_drift(now() - interval '1 minute', now() + interval '1 minute') where model_id = 'sql/model'`

      expect(cost_micros).toBe(0)
      expect(drift).toEqual({ calls: 1, ours: 30_000, theirs: 30_000, percent: 0 })
      expect([...(await tx`select * from private.verify_ai_costs()`)]).toEqual([])
    }))

  test('today is not over', () =>
    rolledBack(async (tx) => {
      await newModel(tx)
      const account = await newAccount(tx)
      await settle(tx, (await admit(tx, account)).call_id, { usage: { prompt_tokens: 100, cost_usd: 9 } })

      await tx`select private.warn_of_price_drift()`
      expect([...(await events(tx))]).toEqual([])
    }))
})
