/** npm stop: ends the stack of this data folder, and a database that a killed stack left behind. */

import { setTimeout as wait } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { readConfig, StackError } from '../stack/config.ts'
import { clusterPid, stopCluster } from '../stack/platform/postgres.ts'
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
  const leftBehind = clusterPid(config.files.postgres) !== undefined
  if (leftBehind) stopCluster(config.files.postgres)
  dropState(config)
  console.log(state || leftBehind ? 'Stopped.' : `Nothing runs on ${config.data}.`)
  return 0
})
