/** The secrets of one local stack: made once, kept in the data folder with mode 0600, never printed to a log. */
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { exportJWK, generateKeyPair } from 'jose'
import { z } from 'zod'
import { StackError } from '../config.ts'

const keysSchema = z.object({
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
  demoPassword: z.string().min(12),
  /** Of the stand-in for Stripe. */
  stripe: z.object({ secretKey: z.string().startsWith('sk_test_'), webhookSecret: z.string().startsWith('whsec_') }),
})

export type StackKeys = z.infer<typeof keysSchema>
export type DatabaseRole = keyof StackKeys['passwords']

/** Reads the keys of a data folder, or makes them on the first start. */
export async function loadKeys(file: string): Promise<StackKeys> {
  if (existsSync(file)) return readKeys(file)
  const keys = await makeKeys()
  mkdirSync(dirname(file), { recursive: true })
  writeKeys(file, keys)
  return keys
}

function writeKeys(file: string, keys: StackKeys): void {
  writeFileSync(`${file}.new`, `${JSON.stringify(keys, null, 2)}\n`, { mode: 0o600 })
  renameSync(`${file}.new`, file)
}

function readKeys(file: string): StackKeys {
  try {
    return addMissing(file, JSON.parse(readFileSync(file, 'utf8')))
  } catch {
    throw new StackError(
      `${file} is damaged, or older than this version. Restore it, or run "npm run reset" to start over with an empty stack.`,
    )
  }
}

/** Files of before there was a stand-in for Stripe get its keys added; everything else stays as it is. */
function addMissing(file: string, found: unknown): StackKeys {
  if (typeof found !== 'object' || found === null || 'stripe' in found) return keysSchema.parse(found)
  const keys = keysSchema.parse({ ...found, stripe: stripeKeys() })
  writeKeys(file, keys)
  return keys
}

/** In the form of Stripe's test keys, without the characters that they never have. */
function stripeKeys(): StackKeys['stripe'] {
  const random = () => randomBytes(32).toString('hex')
  return { secretKey: `sk_test_${random()}`, webhookSecret: `whsec_${random()}` }
}

async function makeKeys(): Promise<StackKeys> {
  const random = () => randomBytes(24).toString('base64url')
  const { privateKey } = await generateKeyPair('ES256', { extractable: true })
  const kid = crypto.randomUUID()
  return keysSchema.parse({
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
    demoPassword: `Demo1${randomBytes(9).toString('base64url')}`,
    stripe: stripeKeys(),
  })
}

/** The public half, as `/auth/v1/.well-known/jwks.json` and `SUPABASE_JWKS` show it. */
export function publicJwks(keys: StackKeys): { keys: Record<string, unknown>[] } {
  const { d: _private, ...rest } = keys.signingKey
  return { keys: [{ ...rest, key_ops: ['verify'] }] }
}
