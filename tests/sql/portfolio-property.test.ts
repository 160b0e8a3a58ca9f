/** Profit and loss against a calculation of its own. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { runs } from '../support/runs.ts'
import { calculate, someTrades } from './portfolio-calculation.ts'
import { type Connection, lotsOf, newConnection, positionsOf, sync } from './portfolio-support.ts'
import { newAccount, rolledBack, type Tx } from './support.ts'

/** The same trades in any order, some of them again, in pieces. */
const shuffled = someTrades.chain((all) =>
  fc.record({
    all: fc.constant(all),
    order: fc.shuffledSubarray([...all, ...all.slice(0, 5)], { minLength: Math.min(all.length + 5, 2 * all.length) }),
    pieces: fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 10 }),
  }),
)

function cut<T>(items: T[], sizes: number[]): T[][] {
  const [size, ...others] = sizes
  if (size === undefined || size >= items.length) return [items]
  return [items.slice(0, size), ...cut(items.slice(size), others)]
}

const found = async (tx: Tx, connection: Connection) => ({
  lots: (await lotsOf(tx, connection)).sort(),
  positions: await positionsOf(tx, connection),
})

test(
  'any order and any pieces of the same trades give the same lots, and the profit to the last of 18 decimals',
  () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await fc.assert(
        fc.asyncProperty(shuffled, async ({ all, order, pieces }) => {
          const connection = await newConnection(tx, { account })

          for (const piece of cut(order, pieces)) await sync(tx, connection, { trades: piece })

          const { lots, positions } = calculate(all)
          expect(await found(tx, connection)).toEqual({ lots, positions })
          // The totals are those of the rows they stand for.
          const [off] = await tx`
          select count(*)::int as count from private.portfolio_positions p where p.credential_id = ${connection.credentialId}
            and p.realised <> (
              select coalesce(sum(d.proceeds - d.cost), 0) from private.portfolio_disposals d
              where d.credential_id = p.credential_id and d.asset = p.asset)`
          expect(off).toEqual({ count: 0 })
        }),
        { numRuns: runs(60) },
      )
    }),
  120_000,
)
