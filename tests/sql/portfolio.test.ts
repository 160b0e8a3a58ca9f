/** Holdings, trades, first in first out, and what an owner is told of it. Every number here is worked out by hand. */
import { describe, expect, test } from 'vitest'
import {
  type Connection,
  lease,
  lotsOf,
  minute,
  newConnection,
  positionsOf,
  type Read,
  sync,
  type Trade,
  trade,
} from './portfolio-support.ts'
import { asRole, asUser, newAccount, refusal, rolledBack, type Tx } from './support.ts'

const portfolioOf = async (tx: Tx, { account }: Connection) => {
  const rows = await asUser(tx, account.id, (as) => as`select * from public.get_my_portfolio()`)
  return rows.map(({ updated_at, ...row }) =>
    Object.fromEntries(
      Object.entries(row).map(([key, value]) => [
        key,
        /^-?\d+\.\d+$/.test(value) ? value.replace(/\.?0+$/, '') : value,
      ]),
    ),
  )
}

/** What trades come to: open lots, and by asset [realised, sold without a cost, what that brought, sold without a value]. */
async function outcome(tx: Tx, trades: Trade[], read: Read = {}) {
  const connection = await newConnection(tx)
  await sync(tx, connection, { ...read, trades })
  return { lots: await lotsOf(tx, connection), positions: await positionsOf(tx, connection) }
}

describe('first in, first out', () => {
  test('a sale takes the oldest lots first, and a part of the last one', () =>
    rolledBack(async (tx) => {
      const trades = [trade(1, 'buy', '1', '100'), trade(2, 'buy', '2', '130'), trade(3, 'sell', '1.5', '200')]

      // 1.5 * 200 - (100 + 0.5 * 130)
      expect(await outcome(tx, trades)).toEqual({
        lots: ['1.5/2 BTC for 260'],
        positions: { BTC: ['135', '0', '0', '0'] },
      })
    }))

  test('partial fills of one order are lots and sales of their own', () =>
    rolledBack(async (tx) => {
      const trades = [
        ...[trade(1, 'buy', '0.1', '100'), trade(2, 'buy', '0.2', '101'), trade(3, 'buy', '0.3', '102')],
        ...[trade(4, 'sell', '0.25', '110'), trade(5, 'sell', '0.25', '111')],
      ]

      // 27.5 - (10 + 0.15 * 101) + 27.75 - (0.05 * 101 + 0.2 * 102)
      expect(await outcome(tx, trades)).toEqual({
        lots: ['0.1/0.3 BTC for 30.6'],
        positions: { BTC: ['4.65', '0', '0', '0'] },
      })
    }))

  test('trades of one moment go by the number in their ids', () =>
    rolledBack(async (tx) => {
      const at = { executed_at: minute(1) }
      const trades = [trade(10, 'sell', '1', '50', at), trade(9, 'buy', '1', '10', at), trade(8, 'buy', '1', '5', at)]

      expect(await outcome(tx, trades)).toEqual({ lots: ['1/1 BTC for 10'], positions: { BTC: ['45', '0', '0', '0'] } })
    }))

  test('shares of a lot that do not divide add up to its cost to the last digit', () =>
    rolledBack(async (tx) => {
      const trades = [
        trade(1, 'buy', '3', '1', { fee: '0.000000000000000001', fee_asset: 'USD' }),
        ...[2, 3, 4].map((id) => trade(id, 'sell', '1', '1')),
      ]

      expect((await outcome(tx, trades)).positions).toEqual({ BTC: ['-0.000000000000000001', '0', '0', '0'] })
    }))

  test('more than the lots hold came by a deposit: its cost is unknown and its proceeds are no profit', () =>
    rolledBack(async (tx) => {
      const trades = [trade(1, 'buy', '1', '100'), trade(2, 'sell', '3', '120'), trade(3, 'buy', '1', '90')]

      expect(await outcome(tx, trades)).toEqual({
        lots: ['1/1 BTC for 90'],
        positions: { BTC: ['20', '2', '240', '0'] },
      })
    }))
})

describe('a fee', () => {
  const buyThenSell = (fee: Partial<Trade>, sellFee: Partial<Trade> = {}) => [
    trade(1, 'buy', '2', '100', fee),
    trade(2, 'sell', '1', '150', sellFee),
  ]

  test('in the quote is part of what was paid, and not of what was got', () =>
    rolledBack(async (tx) => {
      const trades = buyThenSell({ fee: '4', fee_asset: 'USD' }, { fee: '3', fee_asset: 'USD' })

      // 150 - 3 - 204 / 2
      expect(await outcome(tx, trades)).toEqual({
        lots: ['1/2 BTC for 204'],
        positions: { BTC: ['45', '0', '0', '0'] },
      })
    }))

  test('in the base makes what came less, and what left more', () =>
    rolledBack(async (tx) => {
      const trades = buyThenSell({ fee: '0.4', fee_asset: 'BTC' }, { fee: '0.2', fee_asset: 'BTC' })

      // 1.6 for 200; 1.2 of it, 150, went for 150
      expect(await outcome(tx, trades)).toEqual({
        lots: ['0.4/1.6 BTC for 200'],
        positions: { BTC: ['0', '0', '0', '0'] },
      })
    }))

  test('in a third asset with a price adds to the cost, and sells that asset at this price', () =>
    rolledBack(async (tx) => {
      const bnb = { fee: '0.1', fee_asset: 'BNB', fee_price: '60' }
      const trades = [trade(0, 'buy', '1', '50', { base: 'BNB' }), ...buyThenSell(bnb, bnb)]

      // BTC: 150 - 6 - 206 / 2; BNB: twice 6 - 5
      expect(await outcome(tx, trades)).toEqual({
        lots: ['0.8/1 BNB for 50', '1/2 BTC for 206'],
        positions: { BNB: ['2', '0', '0', '0'], BTC: ['41', '0', '0', '0'] },
      })
    }))

  test('in a third asset without a price counts nowhere and is reported', () =>
    rolledBack(async (tx) => {
      const bnb = { fee: '0.1', fee_asset: 'BNB' }
      const trades = [trade(0, 'buy', '1', '50', { base: 'BNB' }), ...buyThenSell(bnb)]

      expect(await outcome(tx, trades, { prices: { BNB: '60' } })).toEqual({
        lots: ['0.9/1 BNB for 50', '1/2 BTC for 200'],
        positions: { BNB: ['0', '0', '0', '0.1'], BTC: ['50', '0', '0', '0'] },
      })
    }))

  test('of a trade that was just made has the price of its sync', () =>
    rolledBack(async (tx) => {
      const now = { executed_at: new Date().toISOString() }
      const trades = [trade(1, 'buy', '1', '100', { fee: '0.1', fee_asset: 'BNB', ...now })]

      expect(await outcome(tx, trades, { prices: { BNB: '60' } })).toEqual({
        lots: ['1/1 BTC for 106'],
        positions: { BNB: ['0', '0.1', '6', '0'], BTC: ['0', '0', '0', '0'] },
      })
    }))

  test('that is a rebate lowers the cost', () =>
    rolledBack(async (tx) => {
      const trades = [trade(1, 'buy', '1', '100', { fee: '-2', fee_asset: 'USD' })]

      expect((await outcome(tx, trades)).lots).toEqual(['1/1 BTC for 98'])
    }))
})

describe('an asset paid with another one', () => {
  const swap = (more: Partial<Trade>) => [
    trade(1, 'buy', '1', '100'),
    trade(2, 'buy', '10', '0.05', { base: 'ETH', quote: 'BTC', ...more }),
  ]

  test('is sold at its price then, which is what the other one cost', () =>
    rolledBack(async (tx) => {
      const trades = swap({ quote_price: '160', fee: '0.1', fee_asset: 'BTC' })

      // 0.5 + 0.1 BTC at 160, of 100
      expect(await outcome(tx, trades)).toEqual({
        lots: ['0.4/1 BTC for 100', '10/10 ETH for 96'],
        positions: { BTC: ['36', '0', '0', '0'], ETH: ['0', '0', '0', '0'] },
      })
    }))

  test('without a price is reported: sold without a value, bought at an unknown cost', () =>
    rolledBack(async (tx) => {
      const trades = [...swap({}), trade(3, 'sell', '4', '9', { base: 'ETH' })]

      expect(await outcome(tx, trades)).toEqual({
        lots: ['0.5/1 BTC for 100', '6/10 ETH for ?'],
        positions: { BTC: ['0', '0', '0', '0.5'], ETH: ['0', '4', '36', '0'] },
      })
    }))

  test('is valued when its price comes later', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      await sync(tx, connection, { trades: swap({}) })

      const answer = await sync(tx, connection, { trades: swap({ quote_price: '160' }) })

      expect(answer.new_trades).toEqual([])
      expect(await lotsOf(tx, connection)).toEqual(['0.5/1 BTC for 100', '10/10 ETH for 80'])
      expect((await positionsOf(tx, connection)).BTC).toEqual(['30', '0', '0', '0'])
    }))

  test('the portfolio currency as base needs no price', () =>
    rolledBack(async (tx) => {
      const lira = { base: 'USD', quote: 'TRY', fee: '1', fee_asset: 'USD' }
      const trades = [trade(1, 'sell', '100', '40', lira), trade(2, 'buy', '50', '42', lira)]

      // 4000 TRY for 101; 2100 of them brought 49
      expect(await outcome(tx, trades)).toEqual({
        lots: ['1900/4000 TRY for 101'],
        positions: { TRY: ['-4.025', '0', '0', '0'] },
      })
    }))
})

describe('a sync', () => {
  test('that is sent twice changes nothing the second time', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const read = {
        trades: [trade(1, 'buy', '1', '100'), trade(2, 'sell', '0.5', '120'), trade(1, 'buy', '1', '100')],
      }

      const first = await sync(tx, connection, read)
      const second = await sync(tx, connection, read)

      expect([first.new_trades, second.new_trades]).toEqual([['t1', 't2'], []])
      expect(await positionsOf(tx, connection)).toEqual({ BTC: ['10', '0', '0', '0'] })
    }))

  test('brings a late trade to its place: everything after it is worked out again', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const trades = [trade(2, 'buy', '1', '100'), trade(3, 'sell', '1', '120')]
      await sync(tx, connection, { trades })

      await sync(tx, connection, { trades: [trade(1, 'buy', '1', '80')] })

      expect(await lotsOf(tx, connection)).toEqual(['1/1 BTC for 100'])
      expect(await positionsOf(tx, connection)).toEqual({ BTC: ['40', '0', '0', '0'] })
    }))

  test('replaces the holdings and tells its owner once, without secrets', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      await sync(tx, connection, { holdings: { BTC: '1', ETH: '2' }, prices: { BTC: '100', ETH: '10' } })

      const trades = [trade(1, 'buy', '3', '100')]
      const answer = await sync(tx, connection, { holdings: { BTC: '3', USD: '7' }, prices: { BTC: '110' }, trades })

      expect(answer).toMatchObject({ recorded: true, is_complete: true, value: 337, total: 337 })
      expect([
        ...(await tx`select asset, value::text from public.holdings where user_id = ${connection.account.id} order by 1`),
      ]).toEqual([
        { asset: 'BTC', value: '330' },
        { asset: 'USD', value: '7' },
      ])
      const told = await tx`
        select event, private, payload - 'taken_at' - 'id' as payload from realtime.messages
        where topic = ${`user:${connection.account.id}`} order by event, payload ->> 'value'`
      const about = { credential_id: connection.credentialId }
      const snapshot = (value: number) => ({ ...about, value, total: value, quote_currency: 'USD' })
      expect([...told]).toEqual([
        { event: 'snapshot', private: true, payload: snapshot(120) },
        { event: 'snapshot', private: true, payload: snapshot(337) },
        { event: 'trade', private: true, payload: { ...about, new_trades: 1 } },
      ])
    }))

  test('without any price takes no snapshot, and JSON’s null is as good as none', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      await sync(tx, connection, { holdings: { BTC: '1' }, prices: { BTC: '100' } })
      const leaseId = await lease(tx, connection)

      const [row] = await tx`
        select private.record_portfolio_sync(${leaseId}, '[{"asset": "BTC", "amount": 2}]', 'null', 'null', 'null') as answer`

      expect(row?.answer).toMatchObject({ recorded: true, is_complete: true, new_trades: [], taken_at: null })
      expect(await tx`select from public.portfolio_snapshots where user_id = ${connection.account.id}`).toHaveLength(2)
    }))
})

describe('a portfolio', () => {
  test('says by asset what is held, worth, paid, won, and what nobody knows', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const trades = [trade(1, 'buy', '2', '100'), trade(2, 'sell', '1', '150')]
      const holdings = { BTC: '1.5', USD: '50', XYZ: '9' }
      await sync(tx, connection, { holdings, prices: { BTC: '120' }, trades })

      const none = { unknown_cost_amount: '0', unknown_cost_sold: '0', unknown_cost_proceeds: '0', unvalued_sold: '0' }
      const of = { quote_currency: 'USD', price_path: null, realised: '0', unrealised: '0', cost: '0', ...none }
      expect(await portfolioOf(tx, connection)).toEqual([
        {
          ...of,
          asset: 'BTC',
          amount: '1.5',
          price: '120',
          value: '180',
          cost: '100',
          unrealised: '20',
          realised: '50',
          unknown_cost_amount: '0.5',
        },
        { ...of, asset: 'USD', amount: '50', price: '1', value: '50', cost: '50' },
        { ...of, asset: 'XYZ', amount: '9', price: null, value: null, unknown_cost_amount: '9' },
      ])
    }))

  test('adds up all exchanges, and forgets one whose credential is deleted; the totals of the past stay', () =>
    rolledBack(async (tx) => {
      const one = await newConnection(tx)
      const two = await newConnection(tx, { account: one.account })
      await sync(tx, one, { holdings: { BTC: '1' }, prices: { BTC: '100' }, trades: [trade(1, 'buy', '1', '80')] })
      await sync(tx, two, { holdings: { BTC: '2' }, prices: { BTC: '110' }, trades: [trade(1, 'buy', '2', '90')] })
      const [both] = await portfolioOf(tx, one)

      await tx`delete from public.credentials where id = ${one.credentialId}`

      expect(both).toMatchObject({ amount: '3', value: '320', cost: '260', unrealised: '60' })
      expect(await portfolioOf(tx, one)).toMatchObject([{ amount: '2', value: '220', cost: '180', unrealised: '40' }])
      const kept = await tx`
        select credential_id, value::int from public.portfolio_snapshots where user_id = ${one.account.id} order by value`
      expect([...kept]).toEqual([
        { credential_id: two.credentialId, value: 220 },
        { credential_id: null, value: 320 },
      ])
      expect(await lotsOf(tx, one)).toEqual([])
    }))

  test('less than the lots say was withdrawn, and took its share of the cost along', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const trades = [trade(1, 'buy', '1', '100'), trade(2, 'buy', '1', '200')]
      await sync(tx, connection, { holdings: { BTC: '0.5' }, prices: { BTC: '300' }, trades })

      expect(await portfolioOf(tx, connection)).toMatchObject([{ amount: '0.5', cost: '75', unrealised: '75' }])
    }))

  test('and its tables are its owner’s alone', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      await sync(tx, connection, { holdings: { BTC: '1' }, prices: { BTC: '1' }, trades: [trade(1, 'buy', '1', '1')] })
      const other = await newAccount(tx)
      const count = async (as: Tx) =>
        (
          await as`select (select count(*)::int from public.holdings) as holdings, (select count(*)::int from public.trades) as trades,
            (select count(*)::int from public.portfolio_snapshots) as snapshots, (select count(*)::int from public.get_my_portfolio()) as assets`
        )[0]

      expect(await asUser(tx, connection.account.id, count)).toEqual({
        holdings: 1,
        trades: 1,
        snapshots: 2,
        assets: 1,
      })
      expect(await asUser(tx, other.id, count)).toEqual({ holdings: 0, trades: 0, snapshots: 0, assets: 0 })
      for (const table of ['holdings', 'trades', 'portfolio_snapshots']) {
        const refused = await refusal(tx, (sp) =>
          asRole(sp, 'anon', { role: 'anon' }, (as) => as`select from ${as('public')}.${as(table)}`),
        )
        expect(refused.sqlstate).toBe('42501')
      }
    }))
})
