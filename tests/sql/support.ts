/** What the tests of sql/ share: accounts made by SQL, transactions that roll back, and many real connections. */
import postgres from 'postgres'
import { AppError } from '../../functions/_shared/errors.ts'
import { moveToNoon } from '../support/noon-zone.ts'
import { addSession } from '../support/sql.ts'
import { target } from '../target.ts'

export type Sql = postgres.Sql
export type Tx = postgres.TransactionSql
/** A refusal of SQL's: the SQLSTATE and, when it is ours, the code and HTTP status that PostgREST answers. */
export type Refusal = { sqlstate: string; code: string | null; status: number | null; message: string }
export type Account = { id: string; sessionId: string }

export const connect = (max = 1): Sql => postgres(target().dbUrl, { max, onnotice: () => {} })

const shared: { sql?: Sql; url?: string } = {}

/** One connection for everything in a file that rolls back. The next file in this process has another database. */
export function db(): Sql {
  const { dbUrl } = target()
  if (!shared.sql || shared.url !== dbUrl) {
    shared.sql = connect()
    shared.url = dbUrl
  }
  return shared.sql
}

class Rollback extends Error {}

/** Runs one test in a transaction and takes everything back. */
export async function rolledBack(test: (tx: Tx) => Promise<void>): Promise<void> {
  const end = db().begin(async (tx) => {
    await test(tx)
    throw new Rollback()
  })
  await end.catch((error: unknown) => {
    if (!(error instanceof Rollback)) throw error
  })
}

/** A user with a session, made as the Auth service does: one row in auth.users, and the triggers do the rest. */
export async function newAccount(
  sql: Sql | Tx,
  { confirmed = true, metadata = {}, credits }: { confirmed?: boolean; metadata?: unknown; credits?: number } = {},
): Promise<Account> {
  const account = { id: crypto.randomUUID(), sessionId: crypto.randomUUID() }
  await sql`
    insert into auth.users (id, email, email_confirmed_at, raw_user_meta_data, aud, role, created_at, updated_at)
    values (${account.id}, ${`sql-${account.id}@example.com`}, ${confirmed ? new Date() : null},
      ${JSON.stringify(metadata)}::text::jsonb, 'authenticated', 'authenticated', now(), now())`
  await addSession(sql, account.id, { id: account.sessionId })
  if (credits !== undefined && credits < 100) await changeCredits(sql, 'deduct', account.id, 100 - credits)
  if (credits !== undefined && credits > 100) await changeCredits(sql, 'grant', account.id, credits - 100)
  return account
}

export async function changeCredits(
  sql: Sql | Tx,
  verb: 'deduct' | 'grant' | 'refund',
  userId: string,
  amount: number | bigint | null,
  key: string = crypto.randomUUID(),
  reason = 'test',
): Promise<{ entry_id: string; balance: number }> {
  const name = `public.${verb}_credits`
  const [row] = await sql`
    select ${sql(name)}(${userId}::uuid, ${String(amount ?? '') || null}::bigint, ${reason}::text, ${key}::text) as answer`
  return row?.answer
}

/** Acts as the API role that a signed-in user has, with the claims of that user's token: of the latest session. */
export async function asUser<T>(tx: Tx, userId: string, act: (tx: Tx) => Promise<T>, claims: object = {}): Promise<T> {
  const [session] = await tx`
    select id from auth.sessions where user_id = ${userId} order by created_at desc, id limit 1`
  const token = { sub: userId, role: 'authenticated', aal: 'aal1', session_id: session?.id, ...claims }
  return asRole(tx, 'authenticated', token, act)
}

export async function asRole<T>(tx: Tx, role: string, claims: object, act: (tx: Tx) => Promise<T>): Promise<T> {
  await tx`select set_config('role', ${role}, true), set_config('request.jwt.claims', ${JSON.stringify(claims)}, true)`
  const answer = await act(tx)
  await tx`select set_config('role', 'postgres', true), set_config('request.jwt.claims', '', true)`
  return answer
}

/** Expects the action to be refused and undoes it; fails when it succeeds. */
export async function refusal(tx: Tx, act: (tx: Tx) => Promise<unknown>): Promise<Refusal> {
  const error = await tx
    .savepoint(async (inner) => void (await act(inner)))
    .then(
      () => null,
      (caught: unknown) => caught,
    )
  if (error instanceof AppError) return ofFunction(error)
  if (!(error instanceof postgres.PostgresError)) throw error ?? new Error('nothing was refused')
  return asRefusal(error)
}

/** What SQL raised, as a function that asked tells it. */
const ofFunction = ({ code, status, message }: AppError): Refusal => ({ sqlstate: 'PGRST', code, status, message })

function asRefusal(error: postgres.PostgresError): Refusal {
  const ours = error.code === 'PGRST'
  const message = ours ? JSON.parse(error.message) : { code: null, message: error.message }
  const status = ours ? JSON.parse(error.detail ?? '{}').status : null
  return { sqlstate: error.code, code: message.code, status, message: message.message }
}

/**
 * Committed accounts and as many connections as racers, all gone afterwards. For the accounts it is about noon, and no hour of the
 * database's ends as the race begins: the windows of events, days and months that are counted in UTC end with one.
 */
export async function racing<T>(connections: number, race: (sql: Sql, accounts: Accounts) => Promise<T>): Promise<T> {
  const sql = connect(connections)
  const made: string[] = []
  try {
    await Promise.all(Array.from({ length: connections }, () => sql`select pg_sleep(0.02)`))
    await hourToCome(sql)
    return await race(sql, async (options) => {
      const account = await newAccount(sql, options)
      await moveToNoon(sql, account.id)
      made.push(account.id)
      return account
    })
  } finally {
    await sql`delete from auth.users where id = any(${made}::uuid[])`
    await sql.end()
  }
}

/** Waits for the end of the hour when it is ten seconds away or less. */
const hourToCome = (sql: Sql) => sql`
  select pg_sleep(case when rest <= 10 then rest + 0.01 else 0 end)
  from (select 3600 - extract(epoch from clock_timestamp()) % 3600 as rest) as hour`

export type Accounts = (options?: Parameters<typeof newAccount>[1]) => Promise<Account>

/** Runs the action that often at the same time; answers what each came to. */
export async function together<T>(times: number, act: (index: number) => Promise<T>): Promise<(T | Refusal)[]> {
  const results = await Promise.allSettled(Array.from({ length: times }, (_, index) => act(index)))
  return results.map((result) => {
    if (result.status === 'fulfilled') return result.value
    if (result.reason instanceof AppError) return ofFunction(result.reason)
    if (result.reason instanceof postgres.PostgresError) return asRefusal(result.reason)
    throw result.reason
  })
}

/** Balance and holds of an account, straight from the table. */
export async function creditsOf(sql: Sql | Tx, userId: string): Promise<{ balance: number; held: number }> {
  const [row] = await sql`
    select balance::int, held::int from private.accounts where user_id = ${userId}`
  return { balance: row?.balance, held: row?.held }
}

/** The running quotas of an account: `{ 'ai_calls/day': [used, held] }`; rates, concurrency and money are not among them. */
export async function countersOf(sql: Sql | Tx, userId: string): Promise<Record<string, [number, number]>> {
  const rows = await sql`
    select meter || '/' || period as name, used::int, held::int from private.usage_counters
    where user_id = ${userId} and period in ('day', 'month') and meter <> 'ai_spend_micros' order by 1`
  return Object.fromEntries(rows.map((row) => [row.name, [row.used, row.held]]))
}

/** Sets what an account has used and holds of a meter in the running period, which ends in an hour, a minute in 45 seconds, or when told. */
export async function setCounter(
  sql: Sql | Tx,
  userId: string,
  meter: string,
  period: string,
  {
    used,
    held = 0,
    resetsIn = period === 'minute' ? '45 seconds' : '1 hour',
  }: { used: number; held?: number; resetsIn?: string },
): Promise<void> {
  const until = sql`now() + ${resetsIn}::interval`
  const isHeld = meter.startsWith('ai_') && meter !== 'ai_requests'
  if (isHeld || /^(?:ai|chat_completions|embeddings|images_generations)_requests$/.test(meter)) {
    const resets = isHeld ? { day: 'day_resets_at', month: 'month_resets_at' }[period] : 'minute_resets_at'
    if (meter !== 'ai_concurrency')
      await sql`update private.accounts set ${sql(`${meter}_used`)} = ${used} where user_id = ${userId}`
    if (isHeld) await sql`update private.accounts set ${sql(`${meter}_held`)} = ${held} where user_id = ${userId}`
    if (resets) await sql`update private.accounts set ${sql(resets)} = ${until} where user_id = ${userId}`
    return
  }
  await sql`
    insert into private.usage_counts (user_id, meter, period, used, resets_at) values (${userId}, ${meter}, ${period}, ${used}, ${until})
    on conflict (user_id, meter, period) do update set used = excluded.used, resets_at = excluded.resets_at`
}

export async function setLimit(
  sql: Sql | Tx,
  userId: string,
  meter: string,
  period: string,
  amount: number | null,
): Promise<void> {
  await sql`
    insert into public.limit_overrides (user_id, meter, period, amount)
    values (${userId}, ${meter}, ${period}, ${amount})
    on conflict (user_id, meter, period) do update set amount = excluded.amount`
}

/** The security events of an account, as 'type severity'. */
export const eventsOf = async (tx: Sql | Tx, userId: string): Promise<string[]> => {
  const rows = await tx`
    select type || ' ' || severity as event from public.security_events where user_id = ${userId} order by 1`
  return rows.map((row) => row.event)
}
