/** One row as it must be: checked, with one spelling for everything, ready for the admin API. */
import { z } from 'zod'
import { accountId } from './account-id.ts'
import { fromEpoch, oldState } from './old-state.ts'
import { type FirebaseParameters, firebaseHash, isPasswordHash } from './password-hash.ts'

export type NewAccount = {
  id: string
  email: string
  passwordHash: string | undefined
  emailConfirmed: boolean
  birthDate: string | undefined
  plan: string | undefined
  /** Why the account arrives suspended. */
  suspended: string | undefined
  userMetadata: Record<string, string>
  appMetadata: Record<string, string>
}

const name = z.string().trim().min(1).max(80).optional()
const flag = z.union([z.boolean(), z.stringbool()]).default(false)
const epoch = z
  .union([z.string().regex(/^\d{9,14}$/), z.number()])
  .transform((value) => fromEpoch(Number(value)))
  .pipe(z.number({ error: 'is a time neither in seconds nor in milliseconds' }))
const moment = z.union([z.iso.datetime({ offset: true }), z.iso.date(), epoch]).transform((value) => new Date(value))

const rowSchema = z.object({
  email: z.string().trim().toLowerCase().max(255).pipe(z.email()),
  password: z.never({ error: 'a plain password is never imported; give its hash as password_hash' }).optional(),
  password_hash: z.string().trim().min(1).max(1000).optional(),
  password_salt: z.string().trim().min(1).max(200).optional(),
  email_confirmed: flag,
  id: z.uuid().toLowerCase().optional(),
  original_id: z.string().trim().min(1).max(200).optional(),
  first_name: name,
  last_name: name,
  display_name: name,
  birth_date: z.iso.date().refine(isPastDay, 'not a day between 1900 and yesterday').optional(),
  locale: z
    .string()
    .regex(/^[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8})*$/)
    .max(35)
    .optional(),
  time_zone: z.string().trim().max(64).refine(isTimeZone, 'not an IANA time zone').transform(inItsLetters).optional(),
  created_at: moment.optional(),
  plan: z.string().min(1).max(64).optional(),
})

/** What `firebase auth:export` calls the same things. */
const firebaseNames: Record<string, string> = {
  localId: 'original_id',
  emailVerified: 'email_confirmed',
  passwordHash: 'password_hash',
  salt: 'password_salt',
  displayName: 'display_name',
  createdAt: 'created_at',
}

/** Every name of a field that is taken, beside those of an account's state. */
export const takenNames = new Set([...Object.keys(rowSchema.shape), ...Object.keys(firebaseNames)])

export function checkRow(fields: unknown, firebase: FirebaseParameters | undefined): NewAccount | { refused: string } {
  const parsed = rowSchema.safeParse(inOurNames(fields))
  if (!parsed.success) {
    const issues = parsed.error.issues.map((issue) => `${issue.path.join('.') || 'row'}: ${issue.message}`)
    return { refused: issues.join('; ') }
  }
  const row = parsed.data
  const passwordHash = hashOf(row, firebase)
  if (typeof passwordHash === 'object') return passwordHash
  const state = oldState(z.record(z.string(), z.unknown()).parse(fields))
  if ('refused' in state) return state
  return {
    id: row.id ?? accountId(row.email),
    email: row.email,
    passwordHash,
    emailConfirmed: row.email_confirmed,
    birthDate: row.birth_date,
    plan: row.plan,
    suspended: state.suspended,
    userMetadata: given({
      first_name: row.first_name,
      last_name: row.last_name,
      display_name: row.display_name,
      birth_date: row.birth_date,
      locale: row.locale,
      time_zone: row.time_zone,
    }),
    appMetadata: given({
      registered_by: 'import',
      original_id: row.original_id,
      original_created_at: row.created_at?.toISOString(),
      suspended: state.suspended,
    }),
  }
}

function hashOf(
  row: { password_hash?: string | undefined; password_salt?: string | undefined },
  firebase: FirebaseParameters | undefined,
): string | undefined | { refused: string } {
  const { password_hash: hash, password_salt: salt } = row
  if (hash === undefined) return undefined
  if (salt !== undefined && firebase === undefined)
    return { refused: 'password_salt: a salted hash needs the --firebase options' }
  const built = salt !== undefined && firebase !== undefined ? firebaseHash(firebase, salt, hash) : hash
  if (isPasswordHash(built)) return built
  return { refused: 'password_hash: not a bcrypt, argon2i, argon2id or Firebase scrypt hash' }
}

function inOurNames(fields: unknown): unknown {
  if (typeof fields !== 'object' || fields === null || Array.isArray(fields)) return fields
  const entries = Object.entries(fields).filter(([, value]) => value !== null)
  return Object.fromEntries(entries.map(([key, value]) => [firebaseNames[key] ?? key, value]))
}

const given = (fields: Record<string, string | undefined>) =>
  Object.fromEntries(Object.entries(fields).flatMap(([key, value]) => (value === undefined ? [] : [[key, value]])))

function isPastDay(day: string): boolean {
  return day >= '1900-01-01' && day < new Date().toISOString().slice(0, 10)
}

/** Aliases, too, in any letters; no distance from UTC, which Intl would take. */
function isTimeZone(zone: string): boolean {
  return /^[a-z]/i.test(zone) && resolvedZone(zone) !== undefined
}

/** The right name; an alias that Intl knows by another name stays as it is, and the database writes it in its letters. */
function inItsLetters(zone: string): string {
  const resolved = resolvedZone(zone)
  return resolved?.toLowerCase() === zone.toLowerCase() ? resolved : zone
}

function resolvedZone(zone: string): string | undefined {
  try {
    return new Intl.DateTimeFormat('en', { timeZone: zone }).resolvedOptions().timeZone
  } catch {
    return undefined
  }
}

/**
 * Whether somebody born that day is younger than that many years today (UTC), as the database counts: until the same day
 * of the same month, which for the 29th of February is in most years the day after the 28th.
 */
export function isUnderAge(birthDate: string, years: number, today = new Date()): boolean {
  const birthday = `${Number(birthDate.slice(0, 4)) + years}${birthDate.slice(4)}`
  return today.toISOString().slice(0, 10) < birthday
}
