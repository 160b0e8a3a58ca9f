/** Every error a caller can get. The code decides the status, the type, the default message and what to do next. */

import { hasFields, isText } from './forms.ts'

type Entry = { status: number; type: string; message: string; retryAfterS?: number; shouldRetry?: false }

const request = 'invalid_request_error'
const permission = 'permission_error'
const quota = 'insufficient_quota'
const rate = 'rate_limit_error'
const server = 'server_error'

/**
 * `retryAfterS` is the Retry-After of an error that brings none of its own. `shouldRetry: false` becomes
 * `x-should-retry: false`, without which the official client tries every 429 and 5xx again within seconds. An answer that has it
 * has no Retry-After, but for a 429.
 */
export const catalogue = {
  invalid_request_error: { status: 400, type: request, message: 'The request is not valid.' },
  model_not_priced: { status: 400, type: request, message: 'This model has no price yet and cannot be used.' },
  invalid_api_key: { status: 401, type: request, message: 'The access token or API key is not valid here.' },
  invalid_signature: { status: 401, type: request, message: 'The signature of this request is not valid.' },
  insufficient_credits: { status: 402, type: quota, message: 'Your credits are used up.', shouldRetry: false },
  entitlement_required: {
    status: 402,
    type: quota,
    message: 'Your plan does not include this, or it is not paid for.',
    shouldRetry: false,
  },
  insufficient_quota: { status: 402, type: quota, message: 'Your quota is used up.', shouldRetry: false },
  spend_cap_reached: {
    status: 402,
    type: quota,
    message: 'The budget of this project for the period is spent.',
    shouldRetry: false,
  },
  in_flight_budget_exhausted: {
    status: 402,
    type: quota,
    message: 'Your running requests hold the rest of your budget. Try again when one of them has finished.',
    retryAfterS: 5,
  },
  account_pending: { status: 403, type: permission, message: 'Confirm your e-mail address first.' },
  account_suspended: { status: 403, type: permission, message: 'This account is suspended or deleted.' },
  insufficient_aal: { status: 403, type: permission, message: 'Sign in with your second factor first.' },
  mfa_required: { status: 403, type: permission, message: 'Sign in with your second factor to use this.' },
  model_not_allowed: { status: 403, type: permission, message: 'Your plan does not include this model.' },
  not_allowed: { status: 403, type: permission, message: 'You may not do this.' },
  recent_sign_in_required: { status: 403, type: permission, message: 'Sign in again: this needs a recent sign-in.' },
  not_found: { status: 404, type: request, message: 'There is nothing at this address.' },
  model_not_found: { status: 404, type: request, message: 'This model does not exist.' },
  method_not_allowed: { status: 405, type: request, message: 'This address does not take this method.' },
  idempotency_in_progress: {
    status: 409,
    type: request,
    message: 'A request with this idempotency key is still running.',
    retryAfterS: 1,
  },
  idempotency_not_replayable: {
    status: 409,
    type: request,
    message: 'A request with this idempotency key has run, and its answer was a stream or too large to be kept.',
    shouldRetry: false,
  },
  already_subscribed: {
    status: 409,
    type: request,
    message: 'You have a subscription already. Change or cancel it in the customer portal.',
    shouldRetry: false,
  },
  credential_unreadable: {
    status: 409,
    type: request,
    message: 'This credential cannot be opened any more. Add the key again.',
    shouldRetry: false,
  },
  request_too_large: { status: 413, type: request, message: 'The body is too large.' },
  key_can_withdraw: {
    status: 422,
    type: request,
    message:
      'This key may withdraw, and nothing here needs that. Make one at the exchange that may only read, and add that.',
  },
  key_not_accepted: {
    status: 422,
    type: request,
    message: 'Whose key this should be does not accept it. It was not kept.',
  },
  idempotency_key_reused: {
    status: 422,
    type: request,
    message: 'This idempotency key was used with another body.',
  },
  rate_limit_exceeded: { status: 429, type: rate, message: 'Too many requests. Slow down.', retryAfterS: 1 },
  concurrency_limit: { status: 429, type: rate, message: 'Too many requests run at once.', retryAfterS: 1 },
  daily_quota_exceeded: {
    status: 429,
    type: quota,
    message: 'Your requests of today are used up.',
    shouldRetry: false,
  },
  /** nginx's name and number for a caller who hung up; it is logged, nobody reads the answer. */
  client_closed_request: { status: 499, type: request, message: 'The caller hung up.', shouldRetry: false },
  internal: { status: 500, type: server, message: 'Something went wrong on our side.' },
  upstream_error: { status: 502, type: server, message: 'The AI provider failed to answer.', retryAfterS: 1 },
  accounting_unavailable: {
    status: 503,
    type: server,
    message: 'Usage cannot be accounted for at the moment, so nothing was done.',
    retryAfterS: 2,
  },
  auth_unavailable: {
    status: 503,
    type: server,
    message: 'Access tokens cannot be checked at the moment.',
    retryAfterS: 2,
  },
  circuit_open: {
    status: 503,
    type: server,
    message: 'The AI provider is failing; it gets a short rest.',
    retryAfterS: 10,
  },
  provider_not_configured: {
    status: 503,
    type: server,
    message: 'The AI provider of this model is not set up.',
    shouldRetry: false,
  },
  mail_not_configured: {
    status: 503,
    type: server,
    message: 'This deployment has no mail server: set SMTP_URL and MAIL_FROM.',
    shouldRetry: false,
  },
  billing_not_configured: {
    status: 503,
    type: server,
    message: 'This deployment sells nothing yet: set STRIPE_SECRET_KEY and STRIPE_WEBHOOK_SECRETS.',
    shouldRetry: false,
  },
  billing_unavailable: {
    status: 503,
    type: server,
    message: 'The payment provider does not answer at the moment. Nothing was bought; try again.',
    retryAfterS: 5,
  },
  billing_refused: {
    status: 502,
    type: server,
    message: 'The payment provider refuses this as it is set up. Nothing was bought, and whoever runs this was told.',
    shouldRetry: false,
  },
  upstream_timeout: { status: 504, type: server, message: 'The AI provider took too long to answer.', retryAfterS: 1 },
} as const satisfies Record<string, Entry>

export type ErrorCode = keyof typeof catalogue

export const isErrorCode = (code: string): code is ErrorCode => Object.hasOwn(catalogue, code)

/** What somebody here has to mend: a security event, with what was said for the log. */
export type Alarm = { event: 'provider_refuses_key' | 'provider_refuses_account'; said: string }

type ErrorDetails = {
  message?: string | undefined
  /** The request's field that is wrong, as `messages.0.role`. */
  param?: string | undefined
  retryAfterS?: number | undefined
  /** ISO time at which the limit that refused the request starts anew. */
  resetsAt?: string | undefined
  /** The limit that refused the request, as `get_my_limits` shows it. */
  limit?: unknown
  shouldRetry?: false | undefined
  /** A provider's answer that is larger than what is read of one: it was worked for. */
  isTooMuch?: true | undefined
  /** A provider that says itself that it was too slow: it worked, as one that our deadline ended. */
  hasWorked?: true | undefined
  headers?: Record<string, string> | undefined
  /** A provider's name for what is wrong with the request, as `context_length_exceeded`: told in place of ours. */
  providerCode?: string | undefined
  alarm?: Alarm | undefined
  /** For the log only. */
  cause?: unknown
}

export class AppError extends Error {
  readonly code: ErrorCode
  readonly status: number
  readonly details: ErrorDetails

  constructor(code: ErrorCode, details: ErrorDetails = {}) {
    super(details.message ?? catalogue[code].message, { cause: details.cause })
    this.name = 'AppError'
    this.code = code
    this.status = catalogue[code].status
    this.details = details
  }
}

/** What we did not foresee is `internal`: its own message may name things that are nobody's business. */
export const toAppError = (error: unknown): AppError =>
  error instanceof AppError ? error : new AppError('internal', { cause: error })

const isRefusal = hasFields({ code: isText, message: isText })

/** Our refusal in a text, as SQL raises it and the Data API answers it; undefined when the text is something else. */
export function refusalIn(text: string, cause?: unknown): AppError | undefined {
  const said = parseJson(text)
  return isRefusal(said) && isErrorCode(said.code)
    ? new AppError(said.code, { message: said.message, cause })
    : undefined
}

/** Null for what is no JSON. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}

/** OpenAI's shape, with the limit and its reset when they are known. */
export function errorBody({ code, message, details }: AppError): { error: Record<string, unknown> } {
  const { param = null, resetsAt, limit, providerCode } = details
  return {
    error: {
      message,
      type: catalogue[code].type,
      param,
      code: providerCode ?? code,
      ...(resetsAt !== undefined && { resets_at: resetsAt }),
      ...(limit !== undefined && { limit }),
    },
  }
}

/** The one place where an error becomes an answer. `now` is in epoch milliseconds. */
export function renderError(error: AppError, now: number): Response {
  const entry: Entry = catalogue[error.code]
  const { retryAfterS, resetsAt, shouldRetry = entry.shouldRetry, headers = {} } = error.details
  const untilReset = resetsAt === undefined ? Number.NaN : Math.max(1, Math.ceil((Date.parse(resetsAt) - now) / 1000))
  const seconds = retryAfterS ?? (Number.isNaN(untilReset) ? entry.retryAfterS : untilReset)
  const answer = Response.json(errorBody(error), { status: error.status, headers })
  // Whoever is told not to try again needs no time for it; only a limit of requests says both, since it starts anew by itself.
  const isAskedAgain = shouldRetry !== false || error.status === 429
  // As the Data API says it, and RFC 6750: this token opens nothing any more.
  if (error.status === 401) answer.headers.set('www-authenticate', 'Bearer error="invalid_token"')
  if (seconds !== undefined && isAskedAgain) answer.headers.set('retry-after', String(Math.ceil(seconds)))
  if (shouldRetry === false) answer.headers.set('x-should-retry', 'false')
  return answer
}
