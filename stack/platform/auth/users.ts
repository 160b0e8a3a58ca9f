/** Rows of auth.users and the User JSON that supabase-js reads. */
import type { Db } from './world.ts'

type Metadata = Record<string, unknown>

export type UserRow = {
  id: string
  aud: string
  role: string
  email: string | null
  encrypted_password: string | null
  phone: string | null
  email_confirmed_at: Date | null
  phone_confirmed_at: Date | null
  confirmed_at: Date | null
  invited_at: Date | null
  confirmation_sent_at: Date | null
  recovery_sent_at: Date | null
  email_change: string | null
  email_change_sent_at: Date | null
  email_change_confirm_status: number
  phone_change: string | null
  phone_change_sent_at: Date | null
  reauthentication_sent_at: Date | null
  raw_app_meta_data: Metadata
  raw_user_meta_data: Metadata
  banned_until: Date | null
  deleted_at: Date | null
  is_anonymous: boolean
  last_sign_in_at: Date | null
  created_at: Date
  updated_at: Date
}

export type NewUser = {
  id?: string
  email?: string | null
  phone?: string | null
  passwordHash?: string | null
  appMetadata?: Metadata
  userMetadata?: Metadata
  emailConfirmed?: boolean
  phoneConfirmed?: boolean
  invited?: boolean
  isAnonymous?: boolean
  role?: string
  aud?: string
  bannedUntil?: Date | null
  now: Date
}

const columns = (tx: Db) => tx`
  id, aud, role, email, encrypted_password, phone, email_confirmed_at, phone_confirmed_at, confirmed_at, invited_at,
  confirmation_sent_at, recovery_sent_at, email_change, email_change_sent_at, email_change_confirm_status, phone_change,
  phone_change_sent_at, reauthentication_sent_at, coalesce(raw_app_meta_data, '{}') as raw_app_meta_data,
  coalesce(raw_user_meta_data, '{}') as raw_user_meta_data, banned_until, deleted_at, is_anonymous, last_sign_in_at,
  created_at, updated_at`

export const normalEmail = (email: string) => email.trim().toLowerCase()

export async function findUserByEmail(tx: Db, email: string): Promise<UserRow | undefined> {
  const [row] = await tx<UserRow[]>`
    select ${columns(tx)} from auth.users where email = ${normalEmail(email)} and not is_sso_user`
  return row
}

export async function findUserById(tx: Db, id: string): Promise<UserRow | undefined> {
  const [row] = await tx<UserRow[]>`select ${columns(tx)} from auth.users where id = ${id}`
  return row
}

/** The user's row, locked until the transaction ends, so that whoever decides by it decides alone. */
export async function lockUser(tx: Db, id: string): Promise<UserRow | undefined> {
  const [row] = await tx<UserRow[]>`select ${columns(tx)} from auth.users where id = ${id} for no key update`
  return row
}

export const isBanned = (user: UserRow, now: Date) => user.banned_until !== null && user.banned_until > now

/** There is one instance of the service; the real one writes its id, too. */
export const instanceId = '00000000-0000-0000-0000-000000000000'

/**
 * A user with the identity of the address. Tokens in columns of their own are empty, as the real service, which keeps them
 * elsewhere today, wants to read them; triggers of the project run in the same transaction.
 */
export async function insertUser(tx: Db, user: NewUser): Promise<UserRow> {
  const { now, email = null, phone = null } = user
  const id = user.id ?? crypto.randomUUID()
  const at = (yes: boolean | undefined) => (yes ? now : null)
  await tx`
    insert into auth.users (
      instance_id, confirmation_token, recovery_token, email_change_token_new, email_change,
      id, aud, role, email, phone, encrypted_password, email_confirmed_at, phone_confirmed_at, invited_at,
      raw_app_meta_data, raw_user_meta_data, is_anonymous, banned_until, created_at, updated_at)
    values (
      ${instanceId}, '', '', '', '',
      ${id}, ${user.aud ?? 'authenticated'}, ${user.role ?? 'authenticated'}, ${email && normalEmail(email)}, ${phone},
      ${user.passwordHash ?? null}, ${at(user.emailConfirmed)}, ${at(user.phoneConfirmed)}, ${at(user.invited)},
      ${asJson(tx, user.appMetadata ?? {})}, ${asJson(tx, user.userMetadata ?? {})}, ${user.isAnonymous ?? false},
      ${user.bannedUntil ?? null}, ${now}, ${now})`
  if (email) await insertEmailIdentity(tx, id, normalEmail(email), user.emailConfirmed ?? false, now)
  const made = await findUserById(tx, id)
  if (!made) throw new Error('the new user is not there')
  return made
}

export async function insertEmailIdentity(tx: Db, userId: string, email: string, verified: boolean, now: Date) {
  const data = { sub: userId, email, email_verified: verified, phone_verified: false }
  await tx`
    insert into auth.identities (id, provider, provider_id, user_id, identity_data, last_sign_in_at, created_at, updated_at)
    values (gen_random_uuid(), 'email', ${userId}, ${userId}, ${asJson(tx, data)}, ${now}, ${now}, ${now})`
}

/** jsonb as it is in JSON: undefined fields are left out. */
export const asJson = (tx: Db, value: Metadata) => tx.json(JSON.parse(JSON.stringify(value)))

type Identity = {
  identity_id: string
  id: string
  user_id: string
  identity_data: Metadata
  provider: string
  last_sign_in_at: Date | null
  created_at: Date
  updated_at: Date
  email: string | null
}

export type FactorJson = {
  id: string
  created_at: Date
  updated_at: Date
  status: 'verified' | 'unverified'
  friendly_name?: string
  factor_type: string
  phone?: string
  last_challenged_at?: Date
}

async function identitiesOf(tx: Db, userId: string): Promise<Identity[]> {
  return await tx<Identity[]>`
    select id as identity_id, provider_id as id, user_id, identity_data, provider, last_sign_in_at, created_at,
      updated_at, email
    from auth.identities where user_id = ${userId} order by created_at`
}

/** Factors without their secrets. */
export async function factorsOf(tx: Db, userId: string): Promise<FactorJson[]> {
  const rows = await tx<FactorJson[]>`
    select id, created_at, updated_at, status, friendly_name, factor_type, phone, last_challenged_at
    from auth.mfa_factors where user_id = ${userId} order by created_at`
  return rows.map(present)
}

/** The User JSON: what is empty is left out where the real service leaves it out. */
export async function userJson(tx: Db, row: UserRow): Promise<Record<string, unknown>> {
  const factors = await factorsOf(tx, row.id)
  return userJsonOf(row, await identitiesOf(tx, row.id), factors)
}

export function userJsonOf(row: UserRow, identities: unknown[], factors: unknown[] = []): Record<string, unknown> {
  return {
    id: row.id,
    aud: row.aud,
    role: row.role,
    email: row.email ?? '',
    ...present({ email_confirmed_at: row.email_confirmed_at, invited_at: row.invited_at }),
    phone: row.phone ?? '',
    ...present({
      phone_confirmed_at: row.phone_confirmed_at,
      confirmation_sent_at: row.confirmation_sent_at,
      confirmed_at: row.confirmed_at,
      recovery_sent_at: row.recovery_sent_at,
      new_email: row.email_change || null,
      email_change_sent_at: row.email_change_sent_at,
      new_phone: row.phone_change || null,
      phone_change_sent_at: row.phone_change_sent_at,
      reauthentication_sent_at: row.reauthentication_sent_at,
      last_sign_in_at: row.last_sign_in_at,
    }),
    app_metadata: row.raw_app_meta_data,
    user_metadata: row.raw_user_meta_data,
    ...(factors.length > 0 ? { factors } : {}),
    identities,
    created_at: row.created_at,
    updated_at: row.updated_at,
    ...present({ banned_until: row.banned_until, deleted_at: row.deleted_at }),
    is_anonymous: row.is_anonymous,
  }
}

function present<Fields extends Record<string, unknown>>(fields: Fields): Fields {
  const kept = Object.entries(fields).filter(([, value]) => value !== null && value !== undefined)
  return Object.fromEntries(kept) as Fields
}
