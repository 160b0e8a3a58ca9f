/**
 * What admission costs in SQL alone, durably committed: 16 connections that admit calls of one user beside as many updates of one
 * row, and calls of 1,000 users beside updates spread over 100,000 rows. Settlements are not timed.
 */
import postgres from 'postgres'
import type { BenchResult, BenchWorld } from '../bench-types.ts'
import { summary } from './gateway/quantile.ts'
import { modelName, type Session, seed } from './gateway/seed.ts'

const connections = 16
const users = 1_000
const rows = 100_000
const windowMs = 500

type Statement = () => PromiseLike<unknown>
type SideName = 'admit hot' | 'update hot' | 'admit spread' | 'update spread'

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

/** Admits one call and remembers it. A refusal is an error: then nothing would be measured. */
function admission(sql: postgres.Sql, open: string[]) {
  return async ({ userId, sessionId }: Session) => {
    const request = {
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
      user_agent: 'bench',
      idempotency_key: null,
      body_hash: null,
    }
    const [row] = await sql`select private.admit_ai_call(${sql.json(request)}) as answer`
    if (!row?.answer?.admitted) throw new Error(`an admission was refused: ${JSON.stringify(row?.answer)}`)
    open.push(row.answer.call_id)
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
  const calls = open.splice(0)
  await Promise.all(calls.map((id) => sql`select private.settle_ai_call(${id}::uuid, ${sql.json(outcome)})`))
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
  const update = (id: number) => sql`update bench.rows set n = n + 1 where id = ${id}`
  const sides: Record<SideName, Statement> = {
    'admit hot': () => admit(hot),
    'update hot': () => update(0),
    'admit spread': () => admit(sessions[next++ % sessions.length] ?? hot),
    'update spread': () => update((next++ * 7_919) % rows),
  }
  const order = Object.keys(sides) as SideName[]
  const ratios = { hot: [] as number[], spread: [] as number[] }
  for (let round = -1; round < rounds; round += 1) {
    const rates = new Map<SideName, number>()
    for (const name of round % 2 === 0 ? order : order.toReversed()) {
      rates.set(name, await rate(sides[name]))
      await settle(sql, open)
    }
    if (round < 0) continue // Warming up.
    for (const kind of ['hot', 'spread'] as const)
      ratios[kind].push((rates.get(`admit ${kind}`) ?? 0) / (rates.get(`update ${kind}`) ?? Number.NaN))
    const text = [...rates].map(([name, perSecond]) => `${name} ${perSecond.toFixed(0)}/s`).join(', ')
    progress(`round ${round + 1} of ${rounds}: ${text}`)
  }
  return [
    { name: 'admission of one user over update of one row', unit: 'ratio', target: 0.7, ...summary(ratios.hot) },
    { name: 'admission of 1,000 users over spread updates', unit: 'ratio', target: 0.65, ...summary(ratios.spread) },
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
