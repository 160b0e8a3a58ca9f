import { describe, expect, test } from 'vitest'
import { admit, baseModel, callOf, callsOf, newModel, type Wish } from './ai-support.ts'
import {
  type Account,
  countersOf,
  creditsOf,
  newAccount,
  racing,
  refusal,
  rolledBack,
  setCounter,
  setLimit,
  type Tx,
  together,
} from './support.ts'

type Arrange = (tx: Tx, account: Account) => Promise<unknown>
const hold = (tx: Tx, id: string, meter: string, period: string, used: number, held: number) =>
  setCounter(tx, id, meter, period, { used, held })

describe('who is not let in', () => {
  const strangers: [string, Arrange, (account: Account) => Wish][] = [
    ['an account that does not exist', async () => {}, () => ({ user_id: crypto.randomUUID() })],
    ['a session that does not exist', async () => {}, () => ({ session_id: crypto.randomUUID() })],
    [
      'a session that was ended',
      (tx, { sessionId }) => tx`delete from auth.sessions where id = ${sessionId}`,
      () => ({}),
    ],
    [
      'a session that is too old',
      (tx, { sessionId }) => tx`update auth.sessions set not_after = now() where id = ${sessionId}`,
      () => ({}),
    ],
    [
      'an account that is deleted',
      (tx, { id }) => tx`update public.profiles set status = 'deleted' where id = ${id}`,
      () => ({}),
    ],
  ]

  test.each(strangers)('%s is told to sign in, and nothing is written', (_name, arrange, wish) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await newModel(tx)
      await arrange(tx, account)

      const answer = await admit(tx, account, wish(account))

      expect(answer).toMatchObject({ admitted: false, call_id: null, code: 'invalid_api_key', details: {} })
      expect(await callsOf(tx, account.id)).toEqual([])
      expect(await takenOf(tx, account.id)).toEqual([])
    }),
  )

  test('another user’s session lets nobody in', () =>
    rolledBack(async (tx) => {
      const [account, other] = [await newAccount(tx), await newAccount(tx)]
      await newModel(tx)

      const answer = await admit(tx, account, { session_id: other.sessionId })

      expect(answer).toMatchObject({ admitted: false, code: 'invalid_api_key' })
      expect(await callsOf(tx, account.id)).toEqual([])
    }))
})

/** What counts something: a refused call may begin a period of an account, and takes nothing of it. */
const takenOf = async (tx: Tx, userId: string) =>
  Object.entries(await countersOf(tx, userId)).filter(([, [used, held]]) => used + held > 0)

describe('calls that are refused and remembered', () => {
  const profile = (tx: Tx, id: string, status: string) =>
    tx`update public.profiles set status = ${status} where id = ${id}`
  const cases: [string, string, number, Arrange, Wish][] = [
    ['of a suspended account', 'account_suspended', 403, (tx, { id }) => profile(tx, id, 'suspended'), {}],
    [
      'of a banned account',
      'account_suspended',
      403,
      (tx, { id }) => tx`update auth.users set banned_until = now() + interval '1 hour' where id = ${id}`,
      {},
    ],
    [
      'of an account without a confirmed e-mail',
      'account_pending',
      403,
      (tx, { id }) => profile(tx, id, 'pending'),
      {},
    ],
    ['for a model that does not exist', 'model_not_found', 404, async () => {}, { model: 'no/such' }],
    ['for a name of 300 characters', 'model_not_found', 404, async () => {}, { model: 'm'.repeat(300) }],
    [
      'for a disabled model',
      'model_not_found',
      404,
      (tx) => tx`update public.models set enabled = false where id = 'sql/model'`,
      {},
    ],
    [
      'for a model of a disabled provider',
      'model_not_found',
      404,
      (tx) => tx`update private.providers set enabled = false where id = 'sql-test'`,
      {},
    ],
    [
      'for a model that the plan lacks',
      'model_not_allowed',
      403,
      (tx) => tx`update public.plan_models set plan_id = 'premium' where model_id = 'sql/model'`,
      {},
    ],
    [
      'for a model without a price',
      'model_not_priced',
      400,
      (tx) => tx`delete from public.model_prices where model_id = 'sql/model'`,
      {},
    ],
    [
      'for a model with a price of tomorrow',
      'model_not_priced',
      400,
      (tx) => tx`update public.model_prices set valid_from = now() + interval '1 second' where model_id = 'sql/model'`,
      {},
    ],
    ['over the day’s calls', 'daily_quota_exceeded', 429, (tx, { id }) => hold(tx, id, 'ai_calls', 'day', 50, 0), {}],
    [
      'over the month’s tokens',
      'insufficient_quota',
      402,
      (tx, { id }) => hold(tx, id, 'ai_tokens', 'month', 99_851, 0),
      {},
    ],
    [
      'of a plan without calls',
      'insufficient_quota',
      402,
      (tx) => tx`delete from public.plan_limits where meter = 'ai_calls'`,
      {},
    ],
    [
      'of a plan without tokens',
      'insufficient_quota',
      402,
      (tx) => tx`delete from public.plan_limits where meter = 'ai_tokens'`,
      {},
    ],
    [
      'while others hold the day’s calls',
      'in_flight_budget_exhausted',
      402,
      (tx, { id }) => hold(tx, id, 'ai_calls', 'day', 49, 1),
      {},
    ],
    [
      'while others hold the month’s tokens',
      'in_flight_budget_exhausted',
      402,
      (tx, { id }) => hold(tx, id, 'ai_tokens', 'month', 99_000, 851),
      {},
    ],
    [
      'while others hold the credits',
      'in_flight_budget_exhausted',
      402,
      (tx, { id }) => tx`update private.accounts set held = 99 where user_id = ${id}`,
      {},
    ],
    [
      'without enough credits',
      'insufficient_credits',
      402,
      (tx, { id }) => tx`select public.deduct_credits(${id}, 99, 'test', 'test')`,
      {},
    ],
  ]

  test.each(cases)('a call %s: %s', (_name, code, status, arrange, wish) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await newModel(tx)
      await arrange(tx, account)
      const before = [await takenOf(tx, account.id), await creditsOf(tx, account.id)]

      const answer = await admit(tx, account, wish)

      expect(answer).toMatchObject({ admitted: false, code, message: expect.any(String), details: expect.any(Object) })
      expect(await callsOf(tx, account.id)).toMatchObject([
        {
          id: answer.call_id,
          state: 'refused',
          error_code: code,
          http_status: status,
          request_bytes: 321,
          credits_charged: 0,
        },
      ])
      expect([await takenOf(tx, account.id), await creditsOf(tx, account.id)]).toEqual(before)
    }),
  )

  test('calls refused beyond ai.refused_calls_per_hour are counted and are no rows', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await newModel(tx)
      await tx`update private.settings set value = '3' where key = 'ai.refused_calls_per_hour'`
      const refuse = async (model: string, times: number) => {
        for (let index = 0; index < times; index++) await admit(tx, account, { model })
      }

      await refuse('no/such-model', 40)
      await refuse('sql/model', 1)

      expect((await callsOf(tx, account.id)).map(({ state }) => state).toSorted()).toEqual([
        'held',
        'refused',
        'refused',
        'refused',
      ])
      expect(
        await tx`select error_code, noted::int, counted::int from private.ai_refusals where user_id = ${account.id}`,
      ).toEqual([{ error_code: 'model_not_found', noted: 3, counted: 37 }])
    }))

  test('the next hour has rows of its own', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await tx`update private.settings set value = '1' where key = 'ai.refused_calls_per_hour'`
      for (let index = 0; index < 2; index++) await admit(tx, account, { model: 'no/such-model' })
      await tx`update private.ai_refusals set hour = hour - interval '1 hour' where user_id = ${account.id}`

      await admit(tx, account, { model: 'no/such-model' })

      expect(await callsOf(tx, account.id)).toHaveLength(2)
    }))

  test.each([
    ['ai_calls', 'day', 50, 0, { resets_at: expect.any(String), retry_after_s: 3600 }],
    ['ai_calls', 'day', 0, 50, { retry_after_s: 1 }],
    ['ai_tokens', 'month', 100_000, 0, { resets_at: expect.any(String) }],
    ['ai_tokens', 'month', 0, 100_000, { retry_after_s: 1 }],
  ])('a refusal over %s per %s (%i used, %i held) says which limit and when to come back', (...limit) =>
    rolledBack(async (tx) => {
      const [meter, period, used, held, when] = limit
      const account = await newAccount(tx)
      await newModel(tx)
      await hold(tx, account.id, meter, period, used, held)

      const { details } = await admit(tx, account)

      const row = { meter, period, amount: used + held, used, held, remaining: 0, resets_at: expect.any(String) }
      expect(details).toEqual({ limit: row, ...when })
    }),
  )

  test('a refusal for want of credits says how many there are', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx, { credits: 1 })
      await newModel(tx)

      const { code, details } = await admit(tx, account)

      expect(code).toBe('insufficient_credits')
      expect(details).toMatchObject({ limit: { meter: 'credits', amount: 1, held: 0, remaining: 1, resets_at: null } })
    }))

  test('a request whose worst case is not a number of tokens is an error, even without a limit', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await newModel(tx)
      await setLimit(tx, account.id, 'ai_tokens', 'month', null)

      for (const wish of [{ prompt_tokens_max: -1 }, { choices: 0 }, { choices: -1 }, { max_output_tokens: -1 }])
        expect((await refusal(tx, (sp) => admit(sp, account, wish))).code).toBe('invalid_request_error')

      expect(await takenOf(tx, account.id)).toEqual([])
    }))
})

describe('what an admitted call holds', () => {
  test.each<[string, Wish, number, number, number, number]>([
    // hold_micros: 100 × 0.3 + 50 × 1.1 = 85; 1001 × 0.3 + 1500 × 1.1 = 1950.3, rounded up.
    ['the prompt’s bound and the wished answer', {}, 100, 50, 50, 85],
    [
      'every choice at the model’s maximum',
      { prompt_tokens_max: 1001, choices: 3, max_output_tokens: 10_000 },
      1001,
      1500,
      500,
      1951,
    ],
    [
      'the default, when nothing is wished, but at most the maximum',
      { max_output_tokens: null, choices: 2 },
      100,
      1000,
      500,
      1130,
    ],
    ['nothing for a prompt of no tokens', { prompt_tokens_max: 0, max_output_tokens: 1 }, 0, 1, 1, 2],
  ])('%s', (_name, wish, prompt, output, perChoice, micros) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await newModel(tx)

      const answer = await admit(tx, account, wish)

      expect(answer.routes?.[0]?.max_output_tokens).toBe(perChoice)
      expect(await callOf(tx, answer.call_id)).toMatchObject({
        state: 'held',
        hold_prompt_tokens: prompt,
        hold_output_tokens: output,
        hold_micros: micros,
        hold_credits: 2,
      })
      expect(await countersOf(tx, account.id)).toEqual({
        'ai_calls/day': [0, 1],
        'ai_tokens/month': [0, prompt + output],
      })
      expect(await creditsOf(tx, account.id)).toEqual({ balance: 100, held: 2 })
    }),
  )

  test('the setting for answers without a wish, where the model allows more', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await newModel(tx)
      await tx`update private.settings set value = '123' where key = 'ai.default_max_output_tokens'`

      const answer = await admit(tx, account, { max_output_tokens: null })

      expect(answer.routes?.[0]?.max_output_tokens).toBe(123)
    }))

  test('the price of a request, too, and reasoning where that is dearer than the rest', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await newModel(tx)
      await tx`
        update public.model_prices set reasoning_usd_per_mtok = 3, request_usd = 0.0005 where model_id = 'sql/model'`

      const { call_id } = await admit(tx, account)

      // 100 × 0.3 + 50 × 3 + 500
      expect((await callOf(tx, call_id)).hold_micros).toBe(680)
    }))

  test('the price that holds now, not the last nor the next', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await newModel(tx)
      await tx`
        insert into public.model_prices (model_id, valid_from, input_usd_per_mtok, output_usd_per_mtok) values
          ('sql/model', now(), 3, 11), ('sql/model', now() + interval '1 second', 30, 110)`

      const { call_id } = await admit(tx, account)

      expect((await callOf(tx, call_id)).hold_micros).toBe(850)
    }))

  test('until the provider’s timeout and the grace are over', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await newModel(tx)

      const { call_id } = await admit(tx, account)

      const [row] = await tx`
        select extract(epoch from expires_at - now())::int as seconds from private.ai_holds where call_id = ${call_id}`
      expect(row?.seconds).toBe(260)
    }))

  test('exactly the last call, the last tokens and the last credits', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx, { credits: 2 })
      await newModel(tx)
      await setLimit(tx, account.id, 'ai_calls', 'day', 1)
      await setLimit(tx, account.id, 'ai_tokens', 'month', 150)

      const answer = await admit(tx, account)

      expect(answer).toMatchObject({ admitted: true, credits_remaining: 0 })
    }))

  test('counters of periods that have ended do not stand in the way', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await newModel(tx)
      await setCounter(tx, account.id, 'ai_calls', 'day', { used: 50, held: 9, resetsIn: '0' })
      await setCounter(tx, account.id, 'ai_tokens', 'month', { used: 100_000, held: 9, resetsIn: '0' })

      const answer = await admit(tx, account)

      expect(answer.admitted).toBe(true)
      expect(await countersOf(tx, account.id)).toEqual({ 'ai_calls/day': [0, 1], 'ai_tokens/month': [0, 150] })
    }))

  test('a ban that is over keeps nobody out', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await newModel(tx)
      await tx`update auth.users set banned_until = now() - interval '1 second' where id = ${account.id}`

      expect((await admit(tx, account)).admitted).toBe(true)
    }))
})

describe('the answer of admission', () => {
  test('it is exactly what the proxy needs', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await newModel(tx)

      const answer = await admit(tx, account)

      expect(answer).toEqual({
        admitted: true,
        call_id: expect.stringMatching(/^[0-9a-f]{8}-[0-9a-f]{4}-7/),
        user_id: account.id,
        routes: [
          {
            model: 'sql/model',
            upstream_model: 'upstream/model',
            max_output_tokens: 50,
            provider: {
              id: 'sql-test',
              base_url: 'https://provider.test/v1',
              api_key_secret: 'SQL_TEST_KEY',
              connect_timeout_ms: 10_000,
              first_byte_timeout_ms: 120_000,
              idle_timeout_ms: 60_000,
              total_timeout_ms: 200_000,
              passes_unknown_fields: false,
              stops_when_left: false,
            },
            context_tokens: 8000,
            tokens_per_second: 50,
            media_tokens: 0,
            prompt_tokens_max: 100,
            limit_field: 'max_tokens',
            open_fields: [],
            price_ref: expect.any(Number),
            steps: [],
          },
        ],
        credits_remaining: 98,
        timeouts_charge: 'caller',
        limits: expect.any(Array),
      })
    }))

  test('its limits count the call itself', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await newModel(tx)

      const { limits = [] } = await admit(tx, account)

      const resets_at = expect.stringMatching(/^\d{4}-\d\d-\d\dT/)
      expect(limits.map(({ meter }) => meter)).toEqual(['ai_requests', 'ai_calls', 'ai_tokens'])
      expect(limits).toContainEqual({
        meter: 'ai_calls',
        period: 'day',
        amount: 50,
        remaining: 49,
        resets_at,
      })
      expect(limits).toContainEqual({
        meter: 'ai_tokens',
        period: 'month',
        amount: 100_000,
        remaining: 99_850,
        resets_at,
      })
    }))

  test('a limit of null is no limit, so there is nothing to tell', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await newModel(tx)
      await setLimit(tx, account.id, 'ai_calls', 'day', null)
      await setLimit(tx, account.id, 'ai_tokens', 'month', null)

      const { limits = [] } = await admit(tx, account)

      expect(limits.map(({ meter, amount }) => [meter, amount])).toEqual([['ai_requests', 60]])
    }))

  test('its row says what was asked of whom, and not a word of the prompt', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await newModel(tx)

      const { call_id } = await admit(tx, account)

      expect(await callOf(tx, call_id)).toMatchObject({
        user_id: account.id,
        session_id: account.sessionId,
        endpoint: 'chat.completions',
        model_id: 'sql/model',
        provider_id: 'sql-test',
        stream: true,
        state: 'held',
        request_bytes: 321,
        started_at: null,
        price_valid_from: expect.stringContaining('2026-01-01'),
      })
    }))
})

describe('60 calls at the same time', { timeout: 120_000 }, () => {
  const race = (arrange: (tx: Tx, account: Account) => Promise<unknown>, wish: Wish) =>
    racing(60, async (sql, newOne) => {
      const account = await newOne()
      await setLimit(sql, account.id, 'ai_concurrency', 'total', null)
      await sql.begin((tx) => arrange(tx, account))

      const answers = await together(60, () => admit(sql, account, { model: baseModel, ...wish }))

      const admitted = answers.filter((answer) => 'admitted' in answer && answer.admitted).length
      const codes = new Set(answers.flatMap((answer) => answer.code ?? []))
      const states = (await callsOf(sql, account.id)).map((call) => call.state)
      expect(states.filter((state) => state === 'held').length).toBe(admitted)
      // Refused calls have a row each until there are too many of them within the hour, and all of them are counted.
      const [refused] = await sql`
        select sum(noted)::int as noted, sum(noted + counted)::int as all from private.ai_refusals where user_id = ${account.id}`
      expect(states.filter((state) => state === 'refused').length).toBe(refused?.noted)
      expect(refused).toEqual({ noted: 60 - admitted, all: 60 - admitted })
      const wrong = await sql`select from private.verify_accounts() where user_id = ${account.id}`
      expect(wrong.length).toBe(0)
      return {
        admitted,
        codes: [...codes],
        counters: await countersOf(sql, account.id),
        ...(await creditsOf(sql, account.id)),
      }
    })

  test('with 10 calls left exactly 10 are admitted', async () => {
    const result = await race((tx, { id }) => hold(tx, id, 'ai_calls', 'day', 40, 0), {
      max_output_tokens: 10,
    })

    expect(result).toMatchObject({ admitted: 10, codes: ['in_flight_budget_exhausted'], balance: 100, held: 10 })
    expect(result.counters).toEqual({ 'ai_calls/day': [40, 10], 'ai_tokens/month': [0, 1100] })
  })

  test('with 10 credits left exactly 10 are admitted', async () => {
    const result = await race((tx, { id }) => tx`select public.deduct_credits(${id}, 90, 'test', 'test')`, {
      max_output_tokens: 10,
    })

    expect(result).toMatchObject({ admitted: 10, codes: ['in_flight_budget_exhausted'], balance: 10, held: 10 })
    expect(result.counters).toEqual({ 'ai_calls/day': [0, 10], 'ai_tokens/month': [0, 1100] })
  })

  test('with tokens left for 3 exactly 3 are admitted', async () => {
    const result = await race((tx, { id }) => setLimit(tx, id, 'ai_tokens', 'month', 4 * 110 - 1), {
      max_output_tokens: 10,
    })

    expect(result).toMatchObject({ admitted: 3, codes: ['in_flight_budget_exhausted'], balance: 100, held: 3 })
    expect(result.counters).toEqual({ 'ai_calls/day': [0, 3], 'ai_tokens/month': [0, 330] })
  })
})
