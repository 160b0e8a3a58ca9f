/**
 * Who calls: a user's access token or an API key, both as `Authorization: Bearer ...`, or the project itself with a secret key in
 * the header `apikey`.
 */
import { AppError } from '../errors.ts'
import { clientAddress } from '../http/request-headers.ts'
import { sha256, sha256Hex } from '../sha256.ts'
import type { UserCaller, VerifyUserToken } from './verify-user-token.ts'

type KeyCaller = { kind: 'api_key'; keyHash: string }
export type Caller = UserCaller | KeyCaller

export async function identifyCaller(headers: Headers, world: { verifyUserToken: VerifyUserToken }): Promise<Caller> {
  const [, token] = /^Bearer +(\S+) *$/i.exec(headers.get('authorization') ?? '') ?? []
  if (token === undefined) {
    throw new AppError('invalid_api_key', {
      message: 'The Authorization header is missing: send "Bearer" and an access token or an API key.',
    })
  }
  return token.startsWith('pal_') ? verifyApiKey(token) : world.verifyUserToken(token)
}

/** A signed-in user who asks for something, as private.require_account takes it: `request` is for the log and the token's level. */
export type Asker = {
  userId: string
  sessionId: string
  request: { aal: string; ip: string | null; user_agent: string | null; request_id: string }
}

/**
 * A person's token: API keys may make AI calls and nothing else. `what` begins the sentence, as `Credentials need`. Whether this user
 * may, with this session, is for the SQL that is called with all of it: it begins with private.require_account.
 */
export async function requireUserToken(
  headers: Headers,
  what: string,
  requestId: string,
  world: { verifyUserToken: VerifyUserToken },
): Promise<Asker> {
  const caller = await identifyCaller(headers, world)
  if (caller.kind !== 'user')
    throw new AppError('not_allowed', { message: `${what} a signed-in user, not an API key.` })
  const { userId, sessionId, aal } = caller
  const origin = { ip: clientAddress(headers), user_agent: headers.get('user-agent') }
  return { userId, sessionId, request: { aal, ...origin, request_id: requestId } }
}

const keyForm = /^pal_[a-z]{1,10}_[0-9a-hjkmnp-tv-z]{32}[0-9a-f]{8}$/

/**
 * Answers the key's SHA-256, which the admission looks up. A mistyped or cut key is refused here, at no cost.
 * @internal For tests: that the database keeps the same hash.
 */
export async function verifyApiKey(key: string): Promise<KeyCaller> {
  if (!keyForm.test(key) || !(await sha256Hex(key.slice(0, -8))).startsWith(key.slice(-8))) {
    throw new AppError('invalid_api_key', { message: 'This is not an API key of ours, or not all of it.' })
  }
  return { kind: 'api_key', keyHash: await sha256Hex(key) }
}

/** Digests have one length and no structure, so that every byte of every key is always looked at. */
export async function hasSecretKey(headers: Headers, keys: Record<string, string>): Promise<boolean> {
  const given = await sha256(headers.get('apikey') ?? '')
  let found = false
  for (const key of Object.values(keys)) {
    const wanted = await sha256(key)
    const difference = wanted.reduce((sum, byte, at) => sum | (byte ^ (given[at] ?? 0)), 0)
    found = (difference === 0 && key !== '') || found
  }
  return found
}
