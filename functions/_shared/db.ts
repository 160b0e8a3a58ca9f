/** The way to Postgres, for every SQL call of a function. */
import postgres from 'postgres'
import { readDatabaseUrl, tlsProblem } from './database-url.ts'
import { AppError, type ErrorCode, refusalIn } from './errors.ts'
import { AnotherForm, type Form, isFields } from './forms.ts'
import { within } from './within.ts'

export type Database = postgres.Sql
/** For what runs in a transaction as well. */
export type Queries = postgres.Sql | postgres.TransactionSql

type ConnectOptions = {
  statementTimeoutMs?: number
  /** The login's own setting ends its statements (alter role ... set statement_timeout), also behind a pooler. */
  isTimedByRole?: boolean
  /** Without them no connection begins with a question about their types. */
  usesArrays?: boolean
  /** PEM of the authority that signed the server's certificate. */
  ca?: string | undefined
}

const defaultStatementTimeoutMs = 4_000

/**
 * A small pool: functions run in many isolates, and each counts against the server's connections.
 *
 * A statement never queues behind another one on the same connection, where a caller would wait for a stranger's lock.
 */
export function connectDatabase(
  address: string,
  { statementTimeoutMs = defaultStatementTimeoutMs, isTimedByRole = false, usesArrays = true, ca }: ConnectOptions = {},
): Database {
  const { url, ssl, isPooled } = readDatabaseUrl(address, ca)
  const isTimedByTransaction = isPooled && !isTimedByRole
  // Read by postgres.js, and missing in its types. In a transaction of ours what follows belongs to it.
  const pipeline = { max_pipeline: isTimedByTransaction ? 1 : 0 }
  const sql = postgres(url, {
    max: 5,
    ssl,
    // Prepared statements save a round trip.
    prepare: !isPooled,
    ...pipeline,
    fetch_types: usesArrays,
    connect_timeout: 5,
    idle_timeout: 30,
    connection: {
      application_name: 'palisade-functions',
      // PgBouncer refuses a session that begins with it, and Supavisor drops it.
      ...(isPooled ? {} : { statement_timeout: statementTimeoutMs }),
    },
    onnotice: () => {},
  })
  return isTimedByTransaction ? timedByTransaction(sql, statementTimeoutMs) : sql
}

type Rows = Promise<postgres.Row[]> & { cancel(): void }
/** How callSql runs a statement that needs a transaction of its own. */
const runners = new WeakMap<object, () => Rows>()

/** Statements that callSql runs get a transaction that ends them in time. What runs inside of `begin` is the caller's. */
function timedByTransaction(sql: Database, ms: number): Database {
  return new Proxy(sql, {
    apply(target, _self, args: Parameters<Database>) {
      const query: unknown = target(...args)
      if (isQuery(query)) runners.set(query, () => runTimed(target, query, ms))
      return query
    },
  })
}

/** And not what postgres.js makes of a list of columns, of an identifier or of rows. */
const isQuery = (made: unknown): made is postgres.Fragment => made instanceof Promise

/** Two round trips more than without: the timeout travels with the statement. */
function runTimed(sql: Database, query: postgres.Fragment, ms: number): Rows {
  let running: postgres.PendingQuery<postgres.Row[]> | undefined
  let isCancelled = false
  let rows: postgres.Row[] = []
  const run = sql.begin(async (tx) => {
    if (isCancelled) return
    const limit = tx.unsafe(`set local statement_timeout = ${ms}`).execute()
    running = tx<postgres.Row[]>`${query}`.execute()
    ;[, rows] = await Promise.all([limit, running])
  })
  const cancel = () => {
    isCancelled = true
    running?.cancel()
  }
  return Object.assign(
    run.then(() => rows),
    { cancel },
  )
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
 * The one way to call SQL: runs a statement and gives its rows in a form, which is `answer(...)` for one value. A refusal
 * that SQL raised with a code of our catalogue keeps its words. Anything else, an answer of another form included, is an error
 * with the code `otherwise`, whose cause has the names and codes of what happened, and no words: those of Postgres may quote a
 * parameter, and somebody may print an error whole.
 */
export async function callSql<Value>(
  query: postgres.PendingQuery<postgres.Row[]>,
  form: Form<Value>,
  { otherwise = 'internal', deadlineMs }: CallOptions = {},
): Promise<Value> {
  try {
    const rows = await beforeDeadline(runners.get(query)?.() ?? query, deadlineMs)
    // After a statement that failed past its first row, postgres.js 3.4.9 begins the next answer of that connection with holes.
    return form.parse(rows.filter(() => true))
  } catch (cause) {
    const bare = tlsProblem(cause) ?? (cause instanceof postgres.PostgresError ? withoutWords(cause) : cause)
    throw refusalIn(cause instanceof Error ? cause.message : '', bare) ?? new AppError(otherwise, { cause: bare })
  }
}

function withoutWords({ name, code, constraint_name, routine }: postgres.PostgresError): Error {
  return Object.assign(new Error('Postgres raised an error'), { name, code, constraint_name, routine })
}

/** For a statement whose one row has one column, `answer`. */
export const answer = <Value>(form: Form<Value>): Form<Value> => ({
  parse(rows) {
    const [row, ...more] = Array.isArray(rows) ? rows : []
    if (!isFields(row) || !('answer' in row) || more.length > 0) throw new AnotherForm('the answer is not one')
    return form.parse(row.answer)
  },
})

/** For a statement that is run for its effect. */
export const nothing: Form<unknown> = { parse: () => undefined }

async function beforeDeadline(query: Rows, ms: number | undefined): Promise<postgres.Row[]> {
  if (ms === undefined) return query
  const rows = await within(ms, query)
  if (rows !== undefined) return rows
  query.cancel()
  throw new AppError('internal', { cause: `no answer from the database after ${ms} ms` })
}
