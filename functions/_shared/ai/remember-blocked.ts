/** Keeps a flood of anonymous requests away from the database: who is over the limit is known here until it starts anew. */
import type { AnonymousVerdict } from './ledger-contract.ts'

type Count = (ip: string, route: string) => Promise<AnonymousVerdict>

const addressesKept = 10_000
const defaultBlockS = 1

export function rememberBlocked(count: Count, now: () => number): Count {
  const blocked = new Map<string, { until: number; verdict: AnonymousVerdict }>()

  return async (ip, route) => {
    const key = `${route} ${ip}`
    const known = blocked.get(key)
    if (known && known.until > now())
      return { ...known.verdict, retry_after_s: Math.ceil((known.until - now()) / 1000) }
    blocked.delete(key)
    const verdict = await count(ip, route)
    if (verdict.allowed) return verdict
    const [oldest] = blocked.keys()
    if (blocked.size >= addressesKept && oldest !== undefined) blocked.delete(oldest)
    blocked.set(key, { until: now() + (verdict.retry_after_s ?? defaultBlockS) * 1000, verdict })
    return verdict
  }
}
