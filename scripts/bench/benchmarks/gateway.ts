/**
 * Our gateway beside Portkey's and another one, a bare pass-through, a bare handler with two round trips to Postgres, and the
 * provider itself: JSON and streams, with 1 to 128 callers at once. docs/performance.md says how to read it.
 */
import type { BenchResult, BenchWorld } from '../types.ts'
import { report } from './gateway/report.ts'
import { runRounds } from './gateway/rounds.ts'
import { startSystems } from './gateway/systems.ts'

/** @public Called by the name of its file. */
export async function bench(world: BenchWorld): Promise<BenchResult[]> {
  const systems = await startSystems(world, 'gateway')
  try {
    const isShort = world.scale < 0.5
    const plan = {
      rounds: world.rounds ?? Math.max(3, Math.round(24 * world.scale)),
      windowMs: isShort ? 300 : 500,
      streamsPerCaller: isShort ? 1 : 2,
      patienceMs: 26 * 60_000 * Math.max(1, world.scale),
    }
    return report(await runRounds(systems, plan, world.progress))
  } finally {
    await systems.stop()
  }
}
