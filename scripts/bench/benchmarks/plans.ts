/**
 * Whether admission and settlement grow with the project: the pages that each looks at, with 10,000, 100,000 and 1,000,000 users
 * and as many rows in the usage log and the ledger, and whether any plan reads a table from end to end.
 */
import postgres from 'postgres'
import { type Explained, explaining } from '../../shared/explain-plans.ts'
import type { BenchResult, BenchWorld } from '../types.ts'
import { quantile } from './gateway/quantile.ts'
import { modelName, type Session, seed } from './gateway/seed.ts'

const sizes = [10_000, 100_000, 1_000_000]
const calls = 60

type Pages = { admission: number; settlement: number; whole: string[] }

/** @public Called by the name of its file. */
export async function bench({ createDatabase, superuserUrl, progress, scale }: BenchWorld): Promise<BenchResult[]> {
  await createDatabase('plans')
  const url = superuserUrl('plans')
  await seed(url, 1, 'http://127.0.0.1:9/v1', 'http://127.0.0.1:9')
  const found = new Map<number, Pages>()
  let users = 1
  for (const size of sizes.map((full) => Math.round(full * scale))) {
    progress(`filling up to ${size} users, calls and entries`)
    await grow(url, users, size)
    users = size
    found.set(size, await measure(url))
    progress(`${size} users: ${JSON.stringify(found.get(size))}`)
  }
  const [small, , large] = [...found.values()]
  if (!small || !large) throw new Error('nothing was measured')
  const note = (what: 'admission' | 'settlement') => [...found].map(([size, one]) => `${size}: ${one[what]}`).join(', ')
  const whole = [...found.values()].flatMap((one) => one.whole)
  const growth = { unit: 'ratio', better: 'lower', target: 1.5 } as const
  return [
    {
      name: 'pages of an admission, 100 times the users',
      ...growth,
      value: large.admission / small.admission,
      note: note('admission'),
    },
    {
      name: 'pages of a settlement, 100 times the users',
      ...growth,
      value: large.settlement / small.settlement,
      note: note('settlement'),
    },
    {
      name: 'tables read from end to end',
      unit: 'tables',
      target: 0,
      value: new Set(whole).size,
      note: [...new Set(whole)].join(', '),
    },
  ]
}

/** Copies of the first user and of all that is theirs, without triggers: a million sign-ups would take an hour. */
async function grow(url: string, from: number, to: number): Promise<void> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  const copies = async (table: string, key: string, changes: string) => {
    const columns = await sql`
      select quote_ident(attname) as name from pg_attribute
      where attrelid = ${table}::regclass and attnum > 0 and not attisdropped and attgenerated = '' order by attnum`
    const names = columns.map(({ name }) => name)
    await sql.unsafe(`
      insert into ${table} (${names.join(', ')})
      select ${names.map((name) => `(c.made).${name}`).join(', ')}
      from (select t from ${table} t where t.${key} = (select id from first_user) limit 1) o (t), new_users n,
        lateral (select jsonb_populate_record(o.t, jsonb_build_object(${changes})) as made offset 0) c`)
  }
  try {
    await sql.unsafe(`
      set session_replication_role = replica;
      create temp table first_user as select id from auth.users order by created_at limit 1;
      create temp table new_users as select gen_random_uuid() as id, gen_random_uuid() as session_id, private.uuid_v7() as call_id, i
        from generate_series(${from + 1}, ${to}) i`)
    await copies('auth.users', 'id', "'id', n.id, 'email', 'plans-' || n.i || '@example.com'")
    await copies('auth.sessions', 'user_id', "'id', n.session_id, 'user_id', n.id")
    await copies('public.profiles', 'id', "'id', n.id")
    await copies('private.accounts', 'user_id', "'user_id', n.id")
    await copies('public.credit_entries', 'user_id', "'id', n.call_id, 'user_id', n.id")
    await sql.unsafe(`
      insert into public.ai_calls (id, created_at, user_id, request_id, endpoint, model_id, stream, state, request_bytes)
        select n.call_id, private.uuid_v7_time(n.call_id), n.id, 'plans', 'chat.completions', '${modelName(0, 0)}', false, 'settled', 1
        from new_users n;
      drop table new_users; drop table first_user;
      set session_replication_role = origin`)
    await sql`vacuum (analyze)`
  } finally {
    await sql.end()
  }
}

/** The median of calls of random users, without the first ones, which read catalogues and begin periods. */
function measure(url: string): Promise<Pages> {
  return explaining(url, async (sql, take) => {
    const sessions = await sql<Session[]>`
      select user_id as "userId", id as "sessionId" from auth.sessions
      where id >= ${crypto.randomUUID()} order by id limit ${calls}`
    const admission: number[] = []
    const settlement: number[] = []
    const whole: string[] = []
    const note = (pages: number[], round: number) => {
      const plans = take()
      if (round > 0) pages.push(plans.at(-1)?.blocks ?? Number.NaN)
      whole.push(...plans.flatMap(readFromEndToEnd))
    }
    for (const { userId, sessionId } of sessions)
      for (const round of [0, 1]) {
        take()
        const [admitted] = await sql`select private.admit_ai_call(${sql.json(request(userId, sessionId))}) as answer`
        note(admission, round)
        const [settled] =
          await sql`select private.settle_ai_call(${admitted?.answer.call_id}, ${sql.json(outcome)}) as answer`
        note(settlement, round)
        if (!settled?.answer.settled) throw new Error('a call was not settled')
      }
    return { admission: quantile(admission, 0.5), settlement: quantile(settlement, 0.5), whole }
  })
}

const readFromEndToEnd = ({ scans }: Explained): string[] =>
  scans.flatMap(({ relation, node }) => (node === 'Seq Scan' ? [relation] : []))

const request = (user_id: string, session_id: string) => ({
  ...{ request_id: 'plans', user_id, session_id, endpoint: 'chat.completions', model: modelName(0, 0) },
  ...{ prompt_tokens_max: 100, max_output_tokens: 100, choices: 1, images: 0, stream: false, request_bytes: 300 },
})

const outcome = {
  ...{ result: 'succeeded', http_status: 200, error_code: null, usage_source: 'provider', attempts: 1, response: null },
  usage: { prompt_tokens: 30, completion_tokens: 50, cached_tokens: 0, reasoning_tokens: 0, images: 0, cost_usd: null },
  ...{ response_bytes: 700, duration_ms: 20, first_token_ms: null, model: modelName(0, 0) },
}
