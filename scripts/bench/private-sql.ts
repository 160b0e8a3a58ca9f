/**
 * All that benchmarks call of the gateway's private SQL, and the tables behind it that they fill and watch: what changes when
 * admission and settlement do. How an account, a plan and a model are made is in benchmarks/gateway/seed.ts.
 */
import type postgres from 'postgres'
import {
  type Admitted,
  createLedger,
  type Ledger,
  nothingUsed,
  type Outcome,
} from '../../functions/_shared/ai/ledger.ts'
import type { Session } from './benchmarks/gateway/seed.ts'
import { modelName } from './benchmarks/gateway/seed.ts'

/** A call that is running: what its settlement has to be told. */
export type Held = Pick<Admitted, 'call_id' | 'user_id' | 'routes'>

const idle = new WeakMap<postgres.Sql, Ledger[]>()
/** With a ledger of the function's own that nobody else uses meanwhile: what it is asked together leaves in one statement, and alone. */
async function withLedger<T>(sql: postgres.Sql, use: (ledger: Ledger) => Promise<T>): Promise<T> {
  const ledgers = idle.get(sql) ?? []
  idle.set(sql, ledgers)
  const ledger = ledgers.pop() ?? createLedger(sql)
  try {
    return await use(ledger)
  } finally {
    ledgers.push(ledger)
  }
}

/** Admits a call of each user in one statement, as the gateway does. A refusal is an error: then nothing would be measured. */
export async function admit(sql: postgres.Sql, users: Session[]): Promise<Held[]> {
  const answers = await withLedger(sql, (ledger) =>
    Promise.all(
      users.map(({ userId, sessionId }) => ledger.admit({ ...request, user_id: userId, session_id: sessionId })),
    ),
  )
  const refused = answers.find(({ admitted }) => !admitted)
  if (refused) throw new Error(`an admission was refused: ${JSON.stringify(refused)}`)
  return answers.filter((answer) => answer.admitted)
}

const request = {
  request_id: 'req_0123456789abcdef0123456789abcdef',
  endpoint: 'chat.completions' as const,
  model: modelName(0, 0),
  contents: { textBytes: 100, messages: 0, media: [], tokens: 0 },
  asks: {},
  fields: [],
  max_output_tokens: 100,
  choices: 1,
  images: 0,
  stream: false,
  request_bytes: 300,
  ip: '127.0.0.1',
  user_agent: null,
  idempotency_key: null,
  body_hash: null,
  credential_id: null,
}

/** Settles calls in one statement: 30 tokens in, 50 out. A call that is not settled is an error. */
export async function settle(sql: postgres.Sql, calls: Held[]): Promise<void> {
  const answers = await withLedger(sql, (ledger) => Promise.all(calls.map((call) => ledger.settle(call, outcome))))
  if (!answers.every(({ settled }) => settled)) throw new Error('a settlement was refused')
}

const outcome: Outcome = {
  result: 'succeeded',
  http_status: 200,
  error_code: null,
  usage: { ...nothingUsed, prompt_tokens: 30, completion_tokens: 50 },
  usage_source: 'provider',
  implausible: null,
  late: null,
  response_bytes: 700,
  duration_ms: 20,
  first_token_ms: null,
  attempts: 1,
  response: null,
  model: modelName(0, 0),
}

/** Tables whose rows change with every call, so that autovacuum has to keep up with them. */
export const changingTables = ['private.accounts', 'private.ai_holds']

/** What cron does to those tables, and how often. */
export const jobs: [everySeconds: number, statement: string][] = [
  [30, 'select private.settle_abandoned_ai_calls()'],
  [15, 'select private.warn_of_spend()'],
]

/**
 * What a user has, to be copied from one user to a million: table, column with the user's id, and what the copy changes. Read in
 * this order. `n` is a row of `new_users`: id, session_id, entry_id, i.
 */
export const tablesOfUsers: [table: string, key: string, changes: string][] = [
  ['auth.users', 'id', "'id', n.id, 'email', 'plans-' || n.i || '@example.com'"],
  ['auth.sessions', 'user_id', "'id', n.session_id, 'user_id', n.id"],
  ['public.profiles', 'id', "'id', n.id"],
  ['private.accounts', 'user_id', "'user_id', n.id"],
  ['private.credit_bookings', 'user_id', "'id', n.entry_id, 'user_id', n.id"],
]

/** Settled calls of everybody in `new_users`. */
export const fillCalls = (sql: postgres.Sql, callsPerUser: number) => sql`
  insert into public.ai_calls (id, created_at, user_id, request_id, endpoint, model_id, stream, state, request_bytes)
  select c.id, private.uuid_v7_time(c.id), c.user_id, 'plans', 'chat.completions', ${modelName(0, 0)}, false, 'settled', 1
  from (
    select private.uuid_v7() as id, n.id as user_id from new_users n, generate_series(1, ${callsPerUser}::integer)
  ) c`
