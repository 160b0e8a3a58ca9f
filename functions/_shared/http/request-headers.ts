/** What is taken from the headers of any request: its id, and the address that it came from. */

/** A caller's own id is taken when it cannot break a log line or a header. */
export function requestId(headers: Headers, newId: () => string): string {
  const given = headers.get('x-request-id')
  return given !== null && /^[A-Za-z0-9._-]{1,64}$/.test(given) ? given : newId()
}

const ipv4 = /^(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!$)|$)){4}$/
const isIpv6 = (text: string) => /^[0-9a-f:.]+$/i.test(text) && URL.canParse(`http://[${text}]`)

/**
 * The address that the platform's own proxy saw: the last of x-forwarded-for. What stands before it was sent along, and a
 * caller can forge it.
 */
export function clientAddress(headers: Headers): string | null {
  const last = headers.get('x-forwarded-for')?.split(',').at(-1)?.trim()
  return last && (ipv4.test(last) || isIpv6(last)) ? last : null
}
