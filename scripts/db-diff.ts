/** npm run db:diff NAME: writes the difference between migrations and sources as the next migration. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { root, StackError } from '../stack/config.ts'
import { pushMigrations } from '../stack/migrations.ts'
import { startScratch } from '../stack/platform/scratch.ts'
import {
  applySources,
  portable,
  prepareForComparison,
  rowDifference,
  schemaDifference,
} from './shared/compare-databases.ts'
import { runSql } from './shared/connect-database.ts'
import { runScript } from './shared/run-script.ts'

const help = `Usage: npm run db:diff NAME [-- --allow-drops]

Compares supabase/migrations with sql/ + policies/ in two scratch databases and writes what is missing as
supabase/migrations/<time>_NAME.sql. Read it before you commit it. --allow-drops lets it remove things. Rows that differ
(settings, plans, limits ...) are listed: write them by hand. While the baseline is open, "npm run db:baseline" does all this.`

/**
 * pg-delta writes column grants before the table's REVOKE ALL, which undoes them, and forgets default privileges: so its
 * plan is applied and compared again until nothing is left. Two passes are normal; five that do not settle are an error.
 */
async function completeDifference(migrated: string, sources: string, allowDrops: boolean): Promise<string> {
  const passes: string[] = []
  for (let pass = 0; pass < 5; pass += 1) {
    const plan = await schemaDifference(migrated, sources)
    if (plan === '') return passes.join('\n')
    // ON ONLY leaves the index of a partitioned table invalid and its partitions without one; pg-delta sees neither.
    const sql = plan.replaceAll(/^(CREATE (?:UNIQUE )?INDEX \S+ ON) ONLY /gm, '$1 ')
    const drops = sql.match(/^(drop |alter table .* drop |select cron\.unschedule).*/gim) ?? []
    if (drops.length > 0 && !allowDrops) {
      throw new StackError(`This would remove things; say so with --allow-drops.\n  ${drops.join('\n  ')}`)
    }
    passes.push(sql)
    await runSql(migrated, sql)
  }
  throw new StackError('pg-delta does not settle: its plan leaves a difference after five passes.')
}

await runScript(help, async () => {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: { 'allow-drops': { type: 'boolean', default: false } },
  })
  const name = positionals[0]
  if (!name || !/^[a-z][a-z0-9_]*$/.test(name)) {
    console.error(`NAME is missing or not in lower_case_words.\n\n${help}`)
    return 2
  }
  const scratch = await startScratch()
  try {
    const migrated = await scratch.createDatabase('migrated')
    const sources = await scratch.createDatabase('sources')
    await Promise.all([pushMigrations(migrated, { seed: false }), applySources(sources, { seed: false })])
    await Promise.all([prepareForComparison(migrated), prepareForComparison(sources)])
    const rows = await rowDifference(migrated, sources)
    if (rows.length > 0) console.log(`Rows differ; write them by hand:\n  ${rows.join('\n  ')}`)
    const sql = await completeDifference(migrated, sources, values['allow-drops'])
    if (sql === '') {
      console.log(`Nothing to ${rows.length > 0 ? 'write' : 'do'}: the schemas of migrations and sources agree.`)
      return 0
    }
    const version = new Date().toISOString().replaceAll(/\D/g, '').slice(0, 14)
    const file = join('supabase', 'migrations', `${version}_${name}.sql`)
    const header = `-- Written by npm run db:diff from sql/ and policies/; read the sources for the reasons.\nset lock_timeout = '5s';\nset statement_timeout = '60s';\n\n`
    writeFileSync(join(root, file), header + portable(sql))
    console.log(`Wrote ${file}. Read it, then run npm test.`)
    return 0
  } finally {
    await scratch.stop()
  }
})
