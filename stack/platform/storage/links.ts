/** Signed addresses: a token for one object and one purpose, so that one to read is worth nothing to write. */
import { errors, jwtVerify, SignJWT } from 'jose'
import { z } from 'zod'
import { problems } from './errors.ts'

const payload = z.object({
  url: z.string(),
  scope: z.enum(['download', 'upload']),
  owner: z.string().nullish(),
  upsert: z.boolean().optional(),
  exp: z.number(),
})
type Payload = z.infer<typeof payload>
export type Links = ReturnType<typeof createLinks>

export function createLinks(secret: string) {
  const key = new TextEncoder().encode(secret)
  return {
    /** `url` is the bucket and the path in it. */
    sign: (claims: Omit<Payload, 'exp'>, seconds: number): Promise<string> =>
      new SignJWT(claims)
        .setProtectedHeader({ alg: 'HS256' })
        .setIssuedAt()
        .setExpirationTime(Math.floor(Date.now() / 1000) + seconds)
        .sign(key),

    async verify(token: string | null, url: string, scope: Payload['scope']): Promise<Payload> {
      if (token === null) throw problems.invalidRequest("querystring must have required property 'token'")
      const verified = await jwtVerify(token, key, { algorithms: ['HS256'] }).catch((error: unknown) => {
        throw error instanceof errors.JOSEError ? problems.invalidToken(error.message) : error
      })
      const claims = payload.safeParse(verified.payload)
      if (!claims.success || claims.data.scope !== scope)
        throw problems.invalidSignature(`Token is not scoped for ${scope}`)
      if (claims.data.url !== url) throw problems.invalidSignature()
      return claims.data
    },
  }
}
