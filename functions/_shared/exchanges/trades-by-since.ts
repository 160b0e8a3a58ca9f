/**
 * Every other exchange: from a time on, the oldest first, as ccxt promises. The cursor keeps the ids of the last moment,
 * so that trades of the same millisecond are neither repeated nor lost. How far back the first call reaches is up to
 * the exchange.
 */
import { z } from 'zod'
import type { Connection } from './connect.ts'
import { fetchTrades, isSpot, symbolsToAsk, type TradePage, toTrade } from './trade.ts'

const place = z.object({ since_ms: z.number().int(), seen: z.array(z.string()) })
const cursorOf = z.object({ places: z.record(z.string(), place) })
const everything = '*'

export async function* tradesBySince(
  connection: Connection,
  cursor: unknown,
  assets: string[],
): AsyncGenerator<TradePage> {
  const places = { ...(cursor === null ? {} : cursorOf.parse(cursor).places) }
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
