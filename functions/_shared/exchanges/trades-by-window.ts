/**
 * Coinbase and Kraken show the newest trades first, so pages shift while trades are made. We read windows of time that
 * lie in the past and change no more: everything after `from_ms` until `until_ms`. A window's pages are the same however
 * often they are read; when it is done, the next one begins where it ended.
 */
import { z } from 'zod'
import type { Connection } from './connect.ts'
import { fetchTrades, isSpot, type RawTrade, type TradePage, toTrade } from './trade.ts'

type Span = { from_ms: number; until_ms: number; page: string | undefined }
type Window = { params(span: Span): object; next(found: RawTrade[], span: Span): string | undefined }

/** A trade may show a moment after it was made, and clocks differ a little. */
const settleMs = 10_000
/** Exchanges round, and differ in whether bounds are inclusive: we ask for more and take what lies within. */
const marginMs = 1_000
const isoOf = (ms: number) => new Date(ms).toISOString()

export const windows: Record<string, Window> = {
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

const cursorOf = z.object({
  from_ms: z.number().int(),
  /** The window that is being read, and its next page. */
  open: z.object({ until_ms: z.number().int(), page: z.string() }).optional(),
})

export async function* tradesByWindow(
  connection: Connection,
  cursor: unknown,
  window: Window,
): AsyncGenerator<TradePage> {
  const { from_ms, open } = cursor === null ? { from_ms: 0 } : cursorOf.parse(cursor)
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
