/** A trade as we keep it, made of what ccxt makes of an exchange's answer. */
import { z } from 'zod'
import type { Connection } from './connect.ts'
import { decimal } from './decimals.ts'
import { readSymbols } from './read-holdings.ts'

/** All amounts are decimal strings. `exchange_trade_id` is unique within an exchange; `executed_at` is an ISO time. */
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
export type RawTrade = z.infer<typeof rawTrade>

// ccxt puts Coinbase's cursor of an empty page in a trade that has nothing else.
const hasId = (row: unknown) => typeof row === 'object' && row !== null && 'id' in row && row.id !== undefined
const page = z
  .array(z.unknown())
  .transform((rows) => rows.filter(hasId))
  .pipe(z.array(rawTrade))

/** One page of spot trades, the oldest first. */
export async function fetchTrades(
  connection: Connection,
  symbol: string | undefined,
  sinceMs: number | undefined,
  params: object = {},
): Promise<RawTrade[]> {
  return await connection.call(page, 'fetchMyTrades', symbol, sinceMs, undefined, params)
}

export const isSpot = ({ symbol }: RawTrade): boolean => symbol.includes('/') && !symbol.includes(':')

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

/** What coins are bought with. A trade between two coins of which neither is asked for and none is here is not found. */
const usualQuotes = ['USDT', 'USDC', 'FDUSD', 'USD', 'EUR', 'BTC', 'ETH', 'BNB']

/** The markets to ask, where trades come by market. */
export async function symbolsToAsk(connection: Connection, assets: string[]): Promise<string[]> {
  const quotes = new Set([...usualQuotes, ...assets])
  const symbols = await readSymbols(connection)
  return symbols.filter((symbol) => {
    const [base = '', quote = ''] = symbol.split('/')
    return assets.includes(base) && quotes.has(quote)
  })
}
