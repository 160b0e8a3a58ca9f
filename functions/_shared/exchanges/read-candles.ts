/** What a market cost in the past: the last price of a minute, an hour or a day (UTC), as far as its exchange still tells. */
import { z } from 'zod'
import type { Connection } from './connect.ts'
import { decimal } from './decimals.ts'

export const granularities = ['1m', '1h', '1d'] as const
export type Granularity = (typeof granularities)[number]
export const spanMs: Record<Granularity, number> = { '1m': 60_000, '1h': 3_600_000, '1d': 86_400_000 }

/** How many candles one request brings. */
const mostAtOnce: Record<string, number> = { binance: 1000, coinbase: 300, kraken: 720 }
export const candlesAtOnce = (exchange: string): number => mostAtOnce[exchange] ?? 300

/** Kraken tells the newest 720 of a kind and none before. */
export const isTold = (exchange: string, granularity: Granularity, startsAtMs: number, nowMs: number): boolean =>
  exchange !== 'kraken' || startsAtMs >= nowMs - 720 * spanMs[granularity]

const candles = z.array(z.tuple([z.number(), z.unknown(), z.unknown(), z.unknown(), z.unknown()]).rest(z.unknown()))

/** Last prices by when their candle begins, in epoch milliseconds, of `count` candles from `fromMs` on. One without a trade may be missing. */
export async function readCandles(
  connection: Connection,
  symbol: string,
  granularity: Granularity,
  fromMs: number,
  count: number,
): Promise<Map<number, string>> {
  const found = await connection.call(candles, 'fetchOHLCV', symbol, granularity, fromMs, count)
  return new Map(
    found.flatMap(([startsAtMs, , , , close]) => {
      const { data } = decimal.safeParse(close)
      return data === undefined ? [] : [[startsAtMs, data] as const]
    }),
  )
}
