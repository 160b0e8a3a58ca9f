/** Whether a process is the one that was noted: after a crash or a reboot its number may belong to somebody else. */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { z } from 'zod'

/** `started` is when, as the system says it: with the number it means one process. */
export const ownProcess = z.object({ pid: z.number().int().positive(), started: z.string() })
export type OwnProcess = z.infer<typeof ownProcess>

/** What to note of a process that lives; undefined when it does not. */
export function noteProcess(pid: number): OwnProcess | undefined {
  const started = existsSync('/proc/self/stat') ? startedOnLinux(pid) : ask(pid, 'lstart')
  return started === undefined ? undefined : { pid, started }
}

export const isRunning = ({ pid, started }: OwnProcess): boolean => noteProcess(pid)?.started === started

/** Its program and arguments, with a space between them. */
export function commandOf(pid: number): string | undefined {
  if (!existsSync('/proc/self/stat')) return ask(pid, 'command')
  if (startedOnLinux(pid) === undefined) return undefined
  const words = read(`/proc/${pid}/cmdline`)?.replace(/\0$/, '').split('\0')
  return words?.join(' ')
}

/** In clock ticks since the machine started. A zombie (Z, X) only waits for its parent to take note. */
function startedOnLinux(pid: number): string | undefined {
  // "1234 (name) S ...": the name may hold spaces and brackets; the start is the 22nd field.
  const fields = read(`/proc/${pid}/stat`)
    ?.replace(/^.*\) /s, '')
    .split(' ')
  return fields === undefined || /[ZX]/.test(fields[0] ?? '') ? undefined : fields[19]
}

function read(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return undefined
  }
}

function ask(pid: number, field: 'lstart' | 'command'): string | undefined {
  try {
    const answer = execFileSync('ps', ['-ww', '-o', `${field}=`, '-p', String(pid)], {
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    return String(answer).trim() || undefined
  } catch {
    return undefined
  }
}
