/** Tokens: ES256 with a published key, as hosted Supabase. */
import { errors, importJWK, jwtVerify, SignJWT } from 'jose'
import { z } from 'zod'
import { type PlatformKeys, publicJwks } from '../keys.ts'

/** Every claim of a user's access token. The Auth service of hosted Supabase puts the same ones in. */
const userClaims = z.looseObject({
  sub: z.uuid(),
  aud: z.literal('authenticated'),
  role: z.string(),
  session_id: z.uuid(),
  exp: z.number().int(),
})

export type ApiRole = 'anon' | 'service_role'
type Verified = { claims: z.infer<typeof userClaims> } | { problem: 'expired' | 'invalid' }
export type Tokens = Awaited<ReturnType<typeof createTokens>>

export async function createTokens(keys: PlatformKeys, issuer: string) {
  const { kid } = keys.signingKey
  const privateKey = await importJWK(keys.signingKey, 'ES256')
  const publicKey = await importJWK({ ...publicJwks(keys).keys[0] }, 'ES256')
  const header = { alg: 'ES256', typ: 'JWT', kid }

  return {
    issuer,
    /** A token for the outside, with exactly these claims. */
    sign: (claims: Record<string, unknown>) => new SignJWT(claims).setProtectedHeader(header).sign(privateKey),

    /** A five-minute token for a role without a user, for real services behind the gateway. */
    signRole: (role: ApiRole) =>
      new SignJWT({ role, iss: issuer })
        .setProtectedHeader(header)
        .setIssuedAt()
        .setExpirationTime('5m')
        .sign(privateKey),

    /** Checks a token from outside: our key, ES256 only, our issuer, not expired. */
    async verify(token: string): Promise<Verified> {
      try {
        const rules = { algorithms: ['ES256'], issuer, audience: 'authenticated' }
        const { payload } = await jwtVerify(token, publicKey, rules)
        return { claims: userClaims.parse(payload) }
      } catch (error) {
        return { problem: error instanceof errors.JWTExpired ? 'expired' : 'invalid' }
      }
    },
  }
}
