/** Refreshing a session: the token is spent, its child takes over; a spent one that returns ends the family. */
import postgres from 'postgres'
import { z } from 'zod'
import { AuthProblem } from './errors.ts'
import { readForm, text } from './forms.ts'
import {
  activeRefreshToken,
  findRefreshToken,
  type RefreshToken,
  revokeFamily,
  rotateRefreshToken,
} from './refresh-tokens.ts'
import { answerSession, lockSession, type SessionRow } from './sessions.ts'
import { findUserById, isBanned } from './users.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

const form = z.object({ refresh_token: text })
const refused = (code: string, message: string) => new AuthProblem(400, code, `Invalid Refresh Token: ${message}`)

export async function refresh(world: AuthWorld, call: AuthCall): Promise<Response> {
  const { refresh_token: sent } = readForm(call, form)
  if (!sent) {
    const body = { error: 'invalid_request', error_description: 'refresh_token required' }
    return Response.json(body, { status: 400 })
  }
  // A refusal is handed out of the transaction, not thrown: the revocation that goes with it must be committed.
  const outcome = await world.sql.begin((tx) => refreshIn(tx, world, call, sent)).catch(asConflict)
  if (outcome instanceof AuthProblem) throw outcome
  return Response.json(outcome)
}

type Outcome = Record<string, unknown> | AuthProblem

async function refreshIn(tx: Db, world: AuthWorld, call: AuthCall, sent: string): Promise<Outcome> {
  const known = await findRefreshToken(tx, sent)
  if (!known?.session_id) return refused('refresh_token_not_found', 'Refresh Token Not Found')
  // Parallel refreshes of one session take turns, and give up after five seconds.
  await tx`set local lock_timeout = '5s'`
  const session = await lockSession(tx, known.session_id)
  await tx`set local lock_timeout to default`
  if (!session) return refused('session_not_found', 'Session Not Found')
  const token = await findRefreshToken(tx, sent)
  if (!token) return refused('refresh_token_not_found', 'Refresh Token Not Found')
  const user = await findUserById(tx, session.user_id)
  if (!user || isBanned(user, world.now())) return refused('user_banned', 'User Banned')
  const ended = whyEnded(world, session)
  if (ended) return refused('session_expired', ended)
  const next = await nextToken(tx, world, session, token)
  if (next instanceof AuthProblem) return next
  const now = world.now()
  await tx`
    update auth.sessions
    set refreshed_at = ${now}::timestamptz at time zone 'utc', updated_at = ${now},
      user_agent = ${call.userAgent}, ip = ${call.address}
    where id = ${session.id}`
  return answerSession(tx, world, call, session, 'token_refresh', next)
}

/** The token that replaces the sent one, or the refusal of a spent one. */
async function nextToken(tx: Db, world: AuthWorld, session: SessionRow, token: RefreshToken) {
  if (!token.revoked) return rotateRefreshToken(tx, world, session, token.token)
  const active = await activeRefreshToken(tx, session.id)
  // The client never saw the answer to its last refresh.
  if (active?.parent === token.token) return active.token
  const { refresh_token_reuse_interval: interval, enable_refresh_token_rotation: strict } = world.settings
  if (active && world.now().getTime() <= token.updated_at.getTime() + interval * 1000) {
    return rotateRefreshToken(tx, world, session, token.token)
  }
  if (strict) await revokeFamily(tx, world, session.id)
  return refused('refresh_token_already_used', 'Already Used')
}

function whyEnded(world: AuthWorld, session: SessionRow): string | null {
  const { timebox, inactivity_timeout } = world.settings.sessions
  const now = world.now().getTime()
  if (session.not_after && session.not_after.getTime() < now) return 'Session Expired'
  if (timebox > 0 && session.created_at.getTime() + timebox < now) return 'Session Expired'
  const lastUse = (session.refreshed_at ?? session.created_at).getTime()
  return inactivity_timeout > 0 && lastUse + inactivity_timeout < now ? 'Session Expired (Inactivity)' : null
}

function asConflict(error: unknown): AuthProblem {
  if (error instanceof postgres.PostgresError && error.code === '55P03') {
    return new AuthProblem(
      409,
      'conflict',
      'Too many concurrent token refresh requests on the same session or refresh token',
    )
  }
  throw error
}
