/** /verify: the link of a mail (GET) or its code (POST) is spent; in return there is a session or a code for one. */
import { z } from 'zod'
import { confirmEmailChange } from './email-change.ts'
import { AuthProblem, codeOf, invalid } from './errors.ts'
import { readForm, text } from './forms.ts'
import {
  dropOneTimeTokens,
  pkcePrefix,
  redirectTarget,
  redirectWithFragment,
  redirectWithQuery,
  type TakenToken,
  type TokenType,
  takeOneTimeToken,
  tokenExpired,
  tokenHash,
} from './mailed-links.ts'
import { hashPassword } from './passwords.ts'
import { issueAuthCode } from './pkce.ts'
import { answerSession, openSession } from './sessions.ts'
import { asJson, findUserById, isBanned, lockUser, normalEmail, type UserRow } from './users.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

const tokenTypes: Record<string, TokenType[]> = {
  signup: ['confirmation_token'],
  invite: ['confirmation_token'],
  magiclink: ['recovery_token'],
  recovery: ['recovery_token'],
  email: ['confirmation_token', 'recovery_token'],
  email_change: ['email_change_token_current', 'email_change_token_new'],
}

const typesFor = (type: string): TokenType[] => {
  const types = tokenTypes[type]
  if (!types) throw invalid('Verify requires a valid verification type')
  return types
}

/** The user who has proven the address, or null when the other address has still to agree. */
async function proveAddress(tx: Db, world: AuthWorld, taken: TakenToken): Promise<UserRow | null> {
  const user = await lockUser(tx, taken.user_id)
  if (!user) throw tokenExpired('Email link is invalid or has expired')
  if (isBanned(user, world.now())) throw new AuthProblem(403, 'user_banned', 'User is banned')
  if (taken.token_type.startsWith('email_change')) return confirmEmailChange(tx, world, user, taken)
  // A code proves the address it was sent to, and no other.
  if (user.email !== taken.relates_to) throw tokenExpired('Email link is invalid or has expired')
  await confirmEmail(tx, world, user)
  return (await findUserById(tx, user.id)) ?? null
}

async function confirmEmail(tx: Db, world: AuthWorld, user: UserRow): Promise<void> {
  await dropOneTimeTokens(tx, user.id, ['confirmation_token', 'recovery_token'])
  if (user.email_confirmed_at) return
  const now = world.now()
  const verified = asJson(tx, { email_verified: true })
  const password =
    user.encrypted_password ?? (user.invited_at ? await hashPassword(world.settings, crypto.randomUUID()) : null)
  await tx`
    update auth.users
    set email_confirmed_at = ${now}, raw_user_meta_data = coalesce(raw_user_meta_data, '{}') || ${verified},
      encrypted_password = ${password}, updated_at = ${now}
    where id = ${user.id}`
  await tx`
    update auth.identities set identity_data = identity_data || ${verified}, updated_at = ${now}
    where user_id = ${user.id} and provider = 'email'`
}

const form = z.object({ type: z.string(), token_hash: text, token: text, email: text })

/** What a first agreement to a change of address is answered. */
const halfWay = 'Confirmation link accepted. Please proceed to confirm link sent to the other email'

export async function verifyCode(world: AuthWorld, call: AuthCall): Promise<Response> {
  const { type, token_hash, token, email } = readForm(call, form)
  const types = typesFor(type)
  if (!token_hash && !(token && email)) {
    throw invalid(
      token
        ? 'Only an email address or phone number should be provided on verify'
        : 'Verify requires a token or a token hash',
    )
  }
  const hash = token_hash || tokenHash(normalEmail(email ?? ''), token ?? '')
  const words = token_hash ? 'Email link is invalid or has expired' : 'Token has expired or is invalid'
  const body = await world.sql.begin(async (tx) => {
    const taken = await takeOneTimeToken(tx, world, types, hash)
    if (!taken) throw tokenExpired(words)
    const user = await proveAddress(tx, world, taken)
    if (!user) return { code: '200', msg: halfWay }
    const session = await openSession(tx, world, call, user, 'otp')
    return answerSession(tx, world, call, session, 'otp')
  })
  return Response.json(body)
}

const flowMethods: Record<string, string> = {
  signup: 'email/signup',
  invite: 'invite',
  magiclink: 'magiclink',
  recovery: 'recovery',
  email_change: 'email_change',
}

export async function followLink(world: AuthWorld, call: AuthCall): Promise<Response> {
  const hash = call.url.searchParams.get('token') ?? ''
  const type = call.url.searchParams.get('type') ?? ''
  const target = redirectTarget(world, call)
  const withCode = hash.startsWith(pkcePrefix)
  try {
    const types = typesFor(type)
    const answer = await world.sql.begin(async (tx) => {
      const taken = hash === '' ? undefined : await takeOneTimeToken(tx, world, types, hash)
      if (!taken) throw tokenExpired('Email link is invalid or has expired')
      const user = await proveAddress(tx, world, taken)
      if (!user) return { message: halfWay }
      if (withCode) return { code: await issueAuthCode(tx, world, user.id, flowMethods[type] ?? type) }
      const session = await openSession(tx, world, call, user, 'otp')
      const { user: _user, ...tokens } = await answerSession(tx, world, call, session, 'otp')
      return { ...textFields(tokens), type }
    })
    return withCode ? redirectWithQuery(target, answer) : redirectWithFragment(target, answer)
  } catch (error) {
    if (!(error instanceof AuthProblem)) throw error
    const fields = {
      error: error.status >= 500 ? 'server_error' : 'access_denied',
      error_code: codeOf(error),
      error_description: error.message,
    }
    return withCode ? redirectWithQuery(target, fields) : redirectWithFragment(target, fields)
  }
}

const textFields = (fields: Record<string, unknown>) =>
  Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, String(value)]))
