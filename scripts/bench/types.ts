/** What a module of benchmarks/ gets and answers: `export async function bench(world: BenchWorld): Promise<BenchResult[]>`. */
import type { FigureId } from './figures.ts'

export type BenchResult = {
  name: string
  unit: string
  value: number
  target?: number
  /** Whether the target is the least or the most; without it, the least for a ratio and the most for anything else. */
  better?: 'higher' | 'lower'
  note?: string
  /** When this is one of the promises of figures.ts, which says what it has to reach. */
  figure?: FigureId
}

export type BenchWorld = {
  /** Makes a database of sources and data rows on a cluster that writes as durably as production; its URL as role postgres. */
  createDatabase(name: string): Promise<string>
  /** The same database as superuser, to load data without triggers. */
  superuserUrl(name: string): string
  /** PgBouncer before the cluster; undefined where Debian's package is not installed. */
  startPooler(): Promise<Pooler | undefined>
  /** One line about what is going on, for whoever waits. */
  progress(text: string): void
  /** How much data and time: 1 is the size that the targets are for. */
  scale: number
  /** How often everything is measured, when the command line says so. */
  rounds: number | undefined
}

type Pooler = { pid: number | undefined; urlFor(direct: string): string; stop(): Promise<void> }
