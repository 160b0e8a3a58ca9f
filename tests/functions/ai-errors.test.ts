import { expect, test } from 'vitest'
import { readEnv, tokenVariables, variables } from '../../functions/_shared/env.ts'
import {
  AppError,
  catalogue,
  type ErrorCode,
  errorBody,
  isErrorCode,
  renderError,
  toAppError,
} from '../../functions/_shared/errors.ts'

const now = Date.parse('2026-11-21T00:00:00Z')

test.each(Object.entries(catalogue))(
  '%s is rendered in the shape of OpenAI',
  async (code, { status, type, message }) => {
    if (!isErrorCode(code)) throw new Error(code)

    const answer = renderError(new AppError(code), now)

    expect(answer.status).toBe(status)
    expect(await answer.json()).toEqual({ error: { message, type, param: null, code } })
  },
)

test.each(['insufficient_credits', 'insufficient_quota', 'daily_quota_exceeded'] as const)(
  '%s tells clients not to retry',
  (code) => {
    expect(renderError(new AppError(code), now).headers.get('x-should-retry')).toBe('false')
  },
)

test.each([
  'upstream_error',
  'upstream_timeout',
  'circuit_open',
  'accounting_unavailable',
  'auth_unavailable',
  'rate_limit_exceeded',
  'concurrency_limit',
  'in_flight_budget_exhausted',
] as const)('%s says when to try again', (code) => {
  expect(Number(renderError(new AppError(code), now).headers.get('retry-after'))).toBeGreaterThan(0)
})

/** Of every refusal that says something of trying again: whether it has Retry-After, and whether x-should-retry. */
const tellsOfRetrying: Partial<Record<ErrorCode, [after: boolean, never: boolean]>> = {
  insufficient_credits: [false, true],
  entitlement_required: [false, true],
  insufficient_quota: [false, true],
  spend_cap_reached: [false, true],
  in_flight_budget_exhausted: [true, false],
  rate_limit_exceeded: [true, false],
  concurrency_limit: [true, false],
  daily_quota_exceeded: [true, true],
  idempotency_in_progress: [true, false],
  idempotency_not_replayable: [false, true],
  already_subscribed: [false, true],
  credential_unreadable: [false, true],
  client_closed_request: [false, true],
  upstream_timeout: [true, false],
  upstream_error: [true, false],
  circuit_open: [true, false],
  accounting_unavailable: [true, false],
  auth_unavailable: [true, false],
  billing_unavailable: [true, false],
  billing_refused: [false, true],
  provider_not_configured: [false, true],
  mail_not_configured: [false, true],
  billing_not_configured: [false, true],
}

test.each(Object.keys(catalogue).filter(isErrorCode))('%s says of trying again what the table says', (code) => {
  const isLimit = [402, 429].includes(catalogue[code].status)
  const details = isLimit ? { resetsAt: '2026-11-21T01:00:00+00:00' } : {}

  const { headers } = renderError(new AppError(code, details), now)

  expect([headers.has('retry-after'), headers.get('x-should-retry') === 'false']).toEqual(
    tellsOfRetrying[code] ?? [false, false],
  )
})

test('a failure that would be the same again says no time to try it at', () => {
  const { headers } = renderError(new AppError('upstream_error', { shouldRetry: false, retryAfterS: 3 }), now)

  expect([headers.get('x-should-retry'), headers.get('retry-after')]).toEqual(['false', null])
})

test('a daily quota says when it starts anew', async () => {
  const error = new AppError('daily_quota_exceeded', { resetsAt: '2026-11-21T01:00:00+00:00' })

  expect(renderError(error, now).headers.get('retry-after')).toBe('3600')
  expect(errorBody(error).error.resets_at).toBe('2026-11-21T01:00:00+00:00')
})

test('an unforeseen error shows nothing of itself', () => {
  const { error } = errorBody(toAppError(new TypeError('password=hunter2')))

  expect(JSON.stringify(error)).not.toContain('hunter2')
  expect(error.code).toBe('internal')
})

test('the environment names everything that is missing or wrong at once, and no value', () => {
  const given: Record<string, string> = { SUPABASE_URL: 'http://127.0.0.1:54321', SUPABASE_JWKS: 'not-json-secret' }
  const read = () => readEnv(variables, (name) => given[name])

  expect(read).toThrow(
    /SUPABASE_JWKS: is not JSON.*SUPABASE_DB_URL is missing|SUPABASE_DB_URL is missing.*SUPABASE_JWKS: is not JSON/,
  )
  expect(read).toThrow(/SUPABASE_SECRET_KEYS is missing/)
  expect(read).not.toThrow(/secret-/)
})

test('self-hosted functions get one legacy key, which counts only where there are no named ones', () => {
  const { SUPABASE_SECRET_KEYS } = variables
  const read = (env: Record<string, string>) =>
    readEnv({ SUPABASE_SECRET_KEYS }, (name) => env[name]).SUPABASE_SECRET_KEYS
  const legacy = { SUPABASE_SERVICE_ROLE_KEY: 'a.legacy.key' }

  expect(Object.values(read(legacy))).toEqual(['a.legacy.key'])
  expect(read({ ...legacy, SUPABASE_SECRET_KEYS: '' })).toEqual(read(legacy))
  expect(read({ ...legacy, SUPABASE_SECRET_KEYS: '{"default":"sb_secret_x"}' })).toEqual({ default: 'sb_secret_x' })
  expect(() => read({ SUPABASE_SERVICE_ROLE_KEY: '' })).toThrow('SUPABASE_SECRET_KEYS is missing')
})

test('what self-hosted functions get is enough to know users by their tokens', () => {
  const given: Record<string, string> = { SUPABASE_URL: 'http://kong:8000', JWT_SECRET: 'x'.repeat(32) }

  const env = readEnv(tokenVariables, (name) => given[name])

  expect(env).toEqual(given)
  expect(() => readEnv(tokenVariables, (name) => ({ ...given, JWT_SECRET: 'short' })[name])).toThrow(
    /^[^']*JWT_SECRET: (?!.*short)/,
  )
})
