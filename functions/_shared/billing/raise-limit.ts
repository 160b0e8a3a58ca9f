/** How often refused deliveries may become a write: whoever sends garbage must not make us do more work than he does. */

const perSourceMs = 10_000
const perMinute = 30

/**
 * Answers whether this one may be noted: of a type one in ten seconds from a source, and thirty a minute from all. Each type
 * has its own, so that garbage from everywhere does not hide an alert about what Stripe did sign.
 */
export function createRaiseLimit(now: () => number): (type: string, source: string) => boolean {
  let noted: { type: string; source: string; at: number }[] = []
  return (type, source) => {
    const time = now()
    noted = noted.filter(({ at }) => time - at < 60_000)
    const ofType = noted.filter((note) => note.type === type)
    const isTooSoon = ofType.some((note) => note.source === source && time - note.at < perSourceMs)
    if (isTooSoon || ofType.length >= perMinute) return false
    noted.push({ type, source, at: time })
    return true
  }
}

/** The first 24 bits of an IPv4 address, the first three groups of an IPv6 one: neighbours count as one. */
export const networkOf = (address: string | null): string =>
  address === null ? 'unknown' : address.split(/[.:]/).slice(0, 3).join('.')
