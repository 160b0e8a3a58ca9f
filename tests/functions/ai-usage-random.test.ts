/** Whatever a provider sends: numbers that are charged are numbers that can be, and what is cut out of a chunk is the usage alone. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { readProviderAnswer } from '../../functions/_shared/ai/provider-answer.ts'
import { judgeReport } from '../../functions/_shared/ai/read-usage.ts'
import { withoutUsage } from '../../functions/_shared/ai/scan-chunks.ts'

const number = fc.oneof(
  fc.nat(2_000),
  fc.nat(200_000),
  fc.constantFrom(null, undefined, -1, 0.5, 2 ** 53, 1e300, '7', true, [], {}, Number.MAX_SAFE_INTEGER),
)
const names = [
  ...['prompt_tokens', 'input_tokens', 'completion_tokens', 'output_tokens', 'total_tokens', 'cached_tokens'],
  ...['prompt_cache_hit_tokens', 'cache_read_input_tokens', 'cache_creation_input_tokens', 'reasoning_tokens', 'cost'],
]
const parts = ['cached_tokens', 'cache_write_tokens', 'audio_tokens', 'reasoning_tokens', 'ephemeral_1h_input_tokens']
const record = (keys: string[]) => fc.record(Object.fromEntries(keys.map((key) => [key, number])), { requiredKeys: [] })
const details = fc.oneof(record(parts), fc.constantFrom(null, 7, 'x', []))
const usages = fc.tuple(
  record(names),
  fc.record(
    {
      prompt_tokens_details: details,
      completion_tokens_details: details,
      input_tokens_details: details,
      output_tokens_details: details,
      cache_creation: details,
      server_tool_use: fc.record({ web_search_requests: number }),
    },
    { requiredKeys: [] },
  ),
)

test('what is charged can be, each token in one part at most, whatever is reported', () => {
  const bounds = fc.record({
    promptTokens: fc.nat(200_000),
    searches: fc.nat(20),
    completionTokens: fc.oneof(fc.nat(20_000), fc.constant(null)),
  })
  const said = fc.record({ text: fc.nat(50_000), media: fc.nat(50_000) })
  fc.assert(
    fc.property(usages, bounds, said, ([usage, more], bound, seen) => {
      const answer = readProviderAnswer(JSON.stringify({ choices: [], usage: { ...usage, ...more } }))
      const judged = judgeReport(answer?.report ?? null, seen, bound)

      const { usage: used } = judged
      if (!used) return
      const { cost_usd, ...counts } = used
      expect(Object.values(counts).every((count) => Number.isSafeInteger(count) && count >= 0)).toBe(true)
      expect(used.prompt_tokens).toBeLessThanOrEqual(bound.promptTokens)
      expect(used.completion_tokens).toBeLessThanOrEqual((bound.completionTokens ?? 0) + seen.text)
      const inPrompt =
        used.cached_tokens + used.cache_write_tokens + used.cache_write_1h_tokens + used.audio_input_tokens
      expect(inPrompt).toBeLessThanOrEqual(used.prompt_tokens)
      expect(used.reasoning_tokens + used.audio_output_tokens).toBeLessThanOrEqual(used.completion_tokens)
      expect(cost_usd === null || (cost_usd >= 0 && cost_usd <= 10_000)).toBe(true)
    }),
    { numRuns: 2_000 },
  )
})

test('any JSON is read without an exception', () => {
  fc.assert(
    fc.property(fc.json(), fc.json(), (one, other) => {
      const answer = readProviderAnswer(`{"choices":${one},"usage":${other},"error":${one},"x_groq":${other}}`)
      judgeReport(
        answer?.report ?? null,
        { text: 0, media: 0 },
        { promptTokens: 10, completionTokens: 10, searches: 0 },
      )
    }),
  )
})

const value: fc.Arbitrary<unknown> = fc.letrec((tie) => ({
  any: fc.oneof(
    { maxDepth: 3 },
    fc.constantFrom(
      null,
      1,
      true,
      'usage',
      '"usage":null',
      'data: {',
      ',"usage":null}\n\n',
      '\\',
      '}',
      '{',
      '[',
      'é',
      '日本語',
    ),
    fc.array(tie('any'), { maxLength: 3 }),
    fc.dictionary(fc.constantFrom('usage', 'a', 'b', 'data: {', 'choices'), tie('any'), { maxKeys: 3 }),
  ),
})).any
const usageOfChunk = fc.constantFrom(undefined, null, { prompt_tokens: 1, more: { usage: null } }, 'text', 7)
/** The usage stands somewhere among the other fields. */
const chunks = fc
  .tuple(
    usageOfChunk,
    usageOfChunk,
    fc.array(fc.tuple(fc.constantFrom('id', 'obfuscation', 'x', 'y'), value)),
    fc.nat(5),
  )
  .map(([usage, ofChoice, fields, place]) => {
    const choice = { index: 0, usage: ofChoice, delta: { content: 'said' } }
    const entries: [string, unknown][] = [...fields, ['choices', [choice]]]
    entries.splice(place % (entries.length + 1), 0, ['usage', usage])
    return Object.fromEntries(entries)
  })
const forms = fc.constantFrom<(chunk: unknown) => string>(
  (chunk) => `data: ${JSON.stringify(chunk)}\n\n`,
  (chunk) => `data:${JSON.stringify(chunk)}\r\n\r\n`,
  (chunk) => `: c\ndata: ${JSON.stringify(chunk)}\n\n`,
  (chunk) => `${JSON.stringify(chunk, null, 1).replace(/^/gm, 'data: ')}\n\n`,
  (chunk) => `${JSON.stringify(chunk, null, 1).replace(/^/gm, 'data: ').replaceAll('\n', '\r\n')}\r\n\r\n`,
)

const isReport = (usage: unknown) => typeof usage === 'object' || usage === undefined
function expected(chunk: Record<string, unknown>): unknown {
  const { usage, choices, ...rest } = JSON.parse(JSON.stringify(chunk))
  const [{ usage: ofChoice, ...choice }] = choices
  return {
    ...rest,
    choices: [isReport(ofChoice) ? choice : { ...choice, usage: ofChoice }],
    ...(!isReport(usage) && { usage }),
  }
}

const dataOf = (event: string) =>
  event
    .split(/\r?\n/)
    .filter((line) => line.startsWith('data:'))
    .map((line) => line.slice(5))
    .join('\n')

test('out of chunks in any form the usage is taken, and nothing else', () => {
  const events = fc.array(fc.tuple(chunks, forms), { minLength: 1, maxLength: 4 })
  fc.assert(
    fc.property(events, (given) => {
      const bytes = new TextEncoder().encode(given.map(([chunk, form]) => form(chunk)).join(''))
      const left = withoutUsage(bytes.slice(), Buffer.from(bytes).toString('latin1'))

      const texts = Buffer.from(left)
        .toString()
        .split(/(?<=\n\r?\n)/)
      expect(texts.map((text) => JSON.parse(dataOf(text)))).toEqual(given.map(([chunk]) => expected(chunk)))
    }),
    { numRuns: 2_000 },
  )
})
