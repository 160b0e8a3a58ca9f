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

type Row = Record<string, unknown>
const row = (n: number, timestamp: number, more: Row = {}): Row => ({
  ...{ id: `t${n}`, symbol: 'BTC/USD', side: 'buy', amount: '1', price: '2', timestamp, info: {} },
  ...more,
})

/** An exchange that shows three trades at a time, from a moment on, the oldest first. */
function exchangeByTime(rows: Row[]): Connection {
  const answer = (sinceMs: unknown) => rows.filter(({ timestamp }) => !(Number(timestamp) < Number(sinceMs ?? 0)))
  return {
    exchange: 'another',
    needsSymbol: false,
    now: Date.now,
    call: async <T>(schema: z.ZodType<T>, _method: string, _symbol: unknown, sinceMs: unknown) =>
      schema.parse(answer(sinceMs).slice(0, 3)),
  }
}

/** Page by page, each from the cursor of the one before, as after a restart; ends when a cursor says nothing new. */
async function readOn(connection: Connection) {
  const ids: string[] = []
  const skipped: string[] = []
  let cursor: unknown = null
  for (;;) {
    const page = await readTradesSince(connection, cursor, { assets: [] }).next()
    if (page.done) return { ids, skipped }
    ids.push(...page.value.trades.map(({ exchange_trade_id }) => exchange_trade_id))
    skipped.push(...page.value.skipped.map(({ id, reason }) => `${id} ${reason}`))
    const next: unknown = JSON.parse(JSON.stringify(page.value.cursor))
    if (JSON.stringify(next) === JSON.stringify(cursor)) return { ids, skipped }
    cursor = next
  }
}

test('an exchange that is read by time gives each trade once, also those of one moment', async () => {
  const { ids } = await readOn(exchangeByTime([10, 20, 20, 30, 30, 40, 50].map((ms, n) => row(n, ms))))

  expect(ids).toEqual(['t0', 't1', 't2', 't3', 't4', 't5', 't6'])
})

test('a page of which nothing can be read is told, and the next ones are read', async () => {
  const bad = [1, 2, 3].map((n) => row(n, 20 + n, { amount: 'much' }))

  const { ids, skipped } = await readOn(exchangeByTime([row(0, 10), ...bad, row(4, 30), row(5, 40)]))

  expect(ids).toEqual(['t0', 't4', 't5'])
  expect(skipped).toEqual(['t1 not_readable', 't2 not_readable', 't3 not_readable'])
})

test('rows without an id are told each by itself', async () => {
  const bad = [0, 1].map((n) => row(n, 20 + n, { id: undefined }))

  const { skipped } = await readOn(exchangeByTime([...bad, row(2, 30)]))

  expect(new Set(skipped).size).toBe(2)
})

test('a page of nothing but derivatives ends no reading', async () => {
  const others = [0, 1, 2].map((n) => row(n, 10 + n, { symbol: 'BTC/USD:USD' }))

  expect(await readOn(exchangeByTime([...others, row(3, 30)]))).toEqual({ ids: ['t3'], skipped: [] })
})

test('a market whose name is none is told, and not left out', async () => {
  const { ids, skipped } = await readOn(exchangeByTime([row(0, 10, { symbol: 'BTCUSD' }), row(1, 20)]))

  expect([ids, skipped]).toEqual([['t1'], ['t0 name_not_readable']])
})

test('a row without a time is told, and one of a time to come does not end the reading', async () => {
  const odd = [row(0, 10), row(1, 20, { timestamp: null }), row(2, Date.UTC(9000, 0), { price: 'none' })]

  expect((await readOn(exchangeByTime(odd))).skipped.slice(0, 2)).toEqual(['t1 not_readable', 't2 not_readable'])
  const late = [row(0, 10), row(1, 20), row(2, Date.UTC(9000, 0)), row(3, 30)]
  expect((await readOn(exchangeByTime(late))).ids).toContain('t3')
})

test.each([
  ['nothing that can be read', { amount: 'much' }, [], ['BTC/USDT:x not_readable']],
  ['trades without a number', {}, ['BTC/USDT:x'], []],
])('binance: a page of %s is told, and asked for again', async (_, more, traded, left) => {
  const connection: Connection = {
    ...exchangeByTime([]),
    exchange: 'binance',
    call: async (schema, method) => {
      const market = { symbol: 'BTC/USDT', base: 'BTC', quote: 'USDT', spot: true, active: true }
      return schema.parse(method === 'loadMarkets' ? { 'BTC/USDT': market } : [row(0, 10, { id: 'x', ...more })])
    },
  }

  const { ids, skipped } = await readOn(connection)

  expect([[...new Set(ids)], [...new Set(skipped)]]).toEqual([traded, left])
})
