/** A new password: proven to be wanted, strong, different; it ends every other session. */
import type { UserForm } from './account.ts'
import { AuthProblem } from './errors.ts'
import { takeOneTimeToken, tokenHash } from './one-time-tokens.ts'
import { checkStrength, hashPassword, verifyPassword } from './passwords.ts'
import type { SignedIn } from './sessions.ts'
import type { AuthWorld, Db } from './world.ts'

const freshMs = 24 * 3_600_000

/** Sessions opened by a link or code, where nobody knows the current password. */
const recoveryMethods = ['otp', 'magiclink', 'recovery']

export async function changePassword(tx: Db, world: AuthWorld, caller: SignedIn, sent: UserForm): Promise<void> {
  const { user, session } = caller
  const password = sent.password ?? ''
  checkStrength(world.settings, password)
  await requireCurrentPassword(tx, world, caller, sent.current_password ?? '')
  await requireReauthentication(tx, world, caller, sent.nonce ?? '')
  if (user.encrypted_password && (await verifyPassword(password, user.encrypted_password))) {
    throw new AuthProblem(422, 'same_password', 'New password should be different from the old password.')
  }
  const hash = await hashPassword(password)
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
