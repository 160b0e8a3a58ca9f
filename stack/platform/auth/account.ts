/** GET and PUT /user, and /reauthenticate: what a signed-in user sees and changes of the own account. */
import { z } from 'zod'
import { askForEmailChange, changeEmail, emailTaken } from './email-change.ts'
import { AuthProblem } from './errors.ts'
import { challenge, checkFrequency, metadata, nothing, readForm, text, validEmail } from './forms.ts'
import { issueOneTimeToken, redirectTarget, takeOneTimeToken, tokenHash, writeMail } from './mailed-links.ts'
import { checkStrength, hashPassword, verifyPassword } from './passwords.ts'
import { startFlow } from './pkce.ts'
import { requireSession, type SignedIn } from './sessions.ts'
import { asJson, factorsOf, findUserByEmail, findUserById, lockUser, type UserRow, userJson } from './users.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

export async function showUser(world: AuthWorld, call: AuthCall): Promise<Response> {
  const { user } = await requireSession(world.sql, world, call)
  return Response.json(await userJson(world.sql, user))
}

const form = z.object({
  email: text,
  phone: text,
  password: text,
  nonce: text,
  current_password: text,
  data: metadata,
  app_metadata: metadata,
  ...challenge,
})

type UserForm = z.infer<typeof form>

export async function updateUser(world: AuthWorld, call: AuthCall): Promise<Response> {
  const sent = readForm(call, form)
  const body = await world.sql.begin(async (tx) => {
    const caller = await requireSession(tx, world, call)
    const user = (await lockUser(tx, caller.user.id)) ?? caller.user
    await checkUpdate(tx, world, { ...caller, user }, sent)
    if (typeof sent.password === 'string') await changePassword(tx, world, { ...caller, user }, sent)
    if (sent.data) await mergeUserMetadata(tx, world, user, sent.data)
    if (sent.email) await updateEmail(tx, world, call, user, sent)
    return userJson(tx, (await findUserById(tx, user.id)) ?? user)
  })
  return Response.json(body)
}

async function checkUpdate(tx: Db, world: AuthWorld, { user, session }: SignedIn, sent: UserForm): Promise<void> {
  if (sent.app_metadata) {
    throw new AuthProblem(403, 'not_admin', 'Updating app_metadata requires admin privileges')
  }
  if (sent.phone) throw new AuthProblem(400, 'phone_provider_disabled', 'Phone changes are disabled')
  if (user.is_anonymous && sent.password && !sent.email) {
    const words = 'Updating password of an anonymous user without an email or phone is not allowed'
    throw new AuthProblem(422, 'validation_failed', words)
  }
  const factors = sent.email || sent.password ? await factorsOf(tx, user.id) : []
  if (session.aal === 'aal1' && factors.some(({ status }) => status === 'verified')) {
    const words = 'AAL2 session is required to update email or password when MFA is enabled.'
    throw new AuthProblem(401, 'insufficient_aal', words)
  }
  if (!sent.email) return
  const other = await findUserByEmail(tx, validEmail(sent.email))
  if (other && other.id !== user.id) throw emailTaken()
  if (!world.settings.email.enabled) throw new AuthProblem(400, 'email_provider_disabled', 'Email changes are disabled')
}

async function updateEmail(tx: Db, world: AuthWorld, call: AuthCall, user: UserRow, sent: UserForm): Promise<void> {
  const email = validEmail(sent.email ?? '')
  if (email === user.email) return
  if (!world.settings.email.enable_confirmations) return changeEmail(tx, world, user, email)
  const pkce = await startFlow(tx, world, user.id, 'email_change', sent)
  await askForEmailChange(tx, world, user, { email, redirectTo: redirectTarget(world, call), pkce })
}

/** Objects are merged; a null takes a key away. */
async function mergeUserMetadata(tx: Db, world: AuthWorld, user: UserRow, data: Record<string, unknown>) {
  const merged = Object.entries({ ...user.raw_user_meta_data, ...data }).filter(([, value]) => value !== null)
  await tx`
    update auth.users set raw_user_meta_data = ${asJson(tx, Object.fromEntries(merged))}, updated_at = ${world.now()}
    where id = ${user.id}`
}

/** Mails a code that proves, for a change of password, that it is still the same person. */
export async function reauthenticate(world: AuthWorld, call: AuthCall): Promise<Response> {
  await world.sql.begin(async (tx) => {
    const caller = await requireSession(tx, world, call)
    const user = (await lockUser(tx, caller.user.id)) ?? caller.user
    const words = 'Reauthentication requires the user to have an email or a phone number'
    if (!user.email) throw new AuthProblem(422, 'validation_failed', words)
    if (!user.email_confirmed_at) throw new AuthProblem(422, 'email_not_confirmed', 'Please verify your email first.')
    checkFrequency(user.reauthentication_sent_at, world.now(), world.settings.email.max_frequency)
    const type = 'reauthentication_token'
    const { otp } = await issueOneTimeToken(tx, world, { userId: user.id, type, address: user.email })
    await tx`update auth.users set reauthentication_sent_at = ${world.now()} where id = ${user.id}`
    await world.sendMail(writeMail(user.email, 'reauthentication', otp))
  })
  return nothing()
}

const freshMs = 24 * 3_600_000

/** Sessions opened by a link or code, where nobody knows the current password. */
const recoveryMethods = ['otp', 'magiclink', 'recovery']

/** Proven to be wanted, strong, different; it ends every other session. */
async function changePassword(tx: Db, world: AuthWorld, caller: SignedIn, sent: UserForm): Promise<void> {
  const { user, session } = caller
  const password = sent.password ?? ''
  checkStrength(world.settings, password)
  await requireCurrentPassword(tx, world, caller, sent.current_password ?? '')
  await requireReauthentication(tx, world, caller, sent.nonce ?? '')
  if (user.encrypted_password && (await verifyPassword(password, user.encrypted_password))) {
    throw new AuthProblem(422, 'same_password', 'New password should be different from the old password.')
  }
  const hash = await hashPassword(world.settings, password)
  await tx`update auth.users set encrypted_password = ${hash}, updated_at = ${world.now()} where id = ${user.id}`
  await tx`delete from auth.sessions where user_id = ${user.id} and id <> ${session.id}`
}

async function requireCurrentPassword(tx: Db, world: AuthWorld, { user, session }: SignedIn, current: string) {
  if (!world.settings.email.require_current_password || !user.encrypted_password) return
  const waived = await tx`
    select from auth.mfa_amr_claims
    where session_id = ${session.id} and authentication_method = any (${recoveryMethods})`
  if (waived.length > 0) return
  if (current === '') {
    throw new AuthProblem(400, 'current_password_required', 'Current password required when setting new password.')
  }
  if (!(await verifyPassword(current, user.encrypted_password))) {
    throw new AuthProblem(400, 'current_password_invalid', 'Current password required when setting new password.')
  }
}

/** A session older than a day needs the code that GET /reauthenticate mails. */
async function requireReauthentication(tx: Db, world: AuthWorld, { user, session }: SignedIn, nonce: string) {
  const isFresh = session.created_at.getTime() + freshMs > world.now().getTime()
  if (!world.settings.email.secure_password_change || isFresh) return
  if (nonce === '') {
    throw new AuthProblem(400, 'reauthentication_needed', 'Password update requires reauthentication')
  }
  const taken = await takeOneTimeToken(tx, world, ['reauthentication_token'], tokenHash(user.email ?? '', nonce))
  if (taken?.user_id !== user.id) {
    throw new AuthProblem(422, 'reauthentication_not_valid', 'Nonce has expired or is invalid')
  }
}
