/** Signed requests (Standard Webhooks: webhook-id, webhook-timestamp, webhook-signature). The database knows the secret. */
import { z } from 'zod'
import { AppError } from '../errors.ts'
import { causeOf } from '../failure.ts'
import type { LedgerCaller, RequestSignature } from './ledger-contract.ts'
import type { AiWorld } from './world.ts'

const signed = z.object({
  id: z.string().regex(/^[\x21-\x7e]{1,255}$/),
  timestamp: z.string().regex(/^\d{1,12}$/),
  /** Several while a secret is being replaced. */
  signatures: z.array(z.string().max(200)).min(1).max(10),
})

/** Null for a request that is not signed; one that is signed in part is refused. */
export function readSignature(headers: Headers, body: Uint8Array<ArrayBuffer>): RequestSignature | null {
  const [id, timestamp, list] = ['webhook-id', 'webhook-timestamp', 'webhook-signature'].map((name) =>
    headers.get(name),
  )
  if (id === null && timestamp === null && list === null) return null
  const { data } = signed.safeParse({ id, timestamp, signatures: list?.split(' ').filter(Boolean) })
  if (!data) {
    throw new AppError('invalid_signature', {
      message:
        'A signed request has webhook-id, webhook-timestamp (Unix seconds) and webhook-signature ("v1,<base64>").',
    })
  }
  return { ...data, content: toBase64(body) }
}

/** Spreading a megabyte into one call would overflow the stack. */
function toBase64(bytes: Uint8Array<ArrayBuffer>): string {
  let text = ''
  for (let at = 0; at < bytes.byteLength; at += 8_192) text += String.fromCharCode(...bytes.subarray(at, at + 8_192))
  return btoa(text)
}

/** The owner hears that somebody has the key, but not the signing secret. */
export function tellOfSignature(caller: LedgerCaller, world: AiWorld): void {
  if (!('api_key_hash' in caller)) return
  const failed = (error: unknown) =>
    world.log({ level: 'error', message: 'a signature failure was not reported', ...causeOf(error) })
  world.waitUntil(world.reportSignatureFailure(caller.api_key_hash, caller.ip).catch(failed))
}
