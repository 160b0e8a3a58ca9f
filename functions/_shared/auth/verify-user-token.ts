/** Checks a user's access token against the project's keys. Nobody is asked but for the keys, and rarely. */
import type { TokenEnvironment } from '../env.ts'
import { AppError } from '../errors.ts'
import { hasFields, isNumber, isOptional, isText, isUuid } from '../forms.ts'
import { remember } from '../remember.ts'
import { createProjectKeys, type KeyWorld, type TokenKeys } from './project-keys.ts'

export type UserCaller = { kind: 'user'; userId: string; sessionId: string; aal: string; isAnonymous: boolean }

/** Throws invalid_api_key for what is no token of this project, or no more; auth_unavailable when it has no keys to tell by. */
export type VerifyUserToken = ReturnType<typeof createUserTokenVerifier>

type Verified = { caller: UserCaller; expiresAt: number }

const areClaims = hasFields({
  sub: isUuid,
  session_id: isUuid,
  exp: isNumber,
  aal: isOptional(isText),
  is_anonymous: isOptional((given) => typeof given === 'boolean'),
})

const tokensKept = 10_000

const expired = (cause?: unknown) =>
  new AppError('invalid_api_key', { message: 'The access token has expired. Refresh the session.', cause })

const notValidHere = (cause: unknown, why = 'it was not issued by this project') =>
  new AppError('invalid_api_key', { message: `The access token is not valid here: ${why}.`, cause })

/**
 * The answer is only what the token says: whether the session still lives and the account is in order is asked in the
 * database, with every request. That is also why an answer can be kept until the token expires: a signature takes 650 µs to
 * check, and what it says of a token never changes.
 */
export function createUserTokenVerifier(env: TokenEnvironment, world: KeyWorld) {
  const verify = createVerifier(env, world)
  const kept = new Map<string, Verified>()

  return async (token: string): Promise<UserCaller> => {
    const known = kept.get(token)
    if (known && known.expiresAt > world.now()) return known.caller
    if (known) {
      kept.delete(token)
      throw expired()
    }
    const verified = await verify(token)
    remember(kept, tokensKept, token, verified)
    return verified.caller
  }
}

function createVerifier(env: TokenEnvironment, world: KeyWorld) {
  const projectKeys = createProjectKeys(env, world)
  const expected = {
    issuer: env.AUTH_ISSUER ?? `${env.SUPABASE_URL}/auth/v1`,
    audience: 'authenticated',
    requiredClaims: ['exp', 'sub', 'session_id'],
  }
  return async (token: string): Promise<Verified> => {
    const keys = await projectKeys.current()
    // Loaded with the first token: a worker that only sees API keys starts without it.
    const [errors, { jwtVerify }] = await Promise.all([import('jose/errors'), import('jose/jwt/verify')])
    const check = async ({ key, algorithms }: TokenKeys) => {
      const { payload } = await jwtVerify(token, key, { ...expected, algorithms, currentDate: new Date(world.now()) })
      if (!areClaims(payload)) throw new Error('the claims have another form')
      const { sub, session_id, exp, aal = 'aal1', is_anonymous: isAnonymous = false } = payload
      const caller = { kind: 'user' as const, userId: sub, sessionId: session_id, aal, isAnonymous }
      return { caller, expiresAt: exp * 1000 }
    }
    const refuse = (cause: unknown) => {
      if (cause instanceof errors.JWTExpired) throw expired(cause)
      // Claims are looked at after the signature: the key is ours, so an operator may learn what is set wrong.
      if (cause instanceof errors.JWTClaimValidationFailed && cause.claim === 'iss')
        throw notValidHere(cause, 'its issuer (iss) is not the one that is expected (AUTH_ISSUER)')
      throw notValidHere(cause)
    }
    try {
      return await check(keys)
    } catch (cause) {
      const isOfAnotherKey = cause instanceof errors.JWKSNoMatchingKey || cause instanceof errors.JOSEAlgNotAllowed
      const newer = isOfAnotherKey ? await projectKeys.newer(keys) : undefined
      return newer ? check(newer).catch(refuse) : refuse(cause)
    }
  }
}
