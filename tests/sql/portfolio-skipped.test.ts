/** What cannot be read costs itself only: it is skipped, counted, and shown to its owner with a reason. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Connection, lease, lotsOf, newConnection, record, sync, trade } from './portfolio-support.ts'
import { rolledBack, type Sql, type Tx } from './support.ts'

/** Skipped rows as 'trade t1 too_large'. */
const skippedOf = async (sql: Sql | Tx, { credentialId }: Connection): Promise<string[]> => {
  const rows = await sql`
    select kind || ' ' || id || ' ' || reason as skipped from public.portfolio_skipped_rows
    where credential_id = ${credentialId} order by kind, id`
  return rows.map((row) => row.skipped)
}
const heldOf = async (sql: Sql | Tx, { credentialId }: Connection): Promise<string[]> => {
  const rows = await sql`
    select amount || ' ' || asset as held from public.holdings where credential_id = ${credentialId} order by asset`
  return rows.map((row) => row.held)
}
const countsOf = async (sql: Sql | Tx, { credentialId }: Connection) =>
  (
    await sql`
      select skipped_holdings as holdings, skipped_trades as trades from private.portfolio_syncs
      where credential_id = ${credentialId}`
  )[0]

const long = 'A'.repeat(41)

describe('a trade that cannot be kept', () => {
  test.each<[string, string, Partial<ReturnType<typeof trade>>]>([
    ['has no amount', 'amount_not_positive', { amount: '0' }],
    ['has less than no amount', 'amount_not_positive', { amount: '-1' }],
    ['has an amount that is no number', 'not_readable', { amount: 'NaN' }],
    ['has an infinite price', 'too_large', { price: 'Infinity' }],
    ['has no price', 'price_not_positive', { price: '0.00' }],
    ['is paid with a fee that takes all of it', 'fee_takes_all', { fee: '1', fee_asset: 'BTC' }],
    ['has a fee in nothing', 'fee_without_asset', { fee: '1' }],
    ['has an amount of 19 decimals', 'too_many_decimals', { amount: '0.1234567890123456789' }],
    ['has a price of 30 decimals', 'too_many_decimals', { price: '1.123456789012345678901234567891' }],
    ['has 1e21 units', 'too_large', { amount: '1000000000000000000000' }],
    ['has a price of 1e21', 'too_large', { price: '1e21' }],
    ['has a fee of 1e21', 'too_large', { fee: '1e21', fee_asset: 'USD' }],
    ['has a base of 41 characters', 'name_not_readable', { base: long }],
    ['has a quote with a space in it', 'name_not_readable', { quote: 'U S' }],
    ['has a fee in an asset of 41 characters', 'name_not_readable', { fee: '1', fee_asset: long }],
    ['is of an asset against itself', 'base_is_quote', { quote: 'BTC' }],
  ])('because it %s is skipped as %s, and the others are kept', (_, reason, odd) =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const bad = trade(2, 'buy', '1', '100', odd)

      const answer = await sync(tx, connection, {
        trades: [trade(1, 'buy', '1', '100'), bad, trade(3, 'buy', '2', '1')],
      })

      expect(answer).toMatchObject({ recorded: true, new_trades: ['t1', 't3'], skipped_rows: 1 })
      expect(await skippedOf(tx, connection)).toEqual([`trade t2 ${reason}`])
      expect(await lotsOf(tx, connection)).toEqual(['1/1 BTC for 100', '2/2 BTC for 2'])
      const [row] = await tx`select content from public.portfolio_skipped_rows where user_id = ${connection.account.id}`
      expect(row?.content).toEqual(bad)
    }),
  )

  test('is every one that the table would refuse, whatever is odd about it', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const mostly = (usual: string, ...odd: string[]) =>
        fc.oneof({ weight: 5, arbitrary: fc.constant(usual) }, { weight: 1, arbitrary: fc.constantFrom(...odd) })
      const number = mostly('1', '0', '-1', '0.5', 'NaN', 'Infinity', '1e20', '99999999999999999999', '1e-18', '1e-19')
      const name = (usual: string) => mostly(usual, 'BTC', 'ETH', '', ' ', 'A'.repeat(40), long, '币', 'a\nb')
      const row = fc.record({
        ...{ amount: number, price: number, fee: number, quote_price: number, fee_price: number },
        ...{ base: name('BTC'), quote: name('USD'), fee_asset: name('USD'), id: mostly('t', 'z'.repeat(201)) },
      })
      let told = 0

      await fc.assert(
        fc.asyncProperty(fc.array(row, { minLength: 1, maxLength: 20 }), async (rows) => {
          const trades = rows.map((odd, n) =>
            trade(1, 'buy', odd.amount, odd.price, { ...odd, id: `${told + n}${odd.id}` }),
          )
          told += rows.length
          expect(await sync(tx, connection, { trades })).toMatchObject({ recorded: true })
        }),
        { numRuns: 20 },
      )

      const [{ kept } = { kept: 0 }] = await tx`
        select count(*)::int as kept from public.trades where credential_id = ${connection.credentialId}`
      const { trades: skipped } = (await countsOf(tx, connection)) ?? {}
      expect(kept + skipped).toBe(told)
    }))

  test('has no id, and is told all the same', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)

      const bad = [trade(1, 'buy', '1', '1', { id: '' }), trade(2, 'buy', '1', '1', { id: '' })]

      expect(await sync(tx, connection, { trades: bad })).toMatchObject({ new_trades: [], skipped_rows: 2 })
    }))

  test('in a page of a long history is told there, and counted once however often it is read', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const id = await lease(tx, connection)
      const bad = trade(1, 'buy', '0', '1')

      const answers = [
        await record(tx, id, { holdings: null, trades: [bad] }),
        await record(tx, id, { trades: [bad, trade(2, 'buy', '0', '1')] }),
      ]

      expect(answers.map(({ skipped_rows }) => skipped_rows)).toEqual([1, 1])
      expect(await countsOf(tx, connection)).toEqual({ holdings: 0, trades: 2 })
    }))

  test('is forgotten when a later sync can read it', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      await sync(tx, connection, { trades: [trade(1, 'buy', '1', '0'), trade(2, 'buy', '1', '0')] })

      await sync(tx, connection, { trades: [trade(1, 'buy', '1', '7')] })

      expect(await skippedOf(tx, connection)).toEqual(['trade t2 price_not_positive'])
      expect(await countsOf(tx, connection)).toEqual({ holdings: 0, trades: 1 })
      expect(await lotsOf(tx, connection)).toEqual(['1/1 BTC for 7'])
    }))

  test('and those that the worker could not read stand side by side', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const skipped = [{ kind: 'trade', id: 'w1', reason: 'not_readable', content: { time: 'never' } }]

      await sync(tx, connection, { trades: [trade(1, 'buy', '0', '1')], skipped })

      expect(await skippedOf(tx, connection)).toEqual(['trade t1 amount_not_positive', 'trade w1 not_readable'])
    }))
})

describe('a holding that cannot be kept', () => {
  test('is skipped with its reason, the others are kept, and the next sync begins anew', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const holdings = {
        BTC: '1',
        [long]: '1',
        'B C': '1',
        HUGE: '1e21',
        FINE: '0.1234567890123456789',
        OWED: '-3',
        NONE: '0',
      }

      const answer = await sync(tx, connection, { holdings, prices: { BTC: '10' } })

      expect(answer).toMatchObject({ recorded: true, skipped_rows: 5, value: 10 })
      expect(await heldOf(tx, connection)).toEqual(['1 BTC'])
      expect(await skippedOf(tx, connection)).toEqual([
        `holding ${long} name_not_readable`,
        'holding B C name_not_readable',
        'holding FINE too_many_decimals',
        'holding HUGE too_large',
        'holding OWED amount_not_positive',
      ])
      expect(await countsOf(tx, connection)).toEqual({ holdings: 5, trades: 0 })

      expect(await sync(tx, connection, { holdings: { BTC: '2' } })).toMatchObject({ skipped_rows: 0 })
      expect([await skippedOf(tx, connection), await countsOf(tx, connection)]).toEqual([
        [],
        { holdings: 0, trades: 0 },
      ])
    }))

  test('is the one of several of an asset that is odd; the others are added up', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const rows = [
        { asset: 'BTC', amount: '1', name: 'XXBT' },
        { asset: 'BTC', amount: '0.5', name: 'XBT.F' },
        { asset: 'BTC', amount: '1e21', name: 'XBT.M' },
      ]

      await sync(tx, connection, { rows })

      expect(await heldOf(tx, connection)).toEqual(['1.5 BTC'])
      expect(await skippedOf(tx, connection)).toEqual(['holding XBT.M too_large'])
    }))

  test('of another script is no such thing', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)

      await sync(tx, connection, { holdings: { 币安人生: '5', БТС: '1' } })

      expect(await heldOf(tx, connection)).toEqual(['1 БТС', '5 币安人生'])
    }))
})

describe('a price that says nothing', () => {
  test.each(['0', '-1', '1e20', '1e-19'])('as %s is no price, and one of many decimals is cut', (price) =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const prices = { BTC: price, ETH: '2.0000000000000000019' }

      expect(await sync(tx, connection, { holdings: { BTC: '1', ETH: '1' }, prices })).toMatchObject({
        skipped_rows: 0,
      })

      const rows = await tx`
        select asset, price::text from public.holdings where credential_id = ${connection.credentialId} order by asset`
      expect([...rows]).toEqual([
        { asset: 'BTC', price: null },
        { asset: 'ETH', price: '2.000000000000000001' },
      ])
    }),
  )
})

describe('skipped rows', () => {
  test('are kept up to a number of each kind, and the others are counted', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      await tx`update private.settings set value = '2' where key = 'portfolio.skipped_rows'`
      const odd = (n: number) => trade(n, 'buy', '0', '1')

      await sync(tx, connection, { trades: [odd(1), odd(2), odd(3)], holdings: { A: '-1', B: '-1', C: '-1' } })
      await sync(tx, connection, { trades: [odd(4)], holdings: { A: '-1', B: '-1', C: '-1' } })

      expect(await skippedOf(tx, connection)).toEqual([
        'holding A amount_not_positive',
        'holding B amount_not_positive',
        'trade t1 amount_not_positive',
        'trade t2 amount_not_positive',
      ])
      expect(await countsOf(tx, connection)).toEqual({ holdings: 3, trades: 4 })
    }))

  test('beyond that number are counted once however often they are told, and not when they can be read', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      await tx`update private.settings set value = '2' where key = 'portfolio.skipped_rows'`
      const odd = [1, 2, 3, 4].map((n) => trade(n, 'buy', '0', '1'))
      const told = async (trades: typeof odd) => [
        (await sync(tx, connection, { trades })).skipped_rows,
        (await countsOf(tx, connection))?.trades,
      ]

      expect(await told(odd)).toEqual([4, 4])
      expect(await told(odd)).toEqual([0, 4])
      // One that has no place, and then one that has, can be read: the last one gets the place.
      expect(await told([trade(3, 'buy', '1', '1')])).toEqual([0, 3])
      expect(await told([trade(1, 'buy', '1', '1'), ...odd.slice(1, 2), ...odd.slice(3)])).toEqual([0, 2])
      expect(await skippedOf(tx, connection)).toEqual(['trade t2 amount_not_positive', 'trade t4 amount_not_positive'])
    }))

  test('of any size are cut', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)

      await sync(tx, connection, { trades: [trade(1, 'buy', '0', '1', { id: '界'.repeat(20_000) })] })

      const [row] = await tx`
        select length(id)::int as id, octet_length(content::text) < 8000 as is_short from public.portfolio_skipped_rows
        where credential_id = ${connection.credentialId}`
      expect(row).toEqual({ id: 200, is_short: true })
    }))

  test('go with the credential', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      await sync(tx, connection, { holdings: { A: '-1' } })

      await tx`delete from public.credentials where id = ${connection.credentialId}`

      expect(await skippedOf(tx, connection)).toEqual([])
    }))
})
