/**
 * What an asset is worth in another one, where no market has both: over at most two markets, each in either direction, the
 * fewest first. TRY is worth a part of what USDT/TRY says; a coin with a market in bitcoin only, its price there times BTC/USD.
 */

import { z } from 'zod'
import type { Connection } from '../exchanges/connect.ts'
import { decimal, divide, isZero, multiply } from '../exchanges/decimals.ts'
import { ExchangeFailure } from '../exchanges/failure.ts'
import { type Market, readMarkets } from '../exchanges/read-holdings.ts'

type Step = { symbol: string; isInverted: boolean }
export type PricePath = Step[]

/** What most is traded in, so that its prices are fresh; the first of several ways goes over the first of these. */
const usualQuotes = ['USDT', 'USDC', 'USD', 'EUR', 'BTC', 'ETH', 'BNB', 'FDUSD']
const rankOf = (asset: string) => [...usualQuotes, asset].indexOf(asset)

/** The ways from one asset to another, the best first: over one market before two, in its direction before the other one. */
export function findPricePaths(markets: Market[]): (asset: string, quote: string) => PricePath[] {
  const steps = new Map<string, Map<string, Step[]>>()
  const add = (from: string, to: string, step: Step) => {
    const known = steps.get(from) ?? new Map<string, Step[]>()
    steps.set(from, known.set(to, [...(known.get(to) ?? []), step]))
  }
  for (const { symbol, base, quote } of markets) add(base, quote, { symbol, isInverted: false })
  for (const { symbol, base, quote } of markets) add(quote, base, { symbol, isInverted: true })

  return (asset, quote) => {
    const between = (from: string, to: string) => steps.get(from)?.get(to) ?? []
    const others = [...(steps.get(asset)?.keys() ?? [])].filter((other) => other !== quote && other !== asset)
    const ways = others.toSorted((a, b) => rankOf(a) - rankOf(b) || (a < b ? -1 : 1))
    const overTwo = ways.flatMap((other) =>
      between(asset, other).flatMap((first) => between(other, quote).map((second) => [first, second])),
    )
    return [...between(asset, quote).map((step) => [step]), ...overTwo]
  }
}

const decimals = 18

/** Of one unit, to 18 decimals; undefined when a market on the way has no price. */
export function priceOver(path: PricePath, lastOf: (symbol: string) => string | undefined): string | undefined {
  let [above, below] = ['1', '1']
  for (const { symbol, isInverted } of path) {
    const last = lastOf(symbol)
    if (last === undefined || isZero(last) || last.startsWith('-')) return undefined
    if (isInverted) below = multiply(below, last)
    else above = multiply(above, last)
  }
  const price = below === '1' ? above : divide(above, below, decimals)
  return isZero(price) ? undefined : price
}

/** `path`: the symbols of the markets it came over. */
export type Price = { asset: string; price: string; path: string[] }

/** So many ways over two markets are looked at. */
const mostWays = 5

/** Prices in `quote` now. An asset that at most two markets do not lead to `quote` is left out. */
export async function readPrices(connection: Connection, assets: string[], quote: string): Promise<Price[]> {
  const pathsOf = findPricePaths((await readMarkets(connection)).filter(({ active }) => active))
  const lasts = new Map<string, string>()
  const prices: Price[] = assets.includes(quote) ? [{ asset: quote, price: '1', path: [] }] : []
  let missing = assets.filter((asset) => asset !== quote)
  for (const length of [1, 2]) {
    const ways = missing.map((asset) => ({
      asset,
      paths: pathsOf(asset, quote)
        .filter((path) => path.length === length)
        .slice(0, mostWays),
    }))
    const symbols = ways.flatMap(({ paths }) => paths.flat().map(({ symbol }) => symbol))
    await readLasts(
      connection,
      [...new Set(symbols)].filter((symbol) => !lasts.has(symbol)),
      lasts,
    )
    const found = ways.flatMap(({ asset, paths }) => {
      const priced = paths.map((path) => ({ path, price: priceOver(path, (symbol) => lasts.get(symbol)) }))
      const best = priced.find(({ price }) => price !== undefined)
      return best?.price === undefined
        ? []
        : [{ asset, price: best.price, path: best.path.map(({ symbol }) => symbol) }]
    })
    prices.push(...found)
    missing = missing.filter((asset) => !found.some((price) => price.asset === asset))
  }
  return prices
}

const tickers = z.record(z.string(), z.unknown())
const ticker = z.looseObject({ last: decimal })
/** Longer lists do not fit into an address. */
const symbolsAtOnce = 100
/** So many refusals of lists show that it is not one market's fault. */
const mostRefusals = 20

/** Adds the last prices. A market that the exchange will not answer for costs its own price, and not those beside it. */
async function readLasts(connection: Connection, symbols: string[], lasts: Map<string, string>): Promise<void> {
  const queue = Array.from({ length: Math.ceil(symbols.length / symbolsAtOnce) }, (_, n) =>
    symbols.slice(n * symbolsAtOnce, (n + 1) * symbolsAtOnce),
  )
  let refusals = 0
  for (let part = queue.shift(); part; part = queue.shift()) {
    try {
      const found = await connection.call(tickers, 'fetchTickers', part)
      for (const symbol of part) {
        const { data } = ticker.safeParse(found[symbol])
        if (data) lasts.set(symbol, data.last)
      }
    } catch (error) {
      refusals += 1
      if (!(error instanceof ExchangeFailure) || error.reason !== 'unknown' || refusals > mostRefusals) throw error
      const half = Math.ceil(part.length / 2)
      if (part.length > 1) queue.unshift(part.slice(0, half), part.slice(half))
    }
  }
}
