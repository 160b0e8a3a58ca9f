/**
 * Binance: each market counts its trades by itself and shows them from an id on. The cursor is the next id of each market,
 * so that nothing can be read twice or slip through.
 */
import { z } from 'zod'
import type { Connection } from './connect.ts'
import { fetchTrades, symbolsToAsk, type TradePage, toTrade } from './trade.ts'

const pageRows = 1000
const cursorOf = z.object({ next_ids: z.record(z.string(), z.string().regex(/^\d+$/)) })

export async function* tradesById(
  connection: Connection,
  cursor: unknown,
  assets: string[],
): AsyncGenerator<TradePage> {
  const next_ids = { ...(cursor === null ? {} : cursorOf.parse(cursor).next_ids) }
  const symbols = new Set([...Object.keys(next_ids), ...(await symbolsToAsk(connection, assets))])
  for (const symbol of symbols) {
    for (;;) {
      const found = await fetchTrades(connection, symbol, undefined, {
        fromId: next_ids[symbol] ?? '0',
        limit: pageRows,
      })
      const ids = found.map(({ id }) => BigInt(id))
      if (ids.length === 0) break
      next_ids[symbol] = ((ids.toSorted((a, b) => (a < b ? -1 : 1)).at(-1) ?? 0n) + 1n).toString()
      // The same number names trades of several markets.
      const trades = found.map((trade) => ({ ...toTrade(trade), exchange_trade_id: `${symbol}:${trade.id}` }))
      yield { trades, cursor: { next_ids: { ...next_ids } } }
      if (found.length < pageRows) break
    }
  }
}
