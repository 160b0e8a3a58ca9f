/** The rate-limit headers that OpenAI's clients know, from the limits that admission answers. */

type Limit = {
  meter: string
  period: string
  amount?: number | null | undefined
  remaining?: number | null | undefined
  resets_at?: string | null | undefined
}

const kinds: Record<string, string> = { ai_calls: 'requests', ai_tokens: 'tokens' }

/** The reset is a duration, `90s`, as OpenAI sends it. A limit without an amount is no limit. */
export function limitHeaders(limits: readonly Limit[], now: number): Record<string, string> {
  const headers: Record<string, string> = {}
  for (const { meter, amount, remaining, resets_at } of limits) {
    const kind = kinds[meter]
    if (!kind || typeof amount !== 'number') continue
    headers[`x-ratelimit-limit-${kind}`] = String(amount)
    if (typeof remaining === 'number') headers[`x-ratelimit-remaining-${kind}`] = String(Math.max(0, remaining))
    const seconds = Math.ceil((Date.parse(resets_at ?? '') - now) / 1000)
    if (!Number.isNaN(seconds)) headers[`x-ratelimit-reset-${kind}`] = `${Math.max(0, seconds)}s`
  }
  return headers
}
