/** npm stop: ends the stack of this data folder, and what a killed stack left behind. */

import { setTimeout as wait } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { readConfig, StackError } from '../stack/config.ts'
import { endLeftBehind, findLeftBehind } from '../stack/left-behind.ts'
import { dropState, runningStack } from '../stack/state.ts'
import { runScript } from './shared/run-script.ts'

const help = 'Usage: npm stop\n\nStops the stack of PALISADE_DATA; harmless when nothing runs. The data stays.'

await runScript(help, async () => {
  parseArgs({ options: {} })
  const config = readConfig()
  const state = runningStack(config)
  if (state) {
    process.kill(state.pid, 'SIGTERM')
    for (let tries = 0; runningStack(config)?.pid === state.pid; tries += 1) {
      if (tries > 300) throw new StackError(`Process ${state.pid} does not end. Look at it, then end it by hand.`)
      await wait(100)
    }
  }
  const left = findLeftBehind(config)
  if (left.length > 0) console.log(await endLeftBehind(left))
  dropState(config)
  if (state) console.log('Stopped.')
  else if (left.length === 0) console.log(`Nothing runs on ${config.data}.`)
  return 0
})
