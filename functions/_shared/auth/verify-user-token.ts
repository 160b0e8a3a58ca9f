/** Checks a user's access token against the project's public keys, without asking anybody. */
import type { JSONWebKeySet, JWTVerifyGetKey } from 'jose'
import { z } from 'zod'
import { AppError } from '../errors.ts'
import { remember } from '../remember.ts'

export type UserCaller = { kind: 'user'; userId: string; sessionId: string; aal: string; isAnonymous: boolean }

/** Throws invalid_api_key for what is no token of this project, or no more. */
export type VerifyUserToken = ReturnType<typeof createUserTokenVerifier>

type Project = { url: string; jwks: JSONWebKeySet; now(): number }
type Verified = { caller: UserCaller; expiresAt: number }

const claims = z.object({
  sub: z.guid(),
  session_id: z.guid(),
  exp: z.number(),
  aal: z.string().default('aal1'),
  is_anonymous: z.boolean().default(false),
})

const tokensKept = 10_000

const expired = (cause?: unknown) =>
  new AppError('invalid_api_key', { message: 'The access token has expired. Refresh the session.', cause })

const notValidHere = (cause: unknown) =>
  new AppError('invalid_api_key', {
    message: 'The access token is not valid here: it was not issued by this project.',
    cause,
  })

/**
 * The answer is only what the token says: whether the session still lives and the account is in order is asked in the
 * database, with every request. That is also why an answer can be kept until the token expires: a signature takes 650 µs to
 * check, and what it says of a token never changes.
 */
export function createUserTokenVerifier(project: Project) {
  const verify = createVerifier(project)
  const kept = new Map<string, Verified>()

  return async (token: string): Promise<UserCaller> => {
    const known = kept.get(token)
    if (known && known.expiresAt > project.now()) return known.caller
    if (known) {
      kept.delete(token)
      throw expired()
    }
    const verified = await verify(token)
    remember(kept, tokensKept, token, verified)
    return verified.caller
  }
}

/** Algorithms are a closed list, so that neither `none` nor a shared secret can pass. */
function createVerifier({ url, jwks, now }: Project) {
  let keys: JWTVerifyGetKey | undefined
  return async (token: string): Promise<Verified> => {
    // Loaded with the first token: a worker that only sees API keys starts without it.
    const { createLocalJWKSet, errors, jwtVerify } = await import('jose')
    keys ??= createLocalJWKSet(jwks)
    const expected = {
      algorithms: ['ES256', 'RS256'],
      issuer: `${url}/auth/v1`,
      audience: 'authenticated',
      requiredClaims: ['exp', 'sub', 'session_id'],
      currentDate: new Date(now()),
    }
    try {
      const { payload } = await jwtVerify(token, keys, expected)
      const { sub, session_id, exp, aal, is_anonymous } = claims.parse(payload)
      const caller = { kind: 'user' as const, userId: sub, sessionId: session_id, aal, isAnonymous: is_anonymous }
      return { caller, expiresAt: exp * 1000 }
    } catch (cause) {
      throw cause instanceof errors.JWTExpired ? expired(cause) : notValidHere(cause)
    }
  }
}
