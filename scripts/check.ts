/** npm run check: what must be true before a commit lands, without a running stack. */

import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs, promisify } from 'node:util'
import { root } from '../stack/config.ts'
import { pushMigrations } from '../stack/migrations.ts'
import { type Scratch, startScratch } from '../stack/platform/scratch.ts'
import { reviewAdvisors } from './checks/advisors.ts'
import { findWrongCode } from './checks/docs/code.ts'
import { findBrokenLinks } from './checks/docs/links.ts'
import { findUnknownNames } from './checks/docs/names.ts'
import { findUnknownLanguages } from './checks/docs/pages.ts'
import { findWrongSql } from './checks/docs/sql.ts'
import { findUnlockedPackages } from './checks/function-packages.ts'
import { findUnlimitedGrowth } from './checks/growth.ts'
import { findImportCircles } from './checks/import-circles.ts'
import { findImportViolations } from './checks/imports.ts'
import { findNewerSql } from './checks/newer-postgres.ts'
import { findSecrets } from './checks/secrets.ts'
import { findUnguardedStatements } from './checks/where-clauses.ts'
import { staleBaselineFiles } from './shared/baseline.ts'
import { applySources, prepareForComparison, rowDifference, schemaDifference } from './shared/compare-databases.ts'
import { generateTypes } from './shared/generate-types.ts'
import { runScript } from './shared/run-script.ts'
import { onDatabase } from './shared/run-vitest.ts'

const help = `Usage: npm run check

Code: format and lint (biome), types (tsc), what nobody uses (knip), import direction and circles,
locked packages of functions, secrets.
Schema: migrations (squawk), SQL that PostgreSQL 15 lacks, drift, generated types, UPDATE/DELETE without WHERE, Supabase's
advisors, the access matrix, limits of what users make grow.
Pages: links, names of the database, settings, variables, commands and files, examples in TypeScript and SQL.
Exits 1 when any of them fails.`

const execute = promisify(execFile)

/** Runs a program of node_modules/.bin; its output is the finding when it fails. */
const run =
  (program: string, args: string[], env: NodeJS.ProcessEnv = {}) =>
  async (): Promise<string[]> => {
    const options = { cwd: root, env: { ...process.env, ...env }, maxBuffer: 64 * 1024 * 1024 }
    return execute(join(root, 'node_modules', '.bin', program), args, options).then(
      () => [],
      (error: { stdout?: string; stderr?: string }) => [`${error.stdout ?? ''}${error.stderr ?? ''}`.trim()],
    )
  }

/** Last of all: it takes away what only one of the two has. */
async function checkDrift(migrated: string, sources: string): Promise<string[]> {
  const stale = await staleBaselineFiles()
  if (stale.length > 0) return [`The baseline is stale (${stale.join(', ')}): run "npm run db:baseline".`]
  await Promise.all([prepareForComparison(migrated), prepareForComparison(sources)])
  const sql = await schemaDifference(migrated, sources)
  const rows = await rowDifference(migrated, sources)
  return [
    ...(sql === '' ? [] : [`Migrations and sources differ; run "npm run db:diff NAME":\n${sql}`]),
    ...(rows.length === 0 ? [] : [`Rows differ; write them into a migration:\n${rows.join('\n')}`]),
  ]
}

async function checkTypes(url: string): Promise<string[]> {
  const committed = readFileSync(join(root, 'functions', '_shared', 'database.types.ts'), 'utf8')
  return committed === (await generateTypes(url))
    ? []
    : ['functions/_shared/database.types.ts is stale: run "npm run db:types".']
}

type Check = [name: string, find: () => Promise<string[]>]

const knip = ['--no-progress', '--treat-config-hints-as-errors', '--treat-tag-hints-as-errors']

const ofCode: Check[] = [
  ['format and lint', run('biome', ['ci', '--error-on-warnings', '.'])],
  ['types', run('tsc', ['-p', '.'])],
  ['files, exports and dependencies are used', run('knip', knip)],
  ['and not by tests alone', run('knip', [...knip, '--production'])],
  ['import direction', findImportViolations],
  ['no import circles', findImportCircles],
  ['packages of functions are locked', findUnlockedPackages],
  ['secrets', findSecrets],
  ['SQL that PostgreSQL 15 has', findNewerSql],
  ['pages: links, and what README leads to', findBrokenLinks],
  ['pages: languages of examples', findUnknownLanguages],
  ['pages: examples in TypeScript', findWrongCode],
  ['migrations: squawk', run('squawk', ['supabase/migrations/*.sql'])],
]

const ofSchema = (url: string): Check[] => [
  ['generated types', () => checkTypes(url)],
  ['advisors', () => reviewAdvisors(url)],
  ['what users make grow has a limit', () => findUnlimitedGrowth(url)],
  ['UPDATE and DELETE have a WHERE', () => findUnguardedStatements(url)],
  ['pages: names', () => findUnknownNames(url)],
  ['pages: examples in SQL', () => findWrongSql(url)],
]

await runScript(help, async () => {
  parseArgs({ options: {} })
  let failures = 0
  const startedAt = performance.now()
  const secondsSince = (began: number) => ((performance.now() - began) / 1000).toFixed(1)
  const check = async (...checks: Check[]) => {
    for (const [name, find] of checks) {
      const began = performance.now()
      const findings = await find().catch((error: unknown) => [error instanceof Error ? error.message : String(error)])
      console.log(`${findings.length === 0 ? 'ok  ' : 'FAIL'} ${name} (${secondsSince(began)} s)`)
      for (const finding of findings) console.log(`     ${finding.replaceAll('\n', '\n     ')}`)
      if (findings.length > 0) failures += 1
    }
  }
  const checkDatabase = async (scratch: Scratch) => {
    const [migrated, sources] = [await scratch.createDatabase('migrated'), await scratch.createDatabase('sources')]
    await Promise.all([
      check(['migrations apply to an empty project', () => pushMigrations(migrated, { seed: true }).then(() => [])]),
      check(['sources apply to an empty project', () => applySources(sources, { seed: true }).then(() => [])]),
    ])
    await Promise.all([
      check(['access matrix', run('vitest', ['run', 'tests/access'], onDatabase(migrated))]),
      check(...ofSchema(migrated)),
    ])
    await check(['drift', () => checkDrift(migrated, sources)])
  }
  // What needs no database runs beside what does.
  const code = check(...ofCode)
  const scratch = await startScratch()
  try {
    await Promise.all([code, checkDatabase(scratch)])
  } finally {
    await scratch.stop()
  }
  const total = `${secondsSince(startedAt)} s`
  console.log(failures === 0 ? `\nAll checks passed (${total}).` : `\n${failures} checks failed (${total}).`)
  return failures === 0 ? 0 : 1
})
