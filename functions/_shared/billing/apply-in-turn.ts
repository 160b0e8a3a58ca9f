/**
 * Starts passes over the inbox from wherever events arrive: one at a time, and one more when something came meanwhile. A burst
 * of a thousand deliveries starts a few passes, not a thousand. A pass that fails, because the database is away, is for `failed`
 * to tell: nobody else hears of it.
 */
export function createTurns(
  pass: () => Promise<unknown>,
  waitUntil: (work: Promise<unknown>) => void,
  failed: (error: unknown) => void,
): () => void {
  let isRunning = false
  let isWanted = false
  const run = async () => {
    isRunning = true
    try {
      while (isWanted) {
        isWanted = false
        await pass()
      }
    } catch (error) {
      failed(error)
    } finally {
      isRunning = false
    }
  }
  return () => {
    isWanted = true
    if (!isRunning) waitUntil(run())
  }
}
