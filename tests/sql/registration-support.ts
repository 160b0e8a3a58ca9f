/** Sign-ups as the Auth service makes them: the hook in a transaction of its own, then the user in another. */
import { addSession } from '../support/sql.ts'
import { asRole, type Sql, type Tx } from './support.ts'

export const adult = { birth_date: '1990-04-01', accept_terms: true }

export type NewUser = {
  id: string
  data: object
  isAnonymous: boolean
  confirmed: boolean
  appMetadata: object
  ip: string | null
}

export const newcomer = (given: Partial<NewUser> = {}): NewUser => ({
  id: crypto.randomUUID(),
  data: adult,
  isAnonymous: false,
  confirmed: false,
  appMetadata: {},
  ip: '203.0.113.7',
  ...given,
})

/** What the hook answers: null for yes, or the error that the Auth service passes on. */
export async function askHook(sql: Sql | Tx, user: NewUser): Promise<{ http_code: number; message: string } | null> {
  const event = {
    metadata: { uuid: crypto.randomUUID(), name: 'before-user-created', ip_address: user.ip },
    user: { id: user.id, user_metadata: user.data, app_metadata: {}, is_anonymous: user.isAnonymous },
  }
  const [row] = await sql`select private.before_user_created(${JSON.stringify(event)}::text::jsonb) as answer`
  return row?.answer.error ?? null
}

/** The user's row; app_metadata comes with a second statement, as the admin API writes it. */
export async function insertUser(tx: Tx, user: NewUser): Promise<void> {
  await tx`
    insert into auth.users (
      id, email, email_confirmed_at, raw_user_meta_data, raw_app_meta_data, is_anonymous, aud, role, created_at, updated_at)
    values (${user.id}, ${user.isAnonymous ? null : `new-${user.id}@example.com`}, ${user.confirmed ? new Date() : null},
      ${JSON.stringify(user.data)}::text::jsonb, '{"provider": "email"}', ${user.isAnonymous},
      'authenticated', 'authenticated', now(), now())`
  await tx`
    update auth.users set raw_app_meta_data = raw_app_meta_data || ${JSON.stringify(user.appMetadata)}::text::jsonb
    where id = ${user.id}`
}

/** Inserts the user inside a test's transaction and runs what else would run at its commit. */
export async function insertAndCommit(tx: Tx, user: NewUser): Promise<void> {
  await insertUser(tx, user)
  await tx`set constraints all immediate`
  await tx`set constraints all deferred`
}

/** Hook and user in one test's transaction. Answers the refusal's message, or null. */
export async function signUp(tx: Tx, user: NewUser): Promise<string | null> {
  const refused = await askHook(tx, user)
  if (refused === null) await insertAndCommit(tx, user)
  return refused?.message ?? null
}

export const setSetting = (sql: Sql | Tx, key: string, value: unknown) =>
  sql`update private.settings set value = ${JSON.stringify(value)}::text::jsonb where key = ${key}`

export async function profileOf(sql: Sql | Tx, id: string) {
  const [row] = await sql`select *, birth_date::text as birth_date from public.profiles where id = ${id}`
  return row
}

export async function createInvite(sql: Sql | Tx, maxUses = 1): Promise<{ id: string; code: string }> {
  const [row] = await sql`select id, code from public.create_invite('test', ${maxUses})`
  return { id: row?.id, code: row?.code }
}

/** How many accounts and live reservations count towards the cap now. */
export async function takenPlaces(sql: Sql | Tx): Promise<number> {
  const [row] = await sql`
    select (select count(*)::int from public.profiles where status <> 'deleted')
      + (select count(*)::int from private.registrations r
         where r.confirmed_at is null and r.reserved_at > private.reservations_since()) as taken`
  return row?.taken
}

/** Acts as a signed-in user, in a session of this call's own. */
export async function asAccount<T>(tx: Tx, id: string, act: (tx: Tx) => Promise<T>): Promise<T> {
  const session_id = await addSession(tx, id)
  return asRole(tx, 'authenticated', { sub: id, role: 'authenticated', aal: 'aal1', session_id }, act)
}
