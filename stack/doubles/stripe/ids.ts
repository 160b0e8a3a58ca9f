/** Ids as Stripe's look: a prefix that names the kind, and letters that say nothing. */
import { randomBytes } from 'node:crypto'

const letters = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'

/** `newId('cus')` is cus_…; a prefix that goes on behind its underscore is taken as it is: `newId('in_1')`. */
export function newId(prefix: string, length = 24): string {
  let id = prefix.includes('_') ? prefix : `${prefix}_`
  for (const byte of randomBytes(length)) id += letters[byte % letters.length]
  return id
}
