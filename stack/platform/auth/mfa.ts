/** POST /factors and DELETE /factors/:id: a user's authenticator apps (TOTP, RFC 6238). */
import { Secret, TOTP } from 'otpauth'
import { renderSVG } from 'uqr'
import { z } from 'zod'
import { AuthProblem, invalid } from './errors.ts'
import { nameTaken, removeFactor, requireFactor } from './factors.ts'
import { readForm, text } from './forms.ts'
import { requireSession, type SignedIn } from './sessions.ts'
import { factorsOf, lockUser, type UserRow } from './users.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

const secretBytes = 20
/** A factor that nobody went on with for this long makes room at the next enrolment. */
const abandonedMs = 300_000

/** What every authenticator app assumes. */
export const authenticator = (parts: { secret: string; issuer?: string; label?: string }) =>
  new TOTP({ ...parts, secret: Secret.fromBase32(parts.secret), algorithm: 'SHA1', digits: 6, period: 30 })

/** The caller, locked: of two changes of somebody's factors the second sees the first. */
export async function lockFactorOwner(tx: Db, world: AuthWorld, call: AuthCall): Promise<SignedIn> {
  const before = await requireFactorOwner(tx, world, call)
  await lockUser(tx, before.user.id)
  return requireFactorOwner(tx, world, call)
}

export async function requireFactorOwner(tx: Db, world: AuthWorld, call: AuthCall): Promise<SignedIn> {
  const caller = await requireSession(tx, world, call)
  if (!caller.user.is_anonymous && caller.claims.is_anonymous !== true) return caller
  throw new AuthProblem(403, 'no_authorization', 'Anonymous user not allowed to perform these actions')
}

const form = z.object({ factor_type: text, friendly_name: text, issuer: text })

export async function enrollFactor(world: AuthWorld, call: AuthCall): Promise<Response> {
  const sent = readForm(call, form)
  const name = sent.friendly_name ?? ''
  const body = await world.sql.begin(async (tx) => {
    const caller = await lockFactorOwner(tx, world, call)
    checkType(world, sent.factor_type ?? '')
    await checkRoom(tx, world, caller, name)
    return insertFactor(tx, world, caller.user, name, sent.issuer || new URL(world.urls.site).host)
  })
  return Response.json(body)
}

function checkType(world: AuthWorld, type: string): void {
  if (type === 'totp') {
    if (world.settings.mfa.totp.enroll_enabled) return
    throw new AuthProblem(422, 'mfa_totp_enroll_not_enabled', 'MFA enroll is disabled for TOTP')
  }
  if (type === 'phone') throw new AuthProblem(422, 'mfa_phone_enroll_not_enabled', 'MFA enroll is disabled for Phone')
  if (type === 'webauthn') {
    throw new AuthProblem(422, 'mfa_webauthn_enroll_not_enabled', 'MFA enroll is disabled for WebAuthn')
  }
  throw invalid('factor_type needs to be totp, phone, or webauthn')
}

/** Refuses a name that is taken, one factor too many, and a second factor added by the first one alone. */
async function checkRoom(tx: Db, world: AuthWorld, { user, session }: SignedIn, name: string): Promise<void> {
  await tx`
    delete from auth.mfa_factors f
    where f.user_id = ${user.id} and f.status = 'unverified'
      and f.created_at <= ${new Date(world.now().getTime() - abandonedMs)}
      and not exists (select from auth.mfa_challenges c where c.factor_id = f.id)`
  const factors = await factorsOf(tx, user.id)
  if (factors.some(({ friendly_name = '' }) => friendly_name === name)) throw nameTaken(name)
  if (factors.length >= world.settings.mfa.max_enrolled_factors) {
    const words = 'Maximum number of verified factors reached, unenroll to continue'
    throw new AuthProblem(422, 'too_many_enrolled_mfa_factors', words)
  }
  if (session.aal === 'aal1' && factors.some(({ status }) => status === 'verified')) {
    throw new AuthProblem(403, 'insufficient_aal', 'AAL2 required to enroll a new factor')
  }
}

/** The only answer that ever holds the secret. */
async function insertFactor(tx: Db, world: AuthWorld, user: UserRow, name: string, issuer: string) {
  const [id, now] = [crypto.randomUUID(), world.now()]
  const secret = new Secret({ size: secretBytes }).base32
  await tx`
    insert into auth.mfa_factors (id, user_id, friendly_name, factor_type, status, secret, created_at, updated_at)
    values (${id}, ${user.id}, ${name || null}, 'totp', 'unverified', ${secret}, ${now}, ${now})`
  const uri = authenticator({ secret, issuer, label: user.email ?? '' }).toString()
  return { id, type: 'totp', friendly_name: name, totp: { qr_code: renderSVG(uri), secret, uri } }
}

export async function unenrollFactor(world: AuthWorld, call: AuthCall, params: string[]): Promise<Response> {
  const id = await world.sql.begin(async (tx) => {
    const { user, session } = await lockFactorOwner(tx, world, call)
    const factor = await requireFactor(tx, user.id, params[0])
    if (factor.status === 'verified' && session.aal === 'aal1') {
      throw new AuthProblem(422, 'insufficient_aal', 'AAL2 required to unenroll verified factor')
    }
    await removeFactor(tx, world, factor)
    return factor.id
  })
  return Response.json({ id })
}
