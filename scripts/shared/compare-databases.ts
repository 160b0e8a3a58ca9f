/**
 * The schema on its two roads, migrations (what deployments run) and sources (sql/ and policies/, what people edit): makes a
 * database from the sources, and says in what two databases differ.
 */
import { execFile } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import postgres from 'postgres'
import { root, StackError } from '../../stack/config.ts'

/** Applies sql/ and then policies/, each in the order of the file names, to an empty database; then the seed, when asked. */
export async function applySources(url: string, options: { seed: boolean }): Promise<void> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    for (const folder of ['sql', 'policies']) {
      for (const file of (await readdir(join(root, folder))).sort()) {
        await sql.unsafe(await readFile(join(root, folder, file), 'utf8')).catch((error: unknown) => {
          throw new StackError(`${folder}/${file}: ${error instanceof Error ? error.message : error}`)
        })
      }
    }
    if (options.seed) await sql.unsafe(await readFile(join(root, 'supabase', 'seed.sql'), 'utf8'))
  } finally {
    await sql.end()
  }
}

/** Removes what differs between two databases without being schema: partitions made by the clock, a job's database name. */
export async function prepareForComparison(url: string): Promise<void> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    const rows = await sql`
      select format('%I.%I', n.nspname, c.relname) as name
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      where n.nspname = 'private' and c.relispartition and c.relkind = 'r' and c.relname ~ '_[0-9]{6}$'`
    for (const row of rows) await sql.unsafe(`drop table ${row.name}`)
    const [there] = await sql`select to_regclass('cron.job') is not null as cron`
    if (there?.cron) await sql`select cron.alter_job(jobid, database => 'postgres') from cron.job`
  } finally {
    await sql.end()
  }
}

/** The SQL that turns the schema of `from` into that of `to`; empty when they are the same. */
export async function schemaDifference(from: string, to: string): Promise<string> {
  const [schema, policies] = await Promise.all([deltaDifference(from, to), servicePolicyDifference(from, to)])
  return [schema, policies].filter((sql) => sql !== '').join('\n')
}

const execute = promisify(execFile)
const pgdelta = join(root, 'node_modules', '.bin', 'pgdelta')

async function deltaDifference(from: string, to: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'palisade-plan-'))
  try {
    const plan = join(folder, 'plan.json')
    const out = join(folder, 'plan.sql')
    const run = (args: string[]) => execute(pgdelta, args, { maxBuffer: 64 * 1024 * 1024 })
    await run(['plan', '--source', from, '--desired', to, '--profile', 'supabase', '--renames', 'off', '--out', plan])
    const rendered = await run(['render', '--plan', plan, '--out', out, '--allow-drops'])
      .then(() => true)
      .catch((error: { code?: number; stderr?: string }) => {
        if (error.code === 3) return false
        throw new StackError(`pg-delta refused to write the migration: ${error.stderr ?? error}`)
      })
    if (!rendered) return ''
    const files = (await readdir(folder)).filter((file) => file.endsWith('.sql')).sort()
    const parts = await Promise.all(files.map((file) => readFile(join(folder, file), 'utf8')))
    return parts.join('\n')
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/**
 * pg-delta's plan as a migration for every database and every PostgreSQL. It names the database a job runs in, where ours takes
 * the one it is called in and knows old pg_crons; and it grants the owner what an owner has, MAINTAIN by name, which came with 17.
 */
export function portable(plan: string): string {
  return plan
    .replaceAll(/cron\.schedule_in_database\((.*), 'postgres', NULL, true\)/g, 'private.schedule_job($1)')
    .replaceAll(/^(GRANT .*)\bMAINTAIN, (.* TO "postgres";)$/gm, '$1$2')
}

/**
 * The difference in policies on Storage's and Realtime's tables: ours, on tables that are not, so pg-delta leaves them out. The SQL
 * that turns those of `from` into those of `to`; empty when they are the same.
 * @internal For tests: it is a part of schemaDifference, which takes seconds.
 */
export async function servicePolicyDifference(from: string, to: string): Promise<string> {
  const [before, after] = await Promise.all([readPolicies(from), readPolicies(to)])
  const gone = [...before].filter(([target, body]) => after.get(target) !== body)
  const added = [...after].filter(([target, body]) => before.get(target) !== body)
  return [
    ...gone.map(([target]) => `drop policy ${target};\n`),
    ...added.map(([target, body]) => `create policy ${target} ${body};\n`),
  ].join('\n')
}

/** `"name" on schema.table` and what follows it in CREATE POLICY. */
async function readPolicies(url: string): Promise<Map<string, string>> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    const rows = await sql<{ target: string; body: string }[]>`
      select format('%I on %I.%I', policyname, schemaname, tablename) as target,
        format('as %s for %s to %s', lower(permissive), lower(cmd), array_to_string(roles, ', '))
        || coalesce(' using (' || qual || ')', '') || coalesce(' with check (' || with_check || ')', '') as body
      from pg_catalog.pg_policies where schemaname in ('storage', 'realtime') order by 1`
    return new Map(rows.map(({ target, body }) => [target, body]))
  } finally {
    await sql.end()
  }
}

/**
 * The difference in rows between two databases that nobody has used yet: settings, plans, limits and what else they start with.
 * One line for each row that only one of them has; empty when they start with the same.
 */
export async function rowDifference(migrated: string, sources: string): Promise<string[]> {
  const [before, after] = await Promise.all([readRows(migrated), readRows(sources)])
  return [
    ...before.filter((row) => !after.includes(row)).map((row) => `only in migrations: ${row}`),
    ...after.filter((row) => !before.includes(row)).map((row) => `only in sources: ${row}`),
  ]
}

/** All rows of our tables, and of Storage's buckets, without what the clock or chance has put into them. */
async function readRows(url: string): Promise<string[]> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    const tables = await sql<{ name: string; changing: string[] }[]>`
      select format('%I.%I', n.nspname, c.relname) as name, array(
        select a.attname::text from pg_catalog.pg_attribute a
          join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attrelid = c.oid and pg_get_expr(d.adbin, d.adrelid) ~ 'now\\(\\)|uuid') as changing
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p') and not c.relispartition
        -- Months that the clock has made, and who changed what by what way.
        and c.oid not in ('private.audit_chain_heads'::regclass, 'private.audit_log'::regclass)
        and (n.nspname in ('public', 'private') or c.oid = 'storage.buckets'::regclass)
      order by 1`
    const found: string[] = []
    for (const { name, changing } of tables) {
      const rows = await sql`
        select (to_jsonb(t) - ${changing}::text[])::text as row from ${sql.unsafe(name)} t order by 1`
      found.push(...rows.map(({ row }) => `${name} ${row}`))
    }
    return found
  } finally {
    await sql.end()
  }
}
