/**
 * What admission costs in SQL alone, durably committed: 16 connections that admit calls of one user beside as many updates of one
 * row, and calls of 1,000 users beside updates spread over 100,000 rows; a call a statement, and 16, as the gateway sends calls that
 * wait together. Settlements are not timed.
 */
import postgres from 'postgres'
import type { BenchResult, BenchWorld } from '../types.ts'
import { quantile } from './gateway/quantile.ts'
import { modelName, type Session, seed } from './gateway/seed.ts'

const connections = 16
const users = 1_000
const rows = 100_000
const windowMs = 300
const together = 16

type Statement = () => PromiseLike<unknown>
type SideName = `${'admit' | 'admit together' | 'update'} ${'hot' | 'spread'}`

/** @public Called by the name of its file. */
export async function bench({ createDatabase, superuserUrl, progress, scale }: BenchWorld): Promise<BenchResult[]> {
  const url = await createDatabase('admission')
  progress(`making ${users} accounts and ${rows} rows`)
  const { sessions } = await seed(superuserUrl('admission'), users, 'http://127.0.0.1:9/v1', 'http://127.0.0.1:9')
  const sql = postgres(url, { max: connections, onnotice: () => {} })
  try {
    await sql`
      create table bench.rows (id integer primary key, n bigint not null) with (fillfactor = 50)`
    await sql`insert into bench.rows select i, 0 from generate_series(0, ${rows - 1}::integer) i`
    await sql`vacuum (analyze) bench.rows`
    return await measure(sql, sessions, Math.max(5, Math.round(40 * scale)), progress)
  } finally {
    await sql.end({ timeout: 1 })
  }
}

/** Admits calls in one statement and remembers them. A refusal is an error: then nothing would be measured. */
function admission(sql: postgres.Sql, open: string[]) {
  return async (callers: Session[]) => {
    const requests = callers.map(({ userId, sessionId }) => ({
      request_id: crypto.randomUUID(),
      user_id: userId,
      session_id: sessionId,
      endpoint: 'chat.completions',
      model: modelName(0, 0),
      prompt_tokens_max: 100,
      max_output_tokens: 100,
      choices: 1,
      images: 0,
      stream: false,
      request_bytes: 300,
      ip: '127.0.0.1',
    }))
    const [row] = await sql<{ answers: { admitted: boolean; call_id: string }[] }[]>`
      select private.admit_ai_calls(${sql.json(requests)}) as answers`
    const answers = row?.answers ?? []
    if (answers.length !== callers.length || !answers.every(({ admitted }) => admitted))
      throw new Error(`an admission was refused: ${JSON.stringify(answers.find(({ admitted }) => !admitted))}`)
    open.push(...answers.map(({ call_id }) => call_id))
  }
}

async function settle(sql: postgres.Sql, open: string[]): Promise<void> {
  const usage = {
    prompt_tokens: 30,
    completion_tokens: 50,
    cached_tokens: 0,
    reasoning_tokens: 0,
    images: 0,
    cost_usd: null,
  }
  const outcome = {
    ...{
      result: 'succeeded',
      http_status: 200,
      error_code: null,
      usage,
      usage_source: 'provider',
      model: modelName(0, 0),
    },
    ...{ response_bytes: 700, duration_ms: 20, first_token_ms: null, attempts: 1, response: null },
  }
  while (open.length > 0)
    await sql`select private.settle_ai_calls(${sql.json(open.splice(0, 64).map((call_id) => ({ call_id, outcome })))})`
}

async function measure(
  sql: postgres.Sql,
  sessions: Session[],
  rounds: number,
  progress: (text: string) => void,
): Promise<BenchResult[]> {
  const open: string[] = []
  const admit = admission(sql, open)
  const [hot] = sessions
  if (!hot) throw new Error('there are no users')
  let next = 0
  const anyone = () => sessions[next++ % sessions.length] ?? hot
  const many = (one: () => Session) => Array.from({ length: together }, one)
  const update = (id: number) => sql`update bench.rows set n = n + 1 where id = ${id}`
  const sides: Record<SideName, Statement> = {
    'admit hot': () => admit([hot]),
    'admit together hot': () => admit(many(() => hot)),
    'update hot': () => update(0),
    'admit spread': () => admit([anyone()]),
    'admit together spread': () => admit(many(anyone)),
    'update spread': () => update((next++ * 7_919) % rows),
  }
  const order = Object.keys(sides) as SideName[]
  const rates = new Map<SideName, number[]>(order.map((name) => [name, []]))
  for (let round = -3; round < rounds; round += 1) {
    const text: string[] = []
    for (const name of round % 2 === 0 ? order : order.toReversed()) {
      const found = (await rate(sides[name])) * (name.startsWith('admit together') ? together : 1)
      await settle(sql, open)
      // The first ones warm up: every connection plans its statements for itself.
      if (round >= 0) rates.get(name)?.push(found)
      text.push(`${name} ${found.toFixed(0)}/s`)
    }
    if (round >= 0) progress(`round ${round + 1} of ${rounds}: ${text.join(', ')}`)
  }
  // Of each its fastest tenth: what slows windows down on a shared machine is never the statement.
  const fastest = (name: SideName) => quantile(rates.get(name) ?? [], 0.9)
  const ratio = (kind: 'admit' | 'admit together', whose: 'hot' | 'spread') => ({
    unit: 'ratio',
    target: whose === 'hot' ? 0.7 : 0.65,
    value: fastest(`${kind} ${whose}`) / fastest(`update ${whose}`),
    note: `${fastest(`${kind} ${whose}`).toFixed(0)} beside ${fastest(`update ${whose}`).toFixed(0)} a second`,
  })
  return [
    { name: 'admission of one user over update of one row', ...ratio('admit', 'hot') },
    { name: 'the same, 16 calls a statement', ...ratio('admit together', 'hot') },
    { name: 'admission of 1,000 users over spread updates', ...ratio('admit', 'spread') },
    { name: 'the same, 16 calls a statement', ...ratio('admit together', 'spread') },
  ]
}

/** Statements a second, on all connections at once. */
async function rate(statement: Statement): Promise<number> {
  const startedAt = performance.now()
  let done = 0
  const work = async () => {
    while (performance.now() - startedAt < windowMs) {
      await statement()
      done += 1
    }
  }
  await Promise.all(Array.from({ length: connections }, work))
  return (done * 1000) / (performance.now() - startedAt)
}
