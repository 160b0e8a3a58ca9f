/** Trades of markets that are on no list any more, and rows that are no trades, with ccxt against the stand-ins. */
import { describe, expect, test } from 'vitest'
import { splitKrakenName } from '../../functions/_shared/exchanges/name-kraken-market.ts'
import type { TradePage } from '../../functions/_shared/exchanges/read-trade-page.ts'
import { readTradesSince } from '../../functions/_shared/exchanges/read-trades.ts'
import { symbolsOf } from '../../stack/doubles/exchanges/markets.ts'
import { createWorld, type Name, names } from './exchanges-world.ts'

const minute = (n: number) => Date.UTC(2025, 0, 2, 0, n)
const buy = (symbol: string, n: number, more: object = {}) => ({
  ...{ symbol, side: 'buy', amount: '1', price: '2', fee: '0.01', at_ms: minute(n) },
  ...more,
})

async function scene(exchange: Name, trades: object[] = []) {
  const world = createWorld()
  const key = await world.makeKey(exchange)
  if (trades.length > 0) await world.addTrades(exchange, key.api_key, trades)
  const read = async (cursor: unknown = null, assets: string[] = [], now: () => number = Date.now) => {
    const pages: TradePage[] = []
    const connection = await world.connect(exchange, key, { now })
    for await (const page of readTradesSince(connection, cursor, { assets })) pages.push(page)
    const last: unknown = JSON.parse(JSON.stringify(pages.at(-1)?.cursor ?? cursor))
    return {
      trades: pages.flatMap((page) => page.trades),
      skipped: pages.flatMap((page) => page.skipped),
      cursor: last,
      pages,
    }
  }
  return { world, key, read, add: (more: object[]) => world.addTrades(exchange, key.api_key, more) }
}

describe('a market that its exchange has no more', () => {
  test.each(['coinbase', 'kraken'] as const)('%s: its trades are read by its name', async (exchange) => {
    const { read } = await scene(exchange, [buy('ICN/ETH', 1), buy('LUNAX/USD', 2), buy('BTC/USD', 3)])

    const { trades, skipped } = await read()

    expect(skipped).toEqual([])
    expect(trades).toMatchObject([
      { symbol: 'ICN/ETH', base: 'ICN', quote: 'ETH', fee: '0.01', fee_asset: 'ETH', price: '2' },
      { symbol: 'LUNAX/USD', base: 'LUNAX', quote: 'USD', fee_asset: 'USD' },
      { symbol: 'BTC/USD' },
    ])
  })

  test('binance: one that trades no more is read to its end once, and again when it trades again', async () => {
    const { world, read, add } = await scene('binance')
    await world.setMarket('binance', 'VEN/BTC', 'closed')
    await add([buy('VEN/BTC', 1), buy('VEN/BTC', 2)])

    const first = await read(null, ['VEN'])
    const asked = await asksOf(world, () => read(first.cursor, ['VEN']))
    await world.setMarket('binance', 'VEN/BTC', 'open')
    await add([buy('VEN/BTC', 3)])
    const third = await read(first.cursor, ['VEN'])

    expect(first.trades.map(({ symbol }) => symbol)).toEqual(['VEN/BTC', 'VEN/BTC'])
    expect(first.cursor).toMatchObject({ closed: ['VEN/BTC'] })
    // Those that trade, each once.
    expect(asked).toBe(symbolsOf.binance.length)
    expect(third.trades).toMatchObject([{ exchange_trade_id: 'VEN/BTC:102' }])
  })

  test('binance: one that is gone is asked no more, and stops nothing', async () => {
    const { world, read, add } = await scene('binance')
    await world.setMarket('binance', 'VEN/BTC', 'open')
    await add([buy('VEN/BTC', 1)])
    const { cursor } = await read(null, ['VEN'])
    await world.setMarket('binance', 'VEN/BTC', 'gone')
    await add([buy('BTC/USDT', 2)])

    const { trades } = await read(cursor, ['VEN'])

    expect(trades.map(({ symbol }) => symbol)).toEqual(['BTC/USDT'])
  })
})

describe('binance: what is not held', () => {
  const more = Array.from({ length: 45 }, (_, n) => `M${String(n).padStart(2, '0')}/USDT`)

  test('is asked in turn, a few markets with every reading, until everything was', async () => {
    const { world, read, add } = await scene('binance')
    for (const symbol of more) await world.setMarket('binance', symbol, 'open')
    await add(more.map((symbol, n) => buy(symbol, n)))
    const found: string[] = []
    let cursor: unknown = null

    for (let n = 0; n < 3; n += 1) {
      const read_ = await read(cursor, ['BTC'])
      expect(read_.trades.length).toBeLessThanOrEqual(20)
      found.push(...read_.trades.map(({ symbol }) => symbol))
      cursor = read_.cursor
    }

    expect(found.toSorted()).toEqual(more)
    // Those that had a trade are asked every time from then on.
    await add([buy('M44/USDT', 50)])
    expect((await read(cursor, ['BTC'])).trades).toMatchObject([{ symbol: 'M44/USDT' }])
  })

  test('is read on after a reading that was cut off, without asking again what was asked', async () => {
    const { world, read } = await scene('binance')
    const held = more.map((symbol) => symbol.replace('/USDT', ''))
    for (const symbol of more) await world.setMarket('binance', symbol, 'open')
    const { pages } = await read(null, held)
    const [first] = pages

    const asked = await asksOf(world, () => read(JSON.parse(JSON.stringify(first?.cursor)), held))

    expect(first).toMatchObject({ trades: [], cursor: { after: expect.any(String) } })
    expect(asked).toBe(45 + symbolsOf.binance.length - 20)
  })
})

describe('a row that cannot be read', () => {
  test.each(names)('%s: costs itself, and its page, its cursor and the other rows are as ever', async (exchange) => {
    const symbol = exchange === 'binance' ? 'BTC/USDT' : 'BTC/USD'
    const amount = { binance: 'qty', coinbase: 'size', kraken: 'vol' }[exchange]
    const { read, add } = await scene(exchange, [
      buy(symbol, 1),
      buy(symbol, 2, { raw: { [amount]: 'much' } }),
      buy(symbol, 3, { raw: { [amount]: null } }),
      buy(symbol, 4, { raw: { price: 'none' } }),
      buy(symbol, 5),
    ])

    const first = await read(null, ['BTC'], () => Date.now() - 60_000)
    await add([buy(symbol, 6, { at_ms: Date.now() - 30_000 })])
    const second = await read(first.cursor, ['BTC'])

    expect(first.trades.map(({ executed_at }) => Date.parse(executed_at))).toEqual([minute(1), minute(5)])
    expect(first.skipped).toHaveLength(3)
    expect(first.skipped).toMatchObject([2, 3, 4].map(() => ({ reason: 'not_readable', content: expect.any(Object) })))
    expect(new Set(first.skipped.map(({ id }) => id)).size).toBe(3)
    expect([second.trades.length, second.skipped]).toEqual([1, []])
  })

  test('kraken: a full page of which one cannot be read is followed by the next', async () => {
    const trades = Array.from({ length: 120 }, (_, n) => buy('BTC/USD', n, n === 100 ? { raw: { type: 'gift' } } : {}))
    const { read } = await scene('kraken', trades)

    const { trades: found, skipped } = await read()

    expect([found.length, skipped.length]).toEqual([119, 1])
  })

  test('kraken: a market whose name says nothing is told, and not left out', async () => {
    const { read } = await scene('kraken', [buy('BTC/USD', 1, { raw: { pair: '币安人生' } }), buy('BTC/USD', 2)])

    const { trades, skipped } = await read()

    expect(trades).toHaveLength(1)
    expect(skipped).toMatchObject([{ reason: 'name_not_readable', content: { symbol: '币安人生', amount: '1' } }])
  })
})

test.each([
  ['XXBTZUSD', 'BTC/USD'],
  ['XICNXETH', 'ICN/ETH'],
  ['XICNXXBT', 'ICN/BTC'],
  ['TRXXBT', 'TRX/BTC'],
  ['GNOXBT', 'GNO/BTC'],
  ['USDTZUSD', 'USDT/USD'],
  ['LUNAUSDT', 'LUNA/USDT'],
  ['XLMXEUR', 'XLMX/EUR'],
  ['SOLEUR', 'SOL/EUR'],
  ['USD', undefined],
  ['NOTHING', undefined],
  ['', undefined],
])('kraken: %s is %s', (id, symbol) => {
  const assets = new Map(
    Object.entries({ XXBT: 'BTC', XBT: 'BTC', XETH: 'ETH', ZUSD: 'USD', SOL: 'SOL', USDT: 'USDT' }),
  )

  const quotes = new Set(['BTC', 'ETH', 'USD', 'EUR', 'USDT'])

  expect(splitKrakenName(id, { assets, quotes })).toBe(symbol)
})

/** How often trades were asked for meanwhile. */
async function asksOf(world: ReturnType<typeof createWorld>, act: () => Promise<unknown>): Promise<number> {
  const count = async () => (await world.calls()).filter(({ path }) => path.endsWith('/myTrades')).length
  const before = await count()
  await act()
  return (await count()) - before
}
