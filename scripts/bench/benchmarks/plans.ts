/**
 * Whether admission and settlement grow with the project: the pages that each looks at per call, with 10,000, 100,000 and 1,000,000
 * users and ten calls of each in the usage log, and whether any plan reads a table from end to end.
 */
import postgres from 'postgres'
import { type Explained, explaining } from '../../shared/explain-plans.ts'
import { admit, fillCalls, settle, tablesOfUsers } from '../private-sql.ts'
import type { BenchResult, BenchWorld } from '../types.ts'
import { quantile } from './gateway/quantile.ts'
import { type Session, seed } from './gateway/seed.ts'

const sizes = [10_000, 100_000, 1_000_000]
const callsPerUser = 10
const together = 16
/** Lone calls, and batches. */
const measured = { alone: 60, together: 15 }
const usersAtOnce = 50_000
/** For all that is measured, and some more. */
const leastUsers = 2 * (measured.alone + measured.together * together)

const whats = ['admission', 'settlement', 'admission in batches', 'settlement in batches'] as const
type Pages = Record<(typeof whats)[number], number> & { whole: string[] }

/** @public Called by the name of its file. */
export async function bench({ createDatabase, superuserUrl, progress, scale }: BenchWorld): Promise<BenchResult[]> {
  await createDatabase('plans')
  const url = superuserUrl('plans')
  await seed(url, 1, 'http://127.0.0.1:9/v1', 'http://127.0.0.1:9')
  const found = new Map<number, Pages>()
  let users = 1
  for (const size of sizes.map((full) => Math.max(leastUsers, Math.round(full * scale)))) {
    await grow(url, users, size, progress)
    users = size
    found.set(size, await measure(url))
    progress(`${size} users, ${size * callsPerUser} calls: ${JSON.stringify(found.get(size))}`)
  }
  const [small, , large] = [...found.values()]
  if (!small || !large) throw new Error('nothing was measured')
  const whole = [...new Set([...found.values()].flatMap((one) => one.whole))]
  return [
    ...whats.map((what): BenchResult => {
      const pages = [...found].map(([size, one]) => `${size} users: ${one[what].toFixed(1)}`).join(', ')
      const value = large[what] / small[what]
      return {
        name: `pages per call, ${what}, 100 times the users`,
        unit: 'ratio',
        better: 'lower',
        target: 1.5,
        value,
        note: pages,
      }
    }),
    {
      name: 'tables of more than a page that are read from end to end',
      unit: 'tables',
      target: 0,
      value: whole.length,
      note: whole.join(', '),
    },
  ]
}

/** Copies of the first user and of all that is theirs, without triggers: a million sign-ups would take an hour. */
async function grow(url: string, from: number, to: number, progress: (text: string) => void): Promise<void> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  const copy = async ([table, key, changes]: (typeof tablesOfUsers)[number]) => {
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
      create temp table new_users (id uuid, session_id uuid, entry_id uuid, i integer)`)
    for (let done = from; done < to; done += usersAtOnce) {
      const until = Math.min(to, done + usersAtOnce)
      // In the order of their ids, so that indexes by user are filled from left to right.
      await sql`truncate new_users`
      await sql`
        insert into new_users
        select id, gen_random_uuid(), private.uuid_v7(), i
        from (select gen_random_uuid() as id, i from generate_series(${done + 1}::integer, ${until}::integer) i) n order by id`
      for (const table of tablesOfUsers) await copy(table)
      await fillCalls(sql, callsPerUser)
      progress(`filled up to ${until} of ${to} users and ${until * callsPerUser} calls`)
    }
    await sql`vacuum (analyze)`
  } finally {
    await sql.end()
  }
}

/** The median of calls of random users, without the first ones, which read catalogues and begin periods. */
function measure(url: string): Promise<Pages> {
  return explaining(url, async (sql, take) => {
    await beLikeGateway(sql)
    const wanted = measured.alone + measured.together * together
    const sessions = await sql<Session[]>`
      select user_id as "userId", id as "sessionId" from auth.sessions
      where id >= ${crypto.randomUUID().replace(/^./, '0')} order by id limit ${wanted}`
    const pages = new Map<string, number[]>(whats.map((what) => [what, []]))
    const whole: string[] = []
    const note = (what: (typeof whats)[number], calls: number, round: number) => {
      const plans = take()
      if (round > 0) pages.get(what)?.push((plans.at(-1)?.blocks ?? Number.NaN) / calls)
      whole.push(...plans.flatMap(readFromEndToEnd))
    }
    const batches = Array.from({ length: Math.floor((sessions.length - measured.alone) / together) }, (_, at) =>
      sessions.slice(measured.alone + at * together, measured.alone + (at + 1) * together),
    )
    for (const users of [...sessions.slice(0, measured.alone).map((session) => [session]), ...batches])
      for (const round of [0, 1]) {
        const suffix = users.length > 1 ? ' in batches' : ''
        take()
        const held = await admit(sql, users)
        note(`admission${suffix}`, users.length, round)
        await settle(sql, held)
        note(`settlement${suffix}`, users.length, round)
      }
    const median = (what: string) => quantile(pages.get(what) ?? [], 0.5)
    // An index of a table that is one page would have to be read beside it.
    const grown = await sql`select relname from pg_class where relname = any (${whole}) and relpages > 1`
    const names = grown.map(({ relname }) => String(relname))
    return { ...Object.fromEntries(whats.map((what) => [what, median(what)])), whole: names } as Pages
  })
}

/** A superuser sees plans, and has not the settings of the role that makes them. */
async function beLikeGateway(sql: postgres.Sql): Promise<void> {
  const settings = await sql<{ name: string; value: string }[]>`
    select split_part(setting, '=', 1) as name, substring(setting from position('=' in setting) + 1) as value
    from pg_db_role_setting, unnest(setconfig) setting where setrole = 'palisade_gateway'::regrole`
  for (const { name, value } of settings)
    if (!/timeout/.test(name)) await sql`select set_config(${name}, ${value}, false)`
}

const readFromEndToEnd = ({ scans }: Explained): string[] =>
  scans.flatMap(({ relation, node }) => (node === 'Seq Scan' ? [relation] : []))
