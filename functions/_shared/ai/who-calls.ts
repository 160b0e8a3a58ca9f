/**
 * Who calls, as far as it can be said without the database: a token's user or a key, with its signature. Requests without a
 * valid token or key are counted by address, since there is nobody else to count them for.
 */
import { type Caller, identifyCaller } from '../auth/identify-caller.ts'
import { AppError, toAppError } from '../errors.ts'
import { causeOf } from '../failure.ts'
import { clientAddress } from '../http/request-headers.ts'
import { remember } from '../remember.ts'
import type { AnonymousVerdict, Ledger, LedgerCaller, RequestSignature } from './ledger.ts'
import { limitHeaders } from './tell-decision.ts'
import type { AiWorld } from './world.ts'

export async function identify(headers: Headers, world: AiWorld): Promise<Caller> {
  try {
    return await identifyCaller(headers, world)
  } catch (cause) {
    const error = toAppError(cause)
    const ip = clientAddress(headers)
    if (error.code !== 'invalid_api_key' || ip === null) throw error
    throw tooMany(await countOrAllow(ip, world), world.now()) ?? error
  }
}

/** The caller is refused either way, so that a counter that is away changes nothing but the reason. */
async function countOrAllow(ip: string, world: AiWorld): Promise<AnonymousVerdict> {
  try {
    return await world.ledger.countAnonymous(ip, 'ai')
  } catch (cause) {
    world.log({ level: 'error', message: 'an anonymous request was not counted', ...causeOf(cause) })
    return { allowed: true }
  }
}

function tooMany({ allowed, limit, retry_after_s }: AnonymousVerdict, now: number): AppError | undefined {
  if (allowed) return undefined
  const message = 'Too many requests without a valid token or key came from this address.'
  const headers = limitHeaders(limit ? [limit] : [], now)
  return new AppError('rate_limit_exceeded', { message, retryAfterS: retry_after_s ?? undefined, headers })
}

/** A caller in the words of the SQL functions, which decide what the token or key is worth at this moment. */
export function ledgerCaller(caller: Caller, headers: Headers, body: Uint8Array<ArrayBuffer>): LedgerCaller {
  const ip = clientAddress(headers)
  return caller.kind === 'user'
    ? { user_id: caller.userId, session_id: caller.sessionId, ip }
    : { api_key_hash: caller.keyHash, signature: readSignature(headers, body), ip }
}

const messageId = /^[\x21-\x7e]{1,255}$/
const unixSeconds = /^\d{1,12}$/
/** Several while a secret is being replaced. */
const areSignatures = (given: string[]) =>
  given.length >= 1 && given.length <= 10 && given.every(({ length }) => length <= 200)

/**
 * By the scheme of Standard Webhooks. Null for a request that is not signed; one that is signed in part is refused.
 * @internal For tests: which headers are a signature, whatever the ledger says of it.
 */
export function readSignature(headers: Headers, body: Uint8Array<ArrayBuffer>): RequestSignature | null {
  const id = headers.get('webhook-id')
  const timestamp = headers.get('webhook-timestamp')
  const list = headers.get('webhook-signature')
  if (id === null && timestamp === null && list === null) return null
  const signatures = list?.split(' ').filter(Boolean) ?? []
  if (
    id === null ||
    timestamp === null ||
    !messageId.test(id) ||
    !unixSeconds.test(timestamp) ||
    !areSignatures(signatures)
  ) {
    throw new AppError('invalid_signature', {
      message:
        'A signed request has webhook-id, webhook-timestamp (Unix seconds) and webhook-signature ("v1,<base64>").',
    })
  }
  return { id, timestamp, signatures, content: toBase64(body) }
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
  world.waitUntil(world.ledger.reportSignatureFailure(caller.api_key_hash, caller.ip).catch(failed))
}

type Count = Ledger['countAnonymous']

const addressesKept = 10_000
const defaultBlockS = 1

/** Keeps a flood of anonymous requests away from the database: who is over the limit is known here until it starts anew. */
export function rememberBlocked(count: Count, now: () => number): Count {
  const blocked = new Map<string, { until: number; verdict: AnonymousVerdict }>()

  return async (ip, route) => {
    const key = `${route} ${ip}`
    const known = blocked.get(key)
    if (known && known.until > now())
      return { ...known.verdict, retry_after_s: Math.ceil((known.until - now()) / 1000) }
    blocked.delete(key)
    const verdict = await count(ip, route)
    if (verdict.allowed) return verdict
    const until = now() + (verdict.retry_after_s ?? defaultBlockS) * 1000
    remember(blocked, addressesKept, key, { until, verdict })
    return verdict
  }
}
