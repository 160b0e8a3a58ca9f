/** What one connection may cost, as a new project on hosted Supabase has it; bytes and milliseconds. */
export type Limits = {
  connections: number
  channels: number
  /** Joins and new tokens of a connection in one second: each asks the database. */
  joinsPerSecond: number
  /** Broadcasts of a connection in one second. */
  messagesPerSecond: number
  messageBytes: number
  /** What a reader may leave unread before it is cut off. */
  unreadBytes: number
  /** Without any message for so long, a heartbeat included, a connection is closed. */
  idleMs: number
  /** How often policies are asked again whether a private channel may still be heard. */
  recheckMs: number
}

export const hostedLimits: Limits = {
  connections: 200,
  channels: 100,
  joinsPerSecond: 100,
  messagesPerSecond: 100,
  messageBytes: 256 * 1024,
  unreadBytes: 4 * 1024 * 1024,
  idleMs: 60_000,
  // The real service asks when the token changes, and never else: what ends there with the token ends here within half a minute.
  recheckMs: 30_000,
}

/** Counts events of the present second; answers whether one more is allowed. */
export function createRate(perSecond: number, now: () => number = Date.now): () => boolean {
  let second = 0
  let count = 0
  return () => {
    const present = Math.floor(now() / 1000)
    if (present !== second) {
      second = present
      count = 0
    }
    count += 1
    return count <= perSecond
  }
}
