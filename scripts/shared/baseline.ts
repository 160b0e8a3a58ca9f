/**
 * The baseline: the first migrations, one for each domain, which are the sources word for word. While it is open it is made
 * anew from sql/ and policies/; once it is closed, migrations are append-only and db:diff writes the next ones.
 */
import { existsSync } from 'node:fs'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { root, StackError } from '../../stack/config.ts'

/** By the first digit of the files' names. */
const domains = [
  'foundation',
  'accounts',
  'plans',
  'credits',
  'ai',
  'keys',
  'portfolio_billing',
  'audit',
  'storage',
  'jobs',
]

/** Fixed, so that the same sources make the same files, and a database knows which of them it has. */
const versionOf = (domain: number) => `20261129000${domain}00`

const header = `-- Written by npm run db:baseline from sql/ and policies/, word for word; change those.
-- Every table here is new and empty, so nothing waits for a default, a key or a check.
set lock_timeout = '5s';
set statement_timeout = '60s';
`

const supabase = join(root, 'supabase')
const migrationsOf = (folder: string) => join(folder, 'migrations')

/** Whether somebody has said, by a file with the reason, that the baseline stays as it is. */
const isClosed = (folder: string) => existsSync(join(folder, 'baseline-closed'))

/** The files of the baseline, by their names in supabase/migrations. A domain's policies follow its tables. */
async function makeBaseline(): Promise<Map<string, string>> {
  const texts = await Promise.all(domains.map((_, domain) => domainText(domain)))
  return new Map(domains.map((name, domain) => [`${versionOf(domain)}_${name}.sql`, header + texts[domain]]))
}

async function domainText(domain: number): Promise<string> {
  const parts: string[] = []
  for (const source of ['sql', 'policies']) {
    const files = (await readdir(join(root, source))).filter((file) => file.startsWith(String(domain))).sort()
    for (const file of files) {
      const text = await readFile(join(root, source, file), 'utf8')
      parts.push(`\n-- ${source}/${file} ${'='.repeat(Math.max(1, 115 - source.length - file.length))}\n\n${text}`)
    }
  }
  return parts.join('')
}

/** Writes the baseline; answers its files. Refuses when it is closed, and when migrations follow that it would hold twice. */
export async function writeBaseline(folder = supabase): Promise<string[]> {
  if (isClosed(folder))
    throw new StackError(
      'The baseline is closed (supabase/baseline-closed): "npm run db:diff NAME" writes the next migration.',
    )
  const baseline = await makeBaseline()
  const others = (await readdir(migrationsOf(folder))).filter((file) => file.endsWith('.sql') && !baseline.has(file))
  if (others.length > 0)
    throw new StackError(
      `These migrations are not the baseline's, and it would hold what they do: ${others.sort().join(', ')}. Remove them first.`,
    )
  for (const [file, text] of baseline) await writeFile(join(migrationsOf(folder), file), text)
  return [...baseline.keys()]
}

/** The files of the baseline that are not what the sources make; none once it is closed. */
export async function staleBaselineFiles(folder = supabase): Promise<string[]> {
  if (isClosed(folder)) return []
  const stale: string[] = []
  for (const [file, text] of await makeBaseline()) {
    if ((await readFile(join(migrationsOf(folder), file), 'utf8').catch(() => '')) !== text) stale.push(file)
  }
  return stale
}
