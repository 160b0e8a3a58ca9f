/** POST /token: by password, by refresh token, by the code of a mailed link. */
import { z } from 'zod'
import { AuthProblem, invalid } from './errors.ts'
import { readForm, text } from './forms.ts'
import { runHook } from './hooks.ts'
import { verifyNobody, verifyPassword, weaknessOf } from './passwords.ts'
import { exchangeCode } from './pkce.ts'
import { refresh } from './refresh.ts'
import { answerSession, openSession } from './sessions.ts'
import { findUserByEmail, findUserById, isBanned, type UserRow } from './users.ts'
import type { AuthCall, AuthWorld } from './world.ts'

export async function issueTokens(world: AuthWorld, call: AuthCall): Promise<Response> {
  const grant = call.url.searchParams.get('grant_type')
  if (grant === 'password') return signInWithPassword(world, call)
  if (grant === 'refresh_token') return refresh(world, call)
  if (grant === 'pkce') return exchangeCode(world, call)
  return Response.json({ error: 'unsupported_grant_type', error_description: '' }, { status: 400 })
}

const form = z.object({ email: text, phone: text, password: text })

const wrong = () => new AuthProblem(400, 'invalid_credentials', 'Invalid login credentials')

async function signInWithPassword(world: AuthWorld, call: AuthCall): Promise<Response> {
  const { email, phone, password } = readForm(call, form)
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
  await verifyNobody(password)
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
