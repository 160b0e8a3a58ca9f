/** The migrations of supabase/, which make the schema: which a database has, and how it gets the others. */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import postgres from 'postgres'
import { root, StackError } from './config.ts'
import { demandCli, remoteOf } from './supabase-cli.ts'

/** Versions in supabase/migrations, in order. */
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
  const { flag, env } = remoteOf(url)
  const seed = options.seed ? ['--include-seed'] : []
  await demandCli(['db', 'push', flag, '--yes', '--include-all', ...seed], env, 'The migrations could not be applied')
}
