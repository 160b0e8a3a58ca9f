/** From windows to results: a ratio is formed within a round, and what is reported is the median over the rounds. */
import { type FigureId, figures } from '../../figures.ts'
import { figureResult } from '../../results.ts'
import type { BenchResult } from '../../types.ts'
import type { Measured } from './load-contract.ts'
import { quantile, summary } from './quantile.ts'
import { type Case, cases, key, type Round, type Side } from './rounds.ts'

type Metric = (measured: Measured) => number

const rate: Metric = ({ calls, ms }) => (calls * 1000) / ms
const total: Metric = ({ total }) => total.p50
const slowest: Metric = ({ total }) => total.p99
const first: Metric = ({ first }) => first.p50
const lastFirst: Metric = ({ first }) => first.p99
const cpuOf =
  (...processes: string[]): Metric =>
  ({ calls, cpuMs }) =>
    processes.reduce((sum, name) => sum + (cpuMs[name] ?? 0), 0) / calls
const functionCpu = cpuOf('function')
/** Of the system as a whole: all but the load and the provider. */
const systemCpu = cpuOf('function', 'postgres', 'pgbouncer')

const valueIn = (round: Round, id: string, side: Side, metric: Metric): number => {
  const measured = round.get(key(id, side))
  return measured && measured !== 'failed' ? metric(measured) : Number.NaN
}

/** A cost that was not seen in a round is no excuse: a divisor of zero or less makes the ratio infinite, not small. */
const over = (cost: number, divisor: number) => (divisor <= 0 ? Number.POSITIVE_INFINITY : cost / divisor)

/** `added`: what each adds to the provider's own time in the same round. Without `to` it is that time itself, in milliseconds. */
type Comparison = { in: Case; metric: Metric; of: Side; to?: Side; added?: boolean }
type Wanted = Comparison & ({ figure: FigureId } | { name: string; better: 'higher' | 'lower' })

function compare(round: Round, { in: { id }, metric, of, to, added = false }: Comparison): number {
  const base = added ? valueIn(round, id, 'direct', metric) : 0
  const cost = valueIn(round, id, of, metric) - base
  return to === undefined ? cost : over(cost, valueIn(round, id, to, metric) - base)
}

const us = 'palisade'
const two = 'palisade, two processes'
const pooled = 'palisade, PgBouncer'
const { alone, among16, among64, slow, atOnce, spaced, staggered } = cases
const [higher, lower] = ['higher', 'lower'] as const

const wanted: Wanted[] = [
  { figure: 'jsonOverPortkey', in: among64, metric: rate, of: us, to: 'portkey' },
  { figure: 'jsonOverTwoTrips', in: among64, metric: rate, of: us, to: 'two-trips' },
  { figure: 'addedAlone', in: alone, metric: total, of: us, to: 'portkey', added: true },
  { figure: 'addedAmong16', in: among16, metric: total, of: us, to: 'portkey', added: true },
  { figure: 'slowOverDirect', in: slow, metric: rate, of: us, to: 'direct' },
  { figure: 'hotOverSpread', in: among64, metric: rate, of: 'palisade hot', to: us },
  { figure: 'streamFirstByte', in: spaced, metric: first, of: us, to: 'pass-through', added: true },
  { figure: 'streamTotal', in: spaced, metric: total, of: us, to: 'direct' },
  { figure: 'streamCpu', in: spaced, metric: systemCpu, of: us, to: 'portkey' },
  { figure: 'streamsAtOnce', in: atOnce, metric: rate, of: us, to: 'portkey' },
  { figure: 'staggeredFirstByte', in: staggered, metric: lastFirst, of: us, added: true },

  { name: 'throughput over llms', in: among64, metric: rate, of: us, to: 'llms', better: higher },
  { name: 'throughput of llms over Portkey', in: among64, metric: rate, of: 'llms', to: 'portkey', better: higher },
  { name: 'CPU per call over Portkey', in: among64, metric: systemCpu, of: us, to: 'portkey', better: lower },
  { name: 'the same, the function alone', in: among64, metric: functionCpu, of: us, to: 'portkey', better: lower },
  {
    name: 'hot user over spread, two trips',
    in: among64,
    metric: rate,
    of: 'two-trips hot',
    to: 'two-trips',
    better: higher,
  },
  { name: 'two processes over one', in: among64, metric: rate, of: two, to: us, better: higher },
  { name: 'PgBouncer over direct connection', in: among64, metric: rate, of: pooled, to: us, better: higher },
  {
    name: 'PgBouncer: added median over direct connection',
    in: alone,
    metric: total,
    of: pooled,
    to: us,
    added: true,
    better: lower,
  },
  { name: 'added p99 over Portkey', in: alone, metric: slowest, of: us, to: 'portkey', added: true, better: lower },
  { name: 'added p99 over Portkey', in: among16, metric: slowest, of: us, to: 'portkey', added: true, better: lower },
  { name: 'added median over Portkey', in: slow, metric: total, of: us, to: 'portkey', added: true, better: lower },
  { name: 'throughput over llms', in: atOnce, metric: rate, of: us, to: 'llms', better: higher },
  { name: 'CPU per stream over Portkey', in: atOnce, metric: systemCpu, of: us, to: 'portkey', better: lower },
  {
    name: 'CPU over Portkey, the function alone',
    in: spaced,
    metric: functionCpu,
    of: us,
    to: 'portkey',
    better: lower,
  },
  {
    name: 'added first byte over Portkey',
    in: spaced,
    metric: first,
    of: us,
    to: 'portkey',
    added: true,
    better: lower,
  },
  {
    name: 'added first byte p99, pass-through',
    in: staggered,
    metric: lastFirst,
    of: 'pass-through',
    added: true,
    better: lower,
  },
  {
    name: 'added first byte p99, Portkey',
    in: staggered,
    metric: lastFirst,
    of: 'portkey',
    added: true,
    better: lower,
  },
  { name: 'added first byte p99, llms', in: staggered, metric: lastFirst, of: 'llms', added: true, better: lower },
]

export function report(rounds: Round[]): BenchResult[] {
  // A system that could not be started has no windows at all.
  const isThere = ({ in: { id }, of }: Wanted) => rounds.some((round) => round.has(key(id, of)))
  return [
    failures(rounds),
    ...wanted.filter(isThere).map((want) => comparisonResult(rounds, want)),
    ...absoluteResults(rounds),
  ]
}

const betterOf = (want: Wanted) => ('figure' in want ? figures[want.figure].better : want.better)

/** A round in which ours failed counts as the worst there can be; one in which another failed says nothing and does not count. */
function valueAs(round: Round, want: Wanted): number {
  if (round.get(key(want.in.id, want.of)) === 'failed')
    return betterOf(want) === 'higher' ? 0 : Number.POSITIVE_INFINITY
  return compare(round, want)
}

function comparisonResult(rounds: Round[], want: Wanted): BenchResult {
  const values = rounds.map((round) => valueAs(round, want)).filter((value) => !Number.isNaN(value))
  const { value, note: spread } = summary(values)
  const note = values.length === rounds.length ? spread : `${spread}; ${values.length} of ${rounds.length} rounds count`
  if ('figure' in want) return figureResult(want.figure, value, note)
  const unit = want.to === undefined ? 'ms' : 'ratio'
  return { name: `${want.in.id}: ${want.name}`, unit, better: want.better, value, note }
}

function failures(rounds: Round[]): BenchResult {
  const windows = rounds.flatMap((round) => [...round])
  const failed = windows.filter(([, measured]) => measured === 'failed').map(([name]) => name)
  const note = [...new Set(failed)].join('; ')
  return { name: `windows with an error, of ${windows.length}`, unit: 'windows', value: failed.length, target: 0, note }
}

/** Medians over the rounds, for orientation: what the machine was like, not what is promised. */
function absoluteResults(rounds: Round[]): BenchResult[] {
  return Object.values<Case>(cases).flatMap(({ id, stream, sides }) =>
    sides.flatMap((side) => {
      const windows = rounds.flatMap((round) => {
        const measured = round.get(key(id, side))
        return measured && measured !== 'failed' ? [measured] : []
      })
      if (windows.length === 0) return []
      const median = (metric: Metric) => quantile(windows.map(metric), 0.5)
      const notes = [
        `${median(rate).toFixed(0)}/s`,
        `p99 ${median(slowest).toFixed(1)} ms`,
        ...(stream ? [`first byte ${median(first).toFixed(1)}, p99 ${median(lastFirst).toFixed(1)} ms`] : []),
        `CPU a call ${cpuText(windows)}`,
        ...databaseNotes(windows),
      ]
      return [{ name: key(id, side), unit: 'ms', value: median(total), note: notes.join(', ') }]
    }),
  )
}

/** Of every process, in microseconds. */
function cpuText(windows: Measured[]): string {
  const names = Object.keys(windows[0]?.cpuMs ?? {})
  const texts = names.map((name) => `${name} ${(quantile(windows.map(cpuOf(name)), 0.5) * 1000).toFixed(0)}`)
  return `${texts.join(' + ')} us`
}

/** WAL, and how many calls shared each of the statements that were run most: what a batch reached. */
function databaseNotes(windows: Measured[]): string[] {
  const counted = windows.flatMap(({ calls, database }) => (database ? [{ calls, ...database }] : []))
  if (counted.length === 0) return []
  const wal = quantile(
    counted.map(({ calls, walBytes }) => walBytes / calls / 1000),
    0.5,
  )
  const calls = counted.reduce((sum, one) => sum + one.calls, 0)
  const counts = new Map<string, number>()
  for (const [name, count] of counted.flatMap(({ statements }) => statements))
    counts.set(name, (counts.get(name) ?? 0) + count)
  const most = [...counts].toSorted(([, one], [, other]) => other - one).slice(0, 4)
  const batches = most.map(([name, count]) => `${name} ${(calls / count).toFixed(1)}`)
  return [`WAL ${wal.toFixed(2)} kB a call`, `calls a statement: ${batches.join(', ')}`]
}
