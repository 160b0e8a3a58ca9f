/** Row-level security on realtime.messages decides: a row that is rolled back is looked for, or written, as the caller. */
import postgres from 'postgres'

export type Subject = { role: string; claims: Record<string, unknown> }
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
