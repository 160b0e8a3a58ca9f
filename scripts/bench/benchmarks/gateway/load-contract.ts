/** What the benchmark asks of the process that makes the load, and what it answers. */
import type { Watched } from './processes.ts'

/** Of a system: its processes by what they are, as `function`, `provider` and `postgres`. The load's own is `client`. */
export type Processes = Record<string, Watched[]>

export type Target = {
  name: string
  /** More than one when processes share the calls: callers are dealt to them in turn. */
  origins: string[]
  path: string
  headers: Record<string, string>
  /** What this system wants to read before the name of a model. */
  modelPrefix?: string
  processes: Processes
}

export type Load = {
  target: Target
  /** Requests at once, each on a connection of its own. */
  callers: number
  stream: boolean
  /** `bench-DELAY-GAP`, in milliseconds. */
  model: string
  /** Whose calls these are: each call the next of all users, or all of one. */
  users: 'spread' | 'hot'
  /** How long calls are begun, or how many each caller makes. */
  amount: { ms: number } | { perCaller: number }
  /** Callers begin evenly spread over this time; without it together. */
  staggerMs?: number
  /** No more than so many calls are begun a second, evenly; without it each caller begins the next when one has ended. */
  perSecond?: number
}

export type Quantiles = { p50: number; p90: number; p99: number }

export type Measured = {
  calls: number
  /** From the first call's start to the last one's end. */
  ms: number
  /** To the last byte of a call. */
  total: Quantiles
  /** To the first byte of its body. */
  first: Quantiles
  /** Milliseconds on a CPU during the window, by what the processes are; not a number where nobody tells. */
  cpuMs: Record<string, number>
  /** Of systems with a database: what the server counted, statements by name, the most frequent first. */
  database?: { walBytes: number; statements: [name: string, count: number][] }
  /** The longest time for which the load's own process stood still: the whole machine did, for it has little to do. */
  stallMs: number
}

export type Command = { kind: 'setup'; tokens: string[]; superuserUrl: string } | { kind: 'load'; load: Load }
export type Answer = { kind: 'ready' } | { kind: 'measured'; measured: Measured } | { kind: 'failed'; message: string }
