/** What a module of benchmarks/ gets and answers: `export async function bench(world: BenchWorld): Promise<BenchResult[]>`. */

export type BenchResult = {
  name: string
  unit: string
  value: number
  target?: number
  /** Whether the target is the least or the most; without it, the least for a ratio and the most for anything else. */
  better?: 'higher' | 'lower'
  note?: string
}

export type BenchWorld = {
  /** Makes a database of sources and data rows on a cluster that writes as durably as production; its URL as role postgres. */
  createDatabase(name: string): Promise<string>
  /** The same database as superuser, to load data without triggers. */
  superuserUrl(name: string): string
  /** One line about what is going on, for whoever waits. */
  progress(text: string): void
  /** How much data: 1 is the size that the targets are for. */
  scale: number
}
