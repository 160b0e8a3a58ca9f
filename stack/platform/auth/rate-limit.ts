/** Limits per address and route, as hosted has them: a bucket of requests that refills steadily. */
import { isIP } from 'node:net'
import type { Caller } from '../gateway/callers.ts'
import { AuthProblem } from './errors.ts'
import type { AuthSettings } from './settings.ts'
import type { AuthCall, RateLimits } from './world.ts'

const [minuteMs, hourMs] = [60_000, 3_600_000]
/** Hosted's burst is fixed, whatever the rate. */
const burst = 30
/** Hosted's limit of MFA is fixed and no key of config.toml. */
const mfaPerMinute = 15

type Rate = { limit: number; periodMs: number; burst: number }
type Rule = { method: string; path: RegExp; rate(limits: AuthSettings['rate_limit']): Rate }

const perFiveMinutes = (limit: number): Rate => ({ limit, periodMs: 5 * minuteMs, burst })

const signInSignUps: Rule['rate'] = ({ sign_in_sign_ups }) => perFiveMinutes(sign_in_sign_ups)
const mfa: Rule['rate'] = () => ({ limit: mfaPerMinute, periodMs: minuteMs, burst })

/** Each route has its own buckets. */
const rules: Rule[] = [
  { method: 'POST', path: /^\/token$/, rate: ({ token_refresh }) => perFiveMinutes(token_refresh) },
  { method: 'POST', path: /^\/signup$/, rate: signInSignUps },
  { method: 'POST', path: /^\/otp$/, rate: signInSignUps },
  { method: 'POST', path: /^\/magiclink$/, rate: signInSignUps },
  { method: 'POST', path: /^\/recover$/, rate: signInSignUps },
  { method: 'POST', path: /^\/resend$/, rate: signInSignUps },
  { method: 'PUT', path: /^\/user$/, rate: signInSignUps },
  { method: 'GET', path: /^\/verify$/, rate: ({ token_verifications }) => perFiveMinutes(token_verifications) },
  { method: 'POST', path: /^\/verify$/, rate: ({ token_verifications }) => perFiveMinutes(token_verifications) },
  { method: 'POST', path: /^\/factors\/[^/]+\/challenge$/, rate: mfa },
  { method: 'POST', path: /^\/factors\/[^/]+\/verify$/, rate: mfa },
]

export const unlimited: RateLimits = { admit() {}, admitMail() {} }

export function createRateLimits(settings: AuthSettings, now: () => Date): RateLimits {
  const buckets = createBuckets(now)
  // Apart from those of addresses, or a flood of them would push it out and the hour would start anew.
  const mails = createBuckets(now)
  return {
    admit(call, path) {
      const found = ruleFor(call, path, settings.rate_limit)
      if (!found || buckets.take(`${found.name} ${call.address}`, found.rate)) return
      throw new AuthProblem(429, 'over_request_rate_limit', 'Request rate limit reached')
    },
    admitMail() {
      const limit = settings.rate_limit.email_sent
      if (mails.take('mail', { limit, periodMs: hourMs, burst: limit })) return
      throw new AuthProblem(429, 'over_email_send_rate_limit', 'email rate limit exceeded')
    },
  }
}

function ruleFor(call: AuthCall, path: string, limits: AuthSettings['rate_limit']) {
  const { method } = call.request
  if (method === 'POST' && path === '/signup' && isAnonymous(call.body)) {
    const limit = limits.anonymous_users
    return { name: 'anonymous', rate: { limit, periodMs: hourMs, burst: limit } }
  }
  const rule = rules.find((one) => one.method === method && one.path.test(path))
  return rule && { name: rule.path.source, rate: rule.rate(limits) }
}

const isAnonymous = (body: unknown) => {
  const { email, phone } = Object(body)
  return !email && !phone
}

type Bucket = { tokens: number; at: number; rate: Rate }

/**
 * Token buckets in memory, the least recently used first; what is full again says nothing and is dropped.
 * @internal For tests: with a clock of theirs, and few of them.
 */
export function createBuckets(now: () => Date, most = 10_000) {
  const buckets = new Map<string, Bucket>()

  const tokensAt = ({ tokens, at, rate }: Bucket, time: number) =>
    Math.min(rate.burst, tokens + (Math.max(0, time - at) * rate.limit) / rate.periodMs)

  /** Two per new one, so that a flood of addresses costs each request no more than a few steps. */
  function evict(time: number): void {
    for (const [key, bucket] of [...take2(buckets)]) {
      if (buckets.size > most || tokensAt(bucket, time) >= bucket.rate.burst) buckets.delete(key)
    }
  }

  return {
    size: () => buckets.size,
    /** One request more: false when there is none left. */
    take(key: string, rate: Rate): boolean {
      const time = now().getTime()
      const known = buckets.get(key)
      const tokens = known ? tokensAt({ ...known, rate }, time) : rate.burst
      const admitted = tokens >= 1
      buckets.delete(key)
      buckets.set(key, { tokens: admitted ? tokens - 1 : tokens, at: time, rate })
      evict(time)
      return admitted
    },
  }
}

function* take2<Entry>(entries: Iterable<Entry>): Generator<Entry> {
  let left = 2
  for (const entry of entries) {
    if (left-- === 0) return
    yield entry
  }
}

/** A server with a secret key may say for whom it calls; nobody else may. */
export function callerAddress(request: Request, caller: Caller, address: string): string {
  const forwarded = request.headers.get('sb-forwarded-for')?.split(',')[0]?.trim() ?? ''
  return caller.role === 'service_role' && isIP(forwarded) !== 0 ? forwarded : address
}
