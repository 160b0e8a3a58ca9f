/** The one way in which the stand-in takes a share of an amount: of what is prorated, to the cent. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { shareOf, spread, sum } from '../../stack/doubles/stripe/shares.ts'

const amounts = fc.integer({ min: -1_000_000_000_000, max: 1_000_000_000_000 })
/** So many of so many seconds. */
const parts = fc
  .tuple(fc.integer({ min: 1, max: 40_000_000 }), fc.nat({ max: 40_000_000 }))
  .map(([whole, part]) => [Math.min(part, whole), whole] as const)

test('the whole share is the whole amount, and no share is nothing', () => {
  fc.assert(
    fc.property(amounts, parts, (amount, [, whole]) => {
      expect([shareOf(amount, whole, whole), Math.abs(shareOf(amount, 0, whole))]).toEqual([amount, 0])
    }),
  )
  for (let amount = 1; amount <= 12_000; amount += 1) expect(shareOf(12_000, amount, 12_000)).toBe(amount)
})

test('the shares of an amount, one after the other, add up to it', () =>
  fc.assert(
    fc.property(amounts, parts, fc.array(fc.nat(), { maxLength: 20 }), (amount, [, whole], cuts) => {
      const ends = [...cuts.map((cut) => cut % whole), whole].sort((a, b) => a - b)
      const shares = ends.map((end, i) => shareOf(amount, end, whole) - shareOf(amount, ends[i - 1] ?? 0, whole))

      expect(shares.reduce((sum, share) => sum + share, 0)).toBe(amount)
      expect(shares.every((share) => share === 0 || Math.sign(share) === Math.sign(amount))).toBe(true)
    }),
  ))

test('what is divided in proportion to others adds up, and none gets more than a unit too much', () =>
  fc.assert(
    fc.property(
      fc.nat({ max: 1_000_000 }),
      fc.array(fc.nat({ max: 100_000 }), { minLength: 1, maxLength: 20 }),
      (amount, over) => {
        const parts = spread(amount, over)

        expect(sum(parts)).toBe(sum(over) === 0 ? 0 : amount)
        for (const [i, part] of parts.entries())
          expect(Math.abs(part - (amount * (over[i] ?? 0)) / (sum(over) || 1))).toBeLessThanOrEqual(1)
      },
    ),
  ))

test('a share is the exact one, to the nearest unit', () =>
  fc.assert(
    fc.property(amounts, parts, (amount, [part, whole]) => {
      const wrongBy = BigInt(shareOf(amount, part, whole)) * BigInt(whole) - BigInt(amount) * BigInt(part)

      expect(2n * (wrongBy < 0n ? -wrongBy : wrongBy) <= BigInt(whole)).toBe(true)
    }),
  ))

test.each([
  [1, 1, 2, 1],
  [-1, 1, 2, -1],
  [3, 1, 2, 2],
  [-3, 1, 2, -2],
  [100, 1, 3, 33],
  [200, 1, 3, 67],
  // 27.5 and 85.5; divided first, in floats, they come a hair short of the half and lose a cent.
  [1200, 55_440, 28 * 86_400, 28],
  [-1200, 172_368, 28 * 86_400, -86],
])('of %i, %i of %i is %i: half a unit goes away from zero', (amount, part, whole, share) => {
  expect(shareOf(amount, part, whole)).toBe(share)
})
