/** What happens in a run of chaos, made from a seed: the calls in their order, and what goes wrong when. */
import fc from 'fast-check'

/** What the provider does: names of stack/doubles/ai-provider/behaviours.ts. Two lie about what they used. */
const behaviours = [
  ...['', '', '', '', 'slow', 'no-usage', 'zero-usage', 'usage-openrouter', 'cached', 'utf8-split'],
  ...['error-first', 'error-middle', '500', '503', '429', '400', 'flaky', 'garbage', 'reset', 'hang', 'hang-body'],
  ...['usage-huge', 'usage-odd'],
]

export type Step = {
  account: number
  behaviour: string
  endpoint: 'chat' | 'embeddings' | 'images' | 'unknown model'
  stream: boolean
  maxTokens: number | null
  choices: number
  words: number
  /** Of a small set, so that keys meet. */
  key: number | null
  hangUpMs: number | null
  process: number
}
export type Accident =
  | { what: 'kill a function'; process: number; pauseMs: number }
  | { what: 'settle again' | 'start again' | 'abandon' | 'new period'; pauseMs: number }

/** One in four; else null. */
const sometimes = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | null> =>
  fc.oneof({ weight: 1, arbitrary }, { weight: 3, arbitrary: fc.constant(null) })
const step: fc.Arbitrary<Step> = fc.record({
  account: fc.nat({ max: 7 }),
  behaviour: fc.constantFrom(...behaviours),
  endpoint: fc.constantFrom('chat', 'chat', 'chat', 'chat', 'chat', 'embeddings', 'images', 'unknown model'),
  stream: fc.boolean(),
  maxTokens: fc.option(fc.integer({ min: 1, max: 200 }), { freq: 3 }),
  choices: fc.constantFrom(1, 1, 1, 2),
  words: fc.integer({ min: 1, max: 40 }),
  key: sometimes(fc.nat({ max: 30 })),
  hangUpMs: sometimes(fc.integer({ min: 0, max: 400 })),
  process: fc.nat({ max: 1 }),
})
const kill: fc.Arbitrary<Accident> = fc.record({
  what: fc.constant('kill a function' as const),
  process: fc.nat({ max: 1 }),
  pauseMs: fc.integer({ min: 3_000, max: 8_000 }),
})
const mishap: fc.Arbitrary<Accident> = fc.record({
  what: fc.constantFrom('settle again' as const, 'start again' as const, 'abandon' as const, 'new period' as const),
  pauseMs: fc.integer({ min: 50, max: 600 }),
})
const accident = fc.oneof({ weight: 1, arbitrary: kill }, { weight: 9, arbitrary: mishap })

/** The same for the same seed; only the order in which things meet is the machine's. */
export const scenario = (seed: number, calls: number) => ({
  steps: fc.sample(step, { seed, numRuns: calls }),
  accidents: fc.sample(accident, { seed, numRuns: calls }),
})
