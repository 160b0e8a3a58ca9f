/** npm run db:types: writes the TypeScript types of the API schema, as the Supabase CLI generates them. */

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { root } from '../stack/config.ts'
import { pushMigrations } from '../stack/migrations.ts'
import { startScratch } from '../stack/platform/scratch.ts'
import { generateTypes } from './shared/generate-types.ts'
import { runScript } from './shared/run-script.ts'

const help = `Usage: npm run db:types

Generates functions/_shared/database.types.ts from the migrations, in a scratch database. Commit the file with them.`

await runScript(help, async () => {
  parseArgs({ options: {} })
  const file = join('functions', '_shared', 'database.types.ts')
  const scratch = await startScratch()
  try {
    const url = await scratch.createDatabase('types')
    await pushMigrations(url, { seed: false })
    const types = await generateTypes(url)
    writeFileSync(join(root, file), types)
    console.log(`Wrote ${file} (${readFileSync(join(root, file), 'utf8').split('\n').length} lines).`)
    return 0
  } finally {
    await scratch.stop()
  }
})
