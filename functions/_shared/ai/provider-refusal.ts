/** What a provider's refusal means for our caller. */
import { z } from 'zod'
import { AppError } from '../errors.ts'
import { type AnswerBody, readWhole } from './answer-body.ts'

const refusalLimitBytes = 64_000

const refusalBody = z.object({
  error: z.object({ message: z.string().max(2_000), param: z.string().max(200).nullish().catch(null) }),
})

/**
 * 400 and 422 are about the caller's body and are told to the caller. 401, 403, 402 and 404 are about our key, our account and
 * our table: the caller learns nothing and the log says it. 429 stays a 429, because the client's way to deal with it, wait
 * and try again, is right, although it is not the caller's own limit.
 */
export async function providerRefusal({ status, headers }: Response, body: AnswerBody): Promise<AppError> {
  const cause = `the provider answered ${status}`
  const isCallersFault = status === 400 || status === 413 || status === 422
  if (isCallersFault) {
    const said = messageOf(await readWhole(body, refusalLimitBytes).catch(() => undefined))
    const code = status === 413 ? 'request_too_large' : 'invalid_request_error'
    return new AppError(code, {
      message: said?.message ?? 'The AI provider refuses this request.',
      param: said?.param ?? undefined,
    })
  }
  body.cancel()
  const retryAfterS = parseRetryAfter(headers)
  if (status === 429)
    return new AppError('rate_limit_exceeded', { message: 'The AI provider is busy.', retryAfterS, cause })
  if (status === 408 || status === 504) return new AppError('upstream_timeout', { retryAfterS, cause })
  // The same request fails the same way until somebody here acts.
  if (status < 500) return new AppError('upstream_error', { shouldRetry: false, cause })
  return new AppError('upstream_error', { retryAfterS, cause })
}

function messageOf(body: Uint8Array | undefined) {
  try {
    return refusalBody.parse(JSON.parse(new TextDecoder().decode(body))).error
  } catch {
    return undefined
  }
}

/** Seconds or an HTTP date, which is compared with the provider's own Date, so that no clock of ours is needed. */
function parseRetryAfter(headers: Headers): number | undefined {
  const value = headers.get('retry-after') ?? ''
  if (/^\d{1,6}$/.test(value)) return Number(value)
  const seconds = Math.ceil((Date.parse(value) - Date.parse(headers.get('date') ?? '')) / 1000)
  return Number.isNaN(seconds) ? undefined : Math.max(1, seconds)
}
