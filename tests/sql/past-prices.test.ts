/** What trades were worth that were paid in a third asset: whole syncs, from the stand-in exchanges into the database. */
import { afterEach, describe, expect, test } from 'vitest'
import { createPortfolioDatabase } from '../../functions/_shared/portfolio/portfolio-database.ts'
import { type Outcome, runSyncs } from '../../functions/_shared/portfolio/run-syncs.ts'
import { createWorld, type Name } from '../functions/exchanges-world.ts'
import { type Connection, lease, newConnection, positionsOf, record, trade } from './portfolio-support.ts'
import { asUser, rolledBack, type Tx } from './support.ts'

const exchanges = createWorld()
afterEach(() => exchanges.reset())

const isName = (exchange: string): exchange is Name => ['binance', 'coinbase', 'kraken'].includes(exchange)

type Account = Connection & { api_key: string; name: Name }

async function connected(tx: Tx, name: Name, trades: object[]): Promise<Account> {
  const connection = await newConnection(tx, { exchange: name })
  const key = await exchanges.makeKey(name, { balances: { BTC: '1' } })
  for (const [field, value] of Object.entries(key))
    if (field === 'api_key' || field === 'api_secret')
      await tx`select private.store_secret(${connection.credentialId}, ${connection.account.id}, ${field}, ${value})`
  await exchanges.addTrades(name, key.api_key, trades)
  return { ...connection, name, api_key: key.api_key }
}

/** As the job does it, which finds this credential only. `until` is reached at once when the clock says so. */
async function sync(tx: Tx, { credentialId }: Account, now: () => number = Date.now): Promise<Outcome | undefined> {
  await tx`
    update private.portfolio_syncs set next_sync_at = now() - interval '1 minute' where credential_id = ${credentialId}`
  const world = {
    database: createPortfolioDatabase(tx),
    connect: ({ exchange, credentials }: { exchange: string; credentials: Parameters<typeof exchanges.connect>[1] }) =>
      exchanges.connect(isName(exchange) ? exchange : 'kraken', credentials),
    now,
    log: () => {},
  }
  return (await runSyncs({ asker: null, requestId: 'r' }, world))[0]
}

const tradesOf = (tx: Tx, { account }: Account) =>
  asUser(tx, account.id, async (as) => {
    const rows = await as`
      select t.base || '/' || t.quote as market, trim_scale(t.quote_price)::text as quote, trim_scale(t.fee_price)::text as fee, t.price_gap as gap
      from public.trades t order by t.executed_at`
    return rows.map(({ market, quote, fee, gap }) => [market, quote, fee, gap])
  })

const candleCalls = async () => (await exchanges.calls()).filter(({ path }) => /klines|OHLC|candles/.test(path)).length

const dayMs = 86_400_000
/** Long ago, but not for Kraken's days. */
const old = Math.floor(Date.now() / dayMs) * dayMs - 100 * dayMs
const at = (minute: number) => old + minute * 60_000
const price = (minute: number, price: string) => ({ at_ms: at(minute) + 30_000, price })

describe('a trade that was paid in a third asset', () => {
  test('has the price of the minute that it was made in, and its profit follows', () =>
    rolledBack(async (tx) => {
      await exchanges.setHistory({ 'BTC/USDT': [price(0, '50000'), price(1, '60000'), price(2, '70000')] })
      await exchanges.setMarket('binance', 'BNB/USDT', 'open')
      await exchanges.setHistory({ 'BNB/USDT': [price(1, '600')] })
      const account = await connected(tx, 'binance', [
        { symbol: 'BTC/USDT', side: 'buy', amount: '1', price: '40000', at_ms: at(0) },
        {
          symbol: 'ETH/BTC',
          side: 'buy',
          amount: '10',
          price: '0.05',
          fee: '0.01',
          fee_asset: 'BNB',
          at_ms: at(1) + 59_999,
        },
      ])

      expect(await sync(tx, account)).toMatchObject({ status: 'synced', new_trades: 2 })

      expect(await tradesOf(tx, account)).toEqual([
        ['BTC/USDT', '1', null, null],
        ['ETH/BTC', '60000', '600', null],
      ])
      // Half a bitcoin that cost 20000 went at 30000.
      expect((await positionsOf(tx, account)).BTC).toEqual(['10000', '0', '0', '0'])
    }))

  test.each<[Name, string, string]>([
    ['binance', 'EUR/USDT', 'BTC/EUR'],
    ['coinbase', 'EUR/USD', 'BTC/EUR'],
    ['kraken', 'EUR/USD', 'BTC/EUR'],
  ])('of %s, in %s: has the hour’s where the minute has none, and the day’s where that has none', (name, way, market) =>
    rolledBack(async (tx) => {
      await exchanges.setMarket(name, way, 'open')
      // Kraken tells minutes of half a day, hours of a month and days of two years.
      const [hour, day] = [Date.now() - 10 * dayMs, old]
      await exchanges.setHistory({
        [way]: [
          { at_ms: Math.floor(hour / 3_600_000) * 3_600_000 + 1, price: '1.1' },
          { at_ms: day + 1, price: '1.2' },
        ],
      })
      const account = await connected(tx, name, [
        { symbol: market, side: 'buy', amount: '1', price: '100', at_ms: day + 20 * 3_600_000 },
        {
          symbol: market,
          side: 'buy',
          amount: '1',
          price: '100',
          at_ms: Math.floor(hour / 3_600_000) * 3_600_000 + 3_000_000,
        },
      ])

      await sync(tx, account)

      expect(await tradesOf(tx, account)).toEqual([
        [market, '1.2', null, null],
        [market, '1.1', null, null],
      ])
      const kept =
        await tx`select granularity, trim_scale(price)::text as price from private.past_prices where symbol = ${way} and price > 0 order by 1`
      expect(kept.map((row) => row.granularity + row.price)).toEqual(expect.arrayContaining(['1d1.2', '1h1.1']))
    }),
  )

  test('comes over two markets, one of them the other way round, as they were then', () =>
    rolledBack(async (tx) => {
      for (const symbol of ['SOL/XYZ', 'BTC/XYZ']) await exchanges.setMarket('binance', symbol, 'open')
      await exchanges.setHistory({ 'BTC/USDT': [price(0, '60000')], 'BTC/XYZ': [price(0, '120000')] })
      const account = await connected(tx, 'binance', [
        { symbol: 'SOL/XYZ', side: 'buy', amount: '1', price: '300', at_ms: at(0) },
      ])

      await sync(tx, account)

      expect(await tradesOf(tx, account)).toEqual([['SOL/XYZ', '0.5', null, null]])
    }))

  test('says so when no market leads to the currency, and when the exchange tells nothing of that time', () =>
    rolledBack(async (tx) => {
      await exchanges.setMarket('binance', 'QQQ/ABC', 'open')
      const account = await connected(tx, 'binance', [
        { symbol: 'QQQ/ABC', side: 'buy', amount: '1', price: '3', at_ms: at(0) },
        { symbol: 'ETH/BTC', side: 'buy', amount: '1', price: '0.05', at_ms: at(1) },
      ])

      await sync(tx, account)
      const asked = await candleCalls()
      await sync(tx, account)

      expect(await tradesOf(tx, account)).toEqual([
        ['QQQ/ABC', null, null, 'no_market'],
        ['ETH/BTC', null, null, 'no_history'],
      ])
      // What cannot be had is not asked for again.
      expect(await candleCalls()).toBe(asked)
    }))

  test('is asked for again after a day by its own account and any other, since an exchange may have been in trouble', () =>
    rolledBack(async (tx) => {
      const swap = [{ symbol: 'ETH/BTC', side: 'buy', amount: '1', price: '0.05', at_ms: at(1) }]
      const [first, second] = [await connected(tx, 'binance', swap), await connected(tx, 'binance', swap)]
      await sync(tx, first)
      await exchanges.setHistory({ 'BTC/USDT': [price(1, '60000')] })
      const later = async (hours: number) => {
        await tx`update private.past_prices set asked_at = asked_at - make_interval(hours => ${hours})`
        await tx`update private.portfolio_syncs set gaps_reopened_at = gaps_reopened_at - make_interval(hours => ${hours})`
      }

      await later(23)
      await sync(tx, first)
      expect(await tradesOf(tx, first)).toEqual([['ETH/BTC', null, null, 'no_history']])

      await later(2)
      await sync(tx, second)
      await sync(tx, first)
      for (const account of [first, second])
        expect(await tradesOf(tx, account)).toEqual([['ETH/BTC', '60000', null, null]])
    }))

  test('that its exchange cannot tell a week after it came is left alone', () =>
    rolledBack(async (tx) => {
      const account = await connected(tx, 'binance', [
        { symbol: 'ETH/BTC', side: 'buy', amount: '1', price: '0.05', at_ms: at(1) },
      ])
      await sync(tx, account)
      const asked = await candleCalls()
      await tx`update public.trades set created_at = created_at - interval '8 days' where credential_id = ${account.credentialId}`
      await tx`update private.past_prices set asked_at = asked_at - interval '8 days'`
      await tx`update private.portfolio_syncs set gaps_reopened_at = gaps_reopened_at - interval '8 days'`

      await sync(tx, account)

      expect(await candleCalls()).toBe(asked)
      expect(await tradesOf(tx, account)).toEqual([['ETH/BTC', null, null, 'no_history']])
    }))

  test('is kept for 90 days after it was told, and none that is told again is lost', () =>
    rolledBack(async (tx) => {
      const candle = (n: number, price: string | null) => ({
        ...{ symbol: 'AAA/BBB', granularity: '1m', starts_at: new Date(at(n)).toISOString(), price },
      })
      const save = (...told: object[]) =>
        tx`select private.save_past_prices('binance', ${JSON.stringify(told)}::text::jsonb)`
      await save(candle(1, '1'), candle(2, '2'), candle(3, null))
      await tx`
        update private.past_prices set asked_at = asked_at - interval '91 days'
        where symbol = 'AAA/BBB' and starts_at <> ${candle(2, null).starts_at}`

      await save(candle(3, '3'), candle(2, '9'))

      const kept = await tx`
        select trim_scale(price)::text as price from private.past_prices where symbol = 'AAA/BBB' order by starts_at`
      expect(kept.map((row) => row.price)).toEqual(['2', '3'])
    }))

  test('is not asked for by another account: what one was told is kept', () =>
    rolledBack(async (tx) => {
      await exchanges.setHistory({ 'BTC/USDT': [price(1, '60000')] })
      const swap = [{ symbol: 'ETH/BTC', side: 'buy', amount: '1', price: '0.05', at_ms: at(1) }]
      const first = await connected(tx, 'binance', swap)
      await sync(tx, first)
      const asked = await candleCalls()

      const second = await connected(tx, 'binance', swap)
      await sync(tx, second)

      expect(asked).toBe(1)
      expect(await candleCalls()).toBe(1)
      expect(await tradesOf(tx, second)).toEqual([['ETH/BTC', '60000', null, null]])
    }))

  test('of thousands are asked for in few requests, and the rest by later syncs', () =>
    rolledBack(async (tx) => {
      // One a day in each of 90 days: a request of minutes reaches none but its own.
      const days = Array.from({ length: 90 }, (_, n) => old + n * dayMs)
      await exchanges.setHistory({ 'BTC/USDT': days.map((ms) => ({ at_ms: ms + 1, price: '60000' })) })
      const account = await connected(
        tx,
        'binance',
        days.map((ms) => ({ symbol: 'ETH/BTC', side: 'buy', amount: '1', price: '0.05', at_ms: ms })),
      )
      const left = async () => (await tradesOf(tx, account)).filter(([, , , gap]) => gap === 'not_asked').length

      expect(await sync(tx, account)).toMatchObject({ status: 'synced' })
      expect([await candleCalls(), await left()]).toEqual([30, 60])

      await sync(tx, account)
      await sync(tx, account)
      expect([await candleCalls(), await left()]).toEqual([90, 0])
    }))

  test('waits for a later sync when the exchange does not answer, and what is held is recorded all the same', () =>
    rolledBack(async (tx) => {
      const { connect } = exchanges
      const account = await connected(tx, 'binance', [
        { symbol: 'ETH/BTC', side: 'buy', amount: '1', price: '0.05', at_ms: at(1) },
      ])
      await exchanges.setHistory({ 'BTC/USDT': [price(1, '60000')] })
      exchanges.connect = async (name, key) =>
        await connect(name, key, {
          fetch: (input, init) =>
            String(input).includes('klines')
              ? Promise.resolve(new Response('', { status: 503 }))
              : exchanges.world.fetch(input, init),
        })

      const outcome = await sync(tx, account).finally(() => Object.assign(exchanges, { connect }))

      expect(outcome).toMatchObject({ status: 'synced' })
      expect(await tradesOf(tx, account)).toEqual([['ETH/BTC', null, null, 'not_asked']])
      await sync(tx, account)
      expect(await tradesOf(tx, account)).toEqual([['ETH/BTC', '60000', null, null]])
    }))

  test('is refused by an exchange that limits our rate: what is held is recorded, and the exchange rests for everybody', () =>
    rolledBack(async (tx) => {
      const { connect } = exchanges
      const account = await connected(tx, 'binance', [
        { symbol: 'ETH/BTC', side: 'buy', amount: '1', price: '0.05', at_ms: at(1) },
      ])
      const headers = { 'retry-after': '100' }
      exchanges.connect = async (name, key) =>
        await connect(name, key, {
          fetch: (input, init) =>
            String(input).includes('klines')
              ? Promise.resolve(new Response('', { status: 429, headers }))
              : exchanges.world.fetch(input, init),
        })

      const outcome = await sync(tx, account).finally(() => Object.assign(exchanges, { connect }))

      expect(outcome).toMatchObject({ status: 'synced' })
      expect(await tradesOf(tx, account)).toEqual([['ETH/BTC', null, null, 'not_asked']])
      const [rest] = await tx`
        select extract(epoch from paused_until - now())::int as seconds from private.exchange_pauses
        where exchange_id = 'binance'`
      expect(rest).toEqual({ seconds: 100 })
      expect(await sync(tx, account)).toBeUndefined()
    }))
})

describe('a price that comes late', () => {
  const swap = trade(2, 'buy', '10', '0.05', { base: 'ETH', quote: 'BTC', fee: '0.1', fee_asset: 'BNB' })
  const trades = [trade(1, 'buy', '1', '100'), swap, trade(3, 'sell', '10', '20', { base: 'ETH' })]
  const told = (tx: Tx, leaseId: string, prices: object[]) =>
    tx`select private.price_trades(${leaseId}, ${JSON.stringify(prices)}::text::jsonb) as answer`

  const replay = (tx: Tx, leaseId: string) => tx`select private.replay_priced_trades(${leaseId}) as is_ours`

  test('has everything after it worked out again, and may come one by one', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const id = await lease(tx, connection)
      await record(tx, id, { holdings: null, trades })

      await told(tx, id, [{ id: 't2', quote_price: '160', fee_price: null, gap: 'not_asked' }])
      const [half] =
        await tx`select quote_price::text, price_gap from public.trades where exchange_trade_id = 't2' and credential_id = ${connection.credentialId}`
      const [answer] = await told(tx, id, [{ id: 't2', fee_price: '60', gap: null }])

      expect(half).toEqual({ quote_price: '160', price_gap: 'not_asked' })
      expect(answer?.answer).toEqual({ recorded: true, priced: 1 })
      expect((await positionsOf(tx, connection)).ETH).toEqual(['0', '10', '200', '0'])
      expect((await replay(tx, id))[0]?.is_ours).toBe(true)
      // BTC: 80 - 50; ETH: 200 - 80 - 6; BNB came without a trade.
      expect(await positionsOf(tx, connection)).toEqual({
        BNB: ['0', '0.1', '6', '0'],
        BTC: ['30', '0', '0', '0'],
        ETH: ['114', '0', '0', '0'],
      })
    }))

  test('is worked out by the next sync when the one that was told it died, and once', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const id = await lease(tx, connection)
      await record(tx, id, { holdings: null, trades })
      await told(tx, id, [{ id: 't2', quote_price: '160', fee_price: '60', gap: null }])
      await tx`update private.portfolio_syncs set leased_until = now() where credential_id = ${connection.credentialId}`

      const next = await lease(tx, connection)
      const answers = [await replay(tx, id), await replay(tx, next)].map(([row]) => row?.is_ours)

      expect(answers).toEqual([false, true])
      expect((await positionsOf(tx, connection)).ETH).toEqual(['114', '0', '0', '0'])
      const left = await tx`select from private.portfolio_replays where credential_id = ${connection.credentialId}`
      expect(left).toHaveLength(0)
    }))

  test('is told with the lease only, is never changed again, and one that says nothing is none', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const id = await lease(tx, connection)
      await record(tx, id, { holdings: null, trades })

      const [stranger] = await told(tx, crypto.randomUUID(), [{ id: 't2', quote_price: '1', gap: null }])
      await told(tx, id, [{ id: 't2', quote_price: '160', fee_price: '0', gap: null }])
      await told(tx, id, [{ id: 't2', quote_price: '1', fee_price: '2', gap: null }])
      await told(tx, id, [{ id: 't1', quote_price: '9', gap: null }])

      expect(stranger?.answer).toEqual({ recorded: false })
      const rows = await tx`
        select exchange_trade_id as id, quote_price::text as quote, fee_price::text as fee, price_gap from public.trades
        where credential_id = ${connection.credentialId} order by 1`
      expect([...rows]).toEqual([
        { id: 't1', quote: null, fee: null, price_gap: null },
        { id: 't2', quote: '160', fee: '2', price_gap: null },
        { id: 't3', quote: null, fee: null, price_gap: null },
      ])
    }))
})
