import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createStreamObserver } from '../../functions/_shared/ai/observe-stream.ts'
import { createEventGatherer, splitEvents } from '../../functions/_shared/ai/sse-events.ts'
import { type Behaviours, parseModel } from '../../stack/doubles/ai-provider/behaviours.ts'
import { chatAnswer, chatEvents } from '../../stack/doubles/ai-provider/chat-answer.ts'

const request = { model: 'm', messages: [{ role: 'user', content: 'Příliš žluťoučký 🛡 日本語' }] }

/** What a provider sends, with the given line ends, and a data line per line of the JSON. */
function bytesOf(wants: Behaviours, end: string): Uint8Array<ArrayBuffer> {
  const events = [...chatEvents(chatAnswer(request, wants, 'id', 0), true, wants)]
  const texts = events.map((event) => {
    if (typeof event === 'string') return ''
    if ('text' in event) return event.text
    return `${JSON.stringify(event.chunk, null, 1).replace(/^/gm, 'data: ')}\n\n`
  })
  return new TextEncoder().encode(texts.join('').replaceAll('\n', end))
}

type Bytes = Uint8Array<ArrayBuffer>

/** The runs of whole events that come out when the bytes come in with these cuts. */
function gather(bytes: Bytes, cuts: readonly number[]): Bytes[] {
  const gatherer = createEventGatherer()
  const places = [0, ...[...cuts].sort((a, b) => a - b), bytes.byteLength]
  const chunks = places.slice(1).map((end, index) => bytes.subarray(places[index] ?? 0, end))
  return [...chunks.map(gatherer.push), gatherer.rest()].filter((run) => run !== undefined)
}

const noKey = { secret: undefined, isCallers: false }

function readAll(runs: readonly Bytes[], asked = false) {
  const { observe, observed, takeUsage } = createStreamObserver(asked ? 'in a chunk' : 'no', noKey)
  const passages = runs.map((run) => observe(run.slice()))
  const forwarded = passages.flatMap(({ forward, last }) => [
    ...forward,
    ...[takeUsage(), last].filter((part) => part !== undefined),
  ])
  return { observed, forwarded: Buffer.concat(forwarded) }
}

const streams = [
  'echo',
  'echo+usage-openrouter',
  'echo+usage-early',
  'echo+usage-twice',
  'echo+error-middle',
  'echo+garbage',
  'echo+reasoning',
]
const endings = ['\n', '\r\n', '\r']

test('however the bytes are cut, the events and the usage are the same', () => {
  const given = fc.record({
    model: fc.constantFrom(...streams),
    end: fc.constantFrom(...endings),
    cuts: fc.array(fc.nat(3_000), { maxLength: 60 }),
  })
  fc.assert(
    fc.property(given, ({ model, end, cuts }) => {
      const bytes = bytesOf(parseModel(model) ?? new Set(), end)
      const whole = gather(bytes, [])
      const parts = gather(
        bytes,
        cuts.filter((cut) => cut < bytes.byteLength),
      )

      expect(Buffer.concat(parts)).toEqual(Buffer.from(bytes))
      expect(parts.flatMap(splitEvents)).toEqual(whole.flatMap(splitEvents))
      expect(readAll(parts)).toEqual(readAll(whole))
    }),
    { numRuns: 300 },
  )
})

test('bytes of any kind come out as they went in', () => {
  const soup = fc.array(fc.constantFrom('data:', ' ', 'x', '\r', '\n', '\r\n', ':', '{"usage":', '}', 'é', '\0'), {
    maxLength: 80,
  })
  fc.assert(
    fc.property(soup, fc.array(fc.nat(200), { maxLength: 20 }), (pieces, cuts) => {
      const bytes = new TextEncoder().encode(pieces.join(''))
      const parts = gather(
        bytes,
        cuts.filter((cut) => cut < bytes.byteLength),
      )

      expect(Buffer.concat(parts)).toEqual(Buffer.from(bytes))
      expect(parts.flatMap(splitEvents)).toEqual(gather(bytes, []).flatMap(splitEvents))
    }),
  )
})

test('an event without end is refused instead of filling the memory', () => {
  const gatherer = createEventGatherer(1_000)

  expect(() => gatherer.push(new Uint8Array(1_001).fill(120))).toThrow('larger than what is passed on')
})

test.each(['echo', 'echo+usage-openrouter', 'echo+usage-early', 'echo+usage-twice'])(
  '%s: who did not ask for usage does not see the extra chunk',
  (model) => {
    const bytes = bytesOf(parseModel(model) ?? new Set(), '\n')

    expect(readAll(gather(bytes, [])).forwarded.toString()).not.toContain('usage')
    expect(readAll(gather(bytes, []), true).forwarded).toEqual(Buffer.from(bytes))
  },
)

const see = (...chunks: unknown[]) => {
  const text = chunks.map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join('')
  return readAll(gather(new TextEncoder().encode(text), []))
}
const usage = { prompt_tokens: 7, completion_tokens: 3 }

test('usage in the chunk that ends the answer is read, and the chunk is kept', () => {
  const last = { choices: [{ index: 0, delta: {}, finish_reason: 'stop' }], usage }

  expect(see(last)).toMatchObject({ observed: { report: { counts: usage }, finished: true } })
  expect(see(last).forwarded.byteLength).toBeGreaterThan(0)
})

test('reports are totals: the last one counts, and null or nonsense does not erase it', () => {
  const more = { prompt_tokens: 7, completion_tokens: 9 }

  expect(
    see({ choices: [], usage }, { choices: [], usage: more }, { usage: null }, { usage: { prompt_tokens: -1 } }),
  ).toMatchObject({
    observed: { report: { counts: more } },
  })
})

test('explicit zeros are a usage, and finish_reason alone is none', () => {
  expect(see({ usage: { prompt_tokens: 0, completion_tokens: 0 } }).observed.report).toMatchObject({
    counts: { completion_tokens: 0 },
  })
  expect(see({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }).observed.report).toBeNull()
})
