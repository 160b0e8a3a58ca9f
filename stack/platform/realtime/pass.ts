/** Who a channel belongs to: the user of its token, or the role of the connection's key. */
import type { ApiRole, Tokens } from '../gateway/tokens.ts'
import type { Subject } from './permissions.ts'

/** `expiresAt` in unix milliseconds; null for a key, which does not expire. */
export type Pass = { subject: Subject; token: string | null; expiresAt: number | null }

/** supabase-js sends its key where it has no token; a key, or none, leaves the role to the connection. */
export const isKey = (token: string | null | undefined) => !token || token.startsWith('sb_')

/** The pass, or why there is none, in the words of the real service. */
export async function readPass(
  tokens: Tokens,
  token: string | null | undefined,
  keyRole: ApiRole,
): Promise<Pass | { reason: string }> {
  if (!token || isKey(token))
    return { subject: { role: keyRole, claims: { role: keyRole } }, token: null, expiresAt: null }
  if (token.split('.').length !== 3) return { reason: 'MalformedJWT: The token provided is not a valid JWT' }
  const verified = await tokens.verify(token)
  if (!('claims' in verified)) {
    return {
      reason:
        verified.problem === 'expired'
          ? 'InvalidJWTToken: Token has expired'
          : 'JwtSignatureError: Failed to validate JWT signature',
    }
  }
  const { claims } = verified
  // Only the API's roles: Realtime's own role could be asked for by name, and no policy holds it.
  if (!['anon', 'authenticated', 'service_role'].includes(claims.role)) {
    return { reason: 'Unauthorized: The role of this token cannot use Realtime' }
  }
  return { subject: { role: claims.role, claims }, token, expiresAt: claims.exp * 1000 }
}
