/**
 * Any origin may call: who calls is decided by the token in a header, never by a cookie, so a foreign page gains nothing.
 * Headers that are not exposed here do not exist for a browser.
 */
const exposed = [
  'idempotency-replayed',
  'retry-after',
  'www-authenticate',
  'x-attempts',
  'x-cost-micros',
  'x-credits-remaining',
  'x-model-used',
  'x-ratelimit-limit-requests',
  'x-ratelimit-limit-tokens',
  'x-ratelimit-remaining-requests',
  'x-ratelimit-remaining-tokens',
  'x-ratelimit-reset-requests',
  'x-ratelimit-reset-tokens',
  'x-request-id',
  'x-should-retry',
].join(', ')

export const corsHeaders = { 'access-control-allow-origin': '*', 'access-control-expose-headers': exposed }

/** Allows the headers that are asked for: `*` does not cover Authorization, and the official client sends a dozen of its own. */
export function answerPreflight(request: Request, methods = 'GET, POST, OPTIONS'): Response {
  const asked = request.headers.get('access-control-request-headers')
  const allowed = asked !== null && /^[A-Za-z0-9\-_, ]{1,2000}$/.test(asked) ? asked : 'authorization, content-type'
  return new Response(null, {
    status: 204,
    headers: {
      'access-control-allow-methods': methods,
      'access-control-allow-headers': allowed,
      'access-control-max-age': '86400',
      vary: 'access-control-request-headers',
    },
  })
}
