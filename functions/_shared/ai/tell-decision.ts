/** What the ledger decided, in the words of HTTP: a "no" as an error of ours, limits as headers, a kept answer once more. */
import { AppError, isErrorCode } from '../errors.ts'
import type { Admission, Limit } from './ledger.ts'

export type Refusal = {
  code: string
  message?: string | null | undefined
  details?: Extract<Admission, { admitted: false }>['details']
}

/** A code that the catalogue does not have is a mistake of ours: the caller is refused all the same. */
export function refusal({ code, message, details }: Refusal): AppError {
  if (!isErrorCode(code)) return new AppError('internal', { cause: `the ledger refused with the unknown code ${code}` })
  return new AppError(code, {
    message: message ?? undefined,
    param: details?.param ?? undefined,
    retryAfterS: details?.retry_after_s ?? undefined,
    resetsAt: details?.resets_at ?? undefined,
    limit: details?.limit ?? undefined,
  })
}

/** The answer to the first request with this key, once more. It was paid then. */
export function replayed({ replay }: Extract<Admission, { admitted: false }>): Response {
  if (!replay) throw new AppError('idempotency_not_replayable')
  const headers = { 'content-type': replay.content_type, 'idempotency-replayed': 'true', 'x-model-used': replay.model }
  return new Response(replay.body, { headers })
}

const kindOf = (meter: string): string | undefined => {
  if (meter === 'ai_calls' || meter.endsWith('_requests')) return 'requests'
  return meter === 'ai_tokens' ? 'tokens' : undefined
}

/**
 * The rate-limit headers that OpenAI's clients know. The reset is a duration, `90s`, as OpenAI sends it. A limit without an
 * amount is no limit. Of several of one kind, by the minute and by the day, the one with the least left is told: it is the one
 * that is met first.
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
