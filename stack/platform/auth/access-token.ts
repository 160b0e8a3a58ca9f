/** Access tokens: the claims of the real Auth service, as the project's hook leaves them, signed. */
import { z } from 'zod'
import { unexpected } from './errors.ts'
import { runHook } from './hooks.ts'
import type { SessionRow } from './sessions.ts'
import type { UserRow } from './users.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

const text = z.string()
const count = z.number().int()
const texts = z.array(z.string())
const object = z.record(z.string(), z.unknown())

/** What a hook must hand back, and the JSON types of what it may: other claims are free. */
const hookClaims = z.looseObject({
  aud: z.union([text, texts]),
  exp: count,
  iat: count,
  sub: text,
  email: text,
  phone: text,
  role: text,
  aal: text,
  session_id: text,
  is_anonymous: z.boolean(),
  iss: text.optional(),
  jti: text.optional(),
  nbf: count.optional(),
  client_id: text.optional(),
  app_metadata: object.optional(),
  user_metadata: object.optional(),
  amr: z.array(z.union([text, object])).optional(),
})

type Subject = { session: SessionRow; user: UserRow; method: string }

/** Runs the access-token hook in the caller's transaction. `expiresAt` is what was meant before the hook (unix seconds). */
export async function issueAccessToken(
  tx: Db,
  world: AuthWorld,
  call: Pick<AuthCall, 'address'>,
  { session, user, method }: Subject,
): Promise<{ token: string; expiresAt: number }> {
  const claims = await claimsFor(tx, world, session, user)
  if (!world.settings.hook.custom_access_token) {
    return { token: await world.tokens.sign(claims), expiresAt: claims.exp }
  }
  const input = { user_id: user.id, claims, authentication_method: method }
  const output = await runHook(world, tx, 'custom_access_token', input, call)
  return { token: await world.tokens.sign(checkClaims(output?.claims)), expiresAt: claims.exp }
}

function checkClaims(output: unknown): Record<string, unknown> {
  if (output === undefined || output === null) throw unexpected('output claims field is missing')
  const checked = hookClaims.safeParse(output)
  if (checked.success) return checked.data
  const wrong = checked.error.issues.map((issue) => `- ${issue.path.join('.') || '(root)'}: ${issue.message}`)
  throw unexpected(`output claims do not conform to the expected schema: \n${wrong.join('\n')}`)
}

async function claimsFor(tx: Db, world: AuthWorld, session: SessionRow, user: UserRow) {
  const amr = await tx<{ method: string; timestamp: number }[]>`
    select authentication_method as method, floor(extract(epoch from updated_at))::integer as timestamp
    from auth.mfa_amr_claims where session_id = ${session.id} order by updated_at desc, created_at desc`
  const iat = Math.floor(world.now().getTime() / 1000)
  const hasSecondFactor = amr.some(({ method }) => ['totp', 'mfa/phone', 'mfa/webauthn'].includes(method))
  return {
    iss: world.tokens.issuer,
    sub: user.id,
    aud: user.aud,
    exp: iat + world.settings.jwt_expiry,
    iat,
    email: user.email ?? '',
    phone: user.phone ?? '',
    app_metadata: user.raw_app_meta_data,
    user_metadata: user.raw_user_meta_data,
    role: user.role,
    aal: hasSecondFactor ? 'aal2' : 'aal1',
    amr: [...amr],
    session_id: session.id,
    is_anonymous: user.is_anonymous,
  }
}
