/** What the benchmark asks of the process that makes the load, and what it answers. */

export type Target = {
  name: string
  origin: string
  path: string
  headers: Record<string, string>
  /** Processes whose time on the CPU is the system's own; of a server that forks, the parent with `children`. */
  pids: { own?: number; children?: number }
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
  /** Time on the CPU during the window, in milliseconds: the gateway's own process, and the database's. */
  cpuMs: { own: number; children: number }
  /** The longest time for which the load's own process stood still: the whole machine did, for it has little to do. */
  stallMs: number
}

export type Command = { kind: 'tokens'; tokens: string[] } | { kind: 'load'; load: Load }
export type Answer = { kind: 'ready' } | { kind: 'measured'; measured: Measured } | { kind: 'failed'; message: string }
