/** fetch that asks again when the service is busy or ill, ever more slowly. Requests must be safe to repeat. */
export type Clock = { sleep: (ms: number) => Promise<void>; random: () => number }

const tries = 6
const longest_ms = 30_000

export function retryingFetch(fetchOnce: typeof fetch, clock: Clock): typeof fetch {
  return async (input, init) => {
    for (let attempt = 1; ; attempt += 1) {
      const answer = await fetchOnce(input, init).catch((error: unknown) => {
        if (attempt === tries) throw error
        return undefined
      })
      if (answer && !(answer.status === 429 || answer.status >= 500)) return answer
      // 500 is more often a refusal of the database than an illness: two more tries are enough.
      if (answer && (attempt === tries || (answer.status === 500 && attempt === 3))) return answer
      await answer?.body?.cancel()
      await clock.sleep(waitFor(answer, attempt, clock))
    }
  }
}

function waitFor(answer: Response | undefined, attempt: number, clock: Clock): number {
  const asked = Number(answer?.headers.get('retry-after') ?? 0) * 1000
  const own = 250 * 2 ** (attempt - 1) * (0.5 + clock.random())
  return Math.min(Math.max(Number.isFinite(asked) ? asked : 0, own), longest_ms)
}
