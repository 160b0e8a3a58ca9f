/** One snapshot of the configuration for all calls of a process. */
import type { Snapshot } from './snapshot.ts'

/** Keeps the newest snapshot; asks for another when it was forgotten, once for all who wait. */
export function keepSnapshot(load: () => Promise<Snapshot>) {
  type Kept = { loading: Promise<Snapshot>; version?: number }
  let kept: Kept | undefined
  const current = (): Promise<Snapshot> => {
    if (kept) return kept.loading
    const mine: Kept = { loading: load() }
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
    /** This version is no longer the newest. Whoever says so while another is on its way says nothing new. */
    forget(old: number): void {
      if (kept?.version === old) kept = undefined
    },
  }
}
