import { describe, expect, test } from 'vitest'
import {
  abandon,
  admit,
  baseModel,
  callOf,
  callsOf,
  chargesOf,
  type Ending,
  free,
  newModel,
  type Settlement,
  settle,
  settleAll,
  type Usage,
} from './ai-support.ts'
import {
  type Account,
  connect,
  countersOf,
  creditsOf,
  newAccount,
  racing,
  refusal,
  rolledBack,
  type Sql,
  setCounter,
  setLimit,
  type Tx,
  together,
} from './support.ts'

/** A call that is running: 100 prompt tokens and 50 of output are held, and 2 credits. */
async function running(tx: Tx, price = {}): Promise<{ account: Account; id: string }> {
  const account = await newAccount(tx)
  await newModel(tx)
  if (Object.keys(price).length > 0) await tx`update public.model_prices set ${tx(price)} where model_id = 'sql/model'`
  const { call_id } = await admit(tx, account)
  return { account, id: call_id }
}
const start = (sql: Sql | Tx, id: string) => sql`select private.start_ai_calls(array[${id}]::uuid[])`
const sweep = (sql: Sql | Tx) => sql`select private.settle_abandoned_ai_calls()`
const unbalanced = async (sql: Sql | Tx, userId: string) =>
  (await sql`select from private.verify_accounts() where user_id = ${userId}`).length
/** What an account has spent and holds, in one line. */
const bookOf = async (sql: Sql | Tx, id: string) => ({
  ...(await creditsOf(sql, id)),
  ...(await countersOf(sql, id)),
  charges: await chargesOf(sql, id),
})

describe('what a provider worked in vain', () => {
  const late: Ending = { ...free, http_status: 504, error_code: 'upstream_timeout', model: 'sql/model' }
  const spent = async (tx: Tx) =>
    (await tx`select spent_and_held_micros::int as micros from private.project_spend()`)[0]?.micros

  test.each([
    // 90 × 0.3 + 40 × 1.1 = 71.
    [{ prompt_tokens: 90, completion_tokens: 40 }, 71],
    // No more than was held: 100 × 0.3 + 50 × 1.1 = 85.
    [{ prompt_tokens: 900, completion_tokens: 400 }, 85],
  ])('and is the project’s comes out of its cap, and the caller pays nothing: %o', (usage, micros) =>
    rolledBack(async (tx) => {
      const before = await spent(tx)
      const { account, id } = await running(tx)

      await settle(tx, id, { ...late, usage, usage_source: 'project' })

      expect(await callOf(tx, id)).toMatchObject({
        ...{ state: 'released', cost_micros: 0, credits_charged: 0, project_micros: micros },
        ...{ usage_source: 'none', prompt_tokens: 0, completion_tokens: 0, answered_by: null },
      })
      expect(await bookOf(tx, account.id)).toMatchObject({ balance: 100, held: 0, charges: [] })
      expect((await spent(tx)) - before).toBe(micros)
      expect(await unbalanced(tx, account.id)).toBe(0)
    }),
  )

  test.each([
    // The answer costs 10 × 0.3 + 5 × 1.1 = 8.5, and what was in vain before it 20 × 0.3 + 30 × 1.1 = 39.
    [{ prompt_tokens: 20, completion_tokens: 30 }, 39],
    // 100 × 0.3 + 50 × 1.1 = 85 were held, of which the answer leaves 76.
    [{ prompt_tokens: 900, completion_tokens: 400 }, 76],
    [{ prompt_tokens: 0, completion_tokens: 0 }, null],
  ])('before an answer is the project’s, as far as the answer leaves something of the hold: %o', (vain, micros) =>
    rolledBack(async (tx) => {
      const before = await spent(tx)
      const { account, id } = await running(tx)

      await settle(tx, id, { model: 'sql/model', late: vain })

      expect(await callOf(tx, id)).toMatchObject({
        ...{ state: 'settled', cost_micros: 9, credits_charged: 2, project_micros: micros },
        ...{ usage_source: 'provider', prompt_tokens: 10, completion_tokens: 5, answered_by: 'sql/model' },
      })
      expect(await creditsOf(tx, account.id)).toEqual({ balance: 98, held: 0 })
      expect((await spent(tx)) - before).toBe(9 + (micros ?? 0))
      expect(await unbalanced(tx, account.id)).toBe(0)
    }),
  )

  test.each<[Ending, number]>([
    [{ ...free }, 39],
    [{ ...late, usage: { prompt_tokens: 10, completion_tokens: 5 }, usage_source: 'project' }, 48],
    [{ ...late, usage: { prompt_tokens: 90, completion_tokens: 40 }, usage_source: 'project' }, 85],
  ])('before an answer that came to nothing is the project’s, too: %o', (ending, micros) =>
    rolledBack(async (tx) => {
      const before = await spent(tx)
      const { account, id } = await running(tx)

      await settle(tx, id, { ...ending, late: { prompt_tokens: 20, completion_tokens: 30 } })

      expect(await callOf(tx, id)).toMatchObject({ state: 'released', cost_micros: 0, project_micros: micros })
      expect(await creditsOf(tx, account.id)).toEqual({ balance: 100, held: 0 })
      expect((await spent(tx)) - before).toBe(micros)
    }),
  )

  test('before an answer that was dearer than its hold takes nothing more', () =>
    rolledBack(async (tx) => {
      const { id } = await running(tx)

      await settle(tx, id, { usage: { prompt_tokens: 900 }, late: { prompt_tokens: 9, completion_tokens: 9 } })

      expect(await callOf(tx, id)).toMatchObject({ cost_micros: 270, project_micros: 0 })
    }))

  test('and is the caller’s is charged as any other estimate', () =>
    rolledBack(async (tx) => {
      const { account, id } = await running(tx)

      await settle(tx, id, { ...late, usage: { prompt_tokens: 90, completion_tokens: 40 }, usage_source: 'estimated' })

      expect(await callOf(tx, id)).toMatchObject({ state: 'settled', cost_micros: 71, project_micros: null })
      expect(await creditsOf(tx, account.id)).toEqual({ balance: 98, held: 0 })
    }))
})

describe('what cannot be settled', () => {
  test.each(['019b76da-a7ff-7fff-bfff-ffffffffffff', 'ffffffff-ffff-4fff-bfff-ffffffffffff'])('%s is no call', (id) =>
    rolledBack(async (tx) => {
      const refused = await refusal(tx, (sp) => settle(sp, id))

      expect(refused).toMatchObject({ code: 'not_found', status: 404 })
    }),
  )

  test.each<[string, object]>([
    ['another result', { result: 'expired' }],
    ['no result', { result: null }],
    ['a success without usage', { usage: null }],
  ])('%s is refused and leaves the call running', (_name, ending) =>
    rolledBack(async (tx) => {
      const { id } = await running(tx)

      const refused = await refusal(tx, (sp) => settle(sp, id, ending))

      expect(refused).toMatchObject({ code: 'invalid_request_error', status: 400 })
      expect(await callOf(tx, id)).toMatchObject({ state: 'held' })
    }),
  )

  test('a refused call stays refused', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const { call_id } = await admit(tx, account, { model: 'no/such' })

      expect(await settle(tx, call_id)).toEqual({ settled: false })
      expect(await callOf(tx, call_id)).toMatchObject({ state: 'refused', credits_charged: 0 })
    }))
})

describe('what a call costs', () => {
  test('a success is charged for what it used, and the hold is given back', () =>
    rolledBack(async (tx) => {
      const { account, id } = await running(tx)

      const answer = await settle(tx, id)

      // 10 × 0.3 + 5 × 1.1 = 8.5
      expect(answer).toEqual({ settled: true, cost_micros: 9, credits_charged: 2, credits_remaining: 98 })
      expect(await bookOf(tx, account.id)).toEqual({
        balance: 98,
        held: 0,
        charges: [-2],
        'ai_calls/day': [1, 0],
        'ai_tokens/month': [15, 0],
      })
      expect(await callOf(tx, id)).toMatchObject({
        state: 'settled',
        http_status: 200,
        error_code: null,
        attempts: 1,
        response_bytes: 999,
        duration_ms: 1234,
        first_token_ms: 56,
        prompt_tokens: 10,
        completion_tokens: 5,
        usage_source: 'provider',
        cost_micros: 9,
        provider_cost_micros: null,
        credits_charged: 2,
        settled_at: expect.any(String),
      })
      expect(await unbalanced(tx, account.id)).toBe(0)
    }))

  test('the ledger names the call', () =>
    rolledBack(async (tx) => {
      const { account, id } = await running(tx)

      await settle(tx, id)

      const [entry] = await tx`
        select reason, idempotency_key, balance_after::int from public.credit_entries
        where user_id = ${account.id} and kind = 'ai_call'`
      expect(entry).toEqual({ reason: 'AI call: sql/model', idempotency_key: `ai_call:${id}`, balance_after: 98 })
    }))

  test.each([free, { ...free, result: 'cancelled' }])('a call that $result before its answer began is free', (ending) =>
    rolledBack(async (tx) => {
      const { account, id } = await running(tx)

      const answer = await settle(tx, id, ending)

      expect(answer).toEqual({ settled: true, cost_micros: 0, credits_charged: 0, credits_remaining: 100 })
      expect(await bookOf(tx, account.id)).toEqual({
        balance: 100,
        held: 0,
        charges: [],
        'ai_calls/day': [0, 0],
        'ai_tokens/month': [0, 0],
      })
      expect(await callOf(tx, id)).toMatchObject({
        state: 'released',
        http_status: 502,
        error_code: 'provider_error',
        usage_source: 'none',
        cost_micros: 0,
      })
    }),
  )

  test.each(['cancelled', 'failed'])('a call that %s after it delivered is charged for that', (result) =>
    rolledBack(async (tx) => {
      const { account, id } = await running(tx)
      const usage = { prompt_tokens: 40, completion_tokens: 7 }

      const answer = await settle(tx, id, { result, http_status: 499, usage, usage_source: 'estimated' })

      // 40 × 0.3 + 7 × 1.1 = 19.7
      expect(answer).toMatchObject({ settled: true, cost_micros: 20, credits_charged: 2 })
      expect(await callOf(tx, id)).toMatchObject({ state: 'settled', usage_source: 'estimated', http_status: 499 })
      expect((await countersOf(tx, account.id))['ai_tokens/month']).toEqual([47, 0])
    }),
  )

  test.each<[string, Usage, number]>([
    ['cached tokens cost less, and only once', { prompt_tokens: 100, completion_tokens: 0, cached_tokens: 60 }, 18],
    ['reasoning tokens are part of the answer', { prompt_tokens: 0, completion_tokens: 50, reasoning_tokens: 20 }, 75],
    ['both at once', { prompt_tokens: 100, completion_tokens: 50, cached_tokens: 60, reasoning_tokens: 20 }, 93],
    ['more cached than there is counts as all', { prompt_tokens: 100, completion_tokens: 0, cached_tokens: 999 }, 10],
    [
      'more reasoning than there is counts as all',
      { prompt_tokens: 0, completion_tokens: 50, reasoning_tokens: 999 },
      105,
    ],
    ['the sum is rounded up, not its parts', { prompt_tokens: 1, completion_tokens: 1, cached_tokens: 0 }, 2],
    ['a whole sum stays what it is', { prompt_tokens: 10, completion_tokens: 10 }, 14],
    ['explicit zero usage costs zero', { prompt_tokens: 0, completion_tokens: 0 }, 0],
  ])('%s', (_name, usage, micros) =>
    rolledBack(async (tx) => {
      const { account, id } = await running(tx, { reasoning_usd_per_mtok: 2.1 })

      const answer = await settle(tx, id, { usage })

      // In 0.30, cached 0.10, out 1.10, reasoning 2.10 micro-dollars a token.
      expect(answer.cost_micros).toBe(micros)
      const tokens = (usage.prompt_tokens ?? 0) + (usage.completion_tokens ?? 0)
      expect((await countersOf(tx, account.id))['ai_tokens/month']).toEqual([tokens, 0])
    }),
  )

  test('without a price for cached and reasoning tokens they cost what the others cost', () =>
    rolledBack(async (tx) => {
      const { id } = await running(tx, { cached_input_usd_per_mtok: null })
      const usage = { prompt_tokens: 100, completion_tokens: 50, cached_tokens: 60, reasoning_tokens: 20 }

      expect((await settle(tx, id, { usage })).cost_micros).toBe(85)
    }))

  test.each([
    [0.000_123_4, 124],
    [0, 0],
    [null, null],
  ])('the provider says that it costs $%d: %d is kept beside our own price', (cost_usd, micros) =>
    rolledBack(async (tx) => {
      const { id } = await running(tx)

      await settle(tx, id, { usage: { prompt_tokens: 10, completion_tokens: 5, cost_usd } })

      expect(await callOf(tx, id)).toMatchObject({ provider_cost_micros: micros, cost_micros: 9 })
    }),
  )

  test('a model of no credits costs none and writes no entry', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx, { credits: 1 })
      await newModel(tx)
      await tx`update public.models set credits_per_call = 0 where id = 'sql/model'`

      const { call_id } = await admit(tx, account)
      const answer = await settle(tx, call_id)

      expect(answer).toMatchObject({ credits_charged: 0, credits_remaining: 1, cost_micros: 9 })
      expect(await chargesOf(tx, account.id)).toEqual([])
    }))

  test('more than was held is charged in tokens, and the credits stay one call’s', () =>
    rolledBack(async (tx) => {
      const { account, id } = await running(tx)

      await settle(tx, id, { usage: { prompt_tokens: 5000, completion_tokens: 5000 } })

      expect(await bookOf(tx, account.id)).toMatchObject({ balance: 98, charges: [-2], 'ai_tokens/month': [10_000, 0] })
    }))
})

describe('a call that comes to more than it held', () => {
  const told = (tx: Tx) => tx`
    select type, severity, occurrences, details - 'call_id' as details, details ->> 'call_id' as id from private.security_events
    where type in ('ai_overrun', 'usage_implausible') order by type`
  const lie = { prompt_tokens: 1_000, completion_tokens: 1_000 }

  test('is charged the truth, and an event says so once for all of the model', () =>
    rolledBack(async (tx) => {
      await tx`delete from private.ai_surprises`
      const { account, id } = await running(tx)
      const others = [await admit(tx, account), await admit(tx, account), await admit(tx, account)].map(
        ({ call_id }) => call_id,
      )
      const last = others.pop() ?? ''

      const { cost_micros } = await settle(tx, id, { usage: lie })
      await settleAll(
        tx,
        others.map((other) => [other, { usage: lie }]),
      )
      await settle(tx, last)
      const [{ told: events } = {}] = await tx`select private.warn_of_ai_surprises() as told`
      await tx`select private.warn_of_ai_surprises()`

      expect([cost_micros, events]).toEqual([1_400, 1])
      const sums = {
        calls: 3,
        hold_micros: 3 * 85,
        cost_micros: 3 * 1_400,
        hold_tokens: 3 * 150,
        used_tokens: 3 * 2_000,
      }
      const details = { model: 'sql/model', provider: 'sql-test', ...sums }
      expect([...(await told(tx))]).toEqual([
        { type: 'ai_overrun', severity: 'high', occurrences: 1, details, id: expect.any(String) },
      ])
      expect((await countersOf(tx, account.id))['ai_tokens/month']).toEqual([6_015, 0])
    }))

  test('leaves the account nothing, when there is nothing left', () =>
    rolledBack(async (tx) => {
      const { account, id } = await running(tx)
      await setLimit(tx, account.id, 'ai_spend_micros', 'month', 1_000)

      await settle(tx, id, { usage: lie })

      expect(await admit(tx, account, { prompt_tokens_max: 1, max_output_tokens: 1 })).toMatchObject({
        admitted: false,
        code: 'insufficient_quota',
        details: { limit: { meter: 'ai_spend_micros', used: 1_400 } },
      })
      expect(await unbalanced(tx, account.id)).toBe(0)
    }))

  test('what a provider reports and nobody believes is an event, too, alone and among others', () =>
    rolledBack(async (tx) => {
      await tx`delete from private.ai_surprises`
      const { account, id } = await running(tx)
      const [two, three] = [(await admit(tx, account)).call_id, (await admit(tx, account)).call_id]
      const doubted = { implausible: 'more tokens than the context has', usage_source: 'estimated' }

      await settle(tx, id, doubted)
      await settleAll(tx, [
        [two, doubted],
        [three, {}],
      ])
      await tx`select private.warn_of_ai_surprises()`

      expect([...(await told(tx))]).toMatchObject([
        {
          type: 'usage_implausible',
          severity: 'medium',
          details: { calls: 2, model: 'sql/model', why: doubted.implausible },
        },
      ])
      expect(await callOf(tx, id)).toMatchObject({ usage_source: 'estimated', cost_micros: 9 })
    }))
})

const quotas = [
  ['ai_calls', 'day'],
  ['ai_tokens', 'month'],
] as const

describe('what changed while the call ran', () => {
  test.each<[string, Ending]>([
    ['success', {}],
    ['failure', free],
  ])('after the end of its periods a %s leaves the new counters alone', (_name, ending) =>
    rolledBack(async (tx) => {
      const { account, id } = await running(tx)
      const earlier = { day_resets_at: new Date(0), month_resets_at: new Date(0) }
      await tx`update private.ai_holds set ${tx(earlier)} where call_id = ${id}`
      for (const [meter, period] of quotas) await setCounter(tx, account.id, meter, period, { used: 4 })

      const answer = await settle(tx, id, ending)

      expect(answer.settled).toBe(true)
      expect(await countersOf(tx, account.id)).toEqual({ 'ai_calls/day': [4, 0], 'ai_tokens/month': [4, 0] })
      expect((await creditsOf(tx, account.id)).held).toBe(0)
    }),
  )

  test('the holds of a call of yesterday do not come off those of today', () =>
    rolledBack(async (tx) => {
      const { account, id } = await running(tx)
      for (const [meter, period] of quotas) await setCounter(tx, account.id, meter, period, { used: 4, resetsIn: '0' })
      await tx`update private.ai_holds set day_resets_at = now(), month_resets_at = now() where call_id = ${id}`
      await admit(tx, account)

      await settle(tx, id)

      expect(await countersOf(tx, account.id)).toEqual({ 'ai_calls/day': [0, 1], 'ai_tokens/month': [0, 150] })
      expect(await creditsOf(tx, account.id)).toEqual({ balance: 98, held: 2 })
    }))

  test.each([
    ['deleted', `delete from public.model_prices where model_id = 'sql/model'`],
    ['corrected', `update public.model_prices set input_usd_per_mtok = 30 where model_id = 'sql/model'`],
  ])('a price that was %s: a running call costs what it was admitted at', (_what, statement) =>
    rolledBack(async (tx) => {
      const { id } = await running(tx)
      await tx.unsafe(statement)

      expect(await settle(tx, id)).toMatchObject({ settled: true, cost_micros: 9, credits_charged: 2 })
    }),
  )

  test('a price that was deleted: explicit zero usage still costs zero', () =>
    rolledBack(async (tx) => {
      const { id } = await running(tx)
      await tx`delete from public.model_prices where model_id = 'sql/model'`

      const answer = await settle(tx, id, { usage: { prompt_tokens: 0, completion_tokens: 0 } })

      expect(answer.cost_micros).toBe(0)
    }))

  test('a new price does not change what a running call costs', () =>
    rolledBack(async (tx) => {
      const { id } = await running(tx)
      await tx`
        insert into public.model_prices (model_id, valid_from, input_usd_per_mtok, output_usd_per_mtok)
        values ('sql/model', now(), 30, 110)`

      expect((await settle(tx, id)).cost_micros).toBe(9)
    }))

  test.each([
    ['the plan', `update public.profiles set plan_id = 'premium'`],
    ['what the plan includes', 'delete from public.plan_limits'],
    ['the model', 'delete from public.models'],
    ['the credits a call costs', 'update public.models set credits_per_call = 50'],
  ])('%s: the call costs what it held, and nothing stays held', (_name, statement) =>
    rolledBack(async (tx) => {
      const { account, id } = await running(tx)
      await tx.unsafe(statement)

      await settle(tx, id, { usage: { prompt_tokens: 10, completion_tokens: 5 } })

      expect(await bookOf(tx, account.id)).toEqual({
        balance: 98,
        held: 0,
        charges: [-2],
        'ai_calls/day': [1, 0],
        'ai_tokens/month': [15, 0],
      })
    }),
  )

  test('the account is suspended: the call is settled all the same', () =>
    rolledBack(async (tx) => {
      const { account, id } = await running(tx)
      await tx`update public.profiles set status = 'suspended' where id = ${account.id}`

      expect((await settle(tx, id)).settled).toBe(true)
    }))
})

describe('exactly once', () => {
  test('a second settlement changes nothing', () =>
    rolledBack(async (tx) => {
      const { account, id } = await running(tx)
      await settle(tx, id)
      const before = [await bookOf(tx, account.id), await callOf(tx, id)]

      const again = await settle(tx, id, { usage: { prompt_tokens: 999, completion_tokens: 999 } })

      expect(again).toEqual({ settled: false })
      expect([await bookOf(tx, account.id), await callOf(tx, id)]).toEqual(before)
    }))

  test('20 settlements of one call at once make one entry', () =>
    racing(20, async (sql, newOne) => {
      const account = await newOne()
      const { call_id } = await admit(sql, account, { model: baseModel })

      const answers = await together(20, () => settle(sql, call_id))

      expect(answers.map((answer) => 'settled' in answer && answer.settled).sort()).toEqual([
        ...Array(19).fill(false),
        true,
      ])
      expect(answers.filter((answer) => 'sqlstate' in answer)).toEqual([])
      expect(await bookOf(sql, account.id)).toMatchObject({
        balance: 99,
        held: 0,
        charges: [-1],
        'ai_calls/day': [1, 0],
      })
    }))

  test('settlements that race each other and the sweeper make one entry for each call', () =>
    racing(24, async (sql, newOne) => {
      const accounts = await Promise.all([newOne(), newOne(), newOne()])
      const calls = await Promise.all(
        accounts.flatMap((account) => [1, 2, 3, 4].map(() => admit(sql, account, { model: baseModel }))),
      )
      await Promise.all(calls.map(({ call_id }) => start(sql, call_id)))
      await Promise.all(calls.map(({ call_id }) => abandon(sql, call_id)))

      const answers = await together<Settlement | object>(36, (index) =>
        index % 3 === 0 ? sweep(sql) : settle(sql, calls[index % 12]?.call_id ?? ''),
      )

      expect(answers.filter((answer) => 'sqlstate' in answer)).toEqual([])
      await sweep(sql)
      for (const { id } of accounts) {
        expect(await bookOf(sql, id)).toMatchObject({ balance: 96, held: 0, charges: [-1, -1, -1, -1] })
        expect((await countersOf(sql, id))['ai_calls/day']).toEqual([4, 0])
        expect(await unbalanced(sql, id)).toBe(0)
      }
    }))

  test('admissions and settlements at the same time keep the book in balance', () =>
    racing(30, async (sql, newOne) => {
      const account = await newOne({ credits: 12 })

      const ends = await together(30, async (index) => {
        const { admitted, call_id } = await admit(sql, account, { model: baseModel })
        return admitted ? settle(sql, call_id, index % 2 === 0 ? {} : free) : {}
      })

      expect(ends.filter((end) => 'sqlstate' in end)).toEqual([])
      const calls = await callsOf(sql, account.id)
      const settled = calls.filter((call) => call.state === 'settled').length
      expect(settled).toBeGreaterThan(0)
      expect(await bookOf(sql, account.id)).toMatchObject({
        balance: 12 - settled,
        held: 0,
        'ai_calls/day': [settled, 0],
      })
      expect(await unbalanced(sql, account.id)).toBe(0)
    }))
})

describe('the sweeper', () => {
  test('it leaves a running call alone', () =>
    rolledBack(async (tx) => {
      const { account, id } = await running(tx)
      await start(tx, id)

      await sweep(tx)

      expect((await callOf(tx, id)).state).toBe('held')
      expect(await creditsOf(tx, account.id)).toEqual({ balance: 100, held: 2 })
    }))

  test('an abandoned call whose answer had not begun is free', () =>
    rolledBack(async (tx) => {
      const { account, id } = await running(tx)
      await abandon(tx, id)

      await sweep(tx)

      expect(await callOf(tx, id)).toMatchObject({
        state: 'expired',
        error_code: 'abandoned',
        http_status: 500,
        usage_source: 'none',
        cost_micros: 0,
        credits_charged: 0,
      })
      expect(await bookOf(tx, account.id)).toEqual({
        balance: 100,
        held: 0,
        charges: [],
        'ai_calls/day': [0, 0],
        'ai_tokens/month': [0, 0],
      })
    }))

  test('an abandoned call whose answer had begun costs its whole hold', () =>
    rolledBack(async (tx) => {
      const { account, id } = await running(tx)
      await start(tx, id)
      await abandon(tx, id)

      await sweep(tx)

      expect(await callOf(tx, id)).toMatchObject({
        state: 'expired',
        usage_source: 'hold',
        prompt_tokens: 100,
        completion_tokens: 50,
        cost_micros: 85,
        credits_charged: 2,
      })
      expect(await bookOf(tx, account.id)).toEqual({
        balance: 98,
        held: 0,
        charges: [-2],
        'ai_calls/day': [1, 0],
        'ai_tokens/month': [150, 0],
      })
    }))

  test('a call whose answer begins while the sweeper waits is not free', () =>
    racing(2, async (sql, newOne) => {
      const account = await newOne()
      const { call_id } = await admit(sql, account, { model: baseModel })
      const sweeper = connect()
      const [self] = await sweeper`select pg_backend_pid() as pid`

      let swept: Promise<unknown> = Promise.resolve()
      await sql.begin(async (holder) => {
        await holder`select private.lock_account(${account.id})`
        // Abandoned only now: the stack's own sweeper must not come first.
        await abandon(sql, call_id)
        swept = sweep(sweeper).execute()
        await waitsForLock(holder, self?.pid)
        await start(sql, call_id)
      })
      await swept.finally(() => sweeper.end())

      expect(await callOf(sql, call_id)).toMatchObject({ state: 'expired', usage_source: 'hold', credits_charged: 1 })
    }))

  test('a batch is as large as asked for, and the answer says how many it closed', () =>
    rolledBack(async (tx) => {
      await sweep(tx)
      const { account, id } = await running(tx)
      for (const call of [id, (await admit(tx, account)).call_id]) await abandon(tx, call)

      const [one] = await tx`select private.settle_abandoned_ai_calls(1) as closed`
      const [rest] = await tx`select private.settle_abandoned_ai_calls() as closed`

      expect([one?.closed, rest?.closed]).toEqual([1, 1])
    }))

  test('a settlement that comes after the sweeper changes nothing', () =>
    rolledBack(async (tx) => {
      const { account, id } = await running(tx)
      await abandon(tx, id)
      await sweep(tx)

      expect(await settle(tx, id)).toEqual({ settled: false })
      expect(await chargesOf(tx, account.id)).toEqual([])
    }))

  test('a call starts once, and only while it runs', () =>
    rolledBack(async (tx) => {
      const { id } = await running(tx)
      await tx`update private.ai_holds set started_at = '2026-01-01T00:00:00Z' where call_id = ${id}`

      await start(tx, id)

      expect((await callOf(tx, id)).started_at).toContain('2026-01-01')
    }))
})

describe('partitions by month', () => {
  const partitionsOf = async (tx: Tx) => {
    const rows = await tx`
      select c.relname as name, pg_get_expr(c.relpartbound, c.oid) as bound from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
      where i.inhparent = 'public.ai_calls'::regclass and c.relname <> 'ai_calls_default' order by 1`
    return rows.map((row) => `${row.name} ${row.bound}`)
  }
  const dropAll = (tx: Tx) => tx`
    do $$ declare v record; begin
      for v in select i.inhrelid::regclass as name from pg_inherits i
        where i.inhparent = 'public.ai_calls'::regclass and i.inhrelid::regclass::text !~ 'default$'
      loop execute format('drop table %s', v.name); end loop;
    end $$`
  const create = async (tx: Tx) => (await tx`select private.create_ai_call_partitions() as made`)[0]?.made
  const monthsFrom = (at: Date) =>
    [0, 1, 2].map((ahead) => {
      const [from = '', to = ''] = [ahead, ahead + 1].map((month) =>
        new Date(Date.UTC(at.getUTCFullYear(), at.getUTCMonth() + month)).toISOString().slice(0, 10),
      )
      return `ai_calls_${from.slice(0, 7).replace('-', '')} FOR VALUES FROM ('${from} 00:00:00+00') TO ('${to} 00:00:00+00')`
    })

  test('they are there already, so making them again makes none', () =>
    rolledBack(async (tx) => {
      await create(tx)

      expect(await create(tx)).toBe(0)
    }))

  test.each(['UTC', 'America/New_York', 'Europe/Berlin', 'Asia/Tokyo'])(
    'they are the UTC months from this one on, also for a session in %s',
    (zone) =>
      rolledBack(async (tx) => {
        await dropAll(tx)
        await tx`select set_config('timezone', ${zone}, true)`

        expect(await create(tx)).toBe(3)

        await tx`set local timezone to 'UTC'`
        const [row] = await tx`select now() as now`
        expect(await partitionsOf(tx)).toEqual(monthsFrom(row?.now))
      }),
  )

  test.each([
    ['this month', '0 days', (now: Date) => `ai_calls_${now.toISOString().slice(0, 7).replace('-', '')}`],
    ['of ten years ago', '-10 years', () => 'ai_calls_default'],
    ['of next year', '1 year', () => 'ai_calls_default'],
  ] as const)('a call of %s lands where it belongs', (_name, ago, partition) =>
    rolledBack(async (tx) => {
      const { id } = await running(tx)
      const [time] = await tx`
        select now() as now, overlay(replace(${id}, '-', '') placing
          lpad(to_hex((extract(epoch from now() + ${ago}::text::interval) * 1000)::bigint), 12, '0') from 1 for 12)::uuid as id`
      await tx`
        update private.ai_holds set call_id = ${time?.id}, created_at = private.uuid_v7_time(${time?.id}) where call_id = ${id}`

      expect((await settle(tx, time?.id)).settled).toBe(true)

      const [row] = await tx`select tableoid::regclass::text as name from public.ai_calls where id = ${time?.id}`
      expect(row?.name).toBe(`private.${partition(time?.now)}`)
      expect((await settle(tx, time?.id)).settled).toBe(false)
    }),
  )

  test('the time of a row is the one in its id, by which it is found in one partition', () =>
    rolledBack(async (tx) => {
      const { id } = await running(tx)
      await settle(tx, id)

      const rows = await tx`select from public.ai_calls where id = ${id} and created_at = private.uuid_v7_time(id)`

      expect(rows).toHaveLength(1)
    }))

  test('nobody reads a partition behind the policies', () =>
    rolledBack(async (tx) => {
      await dropAll(tx)
      await create(tx)

      const rows = await tx`
        select c.relname, role from pg_inherits i join pg_class c on c.oid = i.inhrelid
          cross join unnest(array['anon', 'authenticated', 'service_role']) role
        where i.inhparent = 'public.ai_calls'::regclass and has_table_privilege(role, c.oid, 'select')`

      expect([...rows]).toEqual([])
    }))
})

/** Answers once the server process waits for a lock. */
async function waitsForLock(sql: Sql | Tx, pid: number): Promise<void> {
  for (let tries = 0; tries < 500; tries += 1) {
    const [row] = await sql`select cardinality(pg_blocking_pids(${pid})) > 0 as is_blocked from pg_sleep(0.01)`
    if (row?.is_blocked) return
  }
  throw new Error(`process ${pid} never waited for a lock`)
}
