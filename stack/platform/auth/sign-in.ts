/** POST /token: by password, by refresh token, by the code of a mailed link; and POST /logout. */
import postgres from 'postgres'
import { z } from 'zod'
import { AuthProblem, invalid } from './errors.ts'
import { readForm, text } from './forms.ts'
import { runHook } from './hooks.ts'
import { verifyNobody, verifyPassword, weaknessOf } from './passwords.ts'
import { exchangeCode } from './pkce.ts'
import {
  activeRefreshToken,
  answerSession,
  findRefreshToken,
  lockSession,
  openSession,
  type RefreshToken,
  requireSession,
  revokeFamily,
  rotateRefreshToken,
  type SessionRow,
} from './sessions.ts'
import { findUserByEmail, findUserById, isBanned, type UserRow } from './users.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

export async function issueTokens(world: AuthWorld, call: AuthCall): Promise<Response> {
  const grant = call.url.searchParams.get('grant_type')
  if (grant === 'password') return signInWithPassword(world, call)
  if (grant === 'refresh_token') return refresh(world, call)
  if (grant === 'pkce') return exchangeCode(world, call)
  return Response.json({ error: 'unsupported_grant_type', error_description: '' }, { status: 400 })
}

const passwordForm = z.object({ email: text, phone: text, password: text })

const wrong = () => new AuthProblem(400, 'invalid_credentials', 'Invalid login credentials')

async function signInWithPassword(world: AuthWorld, call: AuthCall): Promise<Response> {
  const { email, phone, password } = readForm(call, passwordForm)
  if (!email && phone) throw new AuthProblem(400, 'phone_provider_disabled', 'Phone logins are disabled')
  if (!email) throw invalid('missing email or phone')
  if (!world.settings.email.enabled) {
    throw new AuthProblem(400, 'email_provider_disabled', 'Email logins are disabled')
  }
  const secret = password ?? ''
  const user = await findUserByEmail(world.sql, email)
  if (!user?.encrypted_password) return refuseNobody(world, secret)
  const hash = user.encrypted_password
  // A ban is told only after the work of a verification, so that it cannot be told from the time either.
  const isValid = await verifyPassword(secret, hash)
  if (isBanned(user, world.now())) throw new AuthProblem(400, 'user_banned', 'User is banned')
  await askAboutPassword(world, call, user, isValid)
  if (!isValid) throw wrong()
  if (!user.confirmed_at) throw new AuthProblem(400, 'email_not_confirmed', 'Email not confirmed')
  const body = await world.sql.begin(async (tx) => {
    const session = await openSession(tx, world, call, user, 'password')
    // Opening has locked the user: what was changed while the password was being verified is seen now.
    const now = await findUserById(tx, user.id)
    if (now?.encrypted_password !== hash || isBanned(now, world.now())) throw wrong()
    return answerSession(tx, world, call, session, 'password')
  })
  const weak_password = weaknessOf(world.settings, secret)
  return Response.json(weak_password ? { ...body, weak_password } : body)
}

/** The same answer after the same work: a verification, and a transaction that is flushed as the hook's is. */
async function refuseNobody(world: AuthWorld, password: string): Promise<never> {
  await verifyNobody(world.settings, password)
  if (world.settings.hook.password_verification_attempt) {
    await world.sql.begin(async (tx) => {
      await tx`set local statement_timeout = '2000'`
      await tx`select pg_logical_emit_message(true, 'auth', 'nobody')`
      await tx`set local statement_timeout to default`
    })
  }
  throw wrong()
}

const decision = z.object({
  decision: z.literal('reject'),
  message: z.string().catch(''),
  should_logout_user: z.boolean().default(false).catch(false),
})

/** The hook runs in a transaction of its own, so that what it counts outlives the refusal. */
async function askAboutPassword(world: AuthWorld, call: AuthCall, user: UserRow, valid: boolean): Promise<void> {
  const output = await runHook(world, null, 'password_verification_attempt', { user_id: user.id, valid }, call)
  const rejected = decision.safeParse(output)
  if (!rejected.success) return
  if (rejected.data.should_logout_user) {
    await world.sql`delete from auth.sessions where user_id = ${user.id}`
  }
  const { message } = rejected.data
  throw new AuthProblem(
    400,
    'invalid_credentials',
    message || 'Further password verification attempts will be rejected.',
  )
}

const refreshForm = z.object({ refresh_token: text })
const refused = (code: string, message: string) => new AuthProblem(400, code, `Invalid Refresh Token: ${message}`)

/** The token is spent, its child takes over; a spent one that returns ends the family. */
async function refresh(world: AuthWorld, call: AuthCall): Promise<Response> {
  const { refresh_token: sent } = readForm(call, refreshForm)
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

/** This session, all others, or all. */
export async function signOut(world: AuthWorld, call: AuthCall): Promise<Response> {
  const scope = call.url.searchParams.get('scope') ?? 'global'
  if (!['global', 'local', 'others'].includes(scope)) throw invalid(`Unsupported logout scope "${scope}"`)
  const { user, session } = await requireSession(world.sql, world, call)
  await world.sql`
    delete from auth.sessions
    where user_id = ${user.id}
      and case ${scope} when 'local' then id = ${session.id} when 'others' then id <> ${session.id} else true end`
  return new Response(null, { status: 204 })
}
