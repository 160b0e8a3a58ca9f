/**
 * Who calls, as far as it can be said without the database: a token's user or a key, with its signature. Requests without a
 * valid token or key are counted by network, since there is nobody else to count them for. What floods is refused before it is read.
 */
import { type Caller, identifyCaller } from '../auth/identify-caller.ts'
import { AppError, toAppError } from '../errors.ts'
import { causeOf } from '../failure.ts'
import { BodyTooSlow } from '../http/read-body.ts'
import { clientAddress } from '../http/request-headers.ts'
import { remember } from '../remember.ts'
import type { AnonymousVerdict, Ledger, LedgerCaller, RequestSignature } from './ledger.ts'
import { limitHeaders, type Refusal, refusal } from './tell-decision.ts'
import type { AiWorld } from './world.ts'

export async function identify(headers: Headers, world: AiWorld): Promise<Caller> {
  try {
    const caller = await identifyCaller(headers, world)
    const refused = await refusedEarly(caller, headers, world)
    if (refused) throw refused
    return caller
  } catch (cause) {
    throw await counted(toAppError(cause), clientAddress(headers), world)
  }
}

/** What a request without a valid token or key is answered: the refusal as it is, or that there were too many of them. */
async function counted(error: AppError, ip: string | null, world: AiWorld): Promise<AppError> {
  if (error.code !== 'invalid_api_key' || ip === null) return error
  return tooMany(await countOrAllow(ip, world), world.now()) ?? error
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

const callersKept = 10_000
const [keyKnownMs, keyRefusedMs] = [60_000, 5_000]

function judge(keyHash: string, exists: boolean, { judgedKeys, now }: AiWorld): void {
  judgedKeys.delete(keyHash)
  remember(judgedKeys, callersKept, keyHash, { exists, until: now() + (exists ? keyKnownMs : keyRefusedMs) })
}

function lastJudgement(keyHash: string, { judgedKeys, now }: AiWorld): boolean | undefined {
  const judged = judgedKeys.get(keyHash)
  return judged && judged.until > now() ? judged.exists : undefined
}

/** The ledger took the key, whatever it said of the call. */
export function noteKey(caller: LedgerCaller, world: AiWorld): void {
  if ('api_key_hash' in caller) judge(caller.api_key_hash, true, world)
}

/** What the ledger refused, as an error. A key that does not exist is remembered for a moment, and counted as a request without one. */
export async function turnAway(refused: Refusal, caller: LedgerCaller, world: AiWorld): Promise<AppError> {
  const error = refusal(refused)
  if (!('api_key_hash' in caller)) return error
  judge(caller.api_key_hash, error.code !== 'invalid_api_key', world)
  return counted(error, caller.ip, world)
}

/** Before a body is read: a key that was just refused, and one that nobody knows from a network that sent too many of those. */
async function refusedEarly(caller: Caller, headers: Headers, world: AiWorld): Promise<AppError | undefined> {
  if (caller.kind === 'user') return undefined
  const exists = lastJudgement(caller.keyHash, world)
  if (exists === false) return new AppError('invalid_api_key')
  const ip = clientAddress(headers)
  if (exists || ip === null || !isBlocked(world.blocked, ip, world.now())) return undefined
  const list = await askOfKey(caller.keyHash, ip, world)
  return list && new AppError('invalid_api_key', { message: list.message ?? undefined })
}

/** The refusal of a key that does not exist. A good one is good with any scope, address and signature: those are refused later. */
async function askOfKey(keyHash: string, ip: string | null, world: AiWorld) {
  const list = await world.ledger.listModels({ api_key_hash: keyHash, signature: null, ip })
  const refused = !list.allowed && list.code === 'invalid_api_key' ? list : undefined
  judge(keyHash, refused === undefined, world)
  return refused
}

/**
 * Why a call ended that the ledger has not seen. A key was not asked about then: one that does not exist counts for its network, so
 * that nobody sends bodies by inventing keys.
 */
export async function endedUnseen(
  error: AppError,
  caller: Caller,
  headers: Headers,
  world: AiWorld,
): Promise<AppError> {
  // A ledger that is away would be waited for twice.
  if (caller.kind === 'user' || error.status >= 500 || lastJudgement(caller.keyHash, world) !== undefined) return error
  const ip = clientAddress(headers)
  try {
    const refused = await askOfKey(caller.keyHash, ip, world)
    return refused ? await counted(refusal(refused), ip, world) : error
  } catch (cause) {
    world.log({ level: 'error', message: 'a key was not asked about', ...causeOf(cause) })
    return error
  }
}

const unreadableAMinute = 60
/** A body that came too slowly kept a connection for ten seconds and more. */
const slowCounts = 10
const nameOf = (caller: Caller) => (caller.kind === 'user' ? caller.userId : caller.keyHash)

/** Who sent too many bodies that cannot be parsed, or came too slowly, has none read until the minute is over. */
export function requireReadable(caller: Caller, { unreadable, now }: AiWorld): void {
  const sent = unreadable.get(nameOf(caller))
  if (!sent || sent.until <= now() || sent.count < unreadableAMinute) return
  const message = 'Too many bodies that are not JSON, or came too slowly, are from this caller.'
  throw new AppError('rate_limit_exceeded', { message, retryAfterS: Math.ceil((sent.until - now()) / 1000) })
}

export function countUnreadable(caller: Caller, cause: unknown, { unreadable, now }: AiWorld): void {
  const counts = cause instanceof BodyTooSlow ? slowCounts : 1
  const sent = unreadable.get(nameOf(caller))
  if (sent && sent.until > now()) sent.count += counts
  else {
    unreadable.delete(nameOf(caller))
    remember(unreadable, callersKept, nameOf(caller), { count: counts, until: now() + 60_000 })
  }
}

type Count = Ledger['countAnonymous']
type BlockedNetworks = AiWorld['blocked']

const networksKept = 10_000
const defaultBlockS = 1

/** Keeps a flood of anonymous requests away from the database: who is over the limit is known here until it starts anew. */
export function rememberBlocked(count: Count, now: () => number, blocked: BlockedNetworks = new Map()): Count {
  return async (ip, route) => {
    const key = `${route} ${networkOf(ip)}`
    const known = blocked.get(key)
    if (known && known.until > now())
      return { ...known.verdict, retry_after_s: Math.ceil((known.until - now()) / 1000) }
    blocked.delete(key)
    const verdict = await count(ip, route)
    if (verdict.allowed) return verdict
    const until = now() + (verdict.retry_after_s ?? defaultBlockS) * 1000
    remember(blocked, networksKept, key, { until, verdict })
    return verdict
  }
}

const isBlocked = (blocked: BlockedNetworks, ip: string, now: number) =>
  (blocked.get(`ai ${networkOf(ip)}`)?.until ?? 0) > now

/** A /24 or a /56, as private.count_anonymous_request counts. */
function networkOf(ip: string): string {
  if (!ip.includes(':')) return ip.split('.').slice(0, 3).join('.')
  // A URL writes an address of IPv6 in one way, with an IPv4 address at its end in two groups.
  const [head = '', tail] = new URL(`http://[${ip}]`).hostname.slice(1, -1).split('::')
  const [left, right] = [head, tail ?? ''].map((part) => part.split(':').filter(Boolean))
  const zeros = tail === undefined ? [] : Array(8 - (left?.length ?? 0) - (right?.length ?? 0)).fill('0')
  const groups = [...(left ?? []), ...zeros, ...(right ?? [])].map((group) => group.padStart(4, '0'))
  return groups.join('').slice(0, 14)
}
