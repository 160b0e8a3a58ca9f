/**
 * Why an exchange did not answer, in one of few reasons. ccxt's own errors carry whole URLs with signatures, so nothing
 * of them is kept: no message, no cause, only the name of their class and the exchange's own code.
 */

const sentences = {
  wrong_key: 'The exchange does not know this key, or the secret does not belong to it.',
  clock_skew:
    'The exchange takes our request for too early, too late or out of turn. Use the key here only, and try again in a minute.',
  ip_not_allowed:
    'The exchange refuses this key when we use it. Check that it still exists, may read, and allows our addresses.',
  missing_permission: 'This key may not read what we need. Give it the permissions to view balances and trades.',
  rate_limited: 'The exchange asks us to slow down. We try again later.',
  exchange_down: 'The exchange does not answer at the moment. We try again later.',
  unknown: 'The exchange answered in a way that we do not understand.',
}

export type Reason = keyof typeof sentences

export class ExchangeFailure extends Error {
  readonly reason: Reason
  /** For the log: ccxt's class and the exchange's code, never its text. */
  readonly detail: string
  /** What the exchange asked for, in seconds. */
  readonly retryAfterS: number | undefined

  constructor(reason: Reason, detail: string, retryAfterS?: number) {
    super(sentences[reason])
    this.name = 'ExchangeFailure'
    this.reason = reason
    this.detail = detail
    this.retryAfterS = retryAfterS
  }
}

/** What an exchange says itself is more exact than the class that ccxt makes of it. */
const codes: [RegExp, Reason][] = [
  [/-1021\b|EAPI:Invalid nonce|request timestamp expired/, 'clock_skew'],
  [/-1022\b|-2008\b|-2014\b|EAPI:Invalid key|EAPI:Invalid signature/, 'wrong_key'],
  // Binance says it of a wrong address and of a key that is gone or may not read; one it never knew is -2008.
  [/-2015\b|Invalid API-key, IP, or permissions/, 'ip_not_allowed'],
  [/EGeneral:Permission denied|PERMISSION_DENIED/, 'missing_permission'],
  [/-1003\b|EAPI:Rate limit exceeded|EGeneral:T(?:oo many requests|emporary lockout)/, 'rate_limited'],
  [/rate_limit_exceeded|resource_exhausted/i, 'rate_limited'],
]

/** ccxt's classes; the first that an error is or descends from counts. */
const classes: Record<string, Reason> = {
  InvalidNonce: 'clock_skew',
  DDoSProtection: 'rate_limited',
  RateLimitExceeded: 'rate_limited',
  PermissionDenied: 'missing_permission',
  AuthenticationError: 'wrong_key',
  OperationFailed: 'exchange_down',
  AbortError: 'exchange_down',
  TimeoutError: 'exchange_down',
}

/** What is known of the calls that ended in an error: how many were sent, and how the last one was answered. */
export type Traffic = { sent: number; status: number | undefined; retryAfterS: number | undefined }

export function toFailure(error: unknown, traffic: Traffic): ExchangeFailure {
  if (error instanceof ExchangeFailure) return error
  const names = classNames(error)
  const [name = 'nothing'] = names
  const text = error instanceof Error ? error.message : ''
  const fail = (reason: Reason, detail: string) => new ExchangeFailure(reason, detail, traffic.retryAfterS)
  if (traffic.status === 429 || traffic.status === 418) return fail('rate_limited', `${name} ${traffic.status}`)
  for (const [code, reason] of codes) {
    const [found] = code.exec(text) ?? []
    if (found) return fail(reason, `${name} ${found}`)
  }
  const known = names.find((candidate) => Object.hasOwn(classes, candidate))
  if (known) return fail(classes[known] ?? 'unknown', name)
  // Not ccxt's error, and nothing was sent: the secret does not have the form that signing needs.
  if (!names.includes('BaseError') && traffic.sent === 0) return fail('wrong_key', `${name} before the first call`)
  return fail('unknown', name)
}

/** The names of an error's class and of those that it descends from. */
function classNames(error: unknown): string[] {
  if (!(error instanceof Error)) return []
  const names = [error.name]
  for (let kind: unknown = error.constructor; typeof kind === 'function'; kind = Object.getPrototypeOf(kind)) {
    if (kind.name) names.push(kind.name)
  }
  return names
}
