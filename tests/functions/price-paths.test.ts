/** Prices over at most two markets, in either direction: the fewest first, and what way was taken is told. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Market } from '../../functions/_shared/exchanges/read-holdings.ts'
import { findPricePaths, priceOver, readPrices } from '../../functions/_shared/portfolio/price-paths.ts'
import { createWorld, type Name } from './exchanges-world.ts'

const listed = (symbols: string): Market[] =>
  symbols.split(' ').map((symbol) => {
    const [base = '', quote = ''] = symbol.split('/')
    return { symbol, base, quote, active: true }
  })
/** The ways as '/BTC/USD inverted'. */
const waysOf = (symbols: string, asset: string, quote: string) =>
  findPricePaths(listed(symbols))(asset, quote).map((path) =>
    path.map(({ symbol, isInverted }) => (isInverted ? `1:${symbol}` : symbol)).join(' '),
  )

test.each([
  ['a market of both', 'BTC/USD BTC/EUR EUR/USD', 'BTC', ['BTC/USD', 'BTC/EUR EUR/USD']],
  ['a market the other way round', 'USD/CAD', 'CAD', ['1:USD/CAD']],
  ['both directions, its own first', 'USD/CAD CAD/USD', 'CAD', ['CAD/USD', '1:USD/CAD']],
  ['a third asset', 'XYZ/BTC BTC/USD', 'XYZ', ['XYZ/BTC BTC/USD']],
  ['a third asset, inverted', 'BTC/GBP BTC/USD', 'GBP', ['1:BTC/GBP BTC/USD']],
  ['two inverted', 'EUR/GBP USD/EUR', 'GBP', ['1:EUR/GBP 1:USD/EUR']],
  [
    'what is traded most before all others',
    'X/ABC ABC/USD X/USDT USDT/USD X/BTC BTC/USD',
    'X',
    ['X/USDT USDT/USD', 'X/BTC BTC/USD', 'X/ABC ABC/USD'],
  ],
  ['no more than two', 'X/A A/B B/USD', 'X', []],
  ['nothing', 'BTC/USD', 'XYZ', []],
])('the way to USD over %s', (_, symbols, asset, ways) => {
  expect(waysOf(symbols, asset, 'USD')).toEqual(ways)
})

test('a price over any way is right to 18 decimals, and none where a market has none', () => {
  const price = fc.integer({ min: 1, max: 1e9 })
  fc.assert(
    fc.property(price, price, fc.boolean(), fc.boolean(), (a, b, first, second) => {
      const path = [
        { symbol: 'a', isInverted: first },
        { symbol: 'b', isInverted: second },
      ]
      const told = priceOver(path, (symbol) => String(symbol === 'a' ? a : b))
      const exact = (first ? 1 / a : a) * (second ? 1 / b : b)
      if (told === undefined) expect(exact).toBeLessThanOrEqual(1e-18)
      else expect(Math.abs(Number(told) - exact)).toBeLessThanOrEqual(exact * 1e-12 + 1e-18)
    }),
  )
  const path = [{ symbol: 'a', isInverted: true }]
  for (const last of [undefined, '0', '0.00', '-1']) expect(priceOver(path, () => last)).toBeUndefined()
})

async function connected(exchange: Name, prices: Record<string, string> = {}) {
  const world = createWorld()
  await world.setPrices(prices)
  return { ...world, connection: await world.connect(exchange, await world.makeKey(exchange)) }
}

test.each<[Name, string, string, Record<string, string>, string, string[]]>([
  ['kraken', 'CAD', 'USD', { 'USD/CAD': '1.25' }, '0.800000000000000000', ['USD/CAD']],
  ['kraken', 'DOT', 'USD', { 'DOT/BTC': '0.00008', 'BTC/USD': '60000' }, '4.80000', ['DOT/BTC', 'BTC/USD']],
  ['binance', 'TRY', 'USDT', { 'USDT/TRY': '40' }, '0.025000000000000000', ['USDT/TRY']],
  ['binance', 'DOT', 'USDT', { 'DOT/BTC': '0.00008', 'BTC/USDT': '50000' }, '4.00000', ['DOT/BTC', 'BTC/USDT']],
  [
    'coinbase',
    'GBP',
    'USD',
    { 'BTC/GBP': '50000', 'BTC/USD': '60000' },
    '1.200000000000000000',
    ['BTC/GBP', 'BTC/USD'],
  ],
])('%s: %s in %s', async (exchange, asset, quote, prices, price, path) => {
  const { connection } = await connected(exchange, prices)

  expect(await readPrices(connection, [asset], quote)).toEqual([{ asset, price, path }])
})

test('a market whose last price is nothing is passed by', async () => {
  const { connection } = await connected('binance', { 'SOL/USDT': '0', 'SOL/EUR': '100', 'EUR/USDT': '1.1' })

  expect(await readPrices(connection, ['SOL', 'BTC'], 'USDT')).toEqual([
    expect.objectContaining({ asset: 'BTC', path: ['BTC/USDT'] }),
    { asset: 'SOL', price: '110.0', path: ['SOL/EUR', 'EUR/USDT'] },
  ])
})
