/** Sessions: opened at sign-in, checked at every call with a token, answered as tokens. */

import { issueAccessToken } from './access-token.ts'
import { AuthProblem } from './errors.ts'
import { issueFirstRefreshToken } from './refresh-tokens.ts'
import { findUserById, isBanned, type UserRow, userJson } from './users.ts'
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
      where c.session_id = s.id and c.authentication_method in ('totp', 'mfa/phone', 'mfa/webauthn')) then 'aal2' else 'aal1' end
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
