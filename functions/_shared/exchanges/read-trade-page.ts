/** One page of what an exchange tells of trades, row by row: a row that cannot be read costs itself, and is told. */
import { z } from 'zod'
import type { Connection } from './connect.ts'
import { decimal } from './decimals.ts'
import { nameKrakenMarket } from './name-kraken-market.ts'

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
/** A row that is no trade for us; `content` is what could be read of it. */
type SkippedTrade = { id: string; reason: 'not_readable' | 'name_not_readable'; content: object }

/** `cursor` is JSON. A page may be empty: it says how far the reading came. */
export type TradePage = { trades: Trade[]; skipped: SkippedTrade[]; cursor: Record<string, unknown> }

/** What SQL takes as a time, a number and a text: nothing else may reach it, or a whole page would be refused. */
const lastMs = Date.UTC(9999, 11, 31)
const number = z.string().max(100).pipe(decimal)
export const word = z
  .string()
  .max(1000)
  .refine((text) => text.isWellFormed() && !text.includes('\0'))

const rawTrade = z.looseObject({
  id: word,
  symbol: word,
  side: z.enum(['buy', 'sell']),
  amount: number,
  price: number,
  timestamp: z.number().int().min(0).max(lastMs),
  fee: z.looseObject({ cost: number.nullish(), currency: word.nullish() }).nullish(),
  info: z.unknown(),
})
export type RawTrade = z.infer<typeof rawTrade>

type Row = Record<string, unknown>
/** `rows`: as they came, so that pages are counted right. */
export type RawPage = { rows: Row[]; found: RawTrade[]; skipped: SkippedTrade[] }

// ccxt puts Coinbase's cursor of an empty page in a trade that has nothing else.
const isCursorOnly = ({ info }: Row) =>
  typeof info === 'object' && info !== null && Object.keys(info).join() === 'cursor'
const page = z.array(z.record(z.string(), z.unknown()))

/** The oldest first. Trades of anything but spot markets are left out: they move no holdings. */
export async function fetchTradePage(
  connection: Connection,
  symbol: string | undefined,
  sinceMs: number | undefined,
  params: object = {},
): Promise<RawPage> {
  const rows = await connection.call(page, 'fetchMyTrades', symbol, sinceMs, undefined, params)
  const found: RawTrade[] = []
  const skipped: SkippedTrade[] = []
  for (const row of rows.filter((candidate) => !isCursorOnly(candidate))) {
    const { data } = rawTrade.safeParse(row)
    const named = data && (await nameMarket(connection, data))
    if (!data) skipped.push({ id: idOf(row), reason: 'not_readable', content: contentOf(row) })
    else if (!named) skipped.push({ id: idOf(row), reason: 'name_not_readable', content: contentOf(row) })
    else if (!named.symbol.includes(':')) found.push(named)
  }
  // ccxt's order is none when one row has no time.
  return { rows, found: found.toSorted((a, b) => a.timestamp - b.timestamp), skipped }
}

/** Where ccxt knows a market no more, it says the exchange's own word in the place of BASE/QUOTE: only Kraken's can be read. */
async function nameMarket(connection: Connection, trade: RawTrade): Promise<RawTrade | undefined> {
  if (trade.symbol.includes('/')) return trade
  if (connection.exchange !== 'kraken') return undefined
  const symbol = await nameKrakenMarket(connection, trade.symbol)
  if (!symbol) return undefined
  const [, quote] = symbol.split('/')
  return { ...trade, symbol, fee: trade.fee && { ...trade.fee, currency: trade.fee.currency ?? quote } }
}

export function toTrade({ id, symbol, side, amount, price, timestamp, fee }: RawTrade): Trade {
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

const textOf = (value: unknown): string | null =>
  typeof value === 'string' || typeof value === 'number'
    ? String(value).slice(0, 100).toWellFormed().replaceAll('\0', '')
    : null

/** Rows without one are told apart by what they say, or all of them would be one skipped row. */
const idOf = (row: Row): string => textOf(row.id) || `without an id ${JSON.stringify(contentOf(row))}`.slice(0, 200)

function contentOf(row: Row): object {
  const { symbol, side, amount, price, timestamp } = row
  const fields = Object.entries({ symbol, side, amount, price, timestamp })
  return Object.fromEntries(fields.map(([name, value]) => [name, textOf(value)]))
}
