/**
 * Whether autovacuum keeps up: an hour of calls at half of what the gateway does at most, and the sizes and dead rows of the
 * tables that change with every call, over time. `--scale 1` is the hour.
 */
import postgres from 'postgres'
import { changingTables, jobs } from '../private-sql.ts'
import type { BenchResult, BenchWorld } from '../types.ts'
import type { Load, Measured } from './gateway/load-contract.ts'
import { quantile } from './gateway/quantile.ts'
import { modelName } from './gateway/seed.ts'
import { startSystems } from './gateway/systems.ts'

/** @public Five minutes, unless the command line says more. Read by the name of its file. */
export const defaultScale = 1 / 12

const hourMs = 3_600_000
const users = 10_000
const samples = 30
/** Autovacuum looks once a minute: less says nothing of it. */
const tellingMs = 10 * 60_000
const peakMs = 1_000

type Sample = { table: string; heapKb: number; indexKb: number; live: number; dead: number; vacuums: number }

type Measure = (more: Pick<Load, 'amount' | 'perSecond'>) => Promise<Measured>

/** @public Called by the name of its file. */
export async function bench(world: BenchWorld): Promise<BenchResult[]> {
  const { targets, load, superuserUrl, databaseUrl, stop } = await startSystems(world, 'bloat', {
    users,
    wanted: ['palisade'],
  })
  const sql = postgres(superuserUrl, { max: 1, onnotice: () => {} })
  const cron = startJobs(databaseUrl)
  try {
    const target = targets.get('palisade')
    if (!target) throw new Error('the gateway was not started')
    const rest = { target, callers: 64, stream: false, model: modelName(0, 0), users: 'spread' } as const
    const measure: Measure = (more) => load.measure({ ...rest, ...more })
    const perSecond = (await peakOf(measure)) / 2
    world.progress(`half of the peak: ${perSecond.toFixed(0)} calls a second`)
    const found: Sample[][] = []
    let [calls, ms] = [0, 0]
    while (found.length < samples) {
      const measured = await measure({ amount: { ms: (hourMs * world.scale) / samples }, perSecond })
      calls += measured.calls
      ms += measured.ms
      cron.mustBeWell()
      const sample = await look(sql)
      found.push(sample)
      world.progress(`${found.length} of ${samples}, ${calls} calls: ${sample.map(textOf).join('; ')}`)
    }
    const reached = (calls * 1000) / ms
    return [
      {
        name: 'bloat: calls a second of what was wanted',
        unit: 'ratio',
        target: 0.95,
        value: reached / perSecond,
        note: `${reached.toFixed(0)} of ${perSecond.toFixed(0)}; ${calls} calls`,
      },
      ...changingTables.flatMap((table) => resultsOf(table, found, hourMs * world.scale >= tellingMs)),
    ]
  } finally {
    await cron.stop()
    await sql.end({ timeout: 1 })
    await stop()
  }
}

/** Calls a second in a closed loop, without the first windows, in which everything is new. */
async function peakOf(measure: Measure): Promise<number> {
  const rates: number[] = []
  for (let window = 0; window < 8; window += 1) {
    const { calls, ms } = await measure({ amount: { ms: peakMs } })
    rates.push((calls * 1000) / ms)
  }
  return quantile(rates.slice(2), 0.5)
}

const textOf = ({ table, heapKb, indexKb, dead, vacuums }: Sample) =>
  `${table} ${heapKb} + ${indexKb} kB, ${dead} dead, ${vacuums} vacuums`

/** Jobs as cron runs them, as postgres; here it is this process that looks at the clock. */
function startJobs(url: string) {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  let failure: unknown
  const timers = jobs.map(([everySeconds, statement]) =>
    setInterval(() => void sql.unsafe(statement).catch((error) => (failure = error)), everySeconds * 1000),
  )
  return {
    mustBeWell() {
      if (failure) throw failure
    },
    async stop() {
      for (const timer of timers) clearInterval(timer)
      await sql.end({ timeout: 5 })
    },
  }
}

/** The server's numbers of dead rows are those that it has heard of so far, a second late. */
const look = (sql: postgres.Sql): Promise<Sample[]> => sql<Sample[]>`
  select t.name as table, pg_relation_size(t.name::regclass)::float8 / 1024 as "heapKb",
    pg_indexes_size(t.name::regclass)::float8 / 1024 as "indexKb",
    s.n_live_tup::float8 as live, s.n_dead_tup::float8 as dead, s.autovacuum_count::float8 as vacuums
  from unnest(${changingTables}::text[]) with ordinality as t (name, place)
  join pg_stat_all_tables s on s.relid = t.name::regclass
  order by t.place`

/** A table that has found its size has the same in the last third as in the second; one that autovacuum loses grows on. */
function resultsOf(table: string, found: Sample[][], isTelling: boolean): BenchResult[] {
  const all = found.flatMap((sample) => sample.filter((one) => one.table === table))
  const third = Math.floor(all.length / 3)
  const growth = (size: (one: Sample) => number) => {
    const [middle = Number.NaN, end = Number.NaN] = [all.slice(third, 2 * third), all.slice(2 * third)].map((part) =>
      Math.max(...part.map(size)),
    )
    const [start = Number.NaN] = all.map(size)
    return { value: end / Math.max(middle, 8), note: `${start} kB at first, ${middle}, ${end} at last` }
  }
  const kept = { unit: 'ratio', better: 'lower', ...(isTelling && { target: 1.1 }) } as const
  const dead = all.map((one) => one.dead)
  const note = `median ${quantile(dead, 0.5)}; ${all.at(-1)?.live} live, ${all.at(-1)?.vacuums} vacuums in the end`
  return [
    { name: `${table}: size, last third over second`, ...kept, ...growth(({ heapKb }) => heapKb) },
    { name: `${table}: indexes, last third over second`, ...kept, ...growth(({ indexKb }) => indexKb) },
    { name: `${table}: dead rows, at most`, unit: 'rows', value: Math.max(...dead), note },
  ]
}
