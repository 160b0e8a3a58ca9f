/** What Linux's /proc tells of processes; elsewhere it is not a number. Time on a CPU has a grain of 10 ms. */
import { readdirSync, readFileSync } from 'node:fs'

const ticksPerSecond = 100

/** Fields after the command's name, which is in brackets and may hold anything. */
function statOf(pid: number | string): string[] {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
  return text.slice(text.lastIndexOf(')') + 2).split(' ')
}

const cpuMsOf = (stat: string[]) => ((Number(stat[11]) + Number(stat[12])) * 1000) / ticksPerSecond

export function cpuMs(pid: number | undefined): number {
  if (pid === undefined || process.platform !== 'linux') return Number.NaN
  return cpuMsOf(statOf(pid))
}

/** The sum over a server's child processes, as PostgreSQL has one per connection. */
export function childrenCpuMs(parent: number | undefined): number {
  if (parent === undefined || process.platform !== 'linux') return Number.NaN
  let sum = 0
  for (const pid of readdirSync('/proc')) {
    if (!/^\d+$/.test(pid)) continue
    try {
      const stat = statOf(pid)
      if (Number(stat[1]) === parent) sum += cpuMsOf(stat)
    } catch {
      // It ended between the list and the look.
    }
  }
  return sum
}

export function parentOf(pid: number): number | undefined {
  return process.platform === 'linux' ? Number(statOf(pid)[1]) : undefined
}

/** Memory that the process has in RAM, in megabytes. */
export function residentMb(pid: number | undefined): number {
  if (pid === undefined || process.platform !== 'linux') return Number.NaN
  const [, kilobytes] = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  return Number(kilobytes) / 1024
}
