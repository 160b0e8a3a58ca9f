/**
 * What admission costs in SQL alone, durably committed: 16 connections that admit calls of one user beside as many updates of one
 * row, and calls of 1,000 users beside updates spread over 100,000 rows; a call a statement, and 16, as the gateway sends calls that
 * wait together. Settlements are not timed.
 */
import postgres from 'postgres'
import { admit, type Held, settle } from '../private-sql.ts'
import { figureResult } from '../results.ts'
import type { BenchResult, BenchWorld } from '../types.ts'
import { quantile } from './gateway/quantile.ts'
import { type Session, seed } from './gateway/seed.ts'

const connections = 16
const users = 1_000
const rows = 100_000
const windowMs = 300
const together = 16

type Statement = () => PromiseLike<unknown>
type SideName = `${'admit' | 'admit together' | 'update'} ${'hot' | 'spread'}`

/** @public Called by the name of its file. */
export async function bench(world: BenchWorld): Promise<BenchResult[]> {
  const { createDatabase, superuserUrl, progress, scale, rounds } = world
  const url = await createDatabase('admission')
  progress(`making ${users} accounts and ${rows} rows`)
  const { sessions, gatewayUrl } = await seed(
    superuserUrl('admission'),
    users,
    'http://127.0.0.1:9/v1',
    'http://127.0.0.1:9',
  )
  const [sql, gateway] = [url, gatewayUrl].map((to) => postgres(to, { max: connections, onnotice: () => {} }))
  if (!sql || !gateway) throw new Error('there are no connections')
  try {
    await sql`
      create table bench.rows (id integer primary key, n bigint not null) with (fillfactor = 50)`
    await sql`insert into bench.rows select i, 0 from generate_series(0, ${rows - 1}::integer) i`
    await sql`vacuum (analyze) bench.rows`
    return await measure({ sql, gateway }, sessions, rounds ?? Math.max(5, Math.round(40 * scale)), progress)
  } finally {
    await sql.end({ timeout: 1 })
    await gateway.end({ timeout: 1 })
  }
}

async function measure(
  { sql, gateway }: { sql: postgres.Sql; gateway: postgres.Sql },
  sessions: Session[],
  rounds: number,
  progress: (text: string) => void,
): Promise<BenchResult[]> {
  const open: Held[] = []
  const begin = async (callers: Session[]) => void open.push(...(await admit(gateway, callers)))
  const [hot] = sessions
  if (!hot) throw new Error('there are no users')
  let next = 0
  const anyone = () => sessions[next++ % sessions.length] ?? hot
  const many = (one: () => Session) => Array.from({ length: together }, one)
  const update = (id: number) => sql`update bench.rows set n = n + 1 where id = ${id}`
  const sides: Record<SideName, Statement> = {
    'admit hot': () => begin([hot]),
    'admit together hot': () => begin(many(() => hot)),
    'update hot': () => update(0),
    'admit spread': () => begin([anyone()]),
    'admit together spread': () => begin(many(anyone)),
    'update spread': () => update((next++ * 7_919) % rows),
  }
  const order = Object.keys(sides) as SideName[]
  const rates = new Map<SideName, number[]>(order.map((name) => [name, []]))
  for (let round = -3; round < rounds; round += 1) {
    const text: string[] = []
    for (const name of round % 2 === 0 ? order : order.toReversed()) {
      const found = (await rate(sides[name])) * (name.startsWith('admit together') ? together : 1)
      while (open.length > 0) await settle(gateway, open.splice(0, 64))
      // The first ones warm up: every connection plans its statements for itself.
      if (round >= 0) rates.get(name)?.push(found)
      text.push(`${name} ${found.toFixed(0)}/s`)
    }
    if (round >= 0) progress(`round ${round + 1} of ${rounds}: ${text.join(', ')}`)
  }
  // Of each its fastest tenth: what slows windows down on a shared machine is never the statement.
  const fastest = (name: SideName) => quantile(rates.get(name) ?? [], 0.9)
  const found = (kind: 'admit' | 'admit together', whose: 'hot' | 'spread') => ({
    value: fastest(`${kind} ${whose}`) / fastest(`update ${whose}`),
    note: `${fastest(`${kind} ${whose}`).toFixed(0)} beside ${fastest(`update ${whose}`).toFixed(0)} a second`,
  })
  const [hotAlone, spreadAlone] = [found('admit', 'hot'), found('admit', 'spread')]
  const together16 = { unit: 'ratio', better: 'higher' } as const
  return [
    figureResult('admissionHot', hotAlone.value, hotAlone.note),
    figureResult('admissionSpread', spreadAlone.value, spreadAlone.note),
    {
      name: 'admission of one user, 16 calls a statement, over one-row update',
      ...together16,
      ...found('admit together', 'hot'),
    },
    {
      name: 'admission of spread users, 16 calls a statement, over one-row update',
      ...together16,
      ...found('admit together', 'spread'),
    },
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
