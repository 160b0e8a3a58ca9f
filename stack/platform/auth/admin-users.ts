/** /admin/users: what an administrator sees, makes, changes and removes of accounts. */
import { createHash, randomBytes } from 'node:crypto'
import { z } from 'zod'
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
import { emailTaken } from './email-change.ts'
import { AuthProblem, invalid, unexpected } from './errors.ts'
import { nothing, readForm, validEmail } from './forms.ts'
import { dropOneTimeTokens } from './mailed-links.ts'
import { isUuid } from './mfa.ts'
import { hashPassword } from './passwords.ts'
import { isTakenAddress } from './sign-up.ts'
import { asJson, findUserById, insertEmailIdentity, insertUser, type NewUser, type UserRow, userJson } from './users.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

const perPageDefault = 50
const audience = 'authenticated'

export async function listUsers(world: AuthWorld, call: AuthCall): Promise<Response> {
  requireAdmin(call)
  const page = pageNumber(call, 'page', 1)
  const perPage = pageNumber(call, 'per_page', perPageDefault)
  const { rows, total } = await findUsers(world.sql, call, page, perPage)
  const users = await Promise.all(rows.map((row) => userJson(world.sql, row)))
  return Response.json(
    { users, aud: audience },
    { headers: { 'x-total-count': String(total), link: pageLinks(call.url, page, perPage, total) } },
  )
}

export async function showAnyUser(world: AuthWorld, call: AuthCall, params: string[]): Promise<Response> {
  requireAdmin(call)
  return Response.json(await world.sql.begin(async (tx) => userJson(tx, await requireUser(tx, params[0]))))
}

function pageNumber({ url }: AuthCall, name: string, otherwise: number): number {
  const sent = url.searchParams.get(name) ?? ''
  if (sent === '') return otherwise
  if (!/^\d{1,9}$/.test(sent)) throw invalid(`Bad Pagination Parameters: ${name} must be a whole number`)
  return Number(sent) || otherwise
}

function isAscending({ url }: AuthCall): boolean {
  const sort = url.searchParams.get('sort') ?? ''
  const [field, direction = 'asc', ...rest] = (sort || 'created_at desc').trim().split(/\s+/)
  if (field !== 'created_at') throw invalid(`Bad Sort Parameters: bad field for sort "${field}"`)
  if (!['asc', 'desc'].includes(direction) || rest.length > 0) {
    throw invalid(`Bad Sort Parameters: bad direction for sort "${direction}", only "asc" and "desc" allowed`)
  }
  return direction === 'asc'
}

/** `filter` is a part of the address, or of full_name in any case. */
async function findUsers(tx: Db, call: AuthCall, page: number, perPage: number) {
  const pattern = `%${call.url.searchParams.get('filter') ?? ''}%`
  const where = tx`
    aud = ${audience} and (${pattern} = '%%' or email like ${pattern} or raw_user_meta_data ->> 'full_name' ilike ${pattern})`
  const order = isAscending(call) ? tx`created_at, id` : tx`created_at desc, id desc`
  const [count] = await tx`select count(*)::integer as total from auth.users where ${where}`
  const ids = await tx<{ id: string }[]>`
    select id from auth.users where ${where} order by ${order} limit ${perPage} offset ${(page - 1) * perPage}`
  const found = await Promise.all(ids.map(({ id }) => findUserById(tx, id)))
  return { rows: found.filter((row): row is UserRow => row !== undefined), total: Number(count?.total) }
}

/** RFC 8288, the page first: supabase-js reads the first number after the first equals sign. */
function pageLinks(url: URL, page: number, perPage: number, total: number): string {
  const last = Math.ceil(total / perPage)
  const to = (number: number, rel: string) => {
    const query = new URLSearchParams(url.searchParams)
    query.delete('page')
    query.delete('apikey')
    return `</admin/users?page=${number}&${query}>; rel="${rel}"`
  }
  return [...(last > page ? [to(page + 1, 'next')] : []), to(last, 'last')].join(', ')
}

/** No hook is asked, no mail is sent. */
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

const nobodyKnows = ({ settings }: AuthWorld) => hashPassword(settings, randomBytes(32).toString('base64url'))

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
    passwordHash: (await passwordHashOf(world, sent, { strong: false })) ?? (await nobodyKnows(world)),
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

async function insertPhoneIdentity(tx: Db, userId: string, phone: string, now: Date): Promise<void> {
  const data = { sub: userId, phone, email_verified: false, phone_verified: false }
  await tx`
    insert into auth.identities (id, provider, provider_id, user_id, identity_data, last_sign_in_at, created_at, updated_at)
    values (gen_random_uuid(), 'phone', ${userId}, ${userId}, ${asJson(tx, data)}, ${now}, ${now}, ${now})`
}

/** Somebody else took the number at the same moment. */
const isTakenPhone = (error: unknown) =>
  error instanceof Error && 'constraint_name' in error && error.constraint_name === 'users_phone_key'

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

const deleteForm = z.object({ should_soft_delete: z.boolean().nullish() })

/** The row goes, or stays without anything that says whose it was. */
export async function deleteUser(world: AuthWorld, call: AuthCall, params: string[]): Promise<Response> {
  requireAdmin(call)
  const { should_soft_delete } = readForm(call, deleteForm)
  try {
    await world.sql.begin(async (tx) => {
      const user = await requireUser(tx, params[0])
      if (!should_soft_delete) await tx`delete from auth.users where id = ${user.id}`
      else if (!user.deleted_at) await clearUser(tx, world, user)
    })
  } catch (error) {
    if (error instanceof AuthProblem) throw error
    world.log(`auth: deleting a user: ${error instanceof Error ? error.message : error}`)
    const problem = unexpected('Database error deleting user')
    problem.cause = error
    throw problem
  }
  return nothing()
}

/** The same address of another account gives another hash. */
const obscured = (user: UserRow, address: string) =>
  createHash('sha256').update(`${user.id}${address}`).digest('base64url')

/** Whoever signs up with the address again gets a new account. */
async function clearUser(tx: Db, world: AuthWorld, user: UserRow): Promise<void> {
  const now = world.now()
  const email = user.email && obscured(user, user.email)
  const phone = user.phone && obscured(user, user.phone).slice(0, 15)
  await tx`
    update auth.users
    set email = ${email}, phone = ${phone}, email_change = '', phone_change = '', encrypted_password = null,
      raw_user_meta_data = '{}', raw_app_meta_data = '{}', deleted_at = ${now}, updated_at = ${now}
    where id = ${user.id}`
  await tx`
    update auth.identities
    set provider_id = ${obscured(user, user.id)}, identity_data = '{}', updated_at = ${now}
    where user_id = ${user.id}`
  await tx`delete from auth.one_time_tokens where user_id = ${user.id}`
  await tx`delete from auth.mfa_factors where user_id = ${user.id}`
  await tx`delete from auth.sessions where user_id = ${user.id}`
}
