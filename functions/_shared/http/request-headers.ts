/** What is taken from the headers of any request: its id, and the address that it came from. */
import { z } from 'zod'

/** A caller's own id is taken when it cannot break a log line or a header. */
export function requestId(headers: Headers, newId: () => string): string {
  const given = headers.get('x-request-id')
  return given !== null && /^[A-Za-z0-9._-]{1,64}$/.test(given) ? given : newId()
}

const ipv6 = z.ipv6()

/**
 * The address that the platform's own proxy saw: the last of x-forwarded-for. What stands before it was sent along, and a
 * caller can forge it.
 */
export function clientAddress(headers: Headers): string | null {
  const last = headers.get('x-forwarded-for')?.split(',').at(-1)?.trim()
  // The schema takes as long as the rest of the door, and is asked for every call.
  return last && (z.regexes.ipv4.test(last) || ipv6.safeParse(last).success) ? last : null
}
