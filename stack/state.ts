/** What a running stack leaves in its data folder, so that status, stop and a second start find it. */
import { existsSync, linkSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { type StackConfig, StackError } from './config.ts'

const stateSchema = z.object({ pid: z.number().int(), ready: z.boolean(), functionsPid: z.number().int().optional() })
export type StackState = z.infer<typeof stateSchema>

/** The stack that runs on this data folder, or undefined; a file left by a killed process counts as nothing. */
export function runningStack(config: StackConfig): StackState | undefined {
  if (!existsSync(config.files.state)) return undefined
  const parsed = stateSchema.safeParse(JSON.parse(readFileSync(config.files.state, 'utf8') || '{}'))
  return parsed.success && isStack(parsed.data.pid) ? parsed.data : undefined
}

/** Takes the data folder for this process; an error when another stack has it. */
export function claimDataFolder(config: StackConfig): void {
  mkdirSync(config.data, { recursive: true })
  // Keys will lie in it, and not every name of it is in the project's .gitignore.
  if (readdirSync(config.data).length === 0) writeFileSync(join(config.data, '.gitignore'), '*\n')
  const other = runningStack(config)
  if (other) {
    throw new StackError(
      `A stack (process ${other.pid}) already runs on ${config.data}. Stop it with "npm stop", or set PALISADE_DATA and PALISADE_PORT for a second one.`,
    )
  }
  rmSync(config.files.state, { force: true })
  const whole = writeWhole(config, { pid: process.pid, ready: false })
  try {
    linkSync(whole, config.files.state)
  } catch {
    throw new StackError(`Another stack is starting on ${config.data} at this moment.`)
  } finally {
    rmSync(whole, { force: true })
  }
}

export function writeState(config: StackConfig, state: StackState): void {
  renameSync(writeWhole(config, state), config.files.state)
}

/** Under a name of this process's own first: whoever read an empty file would take this stack for gone, and its database away. */
function writeWhole(config: StackConfig, state: StackState): string {
  const file = `${config.files.state}.${process.pid}.new`
  writeFileSync(file, JSON.stringify(state), { mode: 0o600 })
  return file
}

export function dropState(config: StackConfig): void {
  rmSync(config.files.state, { force: true })
}

/** Whether a process lives and is one of ours: after a reboot the number may belong to somebody else. */
function isStack(pid: number): boolean {
  if (pid === process.pid) return false
  try {
    process.kill(pid, 0)
  } catch {
    return false
  }
  const commandLine = `/proc/${pid}/cmdline`
  return (
    process.platform !== 'linux' || (existsSync(commandLine) && readFileSync(commandLine, 'utf8').includes('start.ts'))
  )
}
