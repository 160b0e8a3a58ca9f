/** What a stack that was killed leaves running: its database, and functions that did not notice. Never a process that is not surely its own. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { StackConfig } from './config.ts'
import { clusterPid, stopCluster } from './platform/postgres.ts'
import { commandOf, isRunning, type OwnProcess } from './platform/processes.ts'
import { readState, runningStack } from './state.ts'

type LeftBehind = { name: string; pid: number; end(): Promise<void> }

/** Functions finish what they answer before they end. */
const graceMs = 7_000

/** Nothing, while a stack runs. To be asked before a new stack takes the folder, and with it the note of the old one. */
export function findLeftBehind(config: StackConfig): LeftBehind[] {
  if (runningStack(config)) return []
  const folder = config.files.postgres
  const postmaster = clusterPid(folder)
  const database = { name: 'PostgreSQL', end: async () => stopCluster(folder) }
  const functions = (readState(config)?.functions ?? []).filter(isFunctions)
  return [
    ...functions.map((own) => ({ name: 'functions', pid: own.pid, end: () => endFunctions(own) })),
    ...(postmaster === undefined ? [] : [{ ...database, pid: postmaster }]),
  ]
}

/** Ends them; answers the one line that says so. */
export async function endLeftBehind(left: LeftBehind[]): Promise<string> {
  for (const { end } of left) await end()
  return `Ended what a killed stack left behind: ${nameAll(left)}.`
}

export const nameAll = (left: LeftBehind[]) => left.map(({ name, pid }) => `${name} (${pid})`).join(', ')

const isFunctions = (own: OwnProcess) => isRunning(own) && /\bfunctions-server\.ts\b/.test(commandOf(own.pid) ?? '')

async function endFunctions(own: OwnProcess): Promise<void> {
  process.kill(own.pid, 'SIGTERM')
  // One that was halted does not hear it before it goes on.
  process.kill(own.pid, 'SIGCONT')
  for (const until = Date.now() + graceMs; isFunctions(own) && Date.now() < until; ) await sleep(50)
  if (isFunctions(own)) process.kill(own.pid, 'SIGKILL')
}
