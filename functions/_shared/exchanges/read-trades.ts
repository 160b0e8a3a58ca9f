/**
 * Reads trades page by page from a cursor on. Whoever stores a page's trades and its cursor in one transaction gets every
 * trade once, also when the process dies between two pages: the next run goes on from the stored cursor.
 */
import type { Connection } from './connect.ts'
import type { TradePage } from './trade.ts'
import { tradesById } from './trades-by-id.ts'
import { tradesBySince } from './trades-by-since.ts'
import { tradesByWindow, windows } from './trades-by-window.ts'

export type { Trade, TradePage } from './trade.ts'

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
