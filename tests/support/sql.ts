/** SQL tests: one transaction as role postgres that always rolls back, with two users and one way to change role. */
import postgres from 'postgres'
import { target } from '../target.ts'

/** Who a statement runs as. owner and other are signed-in users; service is a secret key; postgres sets the scene. */
export type Actor = 'owner' | 'other' | 'anon' | 'service' | 'postgres'

export type SqlUser = { id: string; sessionId: string }

export type Db = {
  /** The transaction's connection: a tagged template. It is lazy: nothing runs before it is awaited. */
  sql: postgres.ReservedSql
  owner: SqlUser
  other: SqlUser
  /** The only way to change role. Lasts until the next call. */
  as(actor: Actor, options?: { aal?: 'aal1' | 'aal2' }): Promise<void>
  /**
   * What a statement does for the present role: 'yes' (it saw or changed rows), 'none' (a policy hid them), 'denied'
   * (42501), or the SQLSTATE of any other error. Its effect is undone; await the query itself to keep it.
   */
  outcome(statement: PromiseLike<{ count: number }>): Promise<string>
}

/** Runs the story in one transaction as role postgres. Whatever happens, nothing of it stays. */
export async function withRollback<Result>(story: (db: Db) => Promise<Result>): Promise<Result> {
  const pool = postgres(target().dbUrl, { max: 1, onnotice: () => {} })
  try {
    // Reserved, not sql.begin: that one gives up after the first error, and refusals are what these tests are about.
    const sql = await pool.reserve()
    await sql`begin`
    // Compiling a query of the catalogue takes a hundred times as long as running it.
    await sql`set local jit = off`
    try {
      const [owner, other] = [await createUser(sql), await createUser(sql)]
      return await story({
        sql,
        owner,
        other,
        as: (actor, options) => become(sql, { owner, other }, actor, options?.aal),
        outcome: (statement) => outcome(sql, statement),
      })
    } finally {
      await sql`rollback`
      sql.release()
    }
  } finally {
    await pool.end()
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
    insert into auth.users (id, email, email_confirmed_at, raw_user_meta_data, aud, role)
    values (${user.id}, ${`${user.id}@example.com`}, now(), ${sql.json({ first_name: 'Ada' })}, 'authenticated', 'authenticated')`
  await sql`insert into auth.sessions (id, user_id) values (${user.sessionId}, ${user.id})`
  return user
}

/** Role and claims exactly as PostgREST sets them for one request: local to the transaction. */
async function become(
  sql: postgres.Sql,
  users: { owner: SqlUser; other: SqlUser },
  actor: Actor,
  aal = 'aal1',
): Promise<void> {
  const user = actor === 'owner' || actor === 'other' ? users[actor] : null
  const role = {
    owner: 'authenticated',
    other: 'authenticated',
    anon: 'anon',
    service: 'service_role',
    postgres: 'none',
  }[actor]
  const claims = user
    ? { sub: user.id, role, aud: role, aal, session_id: user.sessionId, email: `${user.id}@example.com` }
    : { role }
  const direct = actor === 'postgres'
  await sql`
    select
      set_config('role', ${role}, true),
      set_config('request.jwt.claims', ${direct ? '' : JSON.stringify(claims)}, true),
      set_config('request.jwt.claim.sub', ${user?.id ?? ''}, true),
      set_config('request.jwt.claim.role', ${direct ? '' : role}, true)`
}
