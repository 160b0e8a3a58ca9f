/** Syncs what is due, or what one user asks for: several exchanges at once, one credential of each at a time. */
import { type Outcome, syncCredential } from './sync-credential.ts'
import type { PortfolioWorld } from './world.ts'

/** Below the 60 s that pg_net waits, and the 150 s after which hosted Supabase ends a request. */
const budgetMs = 40_000
const exchangesAtOnce = 4

export async function runSyncs(
  { ofUser, requestId }: { ofUser: string | null; requestId: string },
  world: PortfolioWorld,
): Promise<Outcome[]> {
  const until = world.now() + budgetMs
  const running = new Map<string, Promise<unknown>>()
  const outcomes: Outcome[] = []
  while (world.now() < until) {
    // An exchange limits how often we ask it, whoever's key that is.
    const lease = running.size < exchangesAtOnce ? await world.lease(ofUser, [...running.keys()]) : undefined
    if (lease) {
      const sync = syncCredential(lease, { until, requestId }, world).then((outcome) => {
        outcomes.push(outcome)
        running.delete(lease.exchange_id)
      })
      running.set(lease.exchange_id, sync)
    } else if (running.size > 0) {
      await Promise.race(running.values())
    } else {
      break
    }
  }
  await Promise.all(running.values())
  return outcomes
}

/** For the log: how many ended how. */
export function countOutcomes(outcomes: Outcome[]): Record<Outcome['status'], number> {
  const counts = { synced: 0, incomplete: 0, failed: 0, lost: 0 }
  for (const { status } of outcomes) counts[status] += 1
  return counts
}
