/** The admin API's door, and what creating and changing a user have in common. */
import { z } from 'zod'
import { emailTaken } from './email-change.ts'
import { AuthProblem, invalid } from './errors.ts'
import { metadata, text } from './forms.ts'
import { pathId } from './mfa.ts'
import { assertAcceptedHash, checkStrength, hashPassword } from './passwords.ts'
import { durationMs } from './settings.ts'
import { findUserByEmail, lockUser, type UserRow } from './users.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

const adminRoles = ['service_role', 'supabase_admin']

/** A secret key, or a token whose role is an administrator's. */
export const isAdmin = ({ caller }: AuthCall) => adminRoles.includes(String(caller.claims.role))

export function requireAdmin(call: AuthCall): void {
  if (isAdmin(call)) return
  if (call.caller.token === null && !call.request.headers.has('authorization')) {
    throw new AuthProblem(401, 'no_authorization', 'This endpoint requires a valid Bearer token')
  }
  throw new AuthProblem(403, 'not_admin', 'User not allowed')
}

/** The user of the path, locked until the transaction ends. */
export async function requireUser(tx: Db, userId: string | undefined): Promise<UserRow> {
  const user = await lockUser(tx, pathId('user_id', userId))
  if (!user) throw new AuthProblem(404, 'user_not_found', 'User not found')
  return user
}

const yes = z.boolean().nullish()

export const userFields = z.object({
  email: text,
  phone: text,
  password: text,
  password_hash: text,
  email_confirm: yes,
  phone_confirm: yes,
  user_metadata: metadata,
  app_metadata: metadata,
  role: text,
  aud: text,
  id: text,
  ban_duration: text,
})

export type UserFields = z.infer<typeof userFields>

/** E.164 without its plus sign, as the column holds it. */
export function validPhone(phone: string): string {
  const digits = phone.trim().replace(/^\+/, '').replaceAll(' ', '')
  if (/^[1-9]\d{1,14}$/.test(digits)) return digits
  throw invalid('Invalid phone number format (E.164 required)')
}

export async function refuseTakenEmail(tx: Db, email: string, ownId: string | null): Promise<void> {
  const other = await findUserByEmail(tx, email)
  if (other && other.id !== ownId) throw emailTaken()
}

export const phoneTaken = () => new AuthProblem(422, 'phone_exists', 'Phone number already registered by another user')

export async function refuseTakenPhone(tx: Db, phone: string, ownId: string | null): Promise<void> {
  const [other] = await tx`select id from auth.users where phone = ${phone}`
  if (other && other.id !== ownId) throw phoneTaken()
}

const noRules = { minimum_password_length: 0, password_requirements: '' } as const

/** The hash to store: of a password, or one brought along; null when neither was sent. */
export async function passwordHashOf(
  world: AuthWorld,
  { password, password_hash }: Pick<UserFields, 'password' | 'password_hash'>,
  { strong }: { strong: boolean },
): Promise<string | null> {
  if (password && password_hash) throw invalid('Only a password or a password hash should be provided')
  if (password_hash) {
    assertAcceptedHash(password_hash)
    return password_hash
  }
  if (typeof password !== 'string' || (password === '' && !strong)) return null
  checkStrength(strong ? world.settings : noRules, password)
  return hashPassword(world.settings, password)
}

/** What Go's durations reach: 292 years. */
const longestMs = 2 ** 63 / 1e6

/** When a ban of this duration ends; null for "none" and zero. */
export function banEnd(duration: string, now: Date): Date | null {
  const parsed = duration === 'none' ? { success: true as const, data: 0 } : durationMs.safeParse(duration)
  if (!parsed.success || parsed.data > longestMs) throw invalid(`invalid format for ban duration: ${duration}`)
  return parsed.data === 0 ? null : new Date(now.getTime() + parsed.data)
}

/** Objects are merged; a null takes a key away. */
export function merged(old: Record<string, unknown>, sent: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries({ ...old, ...sent }).filter(([, value]) => value !== null))
}
