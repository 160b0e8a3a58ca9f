/** The schema on its two roads: migrations (what deployments run) and sources (sql/ and policies/, what people edit). */
import { execFile } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import postgres from 'postgres'
import { root, StackError } from './config.ts'
import { servicePolicyDifference } from './service-policies.ts'

const execute = promisify(execFile)
const bin = (name: string) => join(root, 'node_modules', '.bin', name)

/**
 * Versions in supabase/migrations, in order.
 * @internal For tests: they apply some and not others.
 */
export async function migrationVersions(): Promise<string[]> {
  const files = (await readdir(join(root, 'supabase', 'migrations'))).filter((file) => /^\d+_.+\.sql$/.test(file))
  return files.map((file) => file.slice(0, file.indexOf('_'))).sort()
}

/** Migrations that a database does not have yet. The URL's role must be able to read the CLI's history. */
export async function pendingMigrations(url: string): Promise<string[]> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    const [table] = await sql`select to_regclass('supabase_migrations.schema_migrations') is not null as there`
    const rows = table?.there ? await sql`select version from supabase_migrations.schema_migrations` : []
    const done = new Set(rows.map((row) => String(row.version)))
    return (await migrationVersions()).filter((version) => !done.has(version))
  } finally {
    await sql.end()
  }
}

/**
 * Refuses a local database whose history is not that of supabase/migrations: while the baseline is open it is made anew, and
 * nothing leads from what an earlier one made to this one.
 */
export async function refuseOtherHistory(url: string, dataFolder: string): Promise<void> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    const [table] = await sql`select to_regclass('supabase_migrations.schema_migrations') is not null as there`
    if (!table?.there) return
    const texts = await migrationTexts()
    const rows = await sql<{ version: string; statements: string[] | null }[]>`
      select version, statements from supabase_migrations.schema_migrations order by version`
    const other = rows.find(({ version, statements }) => {
      const text = texts.get(version)
      // The CLI keeps single statements in its history, we keep the file.
      return text === undefined || (statements?.length === 1 && statements[0] !== text)
    })
    if (!other) return
    throw new StackError(
      `${dataFolder} was made by another version of Palisade (migration ${other.version}). Throw the data away with "npm run reset", or set PALISADE_DATA to another folder.`,
    )
  } finally {
    await sql.end()
  }
}

async function migrationTexts(): Promise<Map<string, string>> {
  const folder = join(root, 'supabase', 'migrations')
  const files = (await readdir(folder)).filter((file) => /^\d+_.+\.sql$/.test(file))
  const texts = await Promise.all(files.map((file) => readFile(join(folder, file), 'utf8')))
  return new Map(files.map((file, i) => [file.slice(0, file.indexOf('_')), texts[i] ?? '']))
}

/**
 * Applies pending migrations, each in one transaction with its line in the CLI's history, and then the seed: what
 * `supabase db push` does, without the seconds that starting the CLI takes. For the stack's own database only.
 */
export async function applyMigrations(url: string, versions: string[]): Promise<void> {
  const folder = join(root, 'supabase')
  const files = (await readdir(join(folder, 'migrations'))).sort()
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    await sql`
      create table if not exists supabase_migrations.schema_migrations (version text primary key, statements text[], name text)`
    for (const file of files.filter((name) => versions.includes(name.slice(0, name.indexOf('_'))))) {
      const text = await readFile(join(folder, 'migrations', file), 'utf8')
      const [, version = '', name = ''] = /^(\d+)_(.+)\.sql$/.exec(file) ?? []
      await sql.begin(async (tx) => {
        await tx.unsafe(text)
        await tx`
          insert into supabase_migrations.schema_migrations (version, statements, name)
          values (${version}, ${[text]}, ${name})`
      })
    }
    await sql.unsafe(await readFile(join(folder, 'seed.sql'), 'utf8'))
  } catch (error) {
    throw new StackError(`The migrations could not be applied: ${error instanceof Error ? error.message : error}`)
  } finally {
    await sql.end()
  }
}

/** Applies pending migrations (and the seed) with the Supabase CLI, exactly as a deployment does. */
export async function pushMigrations(url: string, options: { seed: boolean }): Promise<void> {
  const args = ['db', 'push', `--remote=${url}`, '--yes', '--include-all', ...(options.seed ? ['--include-seed'] : [])]
  await supabase(args, 'The migrations could not be applied')
}

/** Runs the Supabase CLI; an error carries what it printed, without the database's password. */
export async function supabase(args: string[], failure: string): Promise<string> {
  const env = { ...process.env, SUPABASE_TELEMETRY_DISABLED: '1', DO_NOT_TRACK: '1', CI: '1' }
  try {
    const { stdout } = await execute(bin('supabase'), args, { cwd: root, env, maxBuffer: 64 * 1024 * 1024 })
    return stdout
  } catch (error) {
    const output = error instanceof Error && 'stderr' in error ? `${String(error.stderr)}` : String(error)
    throw new StackError(`${failure}: ${output.replaceAll(/(postgres(?:ql)?:\/\/[^:]+:)[^@]+@/g, '$1***@').trim()}`)
  }
}

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

/** Runs SQL text as one transaction. */
export async function runSql(url: string, text: string): Promise<void> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    await sql.begin((tx) => tx.unsafe(text))
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

async function deltaDifference(from: string, to: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'palisade-plan-'))
  try {
    const plan = join(folder, 'plan.json')
    const out = join(folder, 'plan.sql')
    const run = (args: string[]) => execute(bin('pgdelta'), args, { maxBuffer: 64 * 1024 * 1024 })
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

/** TypeScript types of the exposed schema, as the Supabase CLI generates them, formatted with the project's formatter. */
export async function generateTypes(url: string): Promise<string> {
  const output = await supabase(
    ['gen', 'types', `--remote=${url}`, '--schema', 'public'],
    'The types could not be generated',
  )
  const start = output.indexOf('export type Json')
  if (start < 0) throw new StackError('supabase gen types printed no types.')
  const header = '// Generated by npm run db:types; do not edit.\n'
  const formatter = execFile(bin('biome'), ['format', '--stdin-file-path=database.types.ts'], {
    cwd: root,
    maxBuffer: 16 * 1024 * 1024,
  })
  formatter.stdin?.end(header + output.slice(start))
  let formatted = ''
  for await (const chunk of formatter.stdout ?? []) formatted += String(chunk)
  return formatted
}
