/** A user's authenticator apps (TOTP, RFC 6238): enrolled, challenged and verified, removed. */
import { Secret, TOTP } from 'otpauth'
import { renderSVG } from 'uqr'
import { z } from 'zod'
import { AuthProblem, invalid } from './errors.ts'
import { readForm, text } from './forms.ts'
import { runHook } from './hooks.ts'
import { addAmr, answerSession, findSession, requireSession, type SignedIn } from './sessions.ts'
import { type FactorJson, factorsOf, lockUser, type UserRow } from './users.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

const secretBytes = 20
/** A factor that nobody went on with for this long makes room at the next enrolment. */
const abandonedMs = 300_000

/**
 * What every authenticator app assumes.
 * @internal For tests: they are the app that shows the codes.
 */
export const authenticator = (parts: { secret: string; issuer?: string; label?: string }) =>
  new TOTP({ ...parts, secret: Secret.fromBase32(parts.secret), algorithm: 'SHA1', digits: 6, period: 30 })

/** The caller, locked: of two changes of somebody's factors the second sees the first. */
async function lockFactorOwner(tx: Db, world: AuthWorld, call: AuthCall): Promise<SignedIn> {
  const before = await requireFactorOwner(tx, world, call)
  await lockUser(tx, before.user.id)
  return requireFactorOwner(tx, world, call)
}

async function requireFactorOwner(tx: Db, world: AuthWorld, call: AuthCall): Promise<SignedIn> {
  const caller = await requireSession(tx, world, call)
  if (!caller.user.is_anonymous && caller.claims.is_anonymous !== true) return caller
  throw new AuthProblem(403, 'no_authorization', 'Anonymous user not allowed to perform these actions')
}

const enrolForm = z.object({ factor_type: text, friendly_name: text, issuer: text })

export async function enrollFactor(world: AuthWorld, call: AuthCall): Promise<Response> {
  const sent = readForm(call, enrolForm)
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

const challengeMs = 300_000
/** Codes of the step before and the step after count, for clocks that are off. */
const skewSteps = 1

export async function challengeFactor(world: AuthWorld, call: AuthCall, params: string[]): Promise<Response> {
  const { user } = await requireFactorOwner(world.sql, world, call)
  const factor = await requireFactor(world.sql, user.id, params[0])
  checkEnabled(world, factor)
  const [id, now] = [crypto.randomUUID(), world.now()]
  await world.sql.begin(async (tx) => {
    // The column is unique among all factors, so the clock's milliseconds are not fine enough.
    await tx`
      update auth.mfa_factors set last_challenged_at = ${now}::timestamptz + random() * interval '999 microseconds'
      where id = ${factor.id}`
    await tx`
      insert into auth.mfa_challenges (id, factor_id, created_at, ip_address)
      values (${id}, ${factor.id}, ${now}, ${call.address})`
  })
  const expires_at = Math.floor((now.getTime() + challengeMs) / 1000)
  return Response.json({ id, type: factor.factor_type, expires_at })
}

function checkEnabled(world: AuthWorld, { factor_type }: FactorRow): void {
  if (factor_type === 'totp' && world.settings.mfa.totp.verify_enabled) return
  const code = `mfa_${factor_type}_verify_not_enabled`
  throw new AuthProblem(422, code, `MFA verification is disabled for ${factor_type.toUpperCase()}`)
}

const codeForm = z.object({ challenge_id: text, code: text })

/** The session that answers rightly becomes aal2. */
export async function verifyFactor(world: AuthWorld, call: AuthCall, params: string[]): Promise<Response> {
  const { challenge_id, code } = readForm(call, codeForm)
  const { user } = await requireFactorOwner(world.sql, world, call)
  const factor = await requireFactor(world.sql, user.id, params[0])
  checkEnabled(world, factor)
  const challengeId = await checkChallenge(world, call, factor, challenge_id ?? '')
  const totp = authenticator({ secret: await secretOf(world.sql, factor.id) })
  const delta = totp.validate({ token: code ?? '', window: skewSteps, timestamp: world.now().getTime() })
  await askAboutCode(world, call, user.id, factor, delta !== null)
  if (delta === null) throw new AuthProblem(422, 'mfa_verification_failed', 'Invalid TOTP code entered')
  return Response.json(await world.sql.begin((tx) => raiseSession(tx, world, call, factor.id, challengeId)))
}

const mismatch = () => new AuthProblem(422, 'mfa_ip_address_mismatch', 'Challenge and verify IP addresses mismatch.')

async function checkChallenge(world: AuthWorld, call: AuthCall, factor: FactorRow, id: string): Promise<string> {
  const [challenge] = isUuid(id)
    ? await world.sql`
        select created_at, verified_at is null and ip_address = ${call.address}::inet as usable
        from auth.mfa_challenges where id = ${id} and factor_id = ${factor.id}`
    : []
  if (!challenge) {
    throw new AuthProblem(422, 'mfa_factor_not_found', 'MFA factor with the provided challenge ID not found')
  }
  if (!challenge.usable) throw mismatch()
  if (challenge.created_at.getTime() + challengeMs <= world.now().getTime()) {
    await world.sql`delete from auth.mfa_challenges where id = ${id}`
    const words = `MFA challenge ${id} has expired, verify against another challenge or create a new challenge.`
    throw new AuthProblem(422, 'mfa_challenge_expired', words)
  }
  return id
}

const decision = z.object({ decision: z.literal('reject'), message: z.string().catch('') })

/** The hook hears of every code, right or wrong, in a transaction of its own, so that what it counts outlives the refusal. */
async function askAboutCode(world: AuthWorld, call: AuthCall, userId: string, factor: FactorRow, valid: boolean) {
  const input = { user_id: userId, factor_id: factor.id, factor_type: factor.factor_type, valid }
  const rejected = decision.safeParse(await runHook(world, null, 'mfa_verification_attempt', input, call))
  if (!rejected.success) return
  await world.sql`delete from auth.sessions where user_id = ${userId}`
  const words = rejected.data.message || 'Further MFA verification attempts will be rejected.'
  throw new AuthProblem(403, 'mfa_verification_rejected', words)
}

/** Spends the challenge; the caller's session is aal2, weaker ones and factors never finished are gone. */
async function raiseSession(tx: Db, world: AuthWorld, call: AuthCall, factorId: string, challengeId: string) {
  const { user, session } = await lockFactorOwner(tx, world, call)
  const factor = await requireFactor(tx, user.id, factorId)
  const now = world.now()
  const spent = await tx`
    update auth.mfa_challenges set verified_at = ${now}
    where id = ${challengeId} and verified_at is null returning id`
  if (spent.length === 0) throw mismatch()
  await tx`
    update auth.mfa_factors set status = 'verified', updated_at = ${now}
    where id = ${factor.id} and status = 'unverified'`
  await addAmr(tx, world, session.id, 'totp')
  await tx`update auth.sessions set factor_id = ${factor.id} where id = ${session.id}`
  await tx`
    delete from auth.sessions
    where user_id = ${user.id} and id <> ${session.id} and coalesce(aal, 'aal1') = 'aal1'`
  await tx`
    delete from auth.mfa_factors
    where user_id = ${user.id} and status = 'unverified' and factor_type = ${factor.factor_type}`
  return answerSession(tx, world, call, (await findSession(tx, session.id)) ?? session, 'totp')
}

/** The secret is read to verify a code, and by nothing else. */
export type FactorRow = FactorJson & { user_id: string }

const uuid = z.uuid()

/** A path's id, or the refusal that names it. */
export function pathId(name: 'user_id' | 'factor_id', id: string | undefined): string {
  if (uuid.safeParse(id).success) return id ?? ''
  throw new AuthProblem(404, 'validation_failed', `${name} must be an UUID`)
}

export const isUuid = (id: string) => uuid.safeParse(id).success

/** A user's own factor; somebody else's is not there. */
export async function requireFactor(tx: Db, userId: string, factorId: string | undefined): Promise<FactorRow> {
  const id = pathId('factor_id', factorId)
  const [row] = await tx<FactorRow[]>`
    select id, user_id, created_at, updated_at, status, friendly_name, factor_type, phone, last_challenged_at
    from auth.mfa_factors where id = ${id} and user_id = ${userId}`
  if (!row) throw new AuthProblem(404, 'mfa_factor_not_found', 'Factor not found')
  return row
}

async function secretOf(tx: Db, factorId: string): Promise<string> {
  const [row] = await tx<{ secret: string }[]>`select secret from auth.mfa_factors where id = ${factorId}`
  if (!row?.secret) throw new Error('a TOTP factor without a secret')
  return row.secret
}

export const nameTaken = (name: string) =>
  new AuthProblem(
    422,
    'mfa_factor_name_conflict',
    `A factor with the friendly name "${name}" for this user already exists`,
  )

/** Removes a factor, and the assurance of the sessions that it has raised. */
async function removeFactor(tx: Db, world: AuthWorld, factor: FactorRow): Promise<void> {
  await tx`
    delete from auth.mfa_amr_claims c using auth.sessions s
    where c.session_id = s.id and s.factor_id = ${factor.id} and c.authentication_method = ${factor.factor_type}`
  await tx`
    update auth.sessions set aal = 'aal1', factor_id = null, updated_at = ${world.now()} where factor_id = ${factor.id}`
  await tx`delete from auth.mfa_factors where id = ${factor.id}`
}
