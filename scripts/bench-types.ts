/** What a module of scripts/bench/ gets and answers: `export async function bench(world: BenchWorld): Promise<BenchResult[]>`. */

/** Target: at least that much for a ratio, at most that much for anything else. */
export type BenchResult = { name: string; unit: string; value: number; target?: number; note?: string }

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
