/** Sessions and their tokens: opened at sign-in, checked at every call, answered as an access token and a refresh token. */
import { randomBytes } from 'node:crypto'
import { z } from 'zod'
import { AuthProblem, unexpected } from './errors.ts'
import { runHook } from './hooks.ts'
import { findUserById, instanceId, isBanned, type UserRow, userJson } from './users.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

export type SessionRow = {
  id: string
  user_id: string
  aal: 'aal1' | 'aal2' | 'aal3'
  factor_id: string | null
  created_at: Date
  refreshed_at: Date | null
  not_after: Date | null
}

const columns = (tx: Db) => tx`
  id, user_id, coalesce(aal, 'aal1') as aal, factor_id, created_at, not_after,
  refreshed_at at time zone 'utc' as refreshed_at`

export async function findSession(tx: Db, id: string): Promise<SessionRow | undefined> {
  const [row] = await tx<SessionRow[]>`select ${columns(tx)} from auth.sessions where id = ${id}`
  return row
}

/** Waits while somebody else refreshes the same session. */
export async function lockSession(tx: Db, id: string): Promise<SessionRow | undefined> {
  const [row] = await tx<SessionRow[]>`select ${columns(tx)} from auth.sessions where id = ${id} for update`
  return row
}

export async function openSession(
  tx: Db,
  world: AuthWorld,
  call: AuthCall,
  user: UserRow,
  method: string,
): Promise<SessionRow> {
  const [id, now] = [crypto.randomUUID(), world.now()]
  await tx`
    insert into auth.sessions (id, user_id, aal, user_agent, ip, created_at, updated_at)
    values (${id}, ${user.id}, 'aal1', ${call.userAgent}, ${call.address}, ${now}, ${now})`
  await addAmr(tx, world, id, method)
  await tx`update auth.users set last_sign_in_at = ${now}, updated_at = ${now} where id = ${user.id}`
  const session = await findSession(tx, id)
  if (!session) throw new Error('the new session is not there')
  return session
}

/** Notes that a session was proven by one more method; the session's aal follows. */
export async function addAmr(tx: Db, world: AuthWorld, sessionId: string, method: string): Promise<void> {
  const now = world.now()
  await tx`
    insert into auth.mfa_amr_claims (id, session_id, created_at, updated_at, authentication_method)
    values (gen_random_uuid(), ${sessionId}, ${now}, ${now}, ${method})
    on conflict (session_id, authentication_method) do update set updated_at = excluded.updated_at`
  await tx`
    update auth.sessions s
    set updated_at = ${now}, aal = case when exists (
      select from auth.mfa_amr_claims c
      where c.session_id = s.id and c.authentication_method in ('totp', 'mfa/phone', 'mfa/webauthn'))
      then 'aal2'::auth.aal_level else 'aal1' end
    where s.id = ${sessionId}`
}

/**
 * The session's JSON: runs the access-token hook and signs. Without `refreshToken` the session gets a new one and every
 * earlier one of it becomes unknown.
 */
export async function answerSession(
  tx: Db,
  world: AuthWorld,
  call: AuthCall,
  session: SessionRow,
  method: string,
  refreshToken?: string,
): Promise<Record<string, unknown>> {
  const user = await findUserById(tx, session.user_id)
  if (!user) throw new Error('a session without a user')
  const refresh_token = refreshToken ?? (await issueFirstRefreshToken(tx, world, session))
  const { token, expiresAt } = await issueAccessToken(tx, world, call, { session, user, method })
  return {
    access_token: token,
    token_type: 'bearer',
    expires_in: world.settings.jwt_expiry,
    expires_at: expiresAt,
    refresh_token,
    user: await userJson(tx, user),
  }
}

export type SignedIn = { user: UserRow; session: SessionRow; claims: Record<string, unknown> }

/** The caller's user and session, or the refusal that the real service gives. */
export async function requireSession(tx: Db, world: AuthWorld, call: AuthCall): Promise<SignedIn> {
  const { claims, token, role } = call.caller
  if (token === null) {
    if (role === 'service_role') throw new AuthProblem(403, 'bad_jwt', 'invalid claim: missing sub claim')
    throw new AuthProblem(401, 'no_authorization', 'This endpoint requires a valid Bearer token')
  }
  const user = await findUserById(tx, String(claims.sub))
  if (!user) throw new AuthProblem(403, 'user_not_found', 'User from sub claim in JWT does not exist')
  const session = await findSession(tx, String(claims.session_id))
  if (session?.user_id !== user.id) {
    throw new AuthProblem(403, 'session_not_found', 'Session from session_id claim in JWT does not exist')
  }
  if (isBanned(user, world.now())) throw new AuthProblem(403, 'user_banned', 'User is banned')
  return { user, session, claims }
}

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

/**
 * The claims of the real Auth service, as the project's hook leaves them, signed. Runs the access-token hook in the
 * caller's transaction. `expiresAt` is what was meant before the hook (unix seconds).
 */
async function issueAccessToken(
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

/** Version 1: rows that point to their parent; a spent one is kept to notice its return. */
export type RefreshToken = {
  token: string
  session_id: string | null
  user_id: string
  parent: string | null
  revoked: boolean
  updated_at: Date
}

const alphabet = 'abcdefghijklmnopqrstuvwxyz234567'

/** Twelve characters, 60 random bits. */
const newToken = () => [...randomBytes(12)].map((byte) => alphabet[byte % 32]).join('')

export async function findRefreshToken(tx: Db, token: string): Promise<RefreshToken | undefined> {
  const [row] = await tx<RefreshToken[]>`
    select token, session_id, user_id, parent, coalesce(revoked, false) as revoked, updated_at
    from auth.refresh_tokens where token = ${token}`
  return row
}

/** The one token of a session that may be used. */
export async function activeRefreshToken(tx: Db, sessionId: string): Promise<RefreshToken | undefined> {
  const [row] = await tx<RefreshToken[]>`
    select token, session_id, user_id, parent, coalesce(revoked, false) as revoked, updated_at
    from auth.refresh_tokens where session_id = ${sessionId} and not revoked order by created_at desc limit 1`
  return row
}

/** A token for a session that was just opened or raised; the session's earlier ones are forgotten. */
async function issueFirstRefreshToken(tx: Db, world: AuthWorld, session: SessionRow): Promise<string> {
  await tx`delete from auth.refresh_tokens where session_id = ${session.id}`
  return insertRefreshToken(tx, world, session, null)
}

/** Spends a token and makes its child. */
export async function rotateRefreshToken(
  tx: Db,
  world: AuthWorld,
  session: SessionRow,
  parent: string,
): Promise<string> {
  await tx`
    update auth.refresh_tokens set revoked = true, updated_at = ${world.now()}
    where session_id = ${session.id} and not revoked`
  return insertRefreshToken(tx, world, session, parent)
}

/** After this no token of the session works, whoever holds it. */
export async function revokeFamily(tx: Db, world: AuthWorld, sessionId: string): Promise<void> {
  await tx`
    update auth.refresh_tokens set revoked = true, updated_at = ${world.now()}
    where session_id = ${sessionId} and not revoked`
}

async function insertRefreshToken(
  tx: Db,
  world: AuthWorld,
  session: SessionRow,
  parent: string | null,
): Promise<string> {
  const token = newToken()
  const now = world.now()
  await tx`
    insert into auth.refresh_tokens (
      instance_id, token, user_id, session_id, revoked, parent, created_at, updated_at)
    values (
      ${instanceId}, ${token}, ${session.user_id}, ${session.id}, false, ${parent}, ${now}, ${now})`
  return token
}
