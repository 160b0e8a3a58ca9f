/** What can be known of an API key without asking the database: its form and its checksum. */
import { AppError } from '../errors.ts'

export type KeyCaller = { kind: 'api_key'; keyHash: string }

const form = /^pal_[a-z]{1,10}_[0-9a-hjkmnp-tv-z]{32}[0-9a-f]{8}$/

const sha256 = async (text: string) =>
  Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text))), (byte) =>
    byte.toString(16).padStart(2, '0'),
  ).join('')

/** Answers the key's SHA-256, which the admission looks up. A mistyped or cut key is refused here, at no cost. */
export async function verifyApiKey(key: string): Promise<KeyCaller> {
  if (!form.test(key) || !(await sha256(key.slice(0, -8))).startsWith(key.slice(-8))) {
    throw new AppError('invalid_api_key', { message: 'This is not an API key of ours, or not all of it.' })
  }
  return { kind: 'api_key', keyHash: await sha256(key) }
}
