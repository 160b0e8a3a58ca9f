/** The way to Postgres, for every SQL call of a function. */
import postgres from 'postgres'
import { z } from 'zod'
import { AppError, type ErrorCode, refusalIn } from './errors.ts'
import { within } from './within.ts'

export type Database = postgres.Sql
/** For what runs in a transaction as well. */
export type Queries = postgres.Sql | postgres.TransactionSql

const defaultStatementTimeoutMs = 4_000
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

type CallOptions = {
  /** The error for whatever goes wrong but a refusal of ours. */
  otherwise?: ErrorCode
  /**
   * Covers what the server's own timeout cannot see: the wait for a connection, and a server that is gone. A statement that
   * still waits for a connection then never runs.
   */
  deadlineMs?: number
}

/**
 * The one way to call SQL: runs a statement and gives its rows through a schema, which is `answer(...)` for one value. A refusal
 * that SQL raised with a code of our catalogue keeps its words. Anything else, an answer of another form included, is an error
 * with the code `otherwise`, whose cause has the names and codes of what happened, and no words: those of Postgres may quote a
 * parameter, and somebody may print an error whole.
 */
export async function callSql<Schema extends z.ZodType>(
  query: postgres.PendingQuery<postgres.Row[]>,
  schema: Schema,
  { otherwise = 'internal', deadlineMs }: CallOptions = {},
): Promise<z.output<Schema>> {
  try {
    const rows = await beforeDeadline(query, deadlineMs)
    // After a statement that failed past its first row, postgres.js 3.4.9 begins the next answer of that connection with holes.
    return schema.parse(rows.filter(() => true))
  } catch (cause) {
    const bare = cause instanceof postgres.PostgresError ? withoutWords(cause) : cause
    throw refusalIn(cause instanceof Error ? cause.message : '', bare) ?? new AppError(otherwise, { cause: bare })
  }
}

function withoutWords({ name, code, constraint_name, routine }: postgres.PostgresError): Error {
  return Object.assign(new Error('Postgres raised an error'), { name, code, constraint_name, routine })
}

/** For a statement whose one row has one column, `answer`. */
export const answer = <T>(schema: z.ZodType<T>): z.ZodType<T> =>
  z
    .array(z.object({ answer: z.unknown() }))
    .length(1)
    .transform(([row]) => row?.answer)
    .pipe(schema)

/** For a statement that is run for its effect. */
export const nothing = z.unknown()

async function beforeDeadline<Row>(query: postgres.PendingQuery<Row[] & postgres.Row[]>, ms: number | undefined) {
  if (ms === undefined) return query
  const rows = await within(ms, query)
  if (rows !== undefined) return rows
  query.cancel()
  throw new AppError('internal', { cause: `no answer from the database after ${ms} ms` })
}
