/**
 * Reads trades page by page from a cursor on. Whoever stores a page's trades and its cursor in one transaction gets every
 * trade once, also when the process dies between two pages: the next run goes on from the stored cursor.
 */
import { z } from 'zod'
import type { Connection } from './connect.ts'
import { readMarkets } from './read-holdings.ts'
import { fetchTradePage, type RawPage, type TradePage, toTrade, word } from './read-trade-page.ts'
import { tradesByMarket } from './trades-by-market.ts'

/**
 * `cursor` is null at first, then the last page's. `assets` are those whose markets are asked where an exchange shows
 * trades by market only (Binance): what is held now and everything that ever was. Ends when nothing is left.
 */
export function readTradesSince(
  connection: Connection,
  cursor: unknown,
  { assets }: { assets: string[] },
): AsyncGenerator<TradePage> {
  if (connection.exchange === 'binance') return tradesByMarket(connection, cursor, assets)
  const window = windows[connection.exchange]
  return window ? tradesByWindow(connection, cursor, window) : tradesBySince(connection, cursor, assets)
}

type Span = { from_ms: number; until_ms: number; page: string | undefined }
type Window = { params(span: Span): object; next(page: RawPage, span: Span): string | undefined }

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
    next: ({ rows }) => rows.map(({ info }) => cursorIn.safeParse(info).data?.cursor).find((cursor) => cursor),
  },
  kraken: {
    params: ({ from_ms, until_ms, page }) => ({
      end: Math.ceil((until_ms + marginMs) / 1000),
      ...(from_ms > 0 ? { start: Math.floor((from_ms - marginMs) / 1000) } : {}),
      ...(page === undefined ? {} : { ofs: Number(page) }),
    }),
    next: ({ rows }, { page }) => (rows.length < krakenRows ? undefined : String(Number(page ?? 0) + rows.length)),
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
    const told = await fetchTradePage(connection, undefined, undefined, window.params(span))
    const inside = told.found.filter((trade) => trade.timestamp > from_ms && trade.timestamp <= until_ms)
    const read = { trades: inside.map(toTrade), skipped: told.skipped }
    page = window.next(told, span)
    if (page === undefined) {
      yield { ...read, cursor: { from_ms: until_ms } }
      return
    }
    yield { ...read, cursor: { from_ms, open: { until_ms, page } } }
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
  for (const symbol of connection.needsSymbol ? await marketsOf(connection, places, assets) : [everything]) {
    for (;;) {
      const { since_ms, seen } = places[symbol] ?? { since_ms: 0, seen: [] }
      const asked = symbol === everything ? undefined : symbol
      const { rows, found, skipped } = await fetchTradePage(connection, asked, since_ms || undefined)
      const isNew = ({ id }: { id: string }) => !seen.includes(id)
      const trades = found.filter((trade) => trade.timestamp >= since_ms && isNew(trade)).map(toTrade)
      const unread = skipped.filter(isNew)
      const fresh = placesIn(rows, connection.now()).filter((row) => row.timestamp >= since_ms && isNew(row))
      const last = Math.max(since_ms, ...fresh.map(({ timestamp }) => timestamp))
      const atLast = fresh.filter(({ timestamp }) => timestamp === last).map(({ id }) => id)
      // Without rows that are new and have a time there is nothing to go on from, and what was told is kept all the same.
      if (fresh.length > 0) places[symbol] = { since_ms: last, seen: last === since_ms ? [...seen, ...atLast] : atLast }
      if (fresh.length > 0 || trades.length > 0 || unread.length > 0)
        yield { trades, skipped: unread, cursor: { places: { ...places } } }
      if (fresh.length === 0) break
    }
  }
}

const rowInTime = z.object({ id: word, timestamp: z.number().int().min(0) })
const dayMs = 86_400_000

/** Which rows say where the reading is, also those that are no trades for us. What is to come would end it for ever. */
const placesIn = (rows: RawPage['rows'], nowMs: number) =>
  rows.flatMap((row) => {
    const { data } = rowInTime.safeParse(row)
    return data && data.timestamp <= nowMs + dayMs ? [data] : []
  })

/** The markets of what is or was held, and those that had trades; one that is gone has none any more. */
async function marketsOf(connection: Connection, places: object, assets: string[]): Promise<string[]> {
  const held = new Set(assets)
  const listed = await readMarkets(connection)
  return listed.flatMap(({ symbol, base }) => (held.has(base) || Object.hasOwn(places, symbol) ? [symbol] : []))
}
