/** Who calls: a user's access token or an API key, both as `Authorization: Bearer ...`. */
import { AppError } from '../errors.ts'
import { type KeyCaller, verifyApiKey } from './verify-api-key.ts'
import type { UserCaller } from './verify-user-token.ts'

export type Caller = UserCaller | KeyCaller

export async function identifyCaller(
  headers: Headers,
  world: { verifyUserToken(token: string): Promise<UserCaller> },
): Promise<Caller> {
  const [, token] = /^Bearer +(\S+) *$/i.exec(headers.get('authorization') ?? '') ?? []
  if (token === undefined) {
    throw new AppError('invalid_api_key', {
      message: 'The Authorization header is missing: send "Bearer" and an access token or an API key.',
    })
  }
  return token.startsWith('pal_') ? verifyApiKey(token) : world.verifyUserToken(token)
}

/** A person's token: API keys may make AI calls and nothing else. `what` begins the sentence, as `Credentials need`. */
export async function requireUserToken(
  headers: Headers,
  what: string,
  world: { verifyUserToken(token: string): Promise<UserCaller> },
): Promise<{ token: string; userId: string; sessionId: string }> {
  const caller = await identifyCaller(headers, world)
  if (caller.kind !== 'user')
    throw new AppError('not_allowed', { message: `${what} a signed-in user, not an API key.` })
  const { userId, sessionId } = caller
  return { token: (headers.get('authorization') ?? '').replace(/^Bearer +/i, '').trim(), userId, sessionId }
}
