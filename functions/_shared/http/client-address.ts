import { z } from 'zod'

const address = z.union([z.ipv4(), z.ipv6()])

/**
 * The address that the platform's own proxy saw: the last of x-forwarded-for. What stands before it was sent along, and a
 * caller can forge it.
 */
export function clientAddress(headers: Headers): string | null {
  const last = (headers.get('x-forwarded-for') ?? '').split(',').at(-1) ?? ''
  const parsed = address.safeParse(last.trim())
  return parsed.success ? parsed.data : null
}
