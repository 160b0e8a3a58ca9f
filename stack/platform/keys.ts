/** The secrets of one platform: API keys, the key that signs tokens, and the passwords of the database's roles. */
import { randomBytes } from 'node:crypto'
import { exportJWK, generateKeyPair } from 'jose'
import { z } from 'zod'

export const platformKeys = z.object({
  publishableKey: z.string().startsWith('sb_publishable_'),
  secretKey: z.string().startsWith('sb_secret_'),
  /** ES256 key pair that signs users' tokens, as a private JWK with `kid`. */
  signingKey: z.looseObject({ kty: z.literal('EC'), crv: z.literal('P-256'), kid: z.string(), d: z.string() }),
  /** HS256 secret that @supabase/lite insists on; it never leaves this process. */
  innerJwtSecret: z.string().min(32),
  passwords: z.object({
    supabase_admin: z.string(),
    postgres: z.string(),
    authenticator: z.string(),
    supabase_auth_admin: z.string(),
    supabase_storage_admin: z.string(),
    supabase_realtime_admin: z.string(),
  }),
})

export type PlatformKeys = z.infer<typeof platformKeys>
export type DatabaseRole = keyof PlatformKeys['passwords']

export async function makePlatformKeys(): Promise<PlatformKeys> {
  const random = () => randomBytes(24).toString('base64url')
  const { privateKey } = await generateKeyPair('ES256', { extractable: true })
  const kid = crypto.randomUUID()
  return platformKeys.parse({
    publishableKey: `sb_publishable_${random()}`,
    secretKey: `sb_secret_${random()}`,
    signingKey: { ...(await exportJWK(privateKey)), kid, alg: 'ES256', use: 'sig' },
    innerJwtSecret: randomBytes(48).toString('base64url'),
    passwords: {
      supabase_admin: random(),
      postgres: random(),
      authenticator: random(),
      supabase_auth_admin: random(),
      supabase_storage_admin: random(),
      supabase_realtime_admin: random(),
    },
  })
}

/** The public half, as `/auth/v1/.well-known/jwks.json` and `SUPABASE_JWKS` show it. */
export function publicJwks(keys: PlatformKeys): { keys: Record<string, unknown>[] } {
  const { d: _private, ...rest } = keys.signingKey
  return { keys: [{ ...rest, key_ops: ['verify'] }] }
}
