/** The arithmetic of npm run bench: medians, ratios within a round, figures and what they reach. */
import { expect, test } from 'vitest'
import { countersBetween, statementName } from '../../scripts/bench/benchmarks/gateway/database-counters.ts'
import type { Measured } from '../../scripts/bench/benchmarks/gateway/load-contract.ts'
import { cpuMsBetween } from '../../scripts/bench/benchmarks/gateway/processes.ts'
import { quantile, summary } from '../../scripts/bench/benchmarks/gateway/quantile.ts'
import { report } from '../../scripts/bench/benchmarks/gateway/report.ts'
import { cases, key, type Round, type Side } from '../../scripts/bench/benchmarks/gateway/rounds.ts'
import { figures, judge } from '../../scripts/bench/figures.ts'
import { figureResult, jsonOf, tablesOf } from '../../scripts/bench/results.ts'

const window = (callsPerSecond: number, more: Partial<Measured> = {}): Measured => ({
  calls: callsPerSecond,
  ms: 1000,
  total: { p50: 1, p90: 2, p99: 3 },
  first: { p50: 1, p90: 2, p99: 3 },
  cpuMs: { client: 1, provider: 1, function: 1 },
  stallMs: 0,
  ...more,
})
const roundOf = (windows: Partial<Record<Side, Measured | 'failed'>>, id: string = cases.among64.id): Round =>
  new Map(Object.entries(windows).map(([side, measured]) => [key(id, side as Side), measured]))
const figureOf = (rounds: Round[], figure: keyof typeof figures) =>
  report(rounds).find((result) => result.figure === figure)?.value

test('a figure is missed, met, or has reached its aim, whichever way is better; what is not a number is missed', () => {
  const { jsonOverPortkey: higher, coldStart: lower } = figures

  expect([2.49, 2.5, 3].map((value) => judge(higher, value))).toEqual(['MISSED', 'met', 'aim reached'])
  expect([2.51, 2.5, 2.2].map((value) => judge(lower, value))).toEqual(['MISSED', 'met', 'aim reached'])
  expect([judge(higher, Number.NaN), judge(lower, Number.NaN)]).toEqual(['MISSED', 'MISSED'])
})

test('the aim of a figure is no less than what it must reach at least', () => {
  for (const figure of Object.values(figures)) expect(judge(figure, figure.aim), figure.name).toBe('aim reached')
  for (const figure of Object.values(figures)) expect(judge(figure, figure.atLeast), figure.name).toBe('met')
})

test('a quantile of nothing is not a number', () => {
  expect(quantile([3, 1, 2], 0.5)).toBe(2)
  expect(summary([1, 2, 3])).toEqual({ value: 2, note: 'single rounds p10 to p90: 1.00 to 3.00' })
  expect(quantile([], 0.5)).toBeNaN()
})

test('a ratio is formed within a round, and the figure is the median of the rounds', () => {
  const rounds = [
    roundOf({ palisade: window(300), portkey: window(100) }),
    roundOf({ palisade: window(20), portkey: window(10) }),
    roundOf({ palisade: window(100), portkey: window(1000) }),
  ]

  expect(figureOf(rounds, 'jsonOverPortkey')).toBe(2)
})

test('a window of ours that failed is the worst there can be, and one of another system takes its round out', () => {
  const good = roundOf({ palisade: window(300), portkey: window(100) })
  const oursFailed = roundOf({ palisade: 'failed', portkey: window(100) })
  const theirsFailed = roundOf({ palisade: window(900), portkey: 'failed' })

  expect(figureOf([good, oursFailed, oursFailed], 'jsonOverPortkey')).toBe(0)
  expect(figureOf([good, theirsFailed, theirsFailed], 'jsonOverPortkey')).toBe(3)
  expect(report([good, oursFailed])[0]).toMatchObject({ name: 'windows with an error, of 4', value: 1 })
})

test('added time is over the provider asked directly; one that adds nothing makes the ratio infinite, not small', () => {
  const at = (p50: number) => window(1, { total: { p50, p90: p50, p99: p50 } })
  const round = (portkeyMs: number) =>
    roundOf({ direct: at(1), palisade: at(3), portkey: at(portkeyMs) }, cases.alone.id)

  expect(figureOf([round(2)], 'addedAlone')).toBe(2)
  expect(figureOf([round(1)], 'addedAlone')).toBe(Number.POSITIVE_INFINITY)
})

test('what was staggered is the added p99 in milliseconds, and CPU is that of the function and the database', () => {
  const first = (p99: number) => window(1, { first: { p50: 1, p90: 1, p99 } })
  const staggered = roundOf({ direct: first(5), palisade: first(25) }, cases.staggered.id)
  const ours = window(1, { cpuMs: { client: 9, provider: 9, function: 2, postgres: 1 } })
  const theirs = window(1, { cpuMs: { client: 9, provider: 9, function: 6 } })
  const spaced = roundOf({ palisade: ours, portkey: theirs }, cases.spaced.id)

  expect(figureOf([staggered], 'staggeredFirstByte')).toBe(20)
  expect(figureOf([spaced], 'streamCpu')).toBe(0.5)
})

test('time on a CPU counts threads that began meanwhile, and not what was before', () => {
  const before = new Map([
    ['1/1', 10],
    ['1/2', 5],
  ])

  expect(
    cpuMsBetween(
      before,
      new Map([
        ['1/1', 12],
        ['1/3', 4],
      ]),
    ),
  ).toBe(6)
  expect(cpuMsBetween(new Map(), new Map())).toBeNaN()
})

test('statements are counted by the function that they call, and batches are calls over statements', () => {
  const name = statementName('  select private.admit_ai_calls($1)\n as answer')
  const counted = countersBetween(
    {
      walBytes: 1000,
      statements: new Map([
        [name, 5],
        ['begin', 2],
      ]),
    },
    {
      walBytes: 3000,
      statements: new Map([
        [name, 15],
        ['begin', 2],
      ]),
    },
  )

  expect(name).toBe('admit_ai_calls')
  expect(counted).toEqual({ walBytes: 2000, statements: [[name, 10]] })
  const notes = report([roundOf({ palisade: window(70, { database: counted }) })]).at(-1)?.note
  expect(notes).toContain('WAL 0.03 kB a call, calls a statement: admit_ai_calls 7.0')
})

test('tables show what is missed; JSON has every figure, also one that was not measured', () => {
  const results = [figureResult('coldStart', 3, 'a note'), { name: 'other', unit: 'ms', value: 2, target: 1 }]

  expect(tablesOf(results)).toMatch(
    /cold start.* 3\.000 ratio +<= 2\.5 +<= 2\.2 +MISSED +a note[\s\S]*other .*<= 1 +MISSED/,
  )
  const json = JSON.parse(jsonOf(results, { commit: 'abc' }))
  expect(json).toMatchObject({ commit: 'abc', others: [{ name: 'other', verdict: 'MISSED' }] })
  expect(json.figures).toHaveLength(Object.keys(figures).length)
  expect(json.figures).toContainEqual(expect.objectContaining({ id: 'coldStart', value: 3, verdict: 'MISSED' }))
  expect(json.figures).toContainEqual(
    expect.objectContaining({ id: 'walPerCall', value: null, verdict: 'not measured' }),
  )
})
