/**
 * What a chart costs when there are ten million snapshots: a thousand users with ten thousand totals each over a year, written in
 * the order of time as production does, in partitions by month; any range in any number of points. A smaller scale has fewer users.
 */
import postgres from 'postgres'
import { explaining } from '../../shared/explain-plans.ts'
import type { BenchResult, BenchWorld } from '../types.ts'
import { quantile } from './gateway/quantile.ts'

const perUser = 10_000
const days = 365
const rounds = 100
const from = new Date(Date.now() - days * 86_400_000)
const ranges = [
  { name: 'a day in 288 points', days: 1, points: 288 },
  { name: 'three months in 200 points', days: 90, points: 200 },
  { name: 'a year in 10 points', days, points: 10 },
  { name: 'a year in 1000 points', days, points: 1000 },
]

type User = { id: string; session_id: string }

/** @public Called by the name of its file. */
export async function bench({ createDatabase, superuserUrl, progress, scale }: BenchWorld): Promise<BenchResult[]> {
  const name = 'portfolio'
  await createDatabase(name)
  const url = superuserUrl(name)
  const users = await load(url, Math.max(2, Math.round(1000 * scale)), progress)
  const results: BenchResult[] = []
  for (const range of ranges) {
    const { ms, pages } = await measure(url, users, range)
    progress(`${range.name}: ${quantile(ms, 0.5).toFixed(1)} ms, ${pages} pages`)
    results.push({
      name: `series: ${range.name}`,
      unit: 'ms',
      target: 50,
      value: quantile(ms, 0.5),
      note: `median; 9 of 10 within ${quantile(ms, 0.9).toFixed(1)} ms; ${pages} pages; ${users.length * perUser} snapshots`,
    })
  }
  return results
}

async function load(url: string, count: number, progress: (text: string) => void): Promise<User[]> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    progress(`making ${count} accounts`)
    const users = await sql<User[]>`
      insert into auth.users (id, email, email_confirmed_at, raw_user_meta_data, aud, role, created_at)
      select gen_random_uuid(), 'portfolio-' || i || '@example.com', now(), '{}', 'authenticated', 'authenticated', now()
      from generate_series(1, ${count}::int) i returning id, gen_random_uuid() as session_id`
    await sql`
      insert into auth.sessions (id, user_id, aal, created_at)
      select *, 'aal1', now() from unnest(${users.map((user) => user.session_id)}::uuid[], ${users.map((user) => user.id)}::uuid[])`
    await sql`select private.create_portfolio_partitions()`
    for (let month = 0; month <= 12; month += 1) {
      const [first, next] = [month, month + 1].map(
        (n) => new Date(Date.UTC(from.getUTCFullYear(), from.getUTCMonth() + n)),
      )
      const table = `portfolio_snapshots_${first?.toISOString().slice(0, 7).replace('-', '')}`
      await sql.unsafe(`
        create table if not exists private.${table} partition of public.portfolio_snapshots
        for values from ('${first?.toISOString()}') to ('${next?.toISOString()}')`)
    }
    progress(`writing ${count * perUser} snapshots`)
    await sql`
      create temp table owners as select id, row_number() over () as n from auth.users where email like 'portfolio-%'`
    for (let part = 0; part < 10; part += 1)
      await sql`
        insert into public.portfolio_snapshots (user_id, taken_at, value, quote_currency)
        select o.id, ${from}::timestamptz + make_interval(secs => (i + o.n::float8 / ${count}::int) * ${(days * 86_400) / perUser}::float8),
          10000 + i + o.n, 'USD'
        from generate_series(${(part * perUser) / 10}::int, ${((part + 1) * perUser) / 10 - 1}::int) i cross join owners o`
    await sql`vacuum (analyze)`
    return users
  } finally {
    await sql.end()
  }
}

/** The time of a call as its caller sees it, after the first one of the connection; and the pages that the whole call looks at. */
function measure(url: string, users: User[], range: (typeof ranges)[number]): Promise<{ ms: number[]; pages: number }> {
  return explaining(url, async (sql, take) => {
    const to = new Date()
    const since = new Date(to.getTime() - range.days * 86_400_000)
    const ask = async ({ id, session_id }: User) => {
      const claims = JSON.stringify({ sub: id, session_id, role: 'authenticated', aal: 'aal1' })
      await sql`select set_config('request.jwt.claims', ${claims}, false)`
      const began = performance.now()
      const points = await sql`select * from public.get_my_portfolio_series(${since}, ${to}, ${range.points})`
      if (points.length < 9) throw new Error(`the series has ${points.length} points only`)
      return performance.now() - began
    }
    await ask(users[0] ?? { id: '', session_id: '' })
    take()
    await ask(users[1] ?? { id: '', session_id: '' })
    const pages = Math.max(...take().map(({ blocks }) => blocks))
    await sql`set auto_explain.log_min_duration = -1`
    await sql`set role authenticated`
    const ms: number[] = []
    for (let round = 0; round < rounds; round += 1) {
      const user = users[Math.floor(Math.random() * users.length)]
      if (user) ms.push(await ask(user))
    }
    return { ms, pages }
  })
}
