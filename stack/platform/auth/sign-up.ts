/** POST /signup: by e-mail, or without any when the project allows anonymous users. */
import { z } from 'zod'
import { AuthProblem, invalid } from './errors.ts'
import { challenge, metadata, readForm, text, validEmail } from './forms.ts'
import { sendLink } from './links.ts'
import { askBeforeUserCreated, draftRow, emailUser, isTakenAddress, saveNewUser, withAddress } from './new-user.ts'
import { checkStrength, hashPassword } from './passwords.ts'
import { startFlow } from './pkce.ts'
import { redirectTarget } from './redirects.ts'
import { answerSession, openSession } from './sessions.ts'
import { findUserByEmail, findUserById, lockUser, type UserRow, userJson, userJsonOf } from './users.ts'
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
  const passwordHash = await hashPassword(sent.password)
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
