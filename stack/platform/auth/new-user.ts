/** A new account: the project's hook is asked first, outside any transaction, then the rows are made in one. */
import { AuthProblem, unexpected } from './errors.ts'
import { runHook } from './hooks.ts'
import { insertUser, type NewUser, normalEmail, type UserRow, userJsonOf } from './users.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

/** Before the hook there are no dates; Go writes its zero time. */
const never = '0001-01-01T00:00:00Z'

/** Asks before_user_created about a user as it will be inserted; throws the hook's refusal. */
export async function askBeforeUserCreated(world: AuthWorld, call: AuthCall, user: NewUser & { id: string }) {
  const json = { ...userJsonOf(draftRow(user), []), created_at: never, updated_at: never }
  await runHook(world, null, 'before_user_created', { user: json }, call)
}

/** A user as the row would be, before there is one. */
export function draftRow(user: NewUser & { id: string }): UserRow {
  return {
    id: user.id,
    aud: user.aud ?? 'authenticated',
    role: user.role ?? 'authenticated',
    email: user.email ? normalEmail(user.email) : null,
    encrypted_password: null,
    phone: user.phone ?? null,
    email_confirmed_at: null,
    phone_confirmed_at: null,
    confirmed_at: null,
    invited_at: null,
    confirmation_sent_at: null,
    recovery_sent_at: null,
    email_change: null,
    email_change_sent_at: null,
    email_change_confirm_status: 0,
    phone_change: null,
    phone_change_sent_at: null,
    reauthentication_sent_at: null,
    raw_app_meta_data: user.appMetadata ?? {},
    raw_user_meta_data: user.userMetadata ?? {},
    banned_until: null,
    deleted_at: null,
    is_anonymous: user.isAnonymous ?? false,
    last_sign_in_at: null,
    created_at: user.now,
    updated_at: user.now,
  }
}

/** Inserts the user that the hook has accepted; what SQL raises becomes the real service's answer. */
export async function saveNewUser(tx: Db, user: NewUser): Promise<UserRow> {
  try {
    return await insertUser(tx, user)
  } catch (error) {
    if (error instanceof AuthProblem || isTakenAddress(error)) throw error
    const problem = unexpected('Database error saving new user')
    problem.cause = error
    throw problem
  }
}

/** Somebody else made the same account at the same moment. */
export const isTakenAddress = (error: unknown) =>
  error instanceof Error && 'constraint_name' in error && error.constraint_name === 'users_email_partial_key'

/** What an account by e-mail is made of. */
export function emailUser(id: string, email: string, data: Record<string, unknown>, now: Date) {
  return {
    id,
    email,
    appMetadata: { provider: 'email', providers: ['email'] },
    userMetadata: data,
    now,
  } satisfies NewUser
}

/** The metadata that is stored: the user's own data and what the address is known to be. */
export const withAddress = (id: string, email: string, data: Record<string, unknown>, verified: boolean) => ({
  ...data,
  sub: id,
  email,
  email_verified: verified,
  phone_verified: false,
})
