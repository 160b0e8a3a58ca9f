/** What Linux's /proc tells of processes; elsewhere it is not a number. */
import { readdirSync, readFileSync } from 'node:fs'

const isKnown = process.platform === 'linux'
const ticksPerSecond = 100

/** A process, or a server that forks with all its children, as PostgreSQL has one per connection. */
export type Watched = { pid: number; children?: boolean }

/** Milliseconds on a CPU of every thread since it began. */
export type CpuTimes = Map<string, number>

/** Fields after the command's name, which is in brackets and may hold anything. */
function statOf(path: string): string[] {
  const text = readFileSync(`/proc/${path}/stat`, 'utf8')
  return text.slice(text.lastIndexOf(')') + 2).split(' ')
}

export function cpuTimes(watched: Watched[]): CpuTimes {
  const times: CpuTimes = new Map()
  const parents = new Set(watched.filter(({ children }) => children).map(({ pid }) => pid))
  const pids = watched.map(({ pid }) => pid).concat(isKnown && parents.size > 0 ? childrenOf(parents) : [])
  if (isKnown)
    for (const pid of pids)
      unlessEnded(() => {
        for (const thread of readdirSync(`/proc/${pid}/task`))
          unlessEnded(() => times.set(`${pid}/${thread}`, threadMs(`${pid}/task/${thread}`)))
      })
  return times
}

/** To the nanosecond where the kernel keeps it, else in steps of 10 ms. */
function threadMs(path: string): number {
  try {
    return Number(readFileSync(`/proc/${path}/schedstat`, 'utf8').split(' ')[0]) / 1e6
  } catch {
    const stat = statOf(path)
    return ((Number(stat[11]) + Number(stat[12])) * 1000) / ticksPerSecond
  }
}

function childrenOf(parents: Set<number>): number[] {
  const isChild = (pid: string) => unlessEnded(() => parents.has(Number(statOf(pid)[1]))) ?? false
  return readdirSync('/proc')
    .filter((pid) => /^\d+$/.test(pid) && isChild(pid))
    .map(Number)
}

/** It may have ended between the list and the look. */
function unlessEnded<T>(look: () => T): T | undefined {
  try {
    return look()
  } catch {
    return undefined
  }
}

/** What threads that live on, and those that have begun meanwhile, took; what one took before it ended is not seen. */
export function cpuMsBetween(before: CpuTimes | undefined, after: CpuTimes): number {
  if (after.size === 0) return Number.NaN
  return [...after].reduce((sum, [thread, ms]) => sum + ms - (before?.get(thread) ?? 0), 0)
}

export function parentOf(pid: number): number | undefined {
  return isKnown ? Number(statOf(String(pid))[1]) : undefined
}

/** Memory that the process has in RAM, in megabytes. */
export function residentMb(pid: number | undefined): number {
  if (pid === undefined || !isKnown) return Number.NaN
  const [, kilobytes] = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  return Number(kilobytes) / 1024
}
