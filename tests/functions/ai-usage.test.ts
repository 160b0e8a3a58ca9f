import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createUsageObserver } from '../../functions/_shared/ai/observe-usage.ts'
import { createEventSplitter, type SseEvent } from '../../functions/_shared/ai/sse-events.ts'
import { type Behaviours, parseModel } from '../../stack/ai-provider/behaviours.ts'
import { chatAnswer, chatEvents } from '../../stack/ai-provider/chat-answer.ts'

const request = { model: 'm', messages: [{ role: 'user', content: 'Příliš žluťoučký 🛡 日本語' }] }

/** What a provider sends, with the given line ends, and a data line per line of the JSON. */
function bytesOf(wants: Behaviours, end: string): Uint8Array {
  const events = [...chatEvents(chatAnswer(request, wants, 'id', 0), true, wants)]
  const texts = events.map((event) => {
    if (typeof event === 'string') return ''
    if ('text' in event) return event.text
    return `${JSON.stringify(event.chunk, null, 1).replace(/^/gm, 'data: ')}\n\n`
  })
  return new TextEncoder().encode(texts.join('').replaceAll('\n', end))
}

function split(bytes: Uint8Array, cuts: readonly number[]): SseEvent[] {
  const splitter = createEventSplitter()
  const places = [0, ...[...cuts].sort((a, b) => a - b), bytes.byteLength]
  const events = places.slice(1).flatMap((end, index) => splitter.push(bytes.subarray(places[index] ?? 0, end)))
  const rest = splitter.rest()
  return rest ? [...events, rest] : events
}

function readAll(events: readonly SseEvent[], asked = false) {
  const { observe, observed } = createUsageObserver(asked)
  const forwarded = events.filter((event) => observe(event).forward)
  return { observed, forwarded: Buffer.concat(forwarded.map(({ bytes }) => bytes)) }
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
      const whole = split(bytes, [])
      const parts = split(
        bytes,
        cuts.filter((cut) => cut < bytes.byteLength),
      )

      expect(Buffer.concat(parts.map((event) => event.bytes))).toEqual(Buffer.from(bytes))
      expect(parts).toEqual(whole)
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
      const parts = split(
        bytes,
        cuts.filter((cut) => cut < bytes.byteLength),
      )

      expect(Buffer.concat(parts.map((event) => event.bytes))).toEqual(Buffer.from(bytes))
      expect(parts).toEqual(split(bytes, []))
    }),
  )
})

test('an event without end is refused instead of filling the memory', () => {
  const splitter = createEventSplitter(1_000)

  expect(() => splitter.push(new Uint8Array(1_001).fill(120))).toThrow('The AI provider failed')
})

test.each(['echo', 'echo+usage-openrouter', 'echo+usage-early', 'echo+usage-twice'])(
  '%s: who did not ask for usage does not see the extra chunk',
  (model) => {
    const bytes = bytesOf(parseModel(model) ?? new Set(), '\n')

    expect(readAll(split(bytes, [])).forwarded.toString()).not.toContain('prompt_tokens')
    expect(readAll(split(bytes, []), true).forwarded).toEqual(Buffer.from(bytes))
  },
)

const see = (...chunks: unknown[]) => {
  const text = chunks.map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join('')
  return readAll(split(new TextEncoder().encode(text), []))
}
const usage = { prompt_tokens: 7, completion_tokens: 3 }

test('usage in the chunk that ends the answer is read, and the chunk is kept', () => {
  const last = { choices: [{ index: 0, delta: {}, finish_reason: 'stop' }], usage }

  expect(see(last)).toMatchObject({ observed: { usage, finished: true } })
  expect(see(last).forwarded.byteLength).toBeGreaterThan(0)
})

test('reports are totals: the last one counts, and null or nonsense does not erase it', () => {
  const more = { prompt_tokens: 7, completion_tokens: 9 }

  expect(
    see({ choices: [], usage }, { choices: [], usage: more }, { usage: null }, { usage: { prompt_tokens: -1 } }),
  ).toMatchObject({
    observed: { usage: more },
  })
})

test('explicit zeros are a usage, and finish_reason alone is none', () => {
  expect(see({ usage: { prompt_tokens: 0, completion_tokens: 0 } }).observed.usage).toMatchObject({
    completion_tokens: 0,
  })
  expect(see({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }).observed.usage).toBeNull()
})
