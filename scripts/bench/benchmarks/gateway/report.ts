/** From windows to results: a ratio is formed within a round, and what is reported is the median over the rounds. */
import type { BenchResult } from '../../types.ts'
import type { Measured } from './load-contract.ts'
import { quantile, summary } from './quantile.ts'
import { caseId, cases, key, type Round, type Side, sidesOf } from './rounds.ts'

type Metric = (measured: Measured) => number

const rate: Metric = ({ calls, ms }) => (calls * 1000) / ms
const total: Metric = ({ total }) => total.p50
const first: Metric = ({ first }) => first.p50
const cpu: Metric = ({ calls, cpuMs }) => cpuMs.own / calls
const databaseCpu: Metric = ({ calls, cpuMs }) => cpuMs.children / calls

const valueIn = (round: Round, id: string, side: Side, metric: Metric): number => {
  const measured = round.get(key(id, side))
  return measured && measured !== 'failed' ? metric(measured) : Number.NaN
}

/** A cost that was not seen in a round is no excuse: a divisor of zero or less makes the ratio infinite, not small. */
const over = (cost: number, divisor: number) => (divisor <= 0 ? Number.POSITIVE_INFINITY : cost / divisor)

type Comparison = { id: string; metric: Metric; of: Side; to: Side; added?: boolean }

/** `added`: what each adds to the provider's own time in the same round. */
function compare(round: Round, { id, metric, of, to, added = false }: Comparison): number {
  const base = added ? valueIn(round, id, 'direct', metric) : 0
  return over(valueIn(round, id, of, metric) - base, valueIn(round, id, to, metric) - base)
}

type Wanted = Comparison & { name: string; target?: number; better: 'higher' | 'lower' }

const us = 'palisade'
const json = (callers: number) => caseId('JSON', callers)
const slow = caseId('JSON, provider 20 ms', 64)
const spaced = caseId('stream, 10 ms apart', 64)
const wanted: Wanted[] = [
  { name: 'throughput over Portkey', id: json(64), metric: rate, of: us, to: 'portkey', better: 'higher', target: 3 },
  { name: 'throughput over two round trips', id: json(64), metric: rate, of: us, to: 'two-trips', better: 'higher' },
  {
    name: 'hot user over spread users',
    id: json(64),
    metric: rate,
    of: 'palisade hot',
    to: us,
    better: 'higher',
    target: 0.9,
  },
  {
    name: 'the same with two round trips',
    id: json(64),
    metric: rate,
    of: 'two-trips hot',
    to: 'two-trips',
    better: 'higher',
  },
  {
    name: 'added median over Portkey',
    id: json(1),
    metric: total,
    of: us,
    to: 'portkey',
    added: true,
    better: 'lower',
    target: 1.7,
  },
  {
    name: 'added median over Portkey',
    id: json(16),
    metric: total,
    of: us,
    to: 'portkey',
    added: true,
    better: 'lower',
    target: 0.4,
  },
  { name: 'CPU per call over Portkey', id: json(64), metric: cpu, of: us, to: 'portkey', better: 'lower' },
  { name: 'throughput over direct', id: slow, metric: rate, of: us, to: 'direct', better: 'higher', target: 0.8 },
  {
    name: 'added median over Portkey',
    id: slow,
    metric: total,
    of: us,
    to: 'portkey',
    added: true,
    better: 'lower',
    target: 0.2,
  },
  {
    name: 'added time to first byte over pass-through',
    id: spaced,
    metric: first,
    of: us,
    to: 'pass-through',
    added: true,
    better: 'lower',
    target: 4,
  },
  {
    name: 'added time to first byte over Portkey',
    id: spaced,
    metric: first,
    of: us,
    to: 'portkey',
    added: true,
    better: 'lower',
  },
  { name: 'total over direct', id: spaced, metric: total, of: us, to: 'direct', better: 'lower', target: 1.04 },
  {
    name: 'CPU per stream over Portkey',
    id: spaced,
    metric: cpu,
    of: us,
    to: 'portkey',
    better: 'lower',
    target: 0.85,
  },
  { name: 'throughput over Portkey', id: caseId('stream', 64), metric: rate, of: us, to: 'portkey', better: 'higher' },
  {
    name: 'CPU per stream over Portkey',
    id: caseId('stream', 64),
    metric: cpu,
    of: us,
    to: 'portkey',
    better: 'lower',
  },
]

export function report(rounds: Round[]): BenchResult[] {
  return [failures(rounds), ...wanted.map((want) => ratioResult(rounds, want)), ...absoluteResults(rounds)]
}

/** A round in which ours failed counts as the worst there can be; one in which another failed says nothing and does not count. */
function ratioIn(round: Round, want: Wanted): number {
  if (round.get(key(want.id, want.of)) === 'failed') return want.better === 'higher' ? 0 : Number.POSITIVE_INFINITY
  return compare(round, want)
}

function ratioResult(rounds: Round[], want: Wanted): BenchResult {
  const ratios = rounds.map((round) => ratioIn(round, want)).filter((ratio) => !Number.isNaN(ratio))
  const { value, note } = summary(ratios)
  const result: BenchResult = {
    name: `${want.id}: ${want.name}`,
    unit: 'ratio',
    better: want.better,
    value,
    note: ratios.length === rounds.length ? note : `${note}; ${ratios.length} of ${rounds.length} rounds count`,
  }
  if (want.target !== undefined) result.target = want.target
  return result
}

function failures(rounds: Round[]): BenchResult {
  const windows = rounds.flatMap((round) => [...round])
  const failed = windows.filter(([, measured]) => measured === 'failed').map(([name]) => name)
  const note = [...new Set(failed)].join('; ')
  return { name: `windows with an error, of ${windows.length}`, unit: 'windows', value: failed.length, target: 0, note }
}

/** Medians over the rounds, for orientation: what the machine was like, not what is promised. */
function absoluteResults(rounds: Round[]): BenchResult[] {
  return cases.flatMap((oneCase) =>
    sidesOf(oneCase).map((side) => {
      const median = (metric: Metric) =>
        quantile(
          rounds
            .map((round) => valueIn(round, oneCase.id, side, metric))
            // A window that failed has no value.
            .filter((value) => !Number.isNaN(value)),
          0.5,
        )
      const cpuText = [median(cpu), median(databaseCpu)].map((ms) => (Number.isNaN(ms) ? '' : ms.toFixed(2)))
      const notes = [
        `${median(rate).toFixed(0)}/s`,
        `p99 ${median(({ total }) => total.p99).toFixed(1)} ms`,
        ...(oneCase.stream ? [`first byte ${median(first).toFixed(1)} ms`] : []),
        `CPU ${cpuText.filter(Boolean).join(' + database ')} ms a call`,
      ]
      return { name: key(oneCase.id, side), unit: 'ms', value: median(total), note: notes.join(', ') }
    }),
  )
}
