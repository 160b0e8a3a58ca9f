/** SQL tests: one transaction as role postgres that always rolls back, with two users and one way to change role. */
import postgres from 'postgres'
import { target } from '../target.ts'

/**
 * Who a statement runs as. owner and other are signed-in users; admin is a third one, with the role and a second factor;
 * service is a secret key; postgres sets the scene. The rest is the owner again, in a state that ends or limits access:
 * after sign-out, suspended, without the second factor that the account has, and as Auth's anonymous user.
 */
export type Actor =
  | 'owner'
  | 'other'
  | 'anon'
  | 'signed out'
  | 'suspended'
  | 'owner aal1'
  | 'anonymous'
  | 'admin'
  | 'service'
  | 'postgres'

type SqlUser = { id: string; sessionId: string }

export type Db = {
  /** The transaction's connection: a tagged template. It is lazy: nothing runs before it is awaited. */
  sql: postgres.ReservedSql
  owner: SqlUser
  other: SqlUser
  admin: SqlUser
  /** The only way to change role. Lasts until the next call. */
  as(actor: Actor, options?: { aal?: 'aal1' | 'aal2' }): Promise<void>
  /**
   * What a statement does for the present role: 'yes' (it saw or changed rows), 'none' (a policy hid them), 'denied'
   * (42501), or the SQLSTATE of any other error. Its effect is undone; await the query itself to keep it.
   */
  outcome(statement: PromiseLike<{ count: number }>): Promise<string>
}

type Users = { owner: SqlUser; other: SqlUser; admin: SqlUser }

const shared: { pool?: postgres.Sql; url?: string } = {}

/** The connections of the file that runs: the next one in this process has another database. */
function poolOfFile(): postgres.Sql {
  const { dbUrl } = target()
  if (!shared.pool || shared.url !== dbUrl) {
    shared.pool = postgres(dbUrl, { max: 4, onnotice: () => {} })
    shared.url = dbUrl
  }
  return shared.pool
}

/** Runs the story in one transaction as role postgres. Whatever happens, nothing of it stays. */
export async function withRollback<Result>(story: (db: Db) => Promise<Result>): Promise<Result> {
  // Reserved, not sql.begin: that one gives up after the first error, and refusals are what these tests are about.
  const sql = await poolOfFile().reserve()
  try {
    await sql`begin`
    // Compiling a query of the catalogue takes a hundred times as long as running it.
    await sql`set local jit = off`
    const users = { owner: await createUser(sql), other: await createUser(sql), admin: await createUser(sql) }
    await makeAdmin(sql, users.admin)
    return await story({
      sql,
      ...users,
      as: actorChanger(sql, users),
      outcome: (statement) => outcome(sql, statement),
    })
  } finally {
    await sql`rollback`
    sql.release()
  }
}

async function outcome(sql: postgres.Sql, statement: PromiseLike<{ count: number }>): Promise<string> {
  await sql`savepoint outcome`
  try {
    const { count } = await statement
    return count > 0 ? 'yes' : 'none'
  } catch (error) {
    if (!(error instanceof postgres.PostgresError)) throw error
    return error.code === '42501' ? 'denied' : error.code
  } finally {
    await sql`rollback to savepoint outcome`
  }
}

/** A user who has confirmed the e-mail address and is signed in; the project's triggers make profile and credits. */
async function createUser(sql: postgres.Sql): Promise<SqlUser> {
  const user = { id: crypto.randomUUID(), sessionId: crypto.randomUUID() }
  await sql`
    insert into auth.users (id, email, email_confirmed_at, raw_user_meta_data, aud, role, created_at, updated_at)
    values (${user.id}, ${`${user.id}@example.com`}, now(), ${sql.json({ first_name: 'Ada' })}, 'authenticated',
      'authenticated', now(), now())`
  await addSession(sql, user.id, { id: user.sessionId })
  return user
}

/** An admin has a verified factor; its session has the level of its token, see become. */
async function makeAdmin(sql: postgres.Sql, admin: SqlUser): Promise<void> {
  await sql`update public.profiles set role = 'admin' where id = ${admin.id}`
  await addFactor(sql, admin.id)
}

type NewSession = {
  id?: string
  ip?: string | null
  userAgent?: string | null
  notAfter?: Date | null
  /** As the Auth service names them. */
  method?: string
}

/** A session, as the Auth service opens it after a sign-in: its tables have no defaults. */
export async function addSession(
  sql: postgres.Sql | postgres.TransactionSql,
  userId: string,
  { id = crypto.randomUUID(), ip = null, userAgent = null, notAfter = null, method = 'password' }: NewSession = {},
): Promise<string> {
  await sql`
    insert into auth.sessions (id, user_id, aal, ip, user_agent, not_after, created_at, updated_at)
    values (${id}, ${userId}, 'aal1', ${ip}, ${userAgent}, ${notAfter}, now(), now())`
  await sql`
    insert into auth.mfa_amr_claims (id, session_id, authentication_method, created_at, updated_at)
    values (gen_random_uuid(), ${id}, ${method}, now(), now())`
  return id
}

/** A verified TOTP factor, as the Auth service leaves it. */
export async function addFactor(sql: postgres.Sql | postgres.TransactionSql, userId: string): Promise<string> {
  const id = crypto.randomUUID()
  await sql`
    insert into auth.mfa_factors (id, user_id, factor_type, status, created_at, updated_at)
    values (${id}, ${userId}, 'totp', 'verified', now(), now())`
  return id
}

type Change = (sql: postgres.Sql, owner: SqlUser) => PromiseLike<unknown>

/** What an actor's state is made of, on top of a user who may do everything, and how it is taken back. */
const changes: Partial<Record<Actor, { make: Change; undo: Change }>> = {
  'signed out': {
    make: (sql, owner) => sql`delete from auth.sessions where id = ${owner.sessionId}`,
    undo: (sql, owner) => addSession(sql, owner.id, { id: owner.sessionId }),
  },
  suspended: {
    make: (sql, owner) => sql`update public.profiles set status = 'suspended' where id = ${owner.id}`,
    undo: (sql, owner) => sql`update public.profiles set status = 'active' where id = ${owner.id}`,
  },
  'owner aal1': {
    make: (sql, owner) => addFactor(sql, owner.id),
    undo: (sql, owner) => sql`delete from auth.mfa_factors where user_id = ${owner.id}`,
  },
  anonymous: {
    make: (sql, owner) => sql`update auth.users set is_anonymous = true where id = ${owner.id}`,
    undo: (sql, owner) => sql`update auth.users set is_anonymous = false where id = ${owner.id}`,
  },
}

const dbRoles: Partial<Record<Actor, string>> = { anon: 'anon', service: 'service_role', postgres: 'none' }

/** The one way to change role: the state of the actor before is taken back, that of the next is made. */
function actorChanger(sql: postgres.Sql, users: Users): Db['as'] {
  let before: Actor = 'postgres'
  return async (actor, options) => {
    await setRequest(sql, 'none', null)
    await changes[before]?.undo(sql, users.owner)
    await changes[actor]?.make(sql, users.owner)
    before = actor
    if (actor !== 'postgres') await become(sql, users, actor, options?.aal)
  }
}

async function become(sql: postgres.Sql, users: Users, actor: Actor, aal = 'aal1'): Promise<void> {
  const role = dbRoles[actor] ?? 'authenticated'
  if (actor in dbRoles) return setRequest(sql, role, { role })
  const user = actor === 'other' || actor === 'admin' ? users[actor] : users.owner
  await sql`update auth.sessions set aal = ${aal} where id = ${user.sessionId}`
  const about = { email: `${user.id}@example.com`, is_anonymous: actor === 'anonymous' }
  await setRequest(sql, role, { sub: user.id, role, aud: role, aal, session_id: user.sessionId, ...about })
}

/** Role and claims exactly as PostgREST sets them for one request: local to the transaction. */
async function setRequest(
  sql: postgres.Sql,
  role: string,
  claims: { sub?: string; role: string; [claim: string]: unknown } | null,
) {
  await sql`
    select
      set_config('role', ${role}, true),
      set_config('request.jwt.claims', ${claims ? JSON.stringify(claims) : ''}, true),
      set_config('request.jwt.claim.sub', ${claims?.sub ?? ''}, true),
      set_config('request.jwt.claim.role', ${claims?.role ?? ''}, true)`
}
