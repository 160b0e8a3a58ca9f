/** npm run db:baseline: makes the first migrations anew from the sources. */
import { parseArgs } from 'node:util'
import { writeBaseline } from './shared/baseline.ts'
import { runScript } from './shared/run-script.ts'

const help = `Usage: npm run db:baseline

Writes supabase/migrations anew from sql/ + policies/, one file for each domain. Refuses once supabase/baseline-closed is
there: from then on migrations are append-only, and "npm run db:diff NAME" writes the next one.`

await runScript(help, async () => {
  parseArgs({ options: {} })
  const files = await writeBaseline()
  console.log(`Wrote ${files.length} migrations: ${files[0]} to ${files.at(-1)}.`)
  return 0
})
