/** What a running stack leaves in its data folder, so that status, stop and a second start find it. */
import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { readConfig, type StackConfig, StackError } from './config.ts'
import { isRunning, noteProcess, ownProcess } from './platform/processes.ts'

const stateSchema = ownProcess.extend({
  /** Of its API. */
  port: z.number().optional(),
  ready: z.boolean(),
  functions: z.array(ownProcess),
})
type StackState = z.infer<typeof stateSchema>

/** What the stack that has this data folder, or had it last, noted. */
export function readState(config: StackConfig): StackState | undefined {
  if (!existsSync(config.files.state)) return undefined
  const parsed = stateSchema.safeParse(parseJson(readFileSync(config.files.state, 'utf8')))
  return parsed.success ? parsed.data : undefined
}

/** The stack that runs on this data folder, or undefined; a file left by a killed process counts as nothing. */
export function runningStack(config: StackConfig): StackState | undefined {
  const state = readState(config)
  return state && state.pid !== process.pid && isRunning(state) ? state : undefined
}

/**
 * The stack that runs on this environment's data folder, at the port that it has: who asks need not have the environment of who started
 * it. But whoever names a port means that one.
 */
export function findStack(env: NodeJS.ProcessEnv = process.env): {
  config: StackConfig
  state: StackState | undefined
} {
  const config = readConfig(env)
  const state = runningStack(config)
  if (state?.port === undefined || state.port === config.port) return { config, state }
  if (env.PALISADE_PORT)
    throw new StackError(
      `Nothing runs on port ${config.port}: the stack on ${config.data} has port ${state.port}. Leave PALISADE_PORT out, or set PALISADE_DATA to the folder of the other one.`,
    )
  return { config: readConfig({ ...env, PALISADE_PORT: String(state.port) }), state }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** Takes the data folder for this process; an error when another stack has it. */
export function claimDataFolder(config: StackConfig): void {
  mkdirSync(config.data, { recursive: true, mode: 0o700 })
  refuseOpenFolder(config.data)
  // Keys will lie in it, and not every name of it is in the project's .gitignore.
  if (readdirSync(config.data).length === 0) writeFileSync(join(config.data, '.gitignore'), '*\n')
  const other = runningStack(config)
  if (other) {
    throw new StackError(
      `A stack (process ${other.pid}) already runs on ${config.data}. Stop it with "npm stop", or set PALISADE_DATA and PALISADE_PORT for a second one.`,
    )
  }
  rmSync(config.files.state, { force: true })
  const whole = writeWhole(config, { ready: false, functions: [] })
  try {
    linkSync(whole, config.files.state)
  } catch {
    throw new StackError(`Another stack is starting on ${config.data} at this moment.`)
  } finally {
    rmSync(whole, { force: true })
  }
}

/** Not closed in silence: whoever opened it may rely on that, and has to know that what lies in it was readable. Windows has other rights. */
function refuseOpenFolder(folder: string): void {
  if (process.platform !== 'win32' && (statSync(folder).mode & 0o077) !== 0)
    throw new StackError(`Others may enter ${folder}, which holds keys and all data. Mend it: chmod 700 ${folder}`)
}

/** Keeps the note true, whichever functions run. What cannot be written now, as on a full disk, is written when it can. */
export function keepState(config: StackConfig, functionsPids: () => number[], log: (line: string) => void) {
  let isReady = false
  let written = ''
  let isTold = false
  const keep = () => {
    const pids = functionsPids()
    const wanted = JSON.stringify([isReady, pids])
    if (wanted === written) return
    try {
      writeState(config, { ready: isReady, functions: pids.flatMap((pid) => noteProcess(pid) ?? []) })
      written = wanted
      isTold = false
    } catch (error) {
      if (!isTold) log(`stack: ${error instanceof Error ? error.message : error}; it is tried again`)
      isTold = true
    }
  }
  keep()
  const timer = setInterval(keep, 1_000)
  return {
    ready(): void {
      isReady = true
      keep()
    },
    stop: (): void => clearInterval(timer),
  }
}

/** Of this process. */
type Note = Pick<StackState, 'ready' | 'functions'>

function writeState(config: StackConfig, note: Note): void {
  renameSync(writeWhole(config, note), config.files.state)
}

/** Under a name of this process's own first: whoever read an empty file would take this stack for gone, and its database away. */
function writeWhole(config: StackConfig, note: Note): string {
  const file = `${config.files.state}.${process.pid}.new`
  const own = noteProcess(process.pid) ?? { pid: process.pid, started: '' }
  const state: StackState = { ...own, port: config.port, ...note }
  writeFileSync(file, JSON.stringify(state), { mode: 0o600 })
  return file
}

export function dropState(config: StackConfig): void {
  rmSync(config.files.state, { force: true })
}
