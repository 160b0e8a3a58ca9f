/** The password of palisade_gateway, as what the server keeps: servers write statements to their logs, and a verifier opens nothing. */
import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto'

const iterations = 4096

/** ASCII only, which SASLprep leaves as it is, and safe in a URL. */
export const newPassword = (): string => randomBytes(32).toString('base64url')

/**
 * A SCRAM-SHA-256 verifier (RFC 5802, 7677) in PostgreSQL's form. The password must be printable ASCII: others would have to be
 * normalised by SASLprep first, or no client could log in.
 */
export function scramVerifier(password: string, salt: Buffer = randomBytes(16)): string {
  if (!/^[\x20-\x7e]+$/.test(password)) throw new TypeError('A password of printable ASCII is needed.')
  const salted = pbkdf2Sync(password, salt, iterations, 32, 'sha256')
  const hmac = (key: Buffer, text: string) => createHmac('sha256', key).update(text).digest()
  const storedKey = createHash('sha256').update(hmac(salted, 'Client Key')).digest('base64')
  const serverKey = hmac(salted, 'Server Key').toString('base64')
  return `SCRAM-SHA-256$${iterations}:${salt.toString('base64')}$${storedKey}:${serverKey}`
}
