/**
 * Gives trades that were paid with, or took their fee in, anything but the portfolio currency what that was worth then: asked
 * of the exchange candle by candle, the minute before the hour before the day, within bounds, and kept for everybody. What it
 * cannot tell is said at the trade; what there was no time for is asked by a later sync.
 */
import type { Connection } from '../exchanges/connect.ts'
import { ExchangeFailure } from '../exchanges/failure.ts'
import {
  candlesAtOnce,
  type Granularity,
  granularities,
  isTold,
  readCandles,
  spanMs,
} from '../exchanges/read-candles.ts'
import { readMarkets } from '../exchanges/read-holdings.ts'
import type { Lease, PastPrice, PortfolioDatabase, PricedTrade, UnpricedTrade } from './portfolio-database.ts'
import { findPricePaths, type PricePath, priceOver } from './price-paths.ts'

type World = { database: PortfolioDatabase; now(): number; log(line: Record<string, unknown>): void }

/** So many requests for candles one sync sends, and so many ways to an asset's price it tries. */
const mostRequests = 30
const mostWays = 4

/** When an exchange that limits our rate says no time. */
export const pauseSeconds = 60

/** False: the lease is another's already. */
export async function pricePastTrades(
  connection: Connection,
  lease: Lease,
  until: number,
  world: World,
): Promise<boolean> {
  await world.database.reopenGaps(lease.lease_id)
  const isOurs = await priceInParts(connection, lease, until, world)
  // Once, after all parts: each time everything after the oldest price is worked out again.
  return isOurs && (await world.database.replayPriced(lease.lease_id))
}

async function priceInParts(connection: Connection, lease: Lease, until: number, world: World): Promise<boolean> {
  const nothing = {
    known: new Map(),
    wanted: new Map(),
    fresh: [],
    gone: new Set<string>(),
    refused: new Set<string>(),
  }
  const history: History = { connection, lease, until, world, ...nothing, requests: 0, isDown: false }
  let after: UnpricedTrade | undefined
  let waysOf: Ways | undefined
  while (world.now() < until) {
    const trades = await world.database.listUnpriced(lease.lease_id, after)
    after = trades.at(-1)
    if (!after) return true
    waysOf ??= await readWays(connection, lease)
    const told = await pricesOf(trades, waysOf, history)
    if (told.length > 0 && !(await world.database.priceTrades(lease.lease_id, told)).recorded) return false
    if (isSpent(history)) return true
  }
  return true
}

/** Of those of which there is anything to say. */
async function pricesOf(trades: UnpricedTrade[], waysOf: Ways, history: History): Promise<PricedTrade[]> {
  await look(
    history,
    trades.flatMap((trade) => missingIn(trade).flatMap((asset) => steps(waysOf(asset), trade))),
  )
  const told: PricedTrade[] = []
  for (const trade of trades) told.push(await priceOf(trade, waysOf, history))
  await keep(history)
  return told.filter(({ gap, quote_price, fee_price }) => gap !== 'not_asked' || quote_price || fee_price)
}

type Ways = (asset: string) => PricePath[]

/** Over markets that trade no more, too: they did then. */
async function readWays(connection: Connection, { quote_currency, price_asset }: Lease): Promise<Ways> {
  const pathsOf = findPricePaths(await readMarkets(connection))
  const target = price_asset ?? quote_currency
  const known = new Map<string, PricePath[]>([
    [target, [[]]],
    [quote_currency, [[]]],
  ])
  return (asset) => {
    const ways = known.get(asset) ?? pathsOf(asset, target).slice(0, mostWays)
    known.set(asset, ways)
    return ways
  }
}

const missingIn = ({ quote, quote_missing, fee_asset, fee_missing }: UnpricedTrade): string[] => [
  ...(quote_missing ? [quote] : []),
  ...(fee_missing && fee_asset !== null ? [fee_asset] : []),
]

type Moment = { symbol: string; ms: number }
const steps = (ways: PricePath[], { executed_at }: UnpricedTrade): Moment[] =>
  ways.flat().map(({ symbol }) => ({ symbol, ms: Date.parse(executed_at) }))

async function priceOf(trade: UnpricedTrade, waysOf: Ways, history: History): Promise<PricedTrade> {
  const ms = Date.parse(trade.executed_at)
  const ask = async (asset: string | null, isMissing: boolean): Promise<Valued> =>
    isMissing && asset !== null ? await valueOver(waysOf(asset), ms, history) : { price: null, gap: null }
  const quote = await ask(trade.quote, trade.quote_missing)
  const fee = await ask(trade.fee_asset, trade.fee_missing)
  const gaps = [quote.gap, fee.gap]
  const gap = gaps.includes('not_asked') ? 'not_asked' : (quote.gap ?? fee.gap)
  return { id: trade.id, quote_price: quote.price, fee_price: fee.price, gap }
}

type Gap = NonNullable<PricedTrade['gap']>
type Valued = { price: string; gap: null } | { price: null; gap: Gap | null }

async function valueOver(ways: PricePath[], ms: number, history: History): Promise<Valued> {
  for (const way of ways) {
    const lasts = new Map<string, string>()
    for (const { symbol } of way) {
      const price = await priceAt(history, symbol, ms)
      // A better way may still be told: no worse one is taken meanwhile.
      if (price === undefined) return { price: null, gap: 'not_asked' }
      if (price !== null) lasts.set(symbol, price)
    }
    const price = priceOver(way, (symbol) => lasts.get(symbol))
    if (price !== undefined) return { price, gap: null }
  }
  return { price: null, gap: ways.length === 0 ? 'no_market' : 'no_history' }
}

/** Prices of the past: what is kept, and what the exchange tells while there are requests and time. */
type History = {
  connection: Connection
  lease: Lease
  until: number
  world: World
  /** By candle; null: the exchange has none. */
  known: Map<string, string | null>
  /** All that the trades at hand may need: a request asks for as many of it as it can. */
  wanted: Map<string, PastPrice>
  /** Told, and not kept yet. */
  fresh: PastPrice[]
  /** Markets that the exchange does not tell of, and those that it would not just now. */
  gone: Set<string>
  refused: Set<string>
  requests: number
  isDown: boolean
}

const isSpent = ({ isDown, requests, until, world }: History): boolean =>
  isDown || requests >= mostRequests || world.now() >= until

async function look(history: History, moments: Moment[]): Promise<void> {
  const { known, wanted, world, lease } = history
  wanted.clear()
  for (const { symbol, ms } of moments)
    for (const granularity of granularities) {
      const candle = candleAt(symbol, granularity, ms)
      wanted.set(keyOf(candle), candle)
    }
  const asked = [...wanted.values()].filter((candle) => !known.has(keyOf(candle)))
  if (asked.length === 0) return
  for (const candle of await world.database.pastPrices(lease.exchange_id, asked)) known.set(keyOf(candle), candle.price)
}

async function keep({ fresh, world, lease }: History): Promise<void> {
  const told = fresh.splice(0)
  if (told.length > 0) await world.database.savePastPrices(lease.exchange_id, told)
}

/** The last price of the minute, else of the hour, else of the day. Null: the exchange has none; undefined: nobody was asked. */
async function priceAt(history: History, symbol: string, ms: number): Promise<string | null | undefined> {
  for (const granularity of granularities) {
    const price = await priceOfCandle(history, candleAt(symbol, granularity, ms))
    if (price !== null) return price
  }
  return null
}

async function priceOfCandle(history: History, candle: PastPrice): Promise<string | null | undefined> {
  const { connection, world, known, gone, refused } = history
  const before = known.get(keyOf(candle))
  if (before !== undefined) return before
  if (!isOver(candle, world.now()) || refused.has(candle.symbol)) return undefined
  if (gone.has(candle.symbol)) return null
  if (!isTold(connection.exchange, candle.granularity, Date.parse(candle.starts_at), world.now())) return null
  if (isSpent(history)) return undefined
  history.requests += 1
  try {
    await ask(history, candle)
  } catch (error) {
    if (!(error instanceof ExchangeFailure)) throw error
    const { reason, detail } = error
    if (detail === 'BadSymbol') gone.add(candle.symbol)
    else if (reason === 'unknown') refused.add(candle.symbol)
    else history.isDown = true
    if (reason === 'rate_limited')
      await world.database.pauseExchange(history.lease.exchange_id, error.retryAfterS ?? pauseSeconds)
    world.log({ level: 'warn', message: 'past prices', credential_id: history.lease.credential_id, reason, detail })
    return gone.has(candle.symbol) ? null : undefined
  }
  return known.get(keyOf(candle))
}

/** Of this candle, and of all others that are wanted and that the same request can tell. */
async function ask({ connection, world, known, wanted, fresh }: History, first: PastPrice): Promise<void> {
  const { symbol, granularity } = first
  const [from, span] = [Date.parse(first.starts_at), spanMs[granularity]]
  const last = from + (candlesAtOnce(connection.exchange) - 1) * span
  const inside = [...wanted.values()].filter((candle) => {
    const at = Date.parse(candle.starts_at)
    return candle.symbol === symbol && candle.granularity === granularity && at >= from && at <= last
  })
  const count = (Math.max(...inside.map(({ starts_at }) => Date.parse(starts_at))) - from) / span + 1
  const told = await readCandles(connection, symbol, granularity, from, count)
  for (const candle of inside) {
    if (known.has(keyOf(candle)) || !isOver(candle, world.now())) continue
    const price = told.get(Date.parse(candle.starts_at)) ?? null
    known.set(keyOf(candle), price)
    fresh.push({ ...candle, price })
  }
}

const candleAt = (symbol: string, granularity: Granularity, ms: number): PastPrice => {
  const span = spanMs[granularity]
  return { symbol, granularity, starts_at: new Date(Math.floor(ms / span) * span).toISOString(), price: null }
}
const keyOf = ({ symbol, granularity, starts_at }: PastPrice) => `${symbol} ${granularity} ${Date.parse(starts_at)}`

/** A candle that goes on has no last price yet, and one that just ended may be told late. */
const isOver = ({ granularity, starts_at }: PastPrice, now: number) =>
  Date.parse(starts_at) + spanMs[granularity] + 10_000 <= now
