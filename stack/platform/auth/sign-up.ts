/** New accounts: POST /signup, by e-mail or without any; the project's hook is asked first, outside any transaction. */
import { z } from 'zod'
import { AuthProblem, invalid, unexpected } from './errors.ts'
import { challenge, metadata, readForm, text, validEmail } from './forms.ts'
import { runHook } from './hooks.ts'
import { redirectTarget, sendLink } from './mailed-links.ts'
import { checkStrength, hashPassword } from './passwords.ts'
import { startFlow } from './pkce.ts'
import { answerSession, openSession } from './sessions.ts'
import {
  findUserByEmail,
  findUserById,
  insertUser,
  lockUser,
  type NewUser,
  normalEmail,
  type UserRow,
  userJson,
  userJsonOf,
} from './users.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

const form = z.object({ email: text, phone: text, password: text, data: metadata, ...challenge })

type Form = z.infer<typeof form>

export async function signUp(world: AuthWorld, call: AuthCall): Promise<Response> {
  const { settings } = world
  const sent = readForm(call, form)
  if (!settings.enable_signup) throw new AuthProblem(422, 'signup_disabled', 'Signups not allowed for this instance')
  if (!sent.email && !sent.phone) return signUpAnonymously(world, call, sent.data ?? {})
  if (!sent.password) throw invalid('Signup requires a valid password')
  checkStrength(settings, sent.password)
  if (!sent.email) throw new AuthProblem(400, 'phone_provider_disabled', 'Phone signups are disabled')
  if (!settings.email.enabled || !settings.email.enable_signup) {
    throw new AuthProblem(400, 'email_provider_disabled', 'Email signups are disabled')
  }
  const email = validEmail(sent.email)
  // Before anything is looked up, so that known and unknown addresses take the same time.
  const passwordHash = await hashPassword(settings, sent.password)
  const id = crypto.randomUUID()
  const user = { ...emailUser(id, email, sent.data ?? {}, world.now()), passwordHash }
  if (!(await findUserByEmail(world.sql, email))) await askBeforeUserCreated(world, call, user)
  const make = () => world.sql.begin((tx) => register(tx, world, call, sent, user))
  return Response.json(await make().catch((error) => (isTakenAddress(error) ? make() : Promise.reject(error))))
}

type ByEmail = ReturnType<typeof emailUser> & { passwordHash: string }

async function register(tx: Db, world: AuthWorld, call: AuthCall, sent: Form, user: ByEmail) {
  const found = await findUserByEmail(tx, user.email)
  const known = found && (await lockUser(tx, found.id))
  const confirms = world.settings.email.enable_confirmations
  if (known?.confirmed_at && !confirms) throw new AuthProblem(422, 'user_already_exists', 'User already registered')
  if (known?.confirmed_at) return obfuscated(user)
  const row =
    known ??
    (await saveNewUser(tx, {
      ...user,
      userMetadata: withAddress(user.id, user.email, user.userMetadata, !confirms),
      emailConfirmed: !confirms,
    }))
  if (!confirms && !known) {
    const session = await openSession(tx, world, call, row, 'password')
    return answerSession(tx, world, call, session, 'password')
  }
  await sendConfirmation(tx, world, call, row, sent)
  return userJson(tx, (await findUserById(tx, row.id)) ?? row)
}

/** The mail that proves an address, for a new account or for one that was never confirmed. */
export async function sendConfirmation(
  tx: Db,
  world: AuthWorld,
  call: AuthCall,
  user: UserRow,
  sent: Pick<Form, 'code_challenge' | 'code_challenge_method'>,
): Promise<void> {
  const pkce = await startFlow(tx, world, user.id, 'email/signup', sent)
  await sendLink(tx, world, user, { type: 'signup', redirectTo: redirectTarget(world, call), pkce })
}

/** What a taken address is answered: a user that looks new, so that nobody learns who has an account. */
function obfuscated(user: ByEmail): Record<string, unknown> {
  return userJsonOf({ ...draftRow(user), role: '', confirmation_sent_at: user.now }, [])
}

async function signUpAnonymously(world: AuthWorld, call: AuthCall, data: Record<string, unknown>): Promise<Response> {
  if (!world.settings.enable_anonymous_sign_ins) {
    throw new AuthProblem(422, 'anonymous_provider_disabled', 'Anonymous sign-ins are disabled')
  }
  const user = { id: crypto.randomUUID(), isAnonymous: true, userMetadata: data, now: world.now() }
  await askBeforeUserCreated(world, call, user)
  const body = await world.sql.begin(async (tx) => {
    const row = await saveNewUser(tx, user)
    const session = await openSession(tx, world, call, row, 'anonymous')
    return answerSession(tx, world, call, session, 'anonymous')
  })
  return Response.json(body)
}

/** Before the hook there are no dates; Go writes its zero time. */
const never = '0001-01-01T00:00:00Z'

/** Asks before_user_created about a user as it will be inserted; throws the hook's refusal. */
export async function askBeforeUserCreated(world: AuthWorld, call: AuthCall, user: NewUser & { id: string }) {
  const json = { ...userJsonOf(draftRow(user), []), created_at: never, updated_at: never }
  await runHook(world, null, 'before_user_created', { user: json }, call)
}

/** A user as the row would be, before there is one. */
function draftRow(user: NewUser & { id: string }): UserRow {
  return {
    id: user.id,
    aud: user.aud ?? 'authenticated',
    role: user.role ?? 'authenticated',
    email: user.email ? normalEmail(user.email) : null,
    encrypted_password: null,
    phone: user.phone ?? null,
    email_confirmed_at: null,
    phone_confirmed_at: null,
    confirmed_at: null,
    invited_at: null,
    confirmation_sent_at: null,
    recovery_sent_at: null,
    email_change: null,
    email_change_sent_at: null,
    email_change_confirm_status: 0,
    phone_change: null,
    phone_change_sent_at: null,
    reauthentication_sent_at: null,
    raw_app_meta_data: user.appMetadata ?? {},
    raw_user_meta_data: user.userMetadata ?? {},
    banned_until: null,
    deleted_at: null,
    is_anonymous: user.isAnonymous ?? false,
    last_sign_in_at: null,
    created_at: user.now,
    updated_at: user.now,
  }
}

/** Inserts the user that the hook has accepted; what SQL raises becomes the real service's answer. */
export async function saveNewUser(tx: Db, user: NewUser): Promise<UserRow> {
  try {
    return await insertUser(tx, user)
  } catch (error) {
    if (error instanceof AuthProblem || isTakenAddress(error)) throw error
    const problem = unexpected('Database error saving new user')
    problem.cause = error
    throw problem
  }
}

/** Somebody else made the same account at the same moment. */
export const isTakenAddress = (error: unknown) =>
  error instanceof Error && 'constraint_name' in error && error.constraint_name === 'users_email_partial_key'

/** What an account by e-mail is made of. */
export function emailUser(id: string, email: string, data: Record<string, unknown>, now: Date) {
  return {
    id,
    email,
    appMetadata: { provider: 'email', providers: ['email'] },
    userMetadata: data,
    now,
  } satisfies NewUser
}

/** The metadata that is stored: the user's own data and what the address is known to be. */
export const withAddress = (id: string, email: string, data: Record<string, unknown>, verified: boolean) => ({
  ...data,
  sub: id,
  email,
  email_verified: verified,
  phone_verified: false,
})
