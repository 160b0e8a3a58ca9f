/** npm run reset: throws the local data away. */

import { existsSync, readdirSync, rmSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { readConfig, StackError } from '../stack/config.ts'
import { endLeftBehind, findLeftBehind } from '../stack/left-behind.ts'
import { runningStack } from '../stack/state.ts'
import { runScript } from './shared/run-script.ts'

const help = `Usage: npm run reset

Deletes the local stack's data folder (PALISADE_DATA): database, keys, mails, files. The next start makes new ones.`

const ours = new Set([
  '.gitignore',
  'postgres',
  'postgres.password',
  'keys.json',
  'keys.json.new',
  'stack.json',
  'mails.ndjson',
  'mails.ndjson.new',
  'storage',
  'stripe.json',
  'stripe.json.new',
])

await runScript(help, async () => {
  parseArgs({ options: {} })
  const config = readConfig()
  const state = runningStack(config)
  if (state)
    throw new StackError(`A stack (process ${state.pid}) runs on ${config.data}. Stop it first with "npm stop".`)
  if (!existsSync(config.data)) {
    console.log('There is nothing to delete.')
    return 0
  }
  const foreign = readdirSync(config.data).filter((name) => !ours.has(name) && !/^stack\.json\.\d+\.new$/.test(name))
  if (foreign.length > 0) {
    throw new StackError(
      `${config.data} holds files that are not ours (${foreign.slice(0, 3).join(', ')}); nothing was deleted.`,
    )
  }
  const left = findLeftBehind(config)
  if (left.length > 0) console.log(await endLeftBehind(left))
  rmSync(config.data, { recursive: true, force: true })
  console.log(`Deleted ${config.data}.`)
  return 0
})
