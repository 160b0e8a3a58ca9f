import { z } from 'zod'

const address = z.union([z.ipv4(), z.ipv6()])

/** The address of the caller as the first proxy saw it. For the log only: a caller can forge it. */
export function clientAddress(headers: Headers): string | null {
  const [first = ''] = (headers.get('x-forwarded-for') ?? '').split(',')
  const parsed = address.safeParse(first.trim())
  return parsed.success ? parsed.data : null
}
