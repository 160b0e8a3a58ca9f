/** Checks a user's access token against the project's public keys, without asking anybody. */
import { createLocalJWKSet, errors, type JSONWebKeySet, jwtVerify } from 'jose'
import { z } from 'zod'
import { AppError } from '../errors.ts'

export type UserCaller = { kind: 'user'; userId: string; sessionId: string; aal: string; isAnonymous: boolean }

const claims = z.object({
  sub: z.guid(),
  session_id: z.guid(),
  aal: z.string().default('aal1'),
  is_anonymous: z.boolean().default(false),
})

const notValidHere = (cause: unknown) =>
  new AppError('invalid_api_key', {
    message: 'The access token is not valid here: it was not issued by this project.',
    cause,
  })

/**
 * The answer is only what the token says: whether the session still lives and the account is in order is asked in the
 * database, with every request. Algorithms are a closed list, so that neither `none` nor a shared secret can pass.
 */
export function createUserTokenVerifier(project: { url: string; jwks: JSONWebKeySet; now(): number }) {
  const keys = createLocalJWKSet(project.jwks)
  return async (token: string): Promise<UserCaller> => {
    const expected = {
      algorithms: ['ES256', 'RS256'],
      issuer: `${project.url}/auth/v1`,
      audience: 'authenticated',
      requiredClaims: ['exp', 'sub', 'session_id'],
      currentDate: new Date(project.now()),
    }
    try {
      const { payload } = await jwtVerify(token, keys, expected)
      const { sub, session_id, aal, is_anonymous } = claims.parse(payload)
      return { kind: 'user', userId: sub, sessionId: session_id, aal, isAnonymous: is_anonymous }
    } catch (cause) {
      if (cause instanceof errors.JWTExpired) {
        throw new AppError('invalid_api_key', { message: 'The access token has expired. Refresh the session.', cause })
      }
      throw notValidHere(cause)
    }
  }
}
