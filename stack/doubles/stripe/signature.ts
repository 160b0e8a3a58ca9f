/** The header by which a receiver knows that Stripe sent a webhook: one v1 for every secret that is valid now. */
import { createHmac } from 'node:crypto'

export function signatureHeader(payload: string, secrets: readonly string[], at: number): string {
  const signed = secrets.map((secret) => createHmac('sha256', secret).update(`${at}.${payload}`).digest('hex'))
  return [`t=${at}`, ...signed.map((signature) => `v1=${signature}`)].join(',')
}
