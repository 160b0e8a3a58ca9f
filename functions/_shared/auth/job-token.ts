/** What pg_cron calls a job with, in place of the secret key: pg_net's queue can be read by every role of the database. */

const form = /^([0-9]{10})\.([0-9a-f]{64})$/
/** A queue may be slow, and two clocks differ. A job that is run again does no harm. */
const lifeSeconds = 300

/** Whether private.job_token made it for this job, within five minutes, by one of the keys: two while one is rotated. */
export async function isJobToken(
  token: string | null | undefined,
  job: string,
  keys: Record<string, string>,
  now: number,
): Promise<boolean> {
  const [, seconds, signature] = form.exec(token ?? '') ?? []
  if (seconds === undefined || signature === undefined) return false
  if (Math.abs(Math.floor(now / 1000) - Number(seconds)) > lifeSeconds) return false
  const given = Uint8Array.from(signature.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16))
  const signed = encoder.encode(`palisade job ${job} ${seconds}`)
  // An empty key would be everybody's.
  const found = await Promise.all(Object.values(keys).map((key) => key !== '' && isSigned(key, given, signed)))
  return found.includes(true)
}

const encoder = new TextEncoder()

/** WebCrypto compares in a time that says nothing. */
async function isSigned(
  key: string,
  given: Uint8Array<ArrayBuffer>,
  signed: Uint8Array<ArrayBuffer>,
): Promise<boolean> {
  const hash = { name: 'HMAC', hash: 'SHA-256' }
  const imported = await crypto.subtle.importKey('raw', encoder.encode(key), hash, false, ['verify'])
  return crypto.subtle.verify('HMAC', imported, given, signed)
}
