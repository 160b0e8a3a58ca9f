/** PUT /admin/users/:id: what an administrator changes of an account. */
import {
  banEnd,
  merged,
  passwordHashOf,
  phoneTaken,
  refuseTakenEmail,
  refuseTakenPhone,
  requireAdmin,
  requireUser,
  type UserFields,
  userFields,
  validPhone,
} from './admin.ts'
import { insertPhoneIdentity, isTakenPhone } from './admin-create.ts'
import { emailTaken } from './email-change.ts'
import { readForm, validEmail } from './forms.ts'
import { isTakenAddress } from './new-user.ts'
import { dropOneTimeTokens } from './one-time-tokens.ts'
import { asJson, findUserById, insertEmailIdentity, type UserRow, userJson } from './users.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

export async function changeUser(world: AuthWorld, call: AuthCall, params: string[]): Promise<Response> {
  requireAdmin(call)
  const sent = readForm(call, userFields)
  const email = sent.email ? validEmail(sent.email) : null
  const phone = sent.phone ? validPhone(sent.phone) : null
  const bannedUntil = sent.ban_duration ? banEnd(sent.ban_duration, world.now()) : undefined
  try {
    const body = await world.sql.begin(async (tx) => {
      const user = await requireUser(tx, params[0])
      const passwordHash = await passwordHashOf(world, sent, { strong: true })
      if (passwordHash) await setPassword(tx, world, user, passwordHash)
      if (email) await setEmail(tx, world, user, email)
      if (phone) await setPhone(tx, world, user, phone)
      await setRest(tx, world, user, sent, bannedUntil)
      return userJson(tx, (await findUserById(tx, user.id)) ?? user)
    })
    return Response.json(body)
  } catch (error) {
    if (isTakenAddress(error)) throw emailTaken()
    if (isTakenPhone(error)) throw phoneTaken()
    throw error
  }
}

/** Whoever was signed in with the old password is not any more. */
async function setPassword(tx: Db, world: AuthWorld, user: UserRow, hash: string): Promise<void> {
  await tx`update auth.users set encrypted_password = ${hash}, updated_at = ${world.now()} where id = ${user.id}`
  await tx`delete from auth.sessions where user_id = ${user.id}`
}

/** Codes that were mailed to the old address are void. */
async function setEmail(tx: Db, world: AuthWorld, user: UserRow, email: string): Promise<void> {
  await refuseTakenEmail(tx, email, user.id)
  const now = world.now()
  if (email !== user.email) await dropOneTimeTokens(tx, user.id, ['confirmation_token', 'recovery_token'])
  await tx`update auth.users set email = ${email}, updated_at = ${now} where id = ${user.id}`
  const rows = await tx`
    update auth.identities set identity_data = identity_data || ${asJson(tx, { email })}, updated_at = ${now}
    where user_id = ${user.id} and provider = 'email' returning id`
  if (rows.length === 0) await insertEmailIdentity(tx, user.id, email, false, now)
}

async function setPhone(tx: Db, world: AuthWorld, user: UserRow, phone: string): Promise<void> {
  await refuseTakenPhone(tx, phone, user.id)
  const now = world.now()
  await tx`update auth.users set phone = ${phone}, updated_at = ${now} where id = ${user.id}`
  const rows = await tx`
    update auth.identities set identity_data = identity_data || ${asJson(tx, { phone })}, updated_at = ${now}
    where user_id = ${user.id} and provider = 'phone' returning id`
  if (rows.length === 0) await insertPhoneIdentity(tx, user.id, phone, now)
}

/** Role, confirmations, ban and metadata. `bannedUntil` undefined leaves the ban as it is. */
async function setRest(
  tx: Db,
  world: AuthWorld,
  user: UserRow,
  sent: UserFields,
  bannedUntil: Date | null | undefined,
): Promise<void> {
  const now = world.now()
  const confirms = sent.email_confirm && (user.email || sent.email)
  if (confirms) await dropOneTimeTokens(tx, user.id, ['confirmation_token', 'recovery_token'])
  const data = { ...sent.user_metadata, ...(confirms ? { email_verified: true } : {}) }
  await tx`
    update auth.users
    set role = ${sent.role || user.role},
      email_confirmed_at = ${confirms ? (user.email_confirmed_at ?? now) : user.email_confirmed_at},
      phone_confirmed_at = ${sent.phone_confirm ? (user.phone_confirmed_at ?? now) : user.phone_confirmed_at},
      banned_until = ${bannedUntil === undefined ? user.banned_until : bannedUntil},
      raw_user_meta_data = ${asJson(tx, merged(user.raw_user_meta_data, data))},
      raw_app_meta_data = ${asJson(tx, merged(user.raw_app_meta_data, sent.app_metadata ?? {}))},
      updated_at = ${now}
    where id = ${user.id}`
}
