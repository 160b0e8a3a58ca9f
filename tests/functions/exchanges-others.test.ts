/** What does not depend on an exchange of ours: decimals, and trades of exchanges that are read by time. */
import { expect, test } from 'vitest'
import type { z } from 'zod'
import type { Connection } from '../../functions/_shared/exchanges/connect.ts'
import { decimal, divide, multiply } from '../../functions/_shared/exchanges/decimals.ts'
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

test('a hundred digits are a decimal, and more are none', () => {
  expect(decimal.safeParse('1'.repeat(100)).success).toBe(true)
  expect(decimal.safeParse('1'.repeat(101)).success).toBe(false)
})

test.each([
  ['0.1', '0.2', '0.02'],
  ['-0.5', '3', '-1.5'],
  ['12345678901234567.8', '0.000000000000000001', '0.0123456789012345678'],
])('%s times %s is %s', (a, b, product) => {
  expect(multiply(a, b)).toBe(product)
})

test.each([
  ['1', '3', '0.333333333333333333'],
  ['10', '4', '2.500000000000000000'],
  ['0.000000000000000001', '10', '0.000000000000000000'],
  ['1', '0.00000000000000000001', '100000000000000000000.000000000000000000'],
])('%s by %s is %s, cut to 18 decimals', (a, b, share) => {
  expect(divide(a, b, 18)).toBe(share)
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
