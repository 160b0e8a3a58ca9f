/** How often refused deliveries may become a write: whoever sends garbage must not make us do more work than he does. */

const perNetworkMs = 10_000
const perMinute = 30

/** Answers whether this one may be noted. Of a network one in ten seconds, of all together thirty a minute. */
export function createRaiseLimit(now: () => number): (key: string) => boolean {
  const noted = new Map<string, number>()
  return (key) => {
    const time = now()
    for (const [other, at] of noted) if (time - at >= 60_000) noted.delete(other)
    const last = noted.get(key)
    if (noted.size >= perMinute && last === undefined) return false
    if (last !== undefined && time - last < perNetworkMs) return false
    noted.set(key, time)
    return true
  }
}

/** The first 24 bits of an IPv4 address, the first three groups of an IPv6 one: neighbours count as one. */
export const networkOf = (address: string | null): string =>
  address === null ? 'unknown' : address.split(/[.:]/).slice(0, 3).join('.')
