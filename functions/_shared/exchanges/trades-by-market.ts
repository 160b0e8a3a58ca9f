/**
 * Binance shows trades market by market, and asks to be asked for each: the markets of every asset that the account holds
 * or ever held, also those that trade no more; and in turn, a few with every reading, all others, because what was bought and
 * sold again between two readings was never seen as held.
 */
import { z } from 'zod'
import type { Connection } from './connect.ts'
import { ExchangeFailure } from './failure.ts'
import { type Market, readMarkets } from './read-holdings.ts'
import { fetchTradePage, type TradePage, toTrade } from './read-trade-page.ts'

const rowsAtOnce = 1000
/** After so many markets without a trade a page says how far we are, so that a sync can end in time. */
const marketsPerPage = 20
/** So many of all other markets are asked with every reading: Binance has thousands, and counts each as 20 of 6000 a minute. */
const othersAtOnce = 20

const cursorByMarket = z.object({
  /** The next trade of each market that had one: they count by themselves. */
  next_ids: z.record(z.string(), z.string().regex(/^\d+$/)),
  /** Markets that traded no more when they were read to the end. */
  closed: z.array(z.string()).default([]),
  /** The last market that was read, while a reading is under way. */
  after: z.string().optional(),
  /** The last one of all others that was asked in turn. */
  others_after: z.string().optional(),
})
type Cursor = z.infer<typeof cursorByMarket>

export async function* tradesByMarket(
  connection: Connection,
  given: unknown,
  assets: string[],
): AsyncGenerator<TradePage> {
  const cursor: Cursor = given === null ? { next_ids: {}, closed: [] } : cursorByMarket.parse(given)
  const listed = (await readMarkets(connection)).toSorted((a, b) => (a.symbol < b.symbol ? -1 : 1))
  const round = marketsToAsk(listed, cursor, assets)
  // A market that trades again is asked again.
  const isClosed = new Set(listed.filter(({ active }) => !active).map(({ symbol }) => symbol))
  cursor.closed = cursor.closed.filter((symbol) => isClosed.has(symbol))
  let unsaid = 0
  for (const { symbol, active } of round.markets.filter((market) => market.symbol > (cursor.after ?? ''))) {
    yield* tradesOfMarket(connection, symbol, cursor)
    if (!active) cursor.closed.push(symbol)
    cursor.after = symbol
    unsaid += 1
    if (unsaid % marketsPerPage === 0) yield { trades: [], skipped: [], cursor: structuredClone(cursor) }
  }
  const { after: _, ...done } = cursor
  const last = { ...done, ...(round.others_after === undefined ? {} : { others_after: round.others_after }) }
  if (JSON.stringify(last) !== JSON.stringify(given)) yield { trades: [], skipped: [], cursor: last }
}

/** In the order of their names, so that a reading can go on where another one stopped. */
function marketsToAsk(listed: Market[], cursor: Cursor, assets: string[]) {
  const held = new Set(assets)
  const closed = new Set(cursor.closed)
  const isOurs = ({ symbol, base }: Market) => held.has(base) || Object.hasOwn(cursor.next_ids, symbol)
  const unread = listed.filter(({ symbol, active }) => active || !closed.has(symbol))
  const others = unread.filter((market) => !isOurs(market))
  const next = others.filter(({ symbol }) => symbol > (cursor.others_after ?? '')).slice(0, othersAtOnce)
  const chosen = new Set(next.length > 0 ? next : others.slice(0, othersAtOnce))
  return {
    markets: unread.filter((market) => isOurs(market) || chosen.has(market)),
    others_after: [...chosen].at(-1)?.symbol,
  }
}

const isNumber = (id: unknown): id is string => typeof id === 'string' && /^\d+$/.test(id)

async function* tradesOfMarket(connection: Connection, symbol: string, cursor: Cursor): AsyncGenerator<TradePage> {
  for (;;) {
    const from = cursor.next_ids[symbol] ?? '0'
    const told = await tradesFrom(connection, symbol, from)
    let next = BigInt(from)
    for (const { id } of told.rows) if (isNumber(id) && BigInt(id) >= next) next = BigInt(id) + 1n
    const isFurther = next > BigInt(from)
    if (isFurther) cursor.next_ids[symbol] = next.toString()
    // The same number names trades of several markets.
    const idOf = (id: string) => `${symbol}:${id}`
    const trades = told.found.map((trade) => ({ ...toTrade(trade), exchange_trade_id: idOf(trade.id) }))
    const skipped = told.skipped.map((row) => ({ ...row, id: idOf(row.id) }))
    if (isFurther || trades.length > 0 || skipped.length > 0) yield { trades, skipped, cursor: structuredClone(cursor) }
    // Rows without a number say nothing of where to go on.
    if (!isFurther || told.rows.length < rowsAtOnce) return
  }
}

/** A market that went while we read has nothing more to tell. */
async function tradesFrom(connection: Connection, symbol: string, fromId: string) {
  try {
    return await fetchTradePage(connection, symbol, undefined, { fromId, limit: rowsAtOnce })
  } catch (error) {
    if (!(error instanceof ExchangeFailure) || error.detail !== 'BadSymbol') throw error
    return { rows: [], found: [], skipped: [] }
  }
}
