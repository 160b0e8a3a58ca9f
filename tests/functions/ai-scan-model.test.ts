/** The model that a body names is found without parsing the body, and is the one that parsing would find. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { modelIn } from '../../functions/_shared/ai/scan-model.ts'

const bytesOf = (text: string) => new TextEncoder().encode(text)

/** Objects with and without a model, in all the forms that JSON allows: spaces, escapes, nested models. */
const key = fc.oneof(fc.string(), fc.constantFrom('models', 'Model', 'mode', '', 'messages', '"model"', '\\'))
const entry = fc.tuple(key, fc.jsonValue())
const named = fc.tuple(fc.constant('model'), fc.oneof(fc.string({ maxLength: 100 }), fc.jsonValue()))
const space = fc.stringMatching(/^[ \n\r\t]{0,3}$/)
const escaped = (text: string) =>
  `"${[...text].map((letter) => (letter.length === 1 ? `\\u${letter.charCodeAt(0).toString(16).padStart(4, '0')}` : letter)).join('')}"`

type Entries = [string, unknown][]
const write = (entries: Entries, gap: string, isEscaped: boolean) => {
  const name = (text: string) => (isEscaped ? escaped(text) : JSON.stringify(text))
  const pairs = entries.map(([at, value]) => `${gap}${name(at)}${gap}:${gap}${JSON.stringify(value)}${gap}`)
  return `${gap}{${pairs.length > 0 ? pairs.join(',') : gap}}${gap}`
}
const bodies = fc
  .tuple(fc.array(entry, { maxLength: 5 }), fc.option(named), fc.array(entry, { maxLength: 5 }))
  .map(([before, model, after]): Entries => [...before, ...(model ? [model] : []), ...after])
const texts = fc.tuple(bodies, space, fc.boolean()).map(([entries, gap, isEscaped]) => write(entries, gap, isEscaped))
const parsed = (text: string) => {
  const { model } = JSON.parse(text)
  return typeof model === 'string' ? model : undefined
}

test('it is what JSON.parse finds', () => {
  fc.assert(
    fc.property(texts, (text) => {
      expect(modelIn(bytesOf(text))).toBe(parsed(text))
    }),
    { numRuns: 2_000 },
  )
})

test('the beginning of a body says the same or nothing', () => {
  fc.assert(
    fc.property(texts, fc.nat(), (text, cut) => {
      const bytes = bytesOf(text)
      const found = modelIn(bytes.subarray(0, cut % (bytes.byteLength + 1)))
      expect([undefined, parsed(text)]).toContain(found)
    }),
    { numRuns: 2_000 },
  )
})

test('anything may come, and nothing breaks', () => {
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array(), fc.string().map(bytesOf)), (bytes) => {
      expect(['undefined', 'string']).toContain(typeof modelIn(bytes))
    }),
  )
})

describe('of a large body', () => {
  const picture = `data:image/png;base64,${'A'.repeat(4_000_000)}`
  const messages = JSON.stringify([{ role: 'user', content: [{ type: 'image_url', image_url: { url: picture } }] }])

  test('it is found in the first bytes when it comes first', () => {
    expect(modelIn(bytesOf(`{"model":"m","messages":${messages}}`).subarray(0, 1_000))).toBe('m')
  })

  test('it is found behind the messages, where the client for Python writes it', () => {
    const bytes = bytesOf(`{"messages":${messages},"model":"m"}`)

    expect(modelIn(bytes)).toBe('m')
    expect(modelIn(bytes.subarray(0, 1_000_000))).toBeUndefined()
  })

  test('of two the first counts, and a name that is too long is none', () => {
    expect(modelIn(bytesOf('{"model":"first","model":"second"}'))).toBe('first')
    expect(modelIn(bytesOf(`{"model":"${'x'.repeat(1_300)}"}`))).toBeUndefined()
  })

  test('it is found behind quotes and backslashes without end', () => {
    for (const text of ['\\\\', '\\"', '\\\\\\"'])
      expect(modelIn(bytesOf(`{"a":"${text.repeat(200_000)}","model":"m"}`))).toBe('m')
  })
})
