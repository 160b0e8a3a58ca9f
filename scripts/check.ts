/** npm run check: what must be true before a commit lands, without a running stack. */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { staleBaselineFiles } from '../stack/baseline.ts'
import { root } from '../stack/config.ts'
import { type Scratch, startScratch } from '../stack/platform/scratch.ts'
import { rowDifference } from '../stack/rows.ts'
import { applySources, generateTypes, prepareForComparison, pushMigrations, schemaDifference } from '../stack/schema.ts'
import { reviewAdvisors } from './checks/advisors.ts'
import { findImportViolations } from './checks/imports.ts'
import { findSecrets } from './checks/secrets.ts'
import { findUnguardedStatements } from './checks/where-clauses.ts'
import { runScript } from './shared/run-script.ts'

const help = `Usage: npm run check

Format and lint (biome), types (tsc), import direction, secrets, migrations (squawk), drift, generated types,
UPDATE/DELETE without WHERE, Supabase's advisors, and the access matrix. Exits 1 when any of them fails.`

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

async function checkDrift(scratch: Scratch, migrated: string): Promise<string[]> {
  const sources = await scratch.createDatabase('sources')
  await applySources(sources, { seed: true })
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

const unused = 'http://127.0.0.1:9'
const onDatabase = (url: string) => ({
  API_URL: unused,
  REST_URL: unused,
  FUNCTIONS_URL: unused,
  MAILPIT_URL: unused,
  PUBLISHABLE_KEY: '-',
  SECRET_KEY: '-',
  DB_URL: url,
})

await runScript(help, async () => {
  let failures = 0
  const check = async (name: string, find: () => Promise<string[]>) => {
    const began = performance.now()
    const findings = await find().catch((error: unknown) => [error instanceof Error ? error.message : String(error)])
    const seconds = ((performance.now() - began) / 1000).toFixed(1)
    console.log(`${findings.length === 0 ? 'ok  ' : 'FAIL'} ${name} (${seconds} s)`)
    for (const finding of findings) console.log(`     ${finding.replaceAll('\n', '\n     ')}`)
    if (findings.length > 0) failures += 1
  }
  await check('format and lint', run('biome', ['ci', '--error-on-warnings', '.']))
  await check('types', run('tsc', ['-p', '.']))
  await check('import direction', findImportViolations)
  await check('secrets', findSecrets)
  await check('migrations: squawk', run('squawk', ['supabase/migrations/*.sql']))
  const scratch = await startScratch()
  try {
    const url = await scratch.createDatabase('migrated')
    await check('migrations apply to an empty project', () => pushMigrations(url, { seed: true }).then(() => []))
    await check('access matrix', run('vitest', ['run', 'tests/access'], onDatabase(url)))
    await check('generated types', () => checkTypes(url))
    await check('advisors', () => reviewAdvisors(url))
    await check('UPDATE and DELETE have a WHERE', () => findUnguardedStatements(url))
    await check('drift', () => checkDrift(scratch, url))
  } finally {
    await scratch.stop()
  }
  console.log(failures === 0 ? '\nAll checks passed.' : `\n${failures} checks failed.`)
  return failures === 0 ? 0 : 1
})
