/** Which tables a user can make grow, read from the database's catalogue, and what limits each by access-matrix.ts. */
import postgres from 'postgres'
import { growth } from './access-matrix.ts'

type Sql = postgres.Sql | postgres.TransactionSql
type Code = { name: string; body: string; isDoor: boolean }

/**
 * Doors: what users, the gateway or the Auth service may call, triggers on tables of Auth and Storage, and what Edge Functions call for a
 * user: they hand over the session.
 */
const readCode = (sql: Sql) => sql<Code[]>`
  select p.pronamespace::regnamespace || '.' || p.proname as name, lower(pg_get_functiondef(p.oid)) as body,
    exists (
      select from unnest(array['anon', 'authenticated', 'palisade_gateway', 'supabase_auth_admin']) role
      where has_function_privilege(role, p.oid, 'execute'))
    or exists (
      select from pg_trigger t join pg_class c on c.oid = t.tgrelid
      where t.tgfoid = p.oid and c.relnamespace in ('auth'::regnamespace, 'storage'::regnamespace))
    or p.proargnames && array['session_id', 'of_session', 'transfer_id'] as "isDoor"
  from pg_proc p where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace) and p.prokind = 'f'`

const readTriggers = (sql: Sql) => sql<{ table: string; name: string }[]>`
  select c.relnamespace::regnamespace || '.' || c.relname as table, p.pronamespace::regnamespace || '.' || p.proname as name
  from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_proc p on p.oid = t.tgfoid where not t.tgisinternal`

const readOpenTables = (sql: Sql) => sql<{ name: string }[]>`
  select c.relnamespace::regnamespace || '.' || c.relname as name from pg_class c
  where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) and c.relkind in ('r', 'p', 'v')
    and (has_any_column_privilege('authenticated', c.oid, 'insert') or has_any_column_privilege('anon', c.oid, 'insert'))`

const namesIn = (body: string, pattern: RegExp) => [...body.matchAll(pattern)].map((match) => match[1] ?? '')
const inserts = (body: string) => namesIn(body, /\binsert\s+into\s+((?:public|private)\.[a-z_0-9]+)/g)
const writes = (body: string) => namesIn(body, /\b(?:into|update|from)\s+((?:public|private)\.[a-z_0-9]+)/g)
const calls = (body: string) => namesIn(body, /\b((?:public|private)\.[a-z_0-9]+)\s*\(/g)

/** The tables that users make grow, each with the function, or the grant, that is the first to let them. */
async function growing(sql: Sql): Promise<Map<string, string>> {
  const [code, triggers, open] = [await readCode(sql), await readTriggers(sql), await readOpenTables(sql)]
  const bodies = Map.groupBy(code, ({ name }) => name)
  const triggersOf = Map.groupBy(triggers, ({ table }) => table)
  const found = new Map(open.map(({ name }) => [name, 'a grant']))
  const toRead = code.filter(({ isDoor }) => isDoor).map(({ name }) => name)
  toRead.push(...open.flatMap((table) => triggersOf.get(table.name) ?? []).map(({ name }) => name))
  const seen = new Set(toRead)
  for (const name of toRead) {
    for (const { body } of bodies.get(name) ?? []) {
      for (const table of inserts(body)) if (!found.has(table)) found.set(table, name)
      const next = [
        ...calls(body),
        ...writes(body)
          .flatMap((table) => triggersOf.get(table) ?? [])
          .map((t) => t.name),
      ]
      for (const called of next.filter((one) => bodies.has(one) && !seen.has(one))) {
        seen.add(called)
        toRead.push(called)
      }
    }
  }
  return found
}

/** Limits by their names in growth: a meter counts when every plan has an end to it. */
async function readLimits(sql: Sql): Promise<Set<string>> {
  const rows = await sql<{ name: string }[]>`
    select m.meter || '/' || m.period as name
    from (select meter, period, is_open_without_row and amount_without_row is null as is_open from private.meters
      -- Counted where the files are.
      union all select 'storage_bytes', 'total', false) m
    where not exists (
      select from public.plans p
        left join public.plan_limits l on l.plan_id = p.id and l.meter = m.meter and l.period = m.period
      where case when l.plan_id is null then m.is_open else l.amount is null end)
    union all select 'setting ' || s.key from private.settings s
    union all select 'job ' || j.jobname from cron.job j
    union all select 'per ' || c.relnamespace::regnamespace || '.' || c.relname from pg_class c
      where c.relkind in ('r', 'p') and c.relnamespace::regnamespace::text in ('public', 'private', 'auth')
    union all select unnest(array['the clock', 'admins', 'Stripe'])`
  return new Set(rows.map(({ name }) => name))
}

/** What is wrong with the lines of growth: a table without one, one without such a table, a limit that there is not. */
export async function findUnlimitedGrowth(url: string): Promise<string[]> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    return await growthFaults(sql)
  } finally {
    await sql.end()
  }
}

/** @internal For tests: what an open transaction has. */
export async function growthFaults(sql: Sql): Promise<string[]> {
  const [tables, limits] = [await growing(sql), await readLimits(sql)]
  const lines = new Map(Object.entries<string>(growth))
  const place = 'growth in scripts/checks/access-matrix.ts'
  return [
    ...[...tables].flatMap(([table, by]) =>
      lines.has(table) ? [] : [`${table} can be made to grow by users (${by}): say in ${place} what limits it.`],
    ),
    ...[...lines].flatMap(([table, line]) => [
      ...(tables.has(table) ? [] : [`No user makes ${table} grow: remove its line from ${place}.`]),
      ...line.split(', ').flatMap((part) => (limits.has(part) ? [] : [`${table}: there is no limit ${part}.`])),
    ]),
  ].toSorted()
}
