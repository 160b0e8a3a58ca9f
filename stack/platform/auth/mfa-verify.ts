/** Challenge and verification of a factor: the session that answers rightly becomes aal2. */
import { z } from 'zod'
import { AuthProblem } from './errors.ts'
import { type FactorRow, isUuid, requireFactor, secretOf } from './factors.ts'
import { readForm, text } from './forms.ts'
import { runHook } from './hooks.ts'
import { authenticator, lockFactorOwner, requireFactorOwner } from './mfa.ts'
import { addAmr, answerSession, findSession } from './sessions.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

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

const form = z.object({ challenge_id: text, code: text })

export async function verifyFactor(world: AuthWorld, call: AuthCall, params: string[]): Promise<Response> {
  const { challenge_id, code } = readForm(call, form)
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
