/** What the server itself counts of a window: WAL, and how often every statement of a client was run. As superuser. */
import type postgres from 'postgres'

export type Counters = { walBytes: number; statements: Map<string, number> }

export async function readCounters(sql: postgres.Sql): Promise<Counters> {
  const rows = await sql<{ query: string; calls: number }[]>`
    select query, sum(calls)::float8 as calls from extensions.pg_stat_statements
    where dbid = (select oid from pg_database where datname = current_database())
      and userid <> current_user::regrole
    group by query`
  const statements = new Map<string, number>()
  for (const { query, calls } of rows) {
    const name = statementName(query)
    statements.set(name, (statements.get(name) ?? 0) + calls)
  }
  const [wal] = await sql<{ bytes: number }[]>`
    select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8 as bytes`
  return { walBytes: wal?.bytes ?? Number.NaN, statements }
}

/**
 * The function that a statement calls, else how it begins.
 * @internal For tests.
 */
export function statementName(query: string): string {
  const words = query.trim().replaceAll(/\s+/g, ' ')
  return /\bprivate\.(\w+)\s*\(/.exec(words)?.[1] ?? words.split(' ', 3).join(' ')
}

/** Of statements that were not run meanwhile there is nothing to say. */
export function countersBetween(
  before: Counters,
  after: Counters,
): { walBytes: number; statements: [string, number][] } {
  const statements = [...after.statements]
    .map(([name, calls]): [string, number] => [name, calls - (before.statements.get(name) ?? 0)])
    .filter(([, calls]) => calls > 0)
    .toSorted(([, one], [, other]) => other - one)
  return { walBytes: after.walBytes - before.walBytes, statements }
}
