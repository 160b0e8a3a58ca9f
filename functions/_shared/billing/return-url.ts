/** Where callers may be sent after a checkout. Anything else would make our payment pages a way to anywhere. */
import { AppError } from '../errors.ts'

/** Of the address as it is sent on; what is written in it as %XX takes three times as many characters as were given. */
const maxLength = 2_000

/** What Stripe puts the session's id in the place of. */
const placeholder = '{CHECKOUT_SESSION_ID}'

/** The URL as the standard reads it, so that Stripe cannot read it differently than we do; refused unless it is allowed. */
export function requireReturnUrl(given: string, allowed: readonly string[], param: string): string {
  const url = URL.canParse(given) ? new URL(given) : undefined
  if (!url || !allowed.some((prefix) => isBelow(url, new URL(prefix)))) {
    throw new AppError('invalid_request_error', {
      message: `${param}: is not one of the addresses that are allowed here.`,
      param,
    })
  }
  const href = url.href.replaceAll(encodeURI(placeholder), placeholder)
  if (href.length > maxLength)
    throw new AppError('invalid_request_error', { message: `${param}: is longer than ${maxLength} characters.`, param })
  return href
}

/** The same origin, and a path that goes on after a whole segment: /app allows /app/paid and not /apparel. */
function isBelow(url: URL, prefix: URL): boolean {
  if (url.origin !== prefix.origin || url.username !== '' || url.password !== '') return false
  const path = prefix.pathname.replace(/\/+$/, '')
  return url.pathname === path || url.pathname.startsWith(`${path}/`)
}
