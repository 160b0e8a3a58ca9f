import fc from 'fast-check'
import { expect, test } from 'vitest'
import { byteLength } from '../../functions/_shared/ai/estimate-tokens.ts'

test('a text has as many bytes as it has in UTF-8, however long it is and whatever is in it', () => {
  const piece = fc.string({ unit: 'binary', maxLength: 40 })
  const text = fc.tuple(
    piece,
    fc.constantFrom(0, 1, 8_191, 16_383, 16_384),
    fc.constantFrom('a', 'é', '漢', '😀', '\ud800'),
    piece,
  )
  const property = fc.property(text, ([before, times, filling, after]) => {
    const given = before + filling.repeat(times) + after

    expect(byteLength(given)).toBe(new TextEncoder().encode(given).byteLength)
  })

  fc.assert(property, { numRuns: 60 })
})
