/** npm run -s status: NAME=value lines about the running stack, for eval and for tools. */
import { parseArgs } from 'node:util'
import { StackError } from '../stack/config.ts'
import { signInDemoUser } from '../stack/demo-user.ts'
import { loadKeys } from '../stack/keys.ts'
import { findLeftBehind, nameAll } from '../stack/left-behind.ts'
import { findStack } from '../stack/state.ts'
import { runScript } from './shared/run-script.ts'
import { statusLines } from './shared/status-lines.ts'

const help = `Usage: npm run -s status [-- --token]

Prints NAME=value lines with the names of "supabase status -o env"; exits 1 when nothing runs.
  --token   signs the demo user in and adds ACCESS_TOKEN, valid for 15 minutes`

await runScript(help, async () => {
  const { values } = parseArgs({ options: { token: { type: 'boolean', default: false } } })
  const { config, state } = findStack()
  if (!state) {
    const left = findLeftBehind(config)
    const start = left.length > 0 ? `; a killed stack left ${nameAll(left)} behind, which "npm stop" ends` : ''
    throw new StackError(`Nothing runs on ${config.data}${start}. Start it with "npm start".`)
  }
  if (!state.ready) throw new StackError('The stack is still starting; ask again in a moment.')
  const keys = await loadKeys(config.files.keys)
  const lines = statusLines(config, keys)
  if (values.token) lines.push(['ACCESS_TOKEN', (await signInDemoUser(config, keys)).access_token])
  for (const [name, value] of lines) console.log(`${name}=${value}`)
  return 0
})
