/** The way to Postgres on the hot path. Everything else goes through supabase-js. */
import postgres from 'postgres'
import { AppError } from './errors.ts'

export type Database = postgres.Sql
/** For what runs in a transaction as well. */
export type Queries = postgres.Sql | postgres.TransactionSql

const defaultStatementTimeoutMs = 4_000
const deadlineMs = 8_000
/** Read by postgres.js, and missing in its types. */
const unqueued = { max_pipeline: 0 }

/**
 * A small pool: functions run in many isolates, and each counts against the server's connections.
 *
 * A statement never queues behind another one on the same connection, where a caller would wait for a stranger's lock.
 */
export function connectDatabase(
  url: string,
  { statementTimeoutMs = defaultStatementTimeoutMs }: { statementTimeoutMs?: number } = {},
): Database {
  return postgres(url, {
    max: 5,
    // Saves a round trip, but not with Supabase's pooler in transaction mode, on this port: there each transaction has another session.
    prepare: new URL(url).port !== '6543',
    ...unqueued,
    connect_timeout: 5,
    idle_timeout: 30,
    connection: { application_name: 'palisade-functions', statement_timeout: statementTimeoutMs },
    onnotice: () => {},
  })
}

/**
 * Runs a statement whose one row has one column, `answer`, and gives its value. Whatever goes wrong, the ledger is not
 * available, and callers must not act as if it had agreed. The deadline covers what the server's own timeout cannot see:
 * the wait for a connection, and a server that is gone; a statement that still waits for a connection never runs.
 */
export async function askLedger(query: postgres.PendingQuery<postgres.Row[]>): Promise<unknown> {
  let timer: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      query.cancel()
      reject(new Error(`no answer from the database after ${deadlineMs} ms`))
    }, deadlineMs)
  })
  try {
    const [row] = await Promise.race([query, late])
    return row?.answer
  } catch (cause) {
    throw new AppError('accounting_unavailable', { cause })
  } finally {
    clearTimeout(timer)
  }
}
