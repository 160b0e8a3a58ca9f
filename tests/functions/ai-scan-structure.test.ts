/** What a body becomes in memory is counted before it is parsed, and is what parsing finds; too much of it is refused. */
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { refuseIntricate, structureOf } from '../../functions/_shared/ai/scan-structure.ts'
import { bodyOf, createWorld, startProvider } from './ai-world.ts'

const bytesOf = (text: string) => new TextEncoder().encode(text)

type Structure = ReturnType<typeof structureOf>

/** The same, of what was parsed. */
function structureIn(value: unknown): Structure {
  if (typeof value !== 'object' || value === null) return { containers: 0, names: 0, commas: 0, depth: 0 }
  const values = Object.values(value)
  const sum = {
    containers: 1,
    names: Array.isArray(value) ? 0 : values.length,
    commas: Math.max(0, values.length - 1),
    depth: 0,
  }
  for (const { containers, names, commas, depth } of values.map(structureIn)) {
    sum.containers += containers
    sum.names += names
    sum.commas += commas
    sum.depth = Math.max(sum.depth, depth)
  }
  return { ...sum, depth: sum.depth + 1 }
}

const space = fc.constantFrom(undefined, 1, '\t', '\n')
/** Names without `__proto__`, which JSON.parse takes and the counting above does not see. */
const values = fc.jsonValue({ maxDepth: 6 }).filter((value) => !JSON.stringify(value).includes('__proto__'))

test('it is what JSON.parse finds', () => {
  fc.assert(
    fc.property(values, space, (value, gap) => {
      const text = JSON.stringify(value, null, gap)

      expect(structureOf(bytesOf(text))).toEqual(structureIn(JSON.parse(text)))
    }),
    { numRuns: 2_000 },
  )
})

test('of texts with quotes, braces and backslashes nothing is counted', () => {
  fc.assert(
    fc.property(fc.array(fc.constantFrom('"', '\\', '{', '[', ',', ':', 'é', '😀')), (letters) => {
      const text = JSON.stringify([letters.join('')])

      expect(structureOf(bytesOf(text))).toEqual({ containers: 1, names: 0, commas: 0, depth: 1 })
    }),
    { numRuns: 1_000 },
  )
})

test('anything may come, and nothing breaks', () => {
  fc.assert(
    fc.property(fc.uint8Array(), (bytes) => {
      expect(Object.values(structureOf(bytes)).every(Number.isSafeInteger)).toBe(true)
    }),
  )
})

const filled = (unit: string, bytes: number) => `[${unit.repeat(Math.floor(bytes / unit.length)).slice(0, -1)}]`

describe('refused before it is parsed', () => {
  let provider: Awaited<ReturnType<typeof startProvider>>
  beforeAll(async () => {
    provider = await startProvider()
  })
  afterAll(() => provider.close())

  test.each([
    ['objects', filled('{},', 900_000), 'has more than 100000 objects and lists'],
    ['lists', filled('[],', 900_000), 'has more than 100000 objects and lists'],
    ['fields', `{${filled('"a":1,', 990_000).slice(1, -1)}}`, 'has more than 150000 fields'],
    ['depth', `${'['.repeat(400_000)}${']'.repeat(400_000)}`, 'is nested more than 1000 deep'],
  ])('a body of %s', async (_name, text, why) => {
    const { chat, seen } = createWorld(provider.url)

    const answer = await chat(`{"model":"echo","messages":${text}}`)

    expect([answer.status, (await bodyOf(answer)).error]).toMatchObject([
      400,
      { code: 'invalid_request_error', message: `The body ${why}.` },
    ])
    expect(seen.admitted).toEqual([])
  })

  test('20 MB of numbers, of which a megabyte cannot have so many', () => {
    expect(() => refuseIntricate(bytesOf(filled('1,', 20_000_000)))).toThrow('has more than 500000 values')
    expect(() => refuseIntricate(bytesOf(filled('1,', 1_000_000)))).not.toThrow()
  })
})

test('a body of 200 kB or less is not looked at: it cannot have so much', () => {
  const bytes = new Proxy(bytesOf(filled('[],', 200_000)), {
    get: (target, name) => (name === 'byteLength' ? target.byteLength : expect.fail(`asked for ${String(name)}`)),
  })

  expect(() => refuseIntricate(bytes)).not.toThrow()
})

const message = (parts: number) => ({
  role: 'user',
  content: Array.from({ length: parts }, (_, at) => ({ type: 'text', text: `${at}` })),
})
const tool = (at: number) => {
  const fields = Array.from({ length: 8 }, (_, field) => [`field${field}`, { type: 'string', description: 'of it' }])
  const parameters = { type: 'object', properties: Object.fromEntries(fields), required: ['field0'] }
  return { type: 'function', function: { name: `tool${at}`, parameters } }
}
const picture = { type: 'image_url', image_url: { url: 'data:image/png;base64,AAAA', detail: 'low' } }

test('a request that uses everything that is let in is not refused', () => {
  const list = <T>(length: number, make: (at: number) => T) => Array.from({ length }, (_, at) => make(at))
  const pictures = { role: 'user', content: list(2_000, () => picture) }
  const chat = { messages: [...list(9_999, () => message(1)), pictures], tools: list(1_000, tool) }

  expect(() => refuseIntricate(bytesOf(JSON.stringify(chat, null, 2)))).not.toThrow()
  expect(() => refuseIntricate(bytesOf(JSON.stringify({ input: list(499_000, () => 1) })))).not.toThrow()
})
