/** Who a channel belongs to, and what row-level security on realtime.messages lets them hear and send. */
import postgres from 'postgres'
import type { ApiRole, Tokens } from '../gateway/tokens.ts'

type Subject = { role: string; claims: Record<string, unknown> }
export type Permissions = ReturnType<typeof createPermissions>

/** `sql` is a pool of role supabase_realtime_admin, which owns the table, so that the probe itself needs no policy. */
export function createPermissions(sql: postgres.Sql) {
  return {
    /** Whether the caller's policies show a broadcast to this topic. */
    async mayReceive(topic: string, subject: Subject): Promise<boolean> {
      return rolledBack(sql, async (tx) => {
        const [probe] = await tx<{ id: string }[]>`
          insert into realtime.messages (topic, extension) values (${topic}, 'broadcast') returning id`
        await become(tx, topic, subject)
        const rows = await tx`select from realtime.messages where id = ${probe?.id ?? null} and topic = ${topic}`
        return rows.length === 1
      })
    },

    /** Whether the caller's policies let them write a broadcast to this topic. */
    async maySend(topic: string, subject: Subject): Promise<boolean> {
      return rolledBack(sql, async (tx) => {
        await become(tx, topic, subject)
        await tx`insert into realtime.messages (topic, extension) values (${topic}, 'broadcast')`
        return true
      }).catch((error: unknown) => {
        if (error instanceof postgres.PostgresError && error.code === '42501') return false
        throw error
      })
    },
  }
}

/** What policies read: auth.uid() and friends, and realtime.topic(). */
const become = (tx: postgres.TransactionSql, topic: string, { role, claims }: Subject) => tx`
  select
    set_config('role', ${role}, true),
    set_config('realtime.topic', ${topic}, true),
    set_config('request.jwt.claims', ${JSON.stringify(claims)}, true),
    set_config('request.headers', '{}', true)`

async function rolledBack<Result>(
  sql: postgres.Sql,
  run: (tx: postgres.TransactionSql) => Promise<Result>,
): Promise<Result> {
  const undo = new Error('rolled back on purpose')
  const done: Result[] = []
  await sql
    .begin(async (tx) => {
      done.push(await run(tx))
      throw undo
    })
    .catch((error: unknown) => {
      if (error !== undo) throw error
    })
  const [result] = done
  if (result === undefined) throw new Error('the probe did not run')
  return result
}

/** `expiresAt` in unix milliseconds; null for a key, which does not expire. */
export type Pass = { subject: Subject; token: string | null; expiresAt: number | null }

/** supabase-js sends its key where it has no token; a key, or none, leaves the role to the connection. */
export const isKey = (token: string | null | undefined) => !token || token.startsWith('sb_')

/** The pass, or why there is none, in the words of the real service. */
export async function readPass(
  tokens: Tokens,
  token: string | null | undefined,
  keyRole: ApiRole,
): Promise<Pass | { reason: string }> {
  if (!token || isKey(token))
    return { subject: { role: keyRole, claims: { role: keyRole } }, token: null, expiresAt: null }
  if (token.split('.').length !== 3) return { reason: 'MalformedJWT: The token provided is not a valid JWT' }
  const verified = await tokens.verify(token)
  if (!('claims' in verified)) {
    return {
      reason:
        verified.problem === 'expired'
          ? 'InvalidJWTToken: Token has expired'
          : 'JwtSignatureError: Failed to validate JWT signature',
    }
  }
  const { claims } = verified
  // Only the API's roles: Realtime's own role could be asked for by name, and no policy holds it.
  if (!['anon', 'authenticated', 'service_role'].includes(claims.role)) {
    return { reason: 'Unauthorized: The role of this token cannot use Realtime' }
  }
  return { subject: { role: claims.role, claims }, token, expiresAt: claims.exp * 1000 }
}
