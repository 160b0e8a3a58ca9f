/** What strategies made: worked out by hand, and for anything else against a plain calculation. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { runs } from '../support/runs.ts'
import { calculate, digits, inOrder, type Sale, someTrades, text } from './portfolio-calculation.ts'
import { type Connection, minute, newConnection, sync, type Trade, trade } from './portfolio-support.ts'
import { asUser, newAccount, refusal, rolledBack, type Tx } from './support.ts'

type Told = {
  strategy: string | null
  trades: string
  closed_trades: string
  winning_trades: string
  win_rate: string | null
  realised: string
  max_drawdown: string
  held_seconds: string | null
  unknown_trades: string
  days: string
  first: string
  last: string
}

const strategiesOf = async (
  tx: Tx,
  { account }: Connection,
  groupBy = 'tag',
  from: string | null = null,
  to: string | null = null,
) => {
  const rows = await asUser(
    tx,
    account.id,
    (
      as,
    ) => as`select s.*, s.realised::text as realised, s.max_drawdown::text as max_drawdown, s.win_rate::text as win_rate
      from public.get_my_strategies(${groupBy}, ${from}, ${to}) s`,
  )
  return rows.map(
    (row): Told => ({
      ...{ strategy: row.strategy, trades: row.trades, closed_trades: row.closed_trades, win_rate: row.win_rate },
      ...{ winning_trades: row.winning_trades, realised: row.realised, max_drawdown: row.max_drawdown },
      ...{ held_seconds: row.held_seconds, unknown_trades: row.unknown_trades, days: JSON.stringify(row.days) },
      ...{ first: row.first_trade_at.toISOString(), last: row.last_trade_at.toISOString() },
    }),
  )
}

const tag = (
  tx: Tx,
  { account, credentialId }: Connection,
  tagged: string | null,
  what: { ids?: string[]; symbol?: string },
) =>
  asUser(tx, account.id, async (as) => {
    const [row] = await as`
      select public.tag_my_trades(${credentialId}, ${tagged}, ${what.ids ?? null}, ${what.symbol ?? null}) as changed`
    return row?.changed
  })

describe('strategies', () => {
  test('of nobody’s trades are none, and of trades that sold nothing say so', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      expect(await strategiesOf(tx, connection)).toEqual([])
      expect(await strategiesOf(tx, connection, 'asset')).toEqual([])

      await sync(tx, connection, { trades: [trade(1, 'buy', '1', '100')] })

      const nothing = { closed_trades: '0', winning_trades: '0', win_rate: null, realised: '0', max_drawdown: '0' }
      const once = {
        trades: '1',
        held_seconds: null,
        unknown_trades: '0',
        days: '[]',
        first: minute(1),
        last: minute(1),
      }
      expect(await strategiesOf(tx, connection)).toEqual([{ strategy: null, ...nothing, ...once }])
      expect(await strategiesOf(tx, connection, 'asset')).toEqual([{ strategy: 'BTC', ...nothing, ...once }])
    }))

  test('have the profit, the wins, the deepest fall and the time held that a hand works out', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      await sync(tx, connection, {
        trades: [
          trade(0, 'buy', '4', '100'),
          ...[trade(1, 'sell', '1', '130'), trade(2, 'sell', '1', '80'), trade(3, 'sell', '1', '95')],
          trade(1440, 'sell', '1', '105'),
        ],
      })

      // +30, -20, -5, +5: 30 at its peak and 5 after it; held 1, 2, 3 and 1440 minutes, each for a cost of 100.
      expect(await strategiesOf(tx, connection)).toEqual([
        {
          ...{
            strategy: null,
            trades: '5',
            closed_trades: '4',
            winning_trades: '2',
            win_rate: '0.5',
            realised: '10',
          },
          ...{ max_drawdown: '25', held_seconds: '21690', unknown_trades: '0', first: minute(0), last: minute(1440) },
          days: JSON.stringify([
            { day: '2024-01-02', realised: 5, closed_trades: 3, winning_trades: 1 },
            { day: '2024-01-03', realised: 5, closed_trades: 1, winning_trades: 1 },
          ]),
        },
      ])
    }))

  test('fall from nothing, too: a strategy that only lost fell by all of it', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      await sync(tx, connection, {
        trades: [trade(0, 'buy', '2', '100'), trade(1, 'sell', '1', '90'), trade(2, 'sell', '1', '70')],
      })

      expect(await strategiesOf(tx, connection)).toMatchObject([{ realised: '-40', max_drawdown: '40', win_rate: '0' }])
    }))

  test('are what their owner tags, by trade before by market, and a sale belongs to who sold', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const eth = { base: 'ETH' }
      await sync(tx, connection, {
        trades: [
          ...[trade(1, 'buy', '2', '100'), trade(2, 'sell', '1', '110'), trade(3, 'sell', '1', '120')],
          ...[trade(4, 'buy', '1', '10', eth), trade(5, 'sell', '1', '9', eth)],
        ],
      })

      expect(await tag(tx, connection, 'swing', { symbol: 'BTC/USD' })).toBe(1)
      expect(await tag(tx, connection, 'exit', { ids: ['t3', 'unknown'] })).toBe(1)

      const made = (await strategiesOf(tx, connection)).map(({ strategy, trades, realised }) => [
        strategy,
        trades,
        realised,
      ])
      expect(made).toEqual([
        ['exit', '1', '20'],
        ['swing', '2', '10'],
        [null, '2', '-1'],
      ])
      // The market's tag is that of trades to come, too, and goes as it came.
      await sync(tx, connection, { trades: [trade(6, 'buy', '1', '1')] })
      expect((await strategiesOf(tx, connection))[1]).toMatchObject({ strategy: 'swing', trades: '3' })
      await tag(tx, connection, null, { symbol: 'BTC/USD' })
      await tag(tx, connection, null, { ids: ['t3'] })
      expect((await strategiesOf(tx, connection)).map(({ strategy }) => strategy)).toEqual([null])
    }))

  test('by asset have each asset that was sold, also as a fee, which is no closed trade', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const bnb = { fee: '0.1', fee_asset: 'BNB', fee_price: '60' }
      await sync(tx, connection, {
        trades: [
          trade(0, 'buy', '1', '50', { base: 'BNB' }),
          trade(1, 'buy', '1', '100', bnb),
          trade(2, 'sell', '1', '150', bnb),
        ],
      })

      // BTC: 150 - 6 - 106; BNB: twice 6 - 5.
      expect(await strategiesOf(tx, connection, 'asset')).toMatchObject([
        { strategy: 'BTC', trades: '2', closed_trades: '1', winning_trades: '1', realised: '38' },
        { strategy: 'BNB', trades: '3', closed_trades: '0', win_rate: null, realised: '2' },
      ])
    }))

  test('say how many trades have a profit that nobody knows', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      await sync(tx, connection, {
        trades: [trade(1, 'buy', '1', '10'), trade(2, 'sell', '3', '20'), trade(3, 'sell', '1', '20')],
      })

      expect(await strategiesOf(tx, connection)).toMatchObject([
        { closed_trades: '1', winning_trades: '1', realised: '10', unknown_trades: '2' },
      ])
    }))

  test('are each owner’s own', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      await sync(tx, connection, { trades: [trade(1, 'buy', '1', '10')] })
      await tag(tx, connection, 'mine', { symbol: 'BTC/USD' })
      const other = await newConnection(tx)

      const stolen = await refusal(tx, (sp) =>
        tag(sp, { ...connection, account: other.account }, 'theirs', { ids: ['t1'] }),
      )
      const missing = await refusal(tx, (sp) =>
        tag(sp, { ...other, credentialId: crypto.randomUUID() }, 'x', { ids: ['t1'] }),
      )

      expect([stolen.code, stolen.message]).toEqual([missing.code, missing.message])
      expect(stolen.code).toBe('not_found')
      expect(await strategiesOf(tx, other)).toEqual([])
      expect(await asUser(tx, other.account.id, (as) => as`select from public.trade_tag_rules`)).toHaveLength(0)
      expect(await asUser(tx, connection.account.id, (as) => as`select from public.trade_tag_rules`)).toHaveLength(1)
    }))

  test.each<[string, string | null, { ids?: string[]; symbol?: string }]>([
    ['nothing to tag', 'x', {}],
    ['both kinds at once', 'x', { ids: ['t1'], symbol: 'BTC/USD' }],
    ['a tag of no letters', '', { ids: ['t1'] }],
    ['a tag with a space around it', ' x', { ids: ['t1'] }],
    ['a tag of two lines', 'a\nb', { ids: ['t1'] }],
    ['a tag of 61 letters', 'x'.repeat(61), { ids: ['t1'] }],
    ['a market without a quote', 'x', { symbol: 'BTC' }],
    ['a market of three', 'x', { symbol: 'BTC/USD/EUR' }],
    ['more than 1000 trades', 'x', { ids: Array.from({ length: 1001 }, (_, n) => `t${n}`) }],
  ])('refuse %s', (_, name, what) =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)

      expect((await refusal(tx, (sp) => tag(sp, connection, name, what))).code).toBe('invalid_request_error')
    }),
  )

  test('refuse a grouping that there is not, and a range that ends before it begins', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)

      const ask = (by: string, to: string) => refusal(tx, (sp) => strategiesOf(sp, connection, by, minute(2), to))
      expect((await ask('colour', minute(3))).code).toBe('invalid_request_error')
      expect((await ask('tag', minute(2))).code).toBe('invalid_request_error')
    }))

  test('have tags for so many markets and no more', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      await tx`
        insert into public.trade_tag_rules (credential_id, base, quote, user_id, tag)
        select ${connection.credentialId}, 'A' || n, 'USD', ${connection.account.id}, 'x' from generate_series(1, 500) n`

      expect(await tag(tx, connection, 'y', { symbol: 'A1/USD' })).toBe(1)
      expect((await refusal(tx, (sp) => tag(sp, connection, 'y', { symbol: 'B/USD' }))).code).toBe(
        'invalid_request_error',
      )
    }))
})

// The plain calculation -----------------------------------------------------------------------------------------------------

type Book = { name: string; trades: Trade[]; tags: Map<string, string>; rules: Map<string, string> }

const book = (name: string) =>
  fc
    .record({ all: someTrades, tags: fc.array(fc.constantFrom('', 'a', 'b')), rule: fc.constantFrom('', 'a', 'r') })
    .map(
      ({ all, tags, rule }): Book => ({
        name,
        trades: all,
        tags: new Map(all.flatMap(({ id }, n) => (tags[n] ? [[id, tags[n]]] : []))),
        rules: new Map(rule ? [['BTC/USD', rule]] : []),
      }),
    )

const tagOf = ({ tags, rules }: Book, { id, base, quote }: Trade) =>
  tags.get(id) ?? rules.get(`${base}/${quote}`) ?? null

type Row = { strategy: string | null; book: Book; trade: Trade; sales: Sale[] }

/** Every trade under its strategies, with what it sold there. */
function rowsOf(book: Book, byAsset: boolean): Row[] {
  const { sales } = calculate(book.trades)
  return book.trades.flatMap((trade) => {
    const own = sales.filter(({ id }) => id === trade.id)
    if (!byAsset) return [{ strategy: tagOf(book, trade), book, trade, sales: own }]
    const moved = [
      trade.base,
      trade.quote,
      ...(digits(trade.fee ?? '0') !== 0n && trade.fee_asset ? [trade.fee_asset] : []),
    ]
    return [...new Set(moved)]
      .filter((asset) => asset !== 'USD')
      .map((asset) => ({
        ...{ strategy: asset, book, trade },
        sales: own.filter((sale) => sale.asset === asset),
      }))
  })
}

const profitOf = ({ sales }: Row) => sales.reduce((sum, { profit }) => sum + (profit ?? 0n), 0n)
const isClosed = ({ sales, trade }: Row) =>
  sales.some(({ asset, profit }) => profit !== null && [trade.base, trade.quote].includes(asset))

function tell(strategy: string | null, rows: Row[]) {
  const sold = rows.filter(({ sales }) => sales.length > 0)
  const [closed, won] = [sold.filter(isClosed).length, sold.filter((row) => isClosed(row) && profitOf(row) > 0n).length]
  let [total, peak, fall] = [0n, 0n, 0n]
  for (const row of sold) {
    total += profitOf(row)
    if (total > peak) peak = total
    if (peak - total > fall) fall = peak - total
  }
  const known = sold
    .flatMap(({ sales }) => sales)
    .filter(({ profit, cost }) => profit !== null && cost !== null && cost > 0n)
  const cost = known.reduce((sum, sale) => sum + (sale.cost ?? 0n), 0n)
  const held = known.reduce(
    (sum, sale) => sum + ((sale.cost ?? 0n) * BigInt(Date.parse(sale.at) - Date.parse(sale.since ?? sale.at))) / 1000n,
    0n,
  )
  const day = { day: '2024-01-02', realised: text(total), closed_trades: closed, winning_trades: won }
  return {
    ...{ strategy, trades: String(rows.length), closed_trades: String(closed), winning_trades: String(won) },
    win_rate: closed === 0 ? null : String(Math.round((won * 10_000) / closed) / 10_000),
    ...{ realised: text(total), max_drawdown: text(fall), held_seconds: cost > 0n ? String(held / cost) : null },
    unknown_trades: String(sold.filter(({ sales }) => sales.some(({ profit }) => profit === null)).length),
    ...{ days: sold.length > 0 ? [day] : [], first: rows[0]?.trade.executed_at, last: rows.at(-1)?.trade.executed_at },
  }
}

function calculateStrategies(
  books: Book[],
  order: (a: Row, b: Row) => number,
  byAsset: boolean,
  from: string,
  to: string,
) {
  const rows = books
    .flatMap((book) => rowsOf(book, byAsset))
    .filter(({ trade }) => trade.executed_at >= from && trade.executed_at < to)
    .sort(order)
  return [...new Set(rows.map(({ strategy }) => strategy))].map((name) =>
    tell(
      name,
      rows.filter(({ strategy }) => strategy === name),
    ),
  )
}

const byName = (a: { strategy: string | null }, b: { strategy: string | null }) =>
  (a.strategy ?? '~') < (b.strategy ?? '~') ? -1 : 1

test(
  'any trades, tags and range give what a plain calculation gives',
  () =>
    rolledBack(async (tx) => {
      const span = fc.constantFrom([0, 60] as const, [3, 60] as const, [0, 9] as const, [5, 12] as const)
      await fc.assert(
        fc.asyncProperty(book('one'), book('two'), span, fc.boolean(), async (one, two, [start, end], byAsset) => {
          const account = await newAccount(tx)
          const ids = new Map<Book, string>()
          for (const book of [one, two]) {
            const connection = await newConnection(tx, { account })
            ids.set(book, connection.credentialId)
            await sync(tx, connection, { trades: book.trades })
            for (const [symbol, name] of book.rules) await tag(tx, connection, name, { symbol })
            for (const [id, name] of book.tags) await tag(tx, connection, name, { ids: [id] })
          }

          const found = await strategiesOf(
            tx,
            { account, credentialId: '', exchange: '' },
            byAsset ? 'asset' : 'tag',
            minute(start),
            minute(end),
          )

          const order = (a: Row, b: Row) =>
            a.trade.executed_at.localeCompare(b.trade.executed_at) ||
            (ids.get(a.book) ?? '').localeCompare(ids.get(b.book) ?? '') ||
            inOrder(a.trade, b.trade)
          const expected = calculateStrategies([one, two], order, byAsset, minute(start), minute(end))
          const asText = found.map((row) => ({
            ...row,
            days: JSON.parse(row.days.replaceAll(/("realised": ?)(-?[\d.e-]+)/g, '$1"$2"')),
          }))
          const plain = expected.map((row) => ({
            ...row,
            days: row.days.map((day) => ({ ...day, realised: String(Number(day.realised)) })),
          }))
          expect(asText.sort(byName)).toEqual(plain.sort(byName))
        }),
        { numRuns: runs(40) },
      )
    }),
  120_000,
)
