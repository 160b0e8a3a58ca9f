/** Our reading of exchanges, with ccxt against the stand-ins: every request is signed and checked as the real ones do. */
import { expect, test } from 'vitest'
import { z } from 'zod'
import { type Connection, connectExchange } from '../../functions/_shared/exchanges/connect.ts'
import { readHoldings } from '../../functions/_shared/exchanges/read-holdings.ts'
import type { Trade } from '../../functions/_shared/exchanges/read-trade-page.ts'
import { readTradesSince } from '../../functions/_shared/exchanges/read-trades.ts'
import { testConnection } from '../../functions/_shared/exchanges/test-connection.ts'
import { readPrices } from '../../functions/_shared/portfolio/price-paths.ts'
import { createWorld, names } from './exchanges-world.ts'

const hourAgo = Date.now() - 3_600_000
const symbols = { binance: 'BTC/USDT', coinbase: 'BTC/USD', kraken: 'BTC/USD' }
const trade = (symbol: string, at_ms: number, more: object = {}) => ({
  symbol,
  side: 'buy',
  amount: '0.12345678',
  price: '64000.01',
  fee: '12.3456789',
  at_ms,
  ...more,
})

test.each(names)('%s: a good key works, and what it may do is known', async (exchange) => {
  const { makeKey, connect } = createWorld()
  const reading = await connect(exchange, await makeKey(exchange))
  const withdrawing = await connect(exchange, await makeKey(exchange, { permissions: ['read', 'trade', 'withdraw'] }))

  const harmless = await testConnection(reading)
  const mighty = await testConnection(withdrawing)

  expect(harmless).toMatchObject({ ok: true, can_withdraw: false, can_trade: false })
  expect(mighty).toMatchObject({ ok: true, can_withdraw: true, can_trade: true })
})

test.each(names)(
  '%s: holdings are the exact sums of what is free and what is bound, without zeros',
  async (exchange) => {
    const { makeKey, connect } = createWorld()
    const balances = {
      BTC: { free: '0.100000000000000001', used: '0.02' },
      ETH: '12345678901234567.12',
      SOL: '0',
      EUR: '1.10',
    }
    const connection = await connect(exchange, await makeKey(exchange, { balances }))

    const { holdings, skipped } = await readHoldings(connection)

    expect(holdings.toSorted((a, b) => a.asset.localeCompare(b.asset))).toEqual([
      { asset: 'BTC', amount: '0.120000000000000001', name: 'BTC' },
      { asset: 'ETH', amount: '12345678901234567.12', name: 'ETH' },
      { asset: 'EUR', amount: expect.stringMatching(/^1\.10?$/), name: 'EUR' },
    ])
    expect(skipped).toEqual([])
  },
)

test.each(names)('%s: prices are the last ones, as decimal strings', async (exchange) => {
  const { makeKey, connect, setPrices } = createWorld()
  const quote = exchange === 'binance' ? 'USDT' : 'USD'
  await setPrices({ [`BTC/${quote}`]: '70123.45678901' })
  const connection = await connect(exchange, await makeKey(exchange))

  const prices = await readPrices(connection, ['BTC', quote, 'NOSUCH'], quote)

  expect(prices).toEqual([
    { asset: quote, price: '1', path: [] },
    { asset: 'BTC', price: '70123.45678901', path: [`BTC/${quote}`] },
  ])
})

test.each(names)('%s: a trade keeps its digits', async (exchange) => {
  const { makeKey, connect, addTrades } = createWorld()
  const key = await makeKey(exchange)
  const symbol = symbols[exchange]
  const [base, quote] = symbol.split('/')
  const { trades } = await addTrades(exchange, key.api_key, [trade(symbol, hourAgo, { side: 'sell' })])

  const found = await readAll(await connect(exchange, key), null)

  expect(found.trades).toEqual([
    {
      exchange_trade_id: exchange === 'binance' ? `${symbol}:${trades[0]?.id}` : trades[0]?.id,
      symbol,
      base,
      quote,
      side: 'sell',
      amount: '0.12345678',
      price: '64000.01',
      fee: '12.3456789',
      fee_asset: quote,
      executed_at: new Date(hourAgo).toISOString(),
    },
  ])
})

const manyOf = { binance: 2_100, coinbase: 610, kraken: 120 }

test.each(names)('%s: who dies after a page goes on from its cursor and has every trade once', async (exchange) => {
  const { makeKey, connect, addTrades } = createWorld()
  const key = await makeKey(exchange)
  // Several within one millisecond, and in two markets.
  const symbolAt = (i: number) => (i % 7 === 0 ? symbols[exchange].replace('BTC', 'ETH') : symbols[exchange])
  const many = Array.from({ length: manyOf[exchange] }, (_, i) => trade(symbolAt(i), hourAgo + Math.floor(i / 5)))
  await addTrades(exchange, key.api_key, many)
  const stored: Trade[] = []
  let cursor: unknown = null

  for (const dies of [true, true, false]) {
    for await (const page of readTradesSince(await connect(exchange, key), cursor, { assets: ['BTC', 'ETH'] })) {
      stored.push(...page.trades)
      cursor = JSON.parse(JSON.stringify(page.cursor))
      if (dies) break
    }
    await addTrades(exchange, key.api_key, [trade(symbols[exchange], Date.now())])
  }

  const old = stored.filter(({ executed_at }) => Date.parse(executed_at) < hourAgo + 3_000_000)
  expect(new Set(stored.map(({ exchange_trade_id }) => exchange_trade_id)).size).toBe(stored.length)
  expect(old).toHaveLength(many.length)
})

test.each(names)('%s: what is traded after a run is in the next run, and only that', async (exchange) => {
  const { makeKey, connect, addTrades } = createWorld()
  const key = await makeKey(exchange)
  const secondsAgo = (s: number) => Date.now() - s * 1000
  const read = async (cursor: unknown, agoS: number) =>
    readAll(await connect(exchange, key, { now: () => secondsAgo(agoS) }), cursor)
  await addTrades(exchange, key.api_key, [trade(symbols[exchange], secondsAgo(60))])

  const first = await read(null, 30)
  const [late] = (await addTrades(exchange, key.api_key, [trade(symbols[exchange], secondsAgo(35))])).trades
  const second = await read(first.cursor, 0)
  const third = await read(second.cursor, 0)

  expect(first.trades).toHaveLength(1)
  expect(second.trades.map(({ exchange_trade_id }) => exchange_trade_id)).toEqual([
    expect.stringContaining(late?.id ?? '-'),
  ])
  expect(third.trades).toEqual([])
})

async function readAll(connection: Connection, from: unknown) {
  const trades: Trade[] = []
  let cursor = from
  for await (const page of readTradesSince(connection, from, { assets: ['BTC', 'ETH'] })) {
    trades.push(...page.trades)
    cursor = page.cursor
  }
  return { trades, cursor }
}

test('an exchange itself is never asked faster than it wants to be, whatever gap stand-ins get', async () => {
  const times: number[] = []
  const fetch = async () => {
    times.push(performance.now())
    return Response.json({ data: { iso: '2025-01-01T00:00:00Z', epoch: 1735689600 } })
  }
  const credentials = { api_key: 'k', api_secret: 's' }
  const connection = await connectExchange({ exchange: 'coinbase', credentials }, { fetch, now: Date.now, gapMs: 1 })

  for (let n = 0; n < 2; n += 1) await connection.call(z.unknown(), 'fetchTime')

  const [first = 0, second = 0] = times
  expect(second - first).toBeGreaterThan(200)
})
