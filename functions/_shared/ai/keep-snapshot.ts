/** One snapshot of the configuration for all calls of a process. */
import type { Snapshot } from './snapshot.ts'

/** For how long what a snapshot does not allow is refused without a look at whether it still is so. */
const youngMs = 1_000

/** Keeps the newest snapshot; asks for another when it was forgotten, once for all who wait. */
export function keepSnapshot(load: () => Promise<Snapshot>, ticks = () => performance.now()) {
  type Kept = { loading: Promise<Snapshot>; since: number; version?: number }
  let kept: Kept | undefined
  const current = (): Promise<Snapshot> => {
    if (kept) return kept.loading
    const mine: Kept = { loading: load(), since: ticks() }
    kept = mine
    mine.loading.then(
      ({ version }) => {
        mine.version = version
      },
      () => {
        if (kept === mine) kept = undefined
      },
    )
    return mine.loading
  }
  return {
    current,
    /** Asks without waiting when there is none. What fails is told to whoever waits for it. */
    begin(): void {
      if (!kept) current().catch(() => {})
    },
    /** One that is no older than a second: an admission checks the version, and who is refused before it is checked by nobody. */
    renewed(): Promise<Snapshot> {
      if (kept && ticks() - kept.since > youngMs) kept = undefined
      return current()
    },
    /** This version is no longer the newest. Whoever says so while another is on its way says nothing new. */
    forget(old: number): void {
      if (kept?.version === old) kept = undefined
    },
  }
}
