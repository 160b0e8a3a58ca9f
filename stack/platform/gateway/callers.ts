/** Who calls: the API key decides the role, a user's token the user. Opaque keys are not tokens and never become one outside. */
import { createHash, timingSafeEqual } from 'node:crypto'
import type { PlatformKeys } from '../keys.ts'
import type { ApiRole, Tokens } from './tokens.ts'

export type Caller = { role: ApiRole; claims: Record<string, unknown>; token: string | null }
type Refusal = { status: number; body: Record<string, unknown>; problem: 'key' | 'expired' | 'invalid' }

const sameText = (a: string, b: string) =>
  timingSafeEqual(createHash('sha256').update(a).digest(), createHash('sha256').update(b).digest())

function keyRole(key: string, keys: PlatformKeys): ApiRole | undefined {
  if (sameText(key, keys.secretKey)) return 'service_role'
  return sameText(key, keys.publishableKey) ? 'anon' : undefined
}

/**
 * The caller of a request to Auth, REST or Storage. Authorization counts unless it starts with `Bearer sb_`; without it,
 * the key decides. `keyless` routes (links in mails, public files) may come without a key.
 */
export async function identify(
  request: Request,
  keys: PlatformKeys,
  tokens: Tokens,
  keyless: boolean,
): Promise<Caller | Refusal> {
  const key = request.headers.get('apikey') ?? new URL(request.url).searchParams.get('apikey')
  if (key === null && !keyless) {
    const hint = 'Send your publishable or secret key in the apikey header.'
    return { status: 401, problem: 'key', body: { message: 'No API key found in request', hint } }
  }
  const role = key === null ? 'anon' : keyRole(key, keys)
  if (!role)
    return { status: 401, problem: 'key', body: { message: 'Invalid API key', hint: 'Double check your API key.' } }
  if (role === 'service_role' && /Mozilla\//.test(request.headers.get('user-agent') ?? '')) {
    const hint = 'Secret API keys belong on servers, never in a browser. Revoke this one.'
    return { status: 401, problem: 'key', body: { message: 'Forbidden use of secret API key in browser', hint } }
  }
  const authorization = request.headers.get('authorization')
  if (authorization === null || /^Bearer (?:sb_|$)/i.test(authorization)) return { role, claims: { role }, token: null }
  const token = /^Bearer (\S+)$/i.exec(authorization)?.[1] ?? ''
  const verified = await tokens.verify(token)
  if ('claims' in verified) return { role, claims: verified.claims, token }
  const expired = verified.problem === 'expired'
  const body = expired
    ? { code: 'PGRST303', details: null, hint: null, message: 'JWT expired' }
    : {
        code: 'PGRST301',
        details: 'None of the keys was able to decode the JWT',
        hint: null,
        message: 'No suitable key or wrong key type',
      }
  return { status: 401, problem: verified.problem, body }
}
