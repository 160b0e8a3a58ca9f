/** The rate-limit headers that OpenAI's clients know, from the limits that admission answers. */

type Limit = {
  meter: string
  period: string
  amount?: number | null | undefined
  remaining?: number | null | undefined
  resets_at?: string | null | undefined
}

const kindOf = (meter: string): string | undefined => {
  if (meter === 'ai_calls' || meter.endsWith('_requests')) return 'requests'
  return meter === 'ai_tokens' ? 'tokens' : undefined
}

/**
 * The reset is a duration, `90s`, as OpenAI sends it. A limit without an amount is no limit. Of several of one kind, by the minute
 * and by the day, the one with the least left is told: it is the one that is met first.
 */
export function limitHeaders(limits: readonly Limit[], now: number): Record<string, string> {
  const headers: Record<string, string> = {}
  const widestFirst = [...limits].sort((a, b) => (b.remaining ?? 0) - (a.remaining ?? 0))
  for (const { meter, amount, remaining, resets_at } of widestFirst) {
    const kind = kindOf(meter)
    if (!kind || typeof amount !== 'number') continue
    headers[`x-ratelimit-limit-${kind}`] = String(amount)
    if (typeof remaining === 'number') headers[`x-ratelimit-remaining-${kind}`] = String(Math.max(0, remaining))
    const seconds = Math.ceil((Date.parse(resets_at ?? '') - now) / 1000)
    if (!Number.isNaN(seconds)) headers[`x-ratelimit-reset-${kind}`] = `${Math.max(0, seconds)}s`
  }
  return headers
}
