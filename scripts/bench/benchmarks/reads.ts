/** What row-level security costs: the same statements as `authenticated`, behind policies, and as the table's owner. */
import postgres from 'postgres'
import type { BenchResult, BenchWorld } from '../types.ts'

type Reader = postgres.ReservedSql
type User = { id: string; sessionId: string; teams: string[] }
/** One side of a comparison: runs its statement once for a user. `enter` sets role and claims, outside the timed part. */
type Side = { sql: Reader; run(user: User): PromiseLike<unknown> }

/** What asks for session, status and second factor in one lookup, once per statement. */
const helpers = ['my_user_id']

/** @public Called by the name of its file. */
export async function bench({ createDatabase, superuserUrl, progress, scale }: BenchWorld): Promise<BenchResult[]> {
  const name = 'row_security'
  const url = await createDatabase(name)
  const rows = Math.round(1_000_000 * scale)
  const users = Math.round(10_000 * scale)
  const admin = postgres(superuserUrl(name), { max: 1, onnotice: () => {} })
  const pool = postgres(url, { max: 2, onnotice: () => {} })
  try {
    await load(admin, rows, users, progress)
    const found = await admin<User[]>`
      select u.id, s.id as "sessionId",
        array(select team_id::text from bench.members m where m.user_id = u.id) as teams
      from auth.users u join auth.sessions s on s.user_id = u.id order by md5(u.id::text) limit 400`
    const [owner, caller] = [await pool.reserve(), await pool.reserve()]
    return await measure(owner, caller, [...found], progress)
  } finally {
    await Promise.all([admin.end({ timeout: 1 }), pool.end({ timeout: 1 })])
  }
}

async function load(sql: postgres.Sql, rows: number, users: number, progress: (text: string) => void): Promise<void> {
  progress(`making ${users} accounts`)
  // In parts, with fresh statistics: the triggers' plans must follow the growth of their tables.
  for (let from = 1; from <= users; from += 500) {
    await sql.unsafe(`
      insert into auth.users (id, email, email_confirmed_at, raw_user_meta_data, aud, role, created_at)
      select gen_random_uuid(), 'bench-' || i || '@example.com', now(), '{}', 'authenticated', 'authenticated', now()
      from generate_series(${from}, ${Math.min(users, from + 499)}) i`)
    await sql.unsafe(
      'vacuum (analyze) auth.users, public.profiles, public.consents, private.registrations, private.accounts, public.credit_entries',
    )
  }
  await sql.unsafe(`
    insert into auth.sessions (id, user_id, aal, created_at)
    select gen_random_uuid(), id, 'aal1', now() from auth.users;
    create schema bench; grant usage on schema bench to authenticated;
    create table bench.owners as select row_number() over () as n, id from auth.users; create index on bench.owners (n);
    alter table public.documents disable trigger user`)
  progress(`writing ${rows} documents`)
  await sql.unsafe(`
    insert into public.documents (user_id, title, content, created_at)
    select o.id, 'Document ' || i, '{"text": "some words"}', timestamptz '2026-01-01' + make_interval(secs => hashint4(i) % 30000000)
    from generate_series(1, ${rows}) i join bench.owners o on o.n = 1 + abs(hashint4(i)::bigint) % ${users}`)
  progress('copying them for the comparisons')
  await sql.unsafe(`
    create table bench.owned (like public.documents including all);
    insert into bench.owned select * from public.documents;
    alter table bench.owned enable row level security;
    grant select, insert, update on bench.owned to authenticated;
    create policy "owners" on bench.owned to authenticated
      using (user_id = (select auth.uid())) with check (user_id = (select auth.uid()));
    create table bench.members (user_id uuid, team_id uuid, primary key (user_id, team_id));
    insert into bench.members select o.id, md5('team' || (o.n * k) % ${Math.max(10, Math.round(users / 5))})::uuid
    from bench.owners o cross join generate_series(1, 3) k on conflict do nothing;
    create function bench.my_team_ids() returns setof uuid language sql stable security definer set search_path = ''
      as $$ select team_id from bench.members where user_id = (select auth.uid()) $$;
    create function bench.is_my_team(team uuid) returns boolean language sql stable security definer set search_path = ''
      as $$ select exists (select from bench.members where user_id = (select auth.uid()) and team_id = team) $$;
    create table bench.team_sets (id integer, team_id uuid, created_at timestamptz);
    insert into bench.team_sets
    select i, md5('team' || i % ${Math.max(10, Math.round(users / 5))})::uuid, now() from generate_series(1, ${rows}) i;
    create table bench.team_rows (like bench.team_sets); insert into bench.team_rows select * from bench.team_sets;
    create index on bench.team_sets (team_id, created_at); create index on bench.team_rows (team_id, created_at);
    alter table bench.team_sets enable row level security; alter table bench.team_rows enable row level security;
    grant select on bench.team_sets, bench.team_rows to authenticated;
    create policy "sets" on bench.team_sets to authenticated using (team_id = any (array(select bench.my_team_ids())));
    create policy "rows" on bench.team_rows to authenticated using (bench.is_my_team(team_id));
    alter table public.documents enable trigger user; alter schema bench owner to postgres`)
  for (const table of ['owned', 'members', 'owners', 'team_sets', 'team_rows'])
    await sql.unsafe(`alter table bench.${table} owner to postgres`)
  await sql.unsafe('vacuum (analyze)')
  await sql.unsafe('checkpoint')
}

/** Becomes a user on this connection, with the claims that PostgREST would set. Never inside the timed part. */
const enter = (sql: Reader, { id, sessionId }: User) => {
  const claims = { sub: id, role: 'authenticated', aud: 'authenticated', aal: 'aal1', session_id: sessionId }
  return sql`
    select set_config('role', 'authenticated', false), set_config('request.jwt.claims', ${JSON.stringify(claims)}, false)`
}

/** Ids and titles of a user's 20 newest rows: one index range. The names of tables are ours. */
const read = (sql: Reader, table: string) => ({
  sql,
  run: (user: User) =>
    sql`select id, title, created_at from ${sql(table)} where user_id = ${user.id} order by created_at desc, id desc limit 20`,
})

/** As a client without prepared statements sends it, so that it is planned every time. */
const readUnprepared = (sql: Reader, table: string) => ({
  sql,
  run: (user: User) =>
    sql.unsafe(
      `select id, title, created_at from ${table} where user_id = '${user.id}' order by created_at desc, id desc limit 20`,
    ),
})

const page = (sql: Reader, table: string) => ({
  sql,
  run: (user: User) => sql`
    select id, title, created_at from ${sql(table)}
    where user_id = ${user.id} and (created_at, id) < ('2026-08-01'::timestamptz, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
    order by created_at desc, id desc limit 20`,
})

const write = (sql: Reader, table: string) => ({
  sql,
  run: (user: User) => sql`insert into ${sql(table)} (user_id, title) values (${user.id}, 'bench') returning id`,
})

const change = (sql: Reader, table: string) => ({
  sql,
  run: (user: User) =>
    sql`update ${sql(table)} set title = 'changed' where user_id = ${user.id} and title = 'Document 0'`,
})

async function measure(
  owner: Reader,
  caller: Reader,
  users: User[],
  progress: (text: string) => void,
): Promise<BenchResult[]> {
  const results: BenchResult[] = []
  const compare = async (name: string, a: Side, b: Side, options: Options = {}) => {
    progress(`measuring ${name}`)
    const found = await interleave(name, a, b, users, options)
    for (const { value, unit, note = '' } of found) progress(`  ${value.toFixed(3)} ${unit} ${note}`)
    results.push(...found)
  }
  const sides = (make: (sql: Reader, table: string) => Side, table: string) =>
    [make(owner, table), make(caller, table)] as const
  await compare('read 20, owner policy', ...sides(read, 'bench.owned'), { target: 0.95, absolute: true })
  await compare('read 20, every check', ...sides(read, 'public.documents'), { target: 0.85, absolute: true })
  results.push(...(await insideServer(owner, caller, users)))
  await compare('keyset page, owner policy', ...sides(page, 'bench.owned'))
  await compare('keyset page, every check', ...sides(page, 'public.documents'))
  await compare('read 20, unprepared, owner policy', ...sides(readUnprepared, 'bench.owned'))
  await compare('read 20, unprepared, every check', ...sides(readUnprepared, 'public.documents'))
  const inTransaction = { transaction: true, blocks: 60 }
  await compare('insert, owner policy', ...sides(write, 'bench.owned'), inTransaction)
  await compare('insert, every check', ...sides(write, 'public.documents'), inTransaction)
  await compare('update, owner policy', ...sides(change, 'bench.owned'), inTransaction)
  await compare('update, every check', ...sides(change, 'public.documents'), inTransaction)
  const mine = (table: string): Side => ({
    sql: owner,
    run: ({ teams }) =>
      owner`select count(*), max(created_at) from ${owner(table)} where team_id = any (${teams}::uuid[])`,
  })
  const policy = (table: string): Side => ({
    sql: caller,
    run: () => caller`select count(*), max(created_at) from ${caller(table)}`,
  })
  await compare('teams, = any (array(select ...))', mine('bench.team_sets'), policy('bench.team_sets'), { blocks: 60 })
  await compare('teams, function per row', mine('bench.team_rows'), policy('bench.team_rows'), { blocks: 1, size: 1 })
  return results
}

type Options = { target?: number; absolute?: boolean; transaction?: boolean; blocks?: number; size?: number }

/** A comparison ends after that many milliseconds even on a busy machine, when it has enough blocks to say something. */
const patience = { ms: 15_000, blocks: 20 }

const quantile = (values: number[], share: number) =>
  values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))] ?? Number.NaN

/**
 * B's transaction rate over A's, from small blocks in the order A B B A, so that what slows the machine slows both. Of each
 * side's blocks the fastest tenth counts: what else the machine does only ever adds time.
 */
async function interleave(name: string, a: Side, b: Side, users: User[], options: Options): Promise<BenchResult[]> {
  const { blocks = 200, size = 25, transaction = false } = options
  const times = { a: [] as number[], b: [] as number[], ratios: [] as number[] }
  const block = async (side: Side, user: User) => {
    if (transaction) await side.sql`begin`
    const start = performance.now()
    for (let i = 0; i < size; i += 1) await side.run(user)
    const time = (performance.now() - start) / size
    if (transaction) await side.sql`rollback`
    return time
  }
  // Enough runs for PostgreSQL to settle on a plan, for both.
  const warm = users[0]
  if (!warm) throw new Error('there are no users')
  await a.sql`reset role`
  await enter(b.sql, warm)
  if (size > 1) for (let i = 0; i < 3; i += 1) for (const side of [a, b]) await block(side, warm)
  const started = performance.now()
  for (let i = 0; i < blocks; i += 1) {
    if (i >= patience.blocks && performance.now() - started > patience.ms) break
    const user = users[i % users.length] ?? warm
    await enter(b.sql, user)
    const order = i % 2 === 0 ? [a, b, b, a] : [b, a, a, b]
    const sums = new Map([
      [a, 0],
      [b, 0],
    ])
    for (const side of order) sums.set(side, (sums.get(side) ?? 0) + (await block(side, user)) / 2)
    const [timeA, timeB] = [sums.get(a) ?? 0, sums.get(b) ?? 0]
    times.a.push(timeA)
    times.b.push(timeB)
    times.ratios.push(timeA / timeB)
  }
  const spread = [0.1, 0.9].map((share) => quantile(times.ratios, share).toFixed(3)).join(' to ')
  const micros = (values: number[]) => quantile(values, 0.1) * 1000
  const result: BenchResult = {
    name,
    unit: 'ratio',
    value: micros(times.a) / micros(times.b),
    note: `${blocks > 1 ? `single rounds p10 to p90: ${spread}; ` : ''}without ${micros(times.a).toFixed(0)} µs, with ${micros(times.b).toFixed(0)} µs`,
  }
  if (options.target !== undefined) result.target = options.target
  if (!options.absolute) return [result]
  return [
    result,
    { name: `${name}: as table owner`, unit: 'µs', value: micros(times.a) },
    { name: `${name}: as authenticated`, unit: 'µs', value: micros(times.b) },
  ]
}

/** The same read in a loop inside the server, where no client hides the difference; and the plan, with each helper once. */
async function insideServer(owner: Reader, caller: Reader, users: User[]): Promise<BenchResult[]> {
  const user = users[0]
  if (!user) return []
  await enter(caller, user)
  const plan = JSON.stringify(
    await caller`explain (verbose, costs off)
    select id from public.documents where user_id = ${user.id} order by created_at desc, id desc limit 20`,
  )
  for (const helper of helpers) {
    const times = plan.split(`private.${helper}(`).length - 1
    if (times !== 1) throw new Error(`the plan calls private.${helper} ${times} times instead of once:\n${plan}`)
  }
  const loop = async (sql: Reader, table: string) => {
    await sql.unsafe(`
      do $$
      declare
        v_start timestamptz := clock_timestamp();
      begin
        for i in 1..200 loop
          perform id, title, created_at from ${table}
          where user_id = '${user.id}' order by created_at desc, id desc limit 20;
        end loop;
        perform set_config('bench.micros', (extract(epoch from clock_timestamp() - v_start) * 1e6 / 200)::text, false);
      end $$`)
    const [row] = await sql`select current_setting('bench.micros')::float as micros`
    return Number(row?.micros)
  }
  const results: BenchResult[] = [{ name: 'plan: calls of each helper', unit: 'calls', value: 1, target: 1 }]
  for (const [what, table] of [
    ['owner policy', 'bench.owned'],
    ['every check', 'public.documents'],
  ] as const) {
    const runs: { a: number; b: number }[] = []
    for (let i = 0; i < 100; i += 1) runs.push({ a: await loop(owner, table), b: await loop(caller, table) })
    const [a, b] = [
      quantile(
        runs.map((run) => run.a),
        0.1,
      ),
      quantile(
        runs.map((run) => run.b),
        0.1,
      ),
    ]
    results.push({
      name: `inside the server, ${what}: added`,
      unit: 'µs',
      value: b - a,
      note: `${a.toFixed(1)} to ${b.toFixed(1)} µs`,
    })
  }
  return results
}
