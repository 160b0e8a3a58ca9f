/** What does not depend on an exchange of ours: decimals, and trades of exchanges that are read by time. */
import { expect, test } from 'vitest'
import type { z } from 'zod'
import type { Connection } from '../../functions/_shared/exchanges/connect.ts'
import { add, decimal } from '../../functions/_shared/exchanges/decimals.ts'
import { readTradesSince } from '../../functions/_shared/exchanges/read-trades.ts'

test.each([
  ['1e-8', '0.00000001'],
  ['1.5E+3', '1500'],
  ['-2.50e-1', '-0.250'],
  ['123456789012345678.9', '123456789012345678.9'],
])('%s is %s', (written, plain) => {
  expect(decimal.parse(written)).toBe(plain)
})

test.each(['NaN', '', '1,5', '0x10', 'Infinity'])('%s is no decimal', (text) => {
  expect(decimal.safeParse(text).success).toBe(false)
})

test.each([
  ['0.1', '0.2', '0.3'],
  ['-0.1', '0.05', '-0.05'],
  ['1', '0.000000000000000001', '1.000000000000000001'],
])('%s and %s are %s', (a, b, sum) => {
  expect(add(a, b)).toBe(sum)
})

/** An exchange that shows three trades at a time, from a moment on, the oldest first. */
function exchangeByTime(times: number[]): Connection {
  const trades = times.map((timestamp, i) => ({
    id: `t${i}`,
    symbol: 'BTC/USD',
    side: 'buy',
    amount: '1',
    price: '2',
    timestamp,
    info: {},
  }))
  const answer = (sinceMs: unknown) => trades.filter(({ timestamp }) => timestamp >= Number(sinceMs ?? 0)).slice(0, 3)
  return {
    exchange: 'another',
    needsSymbol: false,
    now: Date.now,
    call: async <T>(schema: z.ZodType<T>, _method: string, _symbol: unknown, sinceMs: unknown) =>
      schema.parse(answer(sinceMs)),
  }
}

test('an exchange that is read by time gives each trade once, also those of one moment', async () => {
  const connection = exchangeByTime([10, 20, 20, 30, 30, 40, 50])
  const ids: string[] = []
  let cursor: unknown = null

  for (let isDone = false; !isDone; ) {
    const page = await readTradesSince(connection, cursor, { assets: [] }).next()
    isDone = page.done ?? false
    if (page.done) continue
    ids.push(...page.value.trades.map(({ exchange_trade_id }) => exchange_trade_id))
    cursor = JSON.parse(JSON.stringify(page.value.cursor))
  }

  expect(ids).toEqual(['t0', 't1', 't2', 't3', 't4', 't5', 't6'])
})
