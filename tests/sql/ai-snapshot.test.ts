/** What the gateway works calls out from: its version rises with all that is in it and with nothing else, and an older one takes nothing. */
import { describe, expect, test } from 'vitest'
import { createLedger, type Ledger } from '../../functions/_shared/ai/ledger.ts'
import { admit, baseModel, newModel, outcomeOf, requestOf, settle } from './ai-support.ts'
import { type Account, creditsOf, newAccount, racing, refusal, rolledBack, type Sql, type Tx } from './support.ts'

const versionOf = async (tx: Tx): Promise<number> =>
  Number((await tx`select version from private.ai_config where changes_at > now()`)[0]?.version)
const ledgerOf = (tx: Tx) => createLedger(tx as unknown as Sql)

/** A ledger and how often it asked for the configuration and stepped. */
function counting(tx: Tx): { ledger: Ledger; asked: { snapshots: number; steps: number } } {
  const asked = { snapshots: 0, steps: 0 }
  const sql = (text: TemplateStringsArray, ...values: never[]) => {
    if (text[0]?.includes('ai_snapshot')) asked.snapshots += 1
    if (text[0]?.includes('ai_step')) asked.steps += 1
    return tx(text, ...values)
  }
  return { ledger: createLedger(Object.assign(sql, { json: tx.json }) as unknown as Sql), asked }
}

const breaker = (tx: Tx, openUntil: string | null) => tx`
  insert into private.circuit_breakers (provider_id, model_id, failures, open_until)
  values ('sql-test', 'sql/model', 1, now() + ${openUntil}::interval)`

const fails = async (tx: Tx, ok = false) => {
  const { id } = await newAccount(tx)
  await tx`select private.report_ai_attempts(${tx.json([{ provider: 'sql-test', model: 'sql/model', user_id: id, ok }])})`
}

const setting = (tx: Tx, key: string) => tx`update private.settings set value = '77' where key = ${key}`

describe('the version', () => {
  test.each<[string, (tx: Tx) => PromiseLike<unknown>]>([
    [
      'a new model',
      (tx) => tx`
        insert into public.models (id, provider_id, upstream_id, context_tokens, max_output_tokens) values ('sql/x', 'sql-test', 'x', 1, 1)`,
    ],
    ['a model that is changed', (tx) => tx`update public.models set credits_per_call = 9 where id = 'sql/model'`],
    ['a model less', (tx) => tx`delete from public.models where id = 'sql/model'`],
    [
      'a new price',
      (tx) => tx`
        insert into public.model_prices (model_id, valid_from, input_usd_per_mtok, output_usd_per_mtok) values ('sql/model', '2026-02-01', 1, 1)`,
    ],
    [
      'a price that is corrected',
      (tx) => tx`update public.model_prices set image_usd = 1 where model_id = 'sql/model'`,
    ],
    ['a price less', (tx) => tx`delete from public.model_prices where model_id = 'sql/model'`],
    ['a provider', (tx) => tx`insert into private.providers (id, base_url) values ('sql-other', 'https://x.test')`],
    ['a provider that is switched off', (tx) => tx`update private.providers set enabled = false where id = 'sql-test'`],
    ['a model in a plan', (tx) => tx`insert into public.plan_models values ('premium', 'sql/model')`],
    ['a model that leaves a plan', (tx) => tx`delete from public.plan_models where model_id = 'sql/model'`],
    [
      'a plan less, with its models',
      async (tx) => {
        await tx`insert into public.plans (id, name) values ('sql_plan', 'x')`
        await tx`insert into public.plan_models values ('sql_plan', 'sql/model')`
        const before = await versionOf(tx)
        await tx`delete from public.plans where id = 'sql_plan'`
        expect(await versionOf(tx)).toBeGreaterThan(before)
      },
    ],
    [
      'a fallback',
      (tx) =>
        tx`insert into private.model_fallbacks (model_id, position, fallback_model_id) values ('sql/model', 1, ${baseModel})`,
    ],
    ['the tokens that are asked for', (tx) => setting(tx, 'ai.default_max_output_tokens')],
    ['how long a hold lasts', (tx) => setting(tx, 'ai.hold_grace_seconds')],
    ['a breaker that begins open', (tx) => breaker(tx, '1 minute')],
    [
      'a breaker that opens',
      async (tx) => {
        for (let i = 0; i < 4; i += 1) await fails(tx)
        const before = await versionOf(tx)
        await fails(tx)
        expect(await versionOf(tx)).toBeGreaterThan(before)
      },
    ],
    [
      'a breaker that closes',
      async (tx) => {
        await breaker(tx, '1 minute')
        const before = await versionOf(tx)
        await fails(tx, true)
        expect(await versionOf(tx)).toBeGreaterThan(before)
      },
    ],
  ])('rises with %s', (_name, change) =>
    rolledBack(async (tx) => {
      await newModel(tx)
      const before = await versionOf(tx)

      await change(tx)

      expect(await versionOf(tx)).toBeGreaterThan(before)
    }),
  )

  test.each<[string, (tx: Tx, account: Account) => PromiseLike<unknown>]>([
    ['a failure that opens nothing', (tx) => fails(tx)],
    ['a success where nothing failed', (tx) => fails(tx, true)],
    ['the end of a breaker that was not open', (tx) => breaker(tx, null).then(() => fails(tx, true))],
    ['another setting', (tx) => setting(tx, 'ai.breaker_failures')],
    ['a call and its settlement', async (tx, account) => settle(tx, (await admit(tx, account)).call_id)],
    ['a user, and their plan', (tx, { id }) => tx`update public.profiles set plan_id = 'premium' where id = ${id}`],
    ['a limit of a plan', (tx) => tx`update public.plan_limits set amount = 3 where plan_id = 'free'`],
  ])('does not rise with %s', (_name, change) =>
    rolledBack(async (tx) => {
      await newModel(tx)
      const account = await newAccount(tx)
      const before = await versionOf(tx)

      await change(tx, account)

      expect(await versionOf(tx)).toBe(before)
    }),
  )

  test('of a price to come: it begins by itself, and the version of before is worth nothing from then on', () =>
    rolledBack(async (tx) => {
      await newModel(tx)
      const account = await newAccount(tx)
      await tx`
        insert into public.model_prices (model_id, valid_from, input_usd_per_mtok, output_usd_per_mtok)
        values ('sql/model', now() + interval '1 hour', 300, 1100)`
      const { ledger, asked } = counting(tx)
      const cheap = await ledger.admit(requestOf(account, {}))
      expect(asked).toEqual({ snapshots: 1, steps: 1 })

      // An hour passes; nobody changes anything.
      await tx`alter table public.model_prices disable trigger user`
      await tx`update public.model_prices set valid_from = now() where valid_from > now()`
      await tx`update private.ai_config set changes_at = now() where one`
      const dear = await ledger.admit(requestOf(account, {}))

      expect(asked).toEqual({ snapshots: 2, steps: 3 })
      const held = await tx`select micros::int from private.ai_holds where user_id = ${account.id} order by call_id`
      expect(held.map(({ micros }) => micros)).toEqual([85, 85_000])
      // What runs keeps the price that it was admitted at.
      const outcome = outcomeOf({ model: 'sql/model' })
      if (!cheap.admitted || !dear.admitted) throw new Error('refused')
      expect(await ledger.settle(cheap, outcome)).toMatchObject({ cost_micros: 9 })
      expect(await ledger.settle(dear, outcome)).toMatchObject({ cost_micros: 8_500 })
    }))

  test('that is older takes nothing and notes nothing; the ledger loads the newest and asks again by itself', () =>
    rolledBack(async (tx) => {
      await newModel(tx)
      const account = await newAccount(tx)
      const { ledger, asked } = counting(tx)
      await ledger.admit(requestOf(account, { model: 'no/model' }))
      const [before] = await tx`select count(*)::int as calls from public.ai_calls`
      await tx`update public.models set credits_per_call = 7 where id = 'sql/model'`
      const old = await tx`
        select refusal, call_id from private.ai_step('{}', array[null, null]::private.ai_request[], ${(await versionOf(tx)) - 1})`

      expect(old.map(({ refusal, call_id }) => [refusal, call_id])).toEqual([
        [{ code: 'other_version' }, null],
        [{ code: 'other_version' }, null],
      ])
      expect(await creditsOf(tx, account.id)).toEqual({ balance: 100, held: 0 })
      expect((await tx`select count(*)::int as calls from public.ai_calls`)[0]).toEqual(before)
      expect(await ledger.admit(requestOf(account, {}))).toMatchObject({ admitted: true, credits_remaining: 93 })
      expect(asked).toEqual({ snapshots: 2, steps: 3 })
    }))

  test('does not matter to what has ended: an outcome beside old requests is settled', () =>
    rolledBack(async (tx) => {
      await newModel(tx)
      const account = await newAccount(tx)
      const { ledger } = counting(tx)
      const call = await ledger.admit(requestOf(account, {}))
      await tx`update public.models set credits_per_call = 7 where id = 'sql/model'`
      if (!call.admitted) throw new Error('refused')

      const [settled, next] = await Promise.all([
        ledger.settle(call, outcomeOf({ model: 'sql/model' })),
        ledger.admit(requestOf(account, {})),
      ])

      expect(settled).toMatchObject({ settled: true, credits_charged: 2 })
      expect(next).toMatchObject({ admitted: true })
    }))
})

describe('a caller whose plan the gateway does not know', () => {
  test('is asked once more, with the routes of their plan, and known from then on', () =>
    rolledBack(async (tx) => {
      await newModel(tx)
      await tx`insert into public.plan_models values ('premium', 'sql/model')`
      await tx`delete from public.plan_models where model_id = ${baseModel} and plan_id = 'free'`
      await tx`insert into private.model_fallbacks (model_id, position, fallback_model_id) values ('sql/model', 1, ${baseModel})`
      const account = await newAccount(tx)
      await tx`update public.profiles set plan_id = 'premium' where id = ${account.id}`
      const { ledger, asked } = counting(tx)

      const first = await ledger.admit(requestOf(account, {}))
      expect(first).toMatchObject({ admitted: true, routes: [{ model: 'sql/model' }, { model: baseModel }] })
      expect(asked).toEqual({ snapshots: 1, steps: 2 })
      // The wrong guess is nobody's refusal.
      expect(await tx`select from public.ai_calls where user_id = ${account.id}`).toHaveLength(0)

      await ledger.admit(requestOf(account, {}))
      expect(asked.steps).toBe(3)
      await tx`update public.profiles set plan_id = 'free' where id = ${account.id}`
      const other = await ledger.admit(requestOf(account, {}))
      expect(other).toMatchObject({ admitted: true, routes: [{ model: 'sql/model' }] })
      expect(other.admitted && other.routes).toHaveLength(1)
      expect(asked.steps).toBe(5)
    }))
})

test('what a search adds to a prompt is held as the row of the model says it, and as its context while that says nothing', () =>
  rolledBack(async (tx) => {
    await newModel(tx)
    await tx`update public.model_prices set search_usd = 0.01 where model_id = 'sql/model'`
    const wish = requestOf(await newAccount(tx), { asks: { searches: 3 }, prompt_tokens_max: 10 })
    const held = async () => {
      const answer = await ledgerOf(tx).admit(wish)
      return answer.admitted && answer.routes.map((route) => route.prompt_tokens_max)
    }

    expect(await held()).toEqual([8_000])
    await tx`update public.models set search_prompt_tokens = 900 where id = 'sql/model'`
    expect(await held()).toEqual([2_710])
  }))

describe('what an address counts for by a rule', () => {
  const rules = (address_tokens: number | string | null) => ({
    image: { rule: 'fixed', tokens: 258, address_tokens },
    audio: { rule: 'context' },
  })

  test.each([0, 999])('may be %s', (tokens) =>
    rolledBack(async (tx) => {
      const [row] = await tx`select private.are_media_rules(${tx.json(rules(tokens))}) as is_rule`

      expect(row).toEqual({ is_rule: true })
    }),
  )

  test.each([-1, 1e10, 'many', null])('is a number, and never %s', (tokens) =>
    rolledBack(async (tx) => {
      const refused = await refusal(tx, (sp) => sp`select private.are_media_rules(${tx.json(rules(tokens))})`)

      expect(refused).toMatchObject({ sqlstate: '23514', message: expect.stringContaining('needs address_tokens') })
    }),
  )
})

describe('a half-open breaker', () => {
  test('is tried by one of two callers at once; the other is answered without it', () =>
    racing(4, async (sql, newAccountOf) => {
      const accounts = [await newAccountOf(), await newAccountOf()]
      const model = `probe/${crypto.randomUUID()}`
      await sql`
        insert into public.models (id, provider_id, upstream_id, context_tokens, max_output_tokens) values (${model}, 'openrouter', 'x', 8000, 500)`
      await sql`insert into public.model_prices (model_id, input_usd_per_mtok, output_usd_per_mtok) values (${model}, 1, 1)`
      await sql`insert into public.plan_models (plan_id, model_id) values ('free', ${model})`
      await sql`
        insert into private.circuit_breakers (provider_id, model_id, failures, open_until) values ('openrouter', ${model}, 5, now() - interval '1 second')`
      try {
        const answers = await Promise.all(
          accounts.map((account) => createLedger(sql).admit(requestOf(account, { model }))),
        )

        expect(answers.filter(({ admitted }) => admitted)).toHaveLength(1)
        expect(answers.find(({ admitted }) => !admitted)).toMatchObject({ code: 'circuit_open' })
        const calls = await sql`select state, error_code from public.ai_calls where model_id = ${model}`
        expect([...calls]).toEqual([{ state: 'refused', error_code: 'circuit_open' }])
      } finally {
        await sql`delete from public.models where id = ${model}`
      }
    }))

  test('with a fallback: the other caller gets that', () =>
    rolledBack(async (tx) => {
      await newModel(tx)
      await tx`insert into private.model_fallbacks (model_id, position, fallback_model_id) values ('sql/model', 1, ${baseModel})`
      await breaker(tx, '-1 second')
      const [one, two] = [await newAccount(tx), await newAccount(tx)]
      const ledger = ledgerOf(tx)

      const answers = await Promise.all([one, two].map((account) => ledger.admit(requestOf(account, {}))))

      const routes = answers.map((answer) => answer.admitted && answer.routes.map(({ model }) => model))
      expect(routes).toEqual([['sql/model', baseModel], [baseModel]])
    }))
})
