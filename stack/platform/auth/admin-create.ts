/** POST /admin/users: an account made by an administrator; no hook is asked, no mail is sent. */
import { randomBytes } from 'node:crypto'
import {
  banEnd,
  merged,
  passwordHashOf,
  phoneTaken,
  refuseTakenEmail,
  refuseTakenPhone,
  requireAdmin,
  type UserFields,
  userFields,
  validPhone,
} from './admin.ts'
import { emailTaken } from './email-change.ts'
import { AuthProblem, invalid, unexpected } from './errors.ts'
import { isUuid } from './factors.ts'
import { readForm, validEmail } from './forms.ts'
import { isTakenAddress } from './new-user.ts'
import { hashPassword } from './passwords.ts'
import { asJson, insertUser, type NewUser, userJson } from './users.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

export async function createUser(world: AuthWorld, call: AuthCall): Promise<Response> {
  requireAdmin(call)
  const user = await draft(world, readForm(call, userFields))
  try {
    const body = await world.sql.begin(async (tx) => {
      if (user.email) await refuseTakenEmail(tx, user.email, null)
      if (user.phone) await refuseTakenPhone(tx, user.phone, null)
      const row = await insertUser(tx, user)
      if (user.phone) await insertPhoneIdentity(tx, row.id, user.phone, user.now)
      return userJson(tx, row)
    })
    return Response.json(body)
  } catch (error) {
    if (isTakenAddress(error)) throw emailTaken()
    if (isTakenPhone(error)) throw phoneTaken()
    if (error instanceof AuthProblem) throw error
    world.log(`auth: creating a user: ${error instanceof Error ? error.message : error}`)
    const problem = unexpected('Database error creating new user')
    problem.cause = error
    throw problem
  }
}

const nobodysId = '00000000-0000-0000-0000-000000000000'

const nobodyKnows = () => hashPassword(randomBytes(32).toString('base64url'))

/** Checks what was sent. A short password is accepted: the administrator answers for it. */
async function draft(world: AuthWorld, sent: UserFields): Promise<NewUser & { id: string }> {
  if (!sent.email && !sent.phone) throw invalid('Cannot create a user without either an email or phone')
  if (sent.id && !isUuid(sent.id)) throw invalid('ID must conform to the uuid v4 format')
  if (sent.id === nobodysId) throw invalid('ID cannot be a nil uuid')
  const email = sent.email ? validEmail(sent.email) : null
  const phone = sent.phone ? validPhone(sent.phone) : null
  const now = world.now()
  const id = sent.id?.toLowerCase() || crypto.randomUUID()
  const providers = [...(email ? ['email'] : []), ...(phone ? ['phone'] : [])]
  return {
    id,
    email,
    phone,
    passwordHash: (await passwordHashOf(world, sent, { strong: false })) ?? (await nobodyKnows()),
    emailConfirmed: Boolean(email && sent.email_confirm),
    phoneConfirmed: Boolean(phone && sent.phone_confirm),
    userMetadata: { ...sent.user_metadata, ...(email && sent.email_confirm ? { email_verified: true } : {}) },
    appMetadata: merged({ provider: providers[0], providers }, sent.app_metadata ?? {}),
    ...(sent.role ? { role: sent.role } : {}),
    ...(sent.aud ? { aud: sent.aud } : {}),
    bannedUntil: sent.ban_duration ? banEnd(sent.ban_duration, now) : null,
    now,
  }
}

export async function insertPhoneIdentity(tx: Db, userId: string, phone: string, now: Date): Promise<void> {
  const data = { sub: userId, phone, email_verified: false, phone_verified: false }
  await tx`
    insert into auth.identities (id, provider, provider_id, user_id, identity_data, last_sign_in_at, created_at, updated_at)
    values (gen_random_uuid(), 'phone', ${userId}, ${userId}, ${asJson(tx, data)}, ${now}, ${now}, ${now})`
}

/** Somebody else took the number at the same moment. */
export const isTakenPhone = (error: unknown) =>
  error instanceof Error && 'constraint_name' in error && error.constraint_name === 'users_phone_key'
