/**
 * What a call costs: one rule in SQL for calls that end alone, together or by the sweeper, beside a sum that is made here; and that a
 * provider which tells the truth never reports more than was held.
 */
import fc from 'fast-check'
import { beforeAll, describe, expect, test } from 'vitest'
import type { Asks } from '../../functions/_shared/ai/field-tables.ts'
import { type Admitted, createLedger, type Ledger, nothingUsed, type Usage } from '../../functions/_shared/ai/ledger.ts'
import type { Media } from '../../functions/_shared/ai/prompt-size.ts'
import { runs } from '../support/runs.ts'
import { callOf, newModel, outcomeOf, requestOf } from './ai-support.ts'
import { type Account, countersOf, newAccount, rolledBack, type Sql, type Tx } from './support.ts'

const seed = Number(process.env.SEED ?? Date.now() % 1_000_000)
beforeAll(() => console.info(`seed ${seed}: run again with SEED=${seed}`))

const ledgerOf = (tx: Tx) => createLedger(tx as unknown as Sql)

/** An account with nothing but prices to think of. */
async function unlimited(tx: Tx): Promise<Account> {
  const account = await newAccount(tx, { credits: 1_000_000 })
  await tx`
    insert into public.limit_overrides (user_id, meter, period)
    select ${account.id}, m.meter, m.period from public.plan_limits m where m.plan_id = 'free' and m.meter like 'ai%'
    on conflict do nothing`
  await tx`
    insert into public.limit_overrides (user_id, meter, period)
    select ${account.id}, m.meter, m.period from public.plan_limits m where m.plan_id = 'free' and m.meter like '%\_requests'
    on conflict do nothing`
  await tx`update private.settings set value = 'null' where key = 'ai.project_usd_per_month'`
  return account
}

const perMillion = [
  'input',
  'output',
  'cached_input',
  'cache_write',
  'cache_write_1h',
  'audio_input',
  'reasoning',
  'audio_output',
]
const perThing = ['image', 'search', 'request']
const needed = new Set(['input', 'output', 'request'])
/** In 1e-8 dollars, so finer than a pico-dollar of a token; null is no price. */
type Prices = Record<string, number | null> & { above: number; variant: string }

const pricesOf = (above: fc.Arbitrary<number>, variant: fc.Arbitrary<string>): fc.Arbitrary<Prices> =>
  fc.record({
    above,
    variant,
    ...Object.fromEntries(
      [...perMillion, ...perThing].map((unit) => {
        const most = perThing.includes(unit) ? 10_000_000_000 : 1_000_000_000_000
        const amount = fc.oneof(fc.nat({ max: 100 }), fc.nat({ max: most }))
        return [unit, needed.has(unit) ? amount : fc.option(amount, { freq: 12 })]
      }),
    ),
  }) as fc.Arbitrary<Prices>

const columns = [...perMillion.map((unit) => `${unit}_usd_per_mtok`), ...perThing.map((unit) => `${unit}_usd`)]
async function setPrices(tx: Tx, rows: Prices[]): Promise<void> {
  await tx`delete from public.model_prices where model_id = 'sql/model'`
  for (const row of rows) {
    const amounts = [...perMillion, ...perThing].map((unit) => (row[unit] == null ? 'null' : `${row[unit]}e-8`))
    await tx.unsafe(`
      insert into public.model_prices (model_id, valid_from, above_prompt_tokens, variant, ${columns.join()})
      values ('sql/model', '2026-01-01', ${row.above}, '${row.variant}', ${amounts.join()})`)
  }
}

/** The cost of a usage by the prices, made of exact numbers and token by token of each kind, and rounded up once. */
function sumOf(prices: Prices, used: Usage): bigint {
  const tokens = (unit: string, ...otherwise: string[]) => {
    const found = [unit, ...otherwise].map((name) => prices[name]).find((amount) => amount != null) ?? 0
    return BigInt(Math.ceil(found / 100))
  }
  const things = (unit: string) => BigInt(prices[unit] ?? 0) * 10_000n
  let prompt = used.prompt_tokens
  let completion = used.completion_tokens
  const ofPrompt = (count: number) => {
    const part = Math.min(count, prompt)
    prompt -= part
    return BigInt(part)
  }
  const ofCompletion = (count: number) => {
    const part = Math.min(count, completion)
    completion -= part
    return BigInt(part)
  }
  if (prompt + completion + used.images + used.searches === 0) return 0n
  const pico = [
    ofPrompt(used.cached_tokens) * tokens('cached_input', 'input'),
    ofPrompt(used.cache_write_tokens) * tokens('cache_write', 'input'),
    ofPrompt(used.cache_write_1h_tokens) * tokens('cache_write_1h', 'cache_write', 'input'),
    ofPrompt(used.audio_input_tokens) * tokens('audio_input', 'input'),
    ofPrompt(prompt) * tokens('input'),
    ofCompletion(used.reasoning_tokens) * tokens('reasoning', 'output'),
    ofCompletion(used.audio_output_tokens) * tokens('audio_output', 'output'),
    ofCompletion(completion) * tokens('output'),
    BigInt(used.images) * things('image'),
    BigInt(used.searches) * things('search'),
    things('request'),
  ].reduce((sum, part) => sum + part, 0n)
  return pico / 1_000_000n + (pico % 1_000_000n > 0n ? 1n : 0n)
}

const tokens = fc.oneof(fc.constant(0), fc.nat({ max: 10 }), fc.nat({ max: 20_000 }))
const usage: fc.Arbitrary<Usage> = fc.record({
  prompt_tokens: tokens,
  completion_tokens: tokens,
  cached_tokens: tokens,
  cache_write_tokens: tokens,
  cache_write_1h_tokens: tokens,
  audio_input_tokens: tokens,
  reasoning_tokens: tokens,
  audio_output_tokens: tokens,
  images: fc.nat({ max: 3 }),
  searches: fc.nat({ max: 3 }),
  cost_usd: fc.constant(null),
})
const steps = fc.tuple(
  pricesOf(fc.constant(0), fc.constant('')),
  pricesOf(fc.constant(100), fc.constant('')),
  pricesOf(fc.constant(10_000), fc.constant('')),
)
const threeOf = <T>(one: fc.Arbitrary<T>) => fc.array(one, { minLength: 3, maxLength: 3 })
const reached = (prices: Prices[], promptTokens: number): Prices =>
  prices.findLast(({ above }) => above === 0 || promptTokens > above) as Prices

async function admitted(ledger: Ledger, account: Account, wish: Parameters<typeof requestOf>[1]): Promise<Admitted> {
  const call = await ledger.admit(requestOf(account, wish))
  if (!call.admitted) throw new Error(`refused: ${call.message}`)
  return call
}

test('the cost of a call is the sum of its units at the step that its prompt reached, alone and among others', () =>
  rolledBack(async (tx) => {
    await newModel(tx)
    await tx`update public.models set context_tokens = 100000 where id = 'sql/model'`
    const account = await unlimited(tx)
    const ledger = ledgerOf(tx)
    await fc.assert(
      fc.asyncProperty(steps, fc.constantFrom(8_000, 30_000), threeOf(usage), async (prices, held, usages) => {
        await setPrices(tx, prices)
        const calls: Admitted[] = []
        for (const _ of usages) calls.push(await admitted(ledger, account, { prompt_tokens_max: held }))
        const ending = (at: number) =>
          ledger.settle(calls[at] as Admitted, outcomeOf({ model: 'sql/model', usage: usages[at] as Usage }))

        // The first leaves alone, and the others together while it is on its way.
        const settled = await Promise.all([ending(0), ending(1), ending(2)])

        // A step that the prompt could not reach was not told, and counts for no report.
        const told = usages.map(({ prompt_tokens }) => reached(prices.slice(0, held > 10_000 ? 3 : 2), prompt_tokens))
        expect(settled.map(({ cost_micros }) => BigInt(cost_micros ?? -1))).toEqual(
          usages.map((used, at) => sumOf(told[at] as Prices, used)),
        )
      }),
      { numRuns: runs(40), seed },
    )
    const [row] = await tx`select count(*)::int as wrong from private.verify_ai_costs()`
    expect(row?.wrong).toBe(0)
  }))

test('images that are paid by their tokens hold and cost what they truly may', () =>
  rolledBack(async (tx) => {
    await newModel(tx)
    await tx`update public.models set kind = 'image', max_output_tokens = 6240 where id = 'sql/model'`
    await tx`
      update public.model_prices set input_usd_per_mtok = 5, output_usd_per_mtok = 40, image_usd = 0 where model_id = 'sql/model'`
    const ledger = ledgerOf(tx)
    const drawn = { endpoint: 'images.generations', images: 2, prompt_tokens_max: 20 }
    const call = await admitted(ledger, await unlimited(tx), drawn)
    const held = await callOf(tx, call.call_id)

    // As gpt-image-1 reports one image of high quality.
    const usage = { ...nothingUsed, prompt_tokens: 20, completion_tokens: 4_160, images: 1 }
    const { cost_micros } = await ledger.settle(call, outcomeOf({ model: 'sql/model', usage }))

    expect(held).toMatchObject({ hold_output_tokens: 12_480, hold_micros: 20 * 5 + 12_480 * 40 })
    expect(cost_micros).toBe(166_500)
    expect([...(await tx`select * from private.ai_surprises`)]).toEqual([])
  }))

test('the rule is written into the statements that ask for it, and no call of a function', () =>
  rolledBack(async (tx) => {
    const plan = await tx`
      explain (verbose, costs off) select private.ai_cost_micros(p, h.prompt_tokens, 0, 0, 0, 0, h.output_tokens, 0, 0, 0, 0)
      from private.ai_holds h join private.price_refs p on p.ref = h.price_ref`

    const text = plan.map((row) => row['QUERY PLAN']).join('\n')
    expect(text).toContain('p.input_pico')
    expect(text).not.toContain('ai_cost_micros')
  }))

type Truth = { asks: Asks; media: Media[]; textBytes: number; choices: number; limit: number; parts: number[] }
const truth: fc.Arbitrary<Truth> = fc.record({
  asks: fc.record(
    {
      cacheWrites: fc.constantFrom('5m' as const, '1h' as const),
      audioOut: fc.boolean(),
      searches: fc.nat({ max: 4 }),
    },
    { requiredKeys: [] },
  ),
  media: fc.array(fc.constantFrom<Media>({ kind: 'audio', seconds: 7 }, { kind: 'image' }), { maxLength: 2 }),
  textBytes: fc.nat({ max: 20_000 }),
  choices: fc.constantFrom(1, 1, 3),
  limit: fc.integer({ min: 1, max: 900 }),
  parts: fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 10, maxLength: 10 }),
})

/** What a provider may truly report of a call: no more than was held for, and nothing that was not asked for. */
function reportOf({ asks, media, parts }: Truth, promptMost: number, outputMost: number): Usage {
  const [a = 0, b = 0, ...rest] = parts
  const prompt_tokens = Math.floor(a * promptMost)
  const completion_tokens = Math.floor(b * outputMost)
  let prompt = prompt_tokens
  let completion = completion_tokens
  const [cached = 0, write = 0, hour = 0, heard = 0, thought = 0, said = 0, found = 0] = rest
  const ofPrompt = (share: number) => {
    const part = Math.floor(share * prompt)
    prompt -= part
    return part
  }
  const ofCompletion = (share: number) => {
    const part = Math.floor(share * completion)
    completion -= part
    return part
  }
  return {
    ...nothingUsed,
    prompt_tokens,
    completion_tokens,
    cached_tokens: ofPrompt(cached),
    cache_write_tokens: ofPrompt(write),
    cache_write_1h_tokens: asks.cacheWrites === '1h' ? ofPrompt(hour) : 0,
    audio_input_tokens: media.some(({ kind }) => kind === 'audio') ? ofPrompt(heard) : 0,
    reasoning_tokens: ofCompletion(thought),
    audio_output_tokens: asks.audioOut ? ofCompletion(said) : 0,
    searches: Math.round(found * (asks.searches ?? 0)),
  }
}

test('a provider that tells the truth never reports more than was held; a call without a price for its units holds nothing', () =>
  rolledBack(async (tx) => {
    await newModel(tx)
    await tx`
      update public.models set context_tokens = 100000, template_percent = 10, template_tokens = 5,
        media = '{"audio": {"rule": "seconds", "tokens": 32, "max_seconds": 600}, "image": {"rule": "fixed", "tokens": 258}}'
      where id = 'sql/model'`
    const account = await unlimited(tx)
    const ledger = ledgerOf(tx)
    const seen = { admitted: 0, refused: 0 }
    await fc.assert(
      fc.asyncProperty(steps, truth, async (prices, asked) => {
        await setPrices(tx, prices)
        const { asks, media, textBytes, choices, limit } = asked
        const contents = { textBytes, messages: 2, media, tokens: 0 }
        const wish = { asks, contents, choices, max_output_tokens: limit }
        const call = await admitted(ledger, account, wish).catch((error: unknown) => {
          expect(error).toMatchObject({ code: 'model_not_priced' })
        })
        seen[call ? 'admitted' : 'refused'] += 1
        if (!call) return
        const held = await callOf(tx, call.call_id)

        const report = reportOf(asked, Number(held.hold_prompt_tokens), Number(held.hold_output_tokens))
        const { cost_micros } = await ledger.settle(call, outcomeOf({ model: 'sql/model', usage: report }))

        expect(cost_micros).toBeLessThanOrEqual(Number(held.hold_micros))
      }),
      { numRuns: runs(60), seed },
    )
    // Else nothing would have been looked at.
    expect(Math.min(seen.admitted, seen.refused)).toBeGreaterThan(2)
    expect([...(await tx`select * from private.ai_surprises`)]).toEqual([])
  }))

describe('numbers that no call has', () => {
  const wild = [2 ** 53, 1e300, -1, -1e300, 0.5, 1e9, Number.NaN, Number.POSITIVE_INFINITY, Number.MAX_VALUE]

  test.each(wild)('%d in every field, in dollars, too: the call ends, once, and nobody is locked', (number) =>
    rolledBack(async (tx) => {
      await newModel(tx)
      await setPrices(tx, [dearest])
      const account = await unlimited(tx)
      const ledger = ledgerOf(tx)
      const calls = [
        await admitted(ledger, account, {}),
        await admitted(ledger, account, {}),
        await admitted(ledger, account, {}),
      ]
      const usage = Object.fromEntries(Object.keys(nothingUsed).map((field) => [field, number])) as Usage
      const lie = {
        ...outcomeOf({ model: 'sql/model', usage }),
        response_bytes: number,
        duration_ms: number,
        first_token_ms: number,
      }

      const ends = await Promise.all(calls.map((call) => ledger.settle(call, lie)))

      expect(ends.map(({ settled }) => settled)).toEqual([true, true, true])
      for (const { cost_micros } of ends) expect(cost_micros).toBeLessThan(5e12)
      const row = await callOf(tx, calls[0]?.call_id ?? '')
      expect(Object.values(row).filter((value) => typeof value === 'number' && value < 0)).toEqual([])
      const told = await tx`select implausible from private.ai_surprises`
      expect(told.map(({ implausible }) => implausible)).toEqual(Array(3).fill('a number that no call has'))
      const [tokens] = (await countersOf(tx, account.id))['ai_tokens/month'] ?? []
      expect(tokens).toBeLessThanOrEqual(3 * 2e8)
    }),
  )

  test('past the ledger, too: the largest numbers that the type takes overflow nothing, alone and in a batch', () =>
    rolledBack(async (tx) => {
      await newModel(tx)
      await setPrices(tx, [dearest])
      const account = await unlimited(tx)
      const ledger = ledgerOf(tx)
      const most = '9223372036854775807'
      const outcome = (id: string) => tx`
        row(${id}, ${account.id}, 'succeeded', 200, null, ${most}, ${most}, ${most}, ${most}, ${most}, ${most}, ${most}, ${most}, ${most}, ${most},
          'NaN', 'provider', null, 1, 1, 1, 1, 1, null, null, null)::private.ai_outcome`
      const ids = []
      for (let i = 0; i < 3; i += 1) ids.push((await admitted(ledger, account, {})).call_id)
      const [one = '', two = '', three = ''] = ids

      await tx`select private.ai_step(array[${outcome(one)}], '{}', 0)`
      await tx`select private.ai_step(array[${outcome(two)}, ${outcome(three)}], '{}', 0)`

      const rows =
        await tx`select cost_micros::float as cost, prompt_tokens::int as prompt from public.ai_calls where user_id = ${account.id}`
      expect(rows).toHaveLength(3)
      expect(new Set(rows.map(({ cost }) => cost))).toEqual(new Set([4_000_100_000_000]))
      expect(new Set(rows.map(({ prompt }) => prompt))).toEqual(new Set([100_000_000]))
    }))

  const dearest = {
    ...Object.fromEntries(perMillion.map((unit) => [unit, 1_000_000_000_000])),
    ...Object.fromEntries(perThing.map((unit) => [unit, 10_000_000_000])),
    above: 0,
    variant: '',
  } as Prices

  test.each(['input_usd_per_mtok', 'audio_output_usd_per_mtok', 'image_usd', 'search_usd', 'request_usd'])(
    'a price in %s with which they would is refused',
    (column) =>
      rolledBack(async (tx) => {
        await newModel(tx)
        for (const amount of ['-1', '10001', 'NaN', 'Infinity'])
          await expect(
            tx.savepoint((sp) =>
              sp.unsafe(`update public.model_prices set ${column} = '${amount}' where model_id = 'sql/model'`),
            ),
          ).rejects.toThrow(/violates check constraint/)
      }),
  )
})
