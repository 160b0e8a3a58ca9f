/** Who calls: a user's access token or an API key, both as `Authorization: Bearer ...`. */
import { AppError } from '../errors.ts'
import type { UserCaller } from './verify-user-token.ts'

export async function identifyCaller(
  headers: Headers,
  world: { verifyUserToken(token: string): Promise<UserCaller> },
): Promise<UserCaller> {
  const [, token] = /^Bearer +(\S+) *$/i.exec(headers.get('authorization') ?? '') ?? []
  if (token === undefined) {
    throw new AppError('invalid_api_key', {
      message: 'The Authorization header is missing: send "Bearer" and an access token.',
    })
  }
  if (token.startsWith('pal_')) throw new AppError('invalid_api_key', { message: 'API keys are not accepted yet.' })
  return world.verifyUserToken(token)
}
