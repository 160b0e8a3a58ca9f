/**
 * Reads trades page by page from a cursor on. Whoever stores a page's trades and its cursor in one transaction gets every
 * trade once, also when the process dies between two pages: the next run goes on from the stored cursor.
 */
import { z } from 'zod'
import type { Connection } from './connect.ts'
import { decimal } from './decimals.ts'
import { readSymbols } from './read-holdings.ts'

/**
 * A trade as we keep it, made of what ccxt makes of an exchange's answer. All amounts are decimal strings. `exchange_trade_id` is
 * unique within an exchange; `executed_at` is an ISO time.
 */
export type Trade = {
  exchange_trade_id: string
  symbol: string
  base: string
  quote: string
  side: 'buy' | 'sell'
  amount: string
  price: string
  fee: string | null
  fee_asset: string | null
  executed_at: string
}
/** `cursor` is JSON. */
export type TradePage = { trades: Trade[]; cursor: Record<string, unknown> }

/**
 * `cursor` is null at first, then the last page's. `assets` are those whose markets are asked where an exchange shows
 * trades by market only (Binance): what is held now and everything that was before. Ends when nothing is left.
 */
export function readTradesSince(
  connection: Connection,
  cursor: unknown,
  { assets }: { assets: string[] },
): AsyncGenerator<TradePage> {
  if (connection.exchange === 'binance') return tradesById(connection, cursor, assets)
  const window = windows[connection.exchange]
  return window ? tradesByWindow(connection, cursor, window) : tradesBySince(connection, cursor, assets)
}

const rowsById = 1000
const cursorById = z.object({ next_ids: z.record(z.string(), z.string().regex(/^\d+$/)) })

/**
 * Binance: each market counts its trades by itself and shows them from an id on. The cursor is the next id of each market,
 * so that nothing can be read twice or slip through.
 */
async function* tradesById(connection: Connection, cursor: unknown, assets: string[]): AsyncGenerator<TradePage> {
  const next_ids = { ...(cursor === null ? {} : cursorById.parse(cursor).next_ids) }
  const symbols = new Set([...Object.keys(next_ids), ...(await symbolsToAsk(connection, assets))])
  for (const symbol of symbols) {
    for (;;) {
      const found = await fetchTrades(connection, symbol, undefined, {
        fromId: next_ids[symbol] ?? '0',
        limit: rowsById,
      })
      const ids = found.map(({ id }) => BigInt(id))
      if (ids.length === 0) break
      next_ids[symbol] = ((ids.toSorted((a, b) => (a < b ? -1 : 1)).at(-1) ?? 0n) + 1n).toString()
      // The same number names trades of several markets.
      const trades = found.map((trade) => ({ ...toTrade(trade), exchange_trade_id: `${symbol}:${trade.id}` }))
      yield { trades, cursor: { next_ids: { ...next_ids } } }
      if (found.length < rowsById) break
    }
  }
}

type Span = { from_ms: number; until_ms: number; page: string | undefined }
type Window = { params(span: Span): object; next(found: RawTrade[], span: Span): string | undefined }

/** A trade may show a moment after it was made, and clocks differ a little. */
const settleMs = 10_000
/** Exchanges round, and differ in whether bounds are inclusive: we ask for more and take what lies within. */
const marginMs = 1_000
const isoOf = (ms: number) => new Date(ms).toISOString()

const windows: Record<string, Window> = {
  coinbase: {
    params: ({ from_ms, until_ms, page }) => ({
      limit: 250,
      end_sequence_timestamp: isoOf(until_ms + marginMs),
      ...(from_ms > 0 ? { start_sequence_timestamp: isoOf(from_ms - marginMs) } : {}),
      ...(page === undefined ? {} : { cursor: page }),
    }),
    next: (found) => found.map(({ info }) => cursorIn.safeParse(info).data?.cursor).find((cursor) => cursor),
  },
  kraken: {
    params: ({ from_ms, until_ms, page }) => ({
      end: Math.ceil((until_ms + marginMs) / 1000),
      ...(from_ms > 0 ? { start: Math.floor((from_ms - marginMs) / 1000) } : {}),
      ...(page === undefined ? {} : { ofs: Number(page) }),
    }),
    next: (found, { page }) => (found.length < krakenRows ? undefined : String(Number(page ?? 0) + found.length)),
  },
}
const krakenRows = 50
const cursorIn = z.object({ cursor: z.string() })

const cursorByWindow = z.object({
  from_ms: z.number().int(),
  /** The window that is being read, and its next page. */
  open: z.object({ until_ms: z.number().int(), page: z.string() }).optional(),
})

/**
 * Coinbase and Kraken show the newest trades first, so pages shift while trades are made. We read windows of time that
 * lie in the past and change no more: everything after `from_ms` until `until_ms`. A window's pages are the same however
 * often they are read; when it is done, the next one begins where it ended.
 */
async function* tradesByWindow(connection: Connection, cursor: unknown, window: Window): AsyncGenerator<TradePage> {
  const { from_ms, open } = cursor === null ? { from_ms: 0 } : cursorByWindow.parse(cursor)
  const until_ms = open?.until_ms ?? (await settledMs(connection))
  let page = open?.page
  if (until_ms <= from_ms) return
  for (;;) {
    const span = { from_ms, until_ms, page }
    const found = await fetchTrades(connection, undefined, undefined, window.params(span))
    const inside = found.filter((trade) => trade.timestamp > from_ms && trade.timestamp <= until_ms)
    const trades = inside.filter(isSpot).map(toTrade)
    page = window.next(found, span)
    if (page === undefined) {
      yield { trades, cursor: { from_ms: until_ms } }
      return
    }
    yield { trades, cursor: { from_ms, open: { until_ms, page } } }
  }
}

/** Until when nothing changes any more, by the earlier of the two clocks. */
async function settledMs(connection: Connection): Promise<number> {
  const theirs = await connection.call(z.number(), 'fetchTime')
  return Math.min(connection.now(), theirs) - settleMs
}

const place = z.object({ since_ms: z.number().int(), seen: z.array(z.string()) })
const cursorBySince = z.object({ places: z.record(z.string(), place) })
const everything = '*'

/**
 * Every other exchange: from a time on, the oldest first, as ccxt promises. The cursor keeps the ids of the last moment,
 * so that trades of the same millisecond are neither repeated nor lost. How far back the first call reaches is up to
 * the exchange.
 */
async function* tradesBySince(connection: Connection, cursor: unknown, assets: string[]): AsyncGenerator<TradePage> {
  const places = { ...(cursor === null ? {} : cursorBySince.parse(cursor).places) }
  const asked = connection.needsSymbol ? await symbolsToAsk(connection, assets) : [everything]
  for (const symbol of new Set([...Object.keys(places), ...asked])) {
    for (;;) {
      const { since_ms, seen } = places[symbol] ?? { since_ms: 0, seen: [] }
      const found = await fetchTrades(connection, symbol === everything ? undefined : symbol, since_ms || undefined)
      const fresh = found.filter(({ id, timestamp }) => timestamp >= since_ms && !seen.includes(id))
      if (fresh.length === 0) break
      const last = Math.max(...fresh.map(({ timestamp }) => timestamp))
      const atLast = fresh.filter(({ timestamp }) => timestamp === last).map(({ id }) => id)
      places[symbol] = { since_ms: last, seen: last === since_ms ? [...seen, ...atLast] : atLast }
      yield { trades: fresh.filter(isSpot).map(toTrade), cursor: { places: { ...places } } }
    }
  }
}

const rawTrade = z.looseObject({
  id: z.string(),
  symbol: z.string(),
  side: z.enum(['buy', 'sell']),
  amount: decimal,
  price: decimal,
  timestamp: z.number(),
  fee: z.looseObject({ cost: decimal.nullish(), currency: z.string().nullish() }).nullish(),
  info: z.unknown(),
})
type RawTrade = z.infer<typeof rawTrade>

// ccxt puts Coinbase's cursor of an empty page in a trade that has nothing else.
const hasId = (row: unknown) => typeof row === 'object' && row !== null && 'id' in row && row.id !== undefined
const page = z
  .array(z.unknown())
  .transform((rows) => rows.filter(hasId))
  .pipe(z.array(rawTrade))

/** One page of spot trades, the oldest first. */
async function fetchTrades(
  connection: Connection,
  symbol: string | undefined,
  sinceMs: number | undefined,
  params: object = {},
): Promise<RawTrade[]> {
  return await connection.call(page, 'fetchMyTrades', symbol, sinceMs, undefined, params)
}

const isSpot = ({ symbol }: RawTrade): boolean => symbol.includes('/') && !symbol.includes(':')

function toTrade({ id, symbol, side, amount, price, timestamp, fee }: RawTrade): Trade {
  const [base = '', quote = ''] = symbol.split('/')
  return {
    exchange_trade_id: id,
    symbol,
    base,
    quote,
    side,
    amount,
    price,
    fee: fee?.cost ?? null,
    fee_asset: fee?.cost ? (fee.currency ?? null) : null,
    executed_at: new Date(timestamp).toISOString(),
  }
}

/** What coins are bought with. A trade between two coins of which neither is asked for and none is here is not found. */
const usualQuotes = ['USDT', 'USDC', 'FDUSD', 'USD', 'EUR', 'BTC', 'ETH', 'BNB']

/** The markets to ask, where trades come by market. */
async function symbolsToAsk(connection: Connection, assets: string[]): Promise<string[]> {
  const quotes = new Set([...usualQuotes, ...assets])
  const symbols = await readSymbols(connection)
  return symbols.filter((symbol) => {
    const [base = '', quote = ''] = symbol.split('/')
    return assets.includes(base) && quotes.has(quote)
  })
}
