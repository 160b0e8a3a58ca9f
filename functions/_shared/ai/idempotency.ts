/** The caller's promise that two requests are one: a key, and what tells whether the bodies are the same. */
import { AppError } from '../errors.ts'
import type { Admission } from './ledger-contract.ts'

type Claim = { idempotency_key: string | null; body_hash: string | null }

const form = /^[\x20-\x7e]{1,255}$/

export async function readIdempotency(headers: Headers, body: Uint8Array<ArrayBuffer>): Promise<Claim> {
  const key = headers.get('idempotency-key')
  if (key === null) return { idempotency_key: null, body_hash: null }
  if (!form.test(key)) {
    const message = 'idempotency-key: is not 1 to 255 printable characters'
    throw new AppError('invalid_request_error', { message, param: 'idempotency-key' })
  }
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', body))
  return { idempotency_key: key, body_hash: Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('') }
}

/** The answer to the first request with this key, once more. It was paid then. */
export function replayed({ replay }: Extract<Admission, { admitted: false }>): Response {
  if (!replay) throw new AppError('idempotency_not_replayable')
  const headers = { 'content-type': replay.content_type, 'idempotency-replayed': 'true', 'x-model-used': replay.model }
  return new Response(replay.body, { headers })
}
