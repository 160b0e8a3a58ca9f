/** The keys that users' tokens are signed with: given by the environment, or asked of the project and kept. */
import type { JWK, JWTVerifyGetKey } from 'jose'
import { hasKeys, type TokenEnvironment } from '../env.ts'
import { AppError } from '../errors.ts'
import { describeTransport } from '../failure.ts'

export type KeyWorld = { fetch(url: string, init: RequestInit): Promise<Response>; now(): number }
/** Algorithms are a closed list that goes with the keys: neither `none` nor a public key used as a secret can pass. */
export type TokenKeys = { key: JWTVerifyGetKey; algorithms: string[] }

/** As long as Auth lets its answer be kept. */
const freshMs = 10 * 60_000
/** While Auth does not answer, its last answer is used for about as long as tokens live. */
const usableMs = 60 * 60_000
/** Between two questions, whatever the tokens are that come: unknown keys cost the project two questions a minute. */
const pauseMs = 30_000
const pauseAfterFailureMs = 2_000
const answerMs = 5_000

/** `current` answers the keys; `newer` others than these, when the project has them by now. Both throw auth_unavailable. */
export function createProjectKeys(env: TokenEnvironment, world: KeyWorld) {
  const given = publicKeys(env.SUPABASE_JWKS)
  return given.length > 0 ? givenKeys(given) : askedKeys(env, world)
}

/** Hosted Supabase starts its functions anew long before a new key is used. */
function givenKeys(given: JWK[]) {
  let keys: Promise<TokenKeys> | undefined
  return {
    current: () => {
      keys ??= verifyWith(given)
      return keys
    },
    newer: async (_than: TokenKeys): Promise<TokenKeys | undefined> => undefined,
  }
}

function askedKeys(env: TokenEnvironment, { fetch, now }: KeyWorld) {
  let kept: { listed: JWK[]; keys: TokenKeys; at: number } | undefined
  let asked = { at: Number.NEGATIVE_INFINITY, pauseMs: 0 }
  let why = unavailable('nothing was asked yet')
  let asking: Promise<void> | undefined

  const since = (at: number) => Math.abs(now() - at) // A clock that was set back does not end the questions.
  const isYoungerThan = (ms: number) => kept !== undefined && since(kept.at) < ms

  const keep = async (listed: JWK[]) => {
    // Who has signed with keys of their own does not go back to a secret that many know.
    if (listed.length === 0 && kept && kept.listed.length > 0)
      throw unavailable('the project lists no signing keys any more')
    if (listed.length === 0 && env.JWT_SECRET === undefined) throw unavailable(noKeys)
    const isSame = kept && JSON.stringify(kept.listed) === JSON.stringify(listed)
    const keys =
      isSame && kept ? kept.keys : await (listed.length > 0 ? verifyWith(listed) : verifyWithSecret(env.JWT_SECRET))
    kept = { listed, keys, at: now() }
  }
  /** Resolves when an answer is there, or when none is to be had now. */
  const ask = async (): Promise<void> => {
    if (asking === undefined && since(asked.at) >= asked.pauseMs) {
      asked = { at: now(), pauseMs }
      asking = listKeys(env, fetch)
        .then(keep)
        .catch((cause: unknown) => {
          asked.pauseMs = pauseAfterFailureMs
          why = cause instanceof AppError ? cause : unavailable(describeTransport(cause, env.SUPABASE_URL))
        })
        .finally(() => {
          asking = undefined
        })
    }
    await asking
  }
  const current = async (): Promise<TokenKeys> => {
    if (!isYoungerThan(usableMs)) await ask()
    else if (!isYoungerThan(freshMs)) void ask() // Nobody waits: what is kept is still good.
    if (kept && isYoungerThan(usableMs)) return kept.keys
    throw why
  }
  return {
    current,
    newer: async (than: TokenKeys): Promise<TokenKeys | undefined> => {
      await ask()
      const keys = await current()
      return keys === than ? undefined : keys
    },
  }
}

const unavailable = (cause: string) => new AppError('auth_unavailable', { cause })
const noKeys =
  'the project lists no signing keys and JWT_SECRET is not set: give Auth an asymmetric signing key, or the functions JWT_SECRET'

async function listKeys({ SUPABASE_URL, SUPABASE_ANON_KEY }: TokenEnvironment, fetch: KeyWorld['fetch']) {
  const answer = await fetch(`${SUPABASE_URL}/auth/v1/.well-known/jwks.json`, {
    // Public, but some gateways ask for a key whatever the address.
    headers: SUPABASE_ANON_KEY === undefined ? {} : { apikey: SUPABASE_ANON_KEY },
    signal: AbortSignal.timeout(answerMs),
  })
  const list: unknown = await answer.json().catch(() => undefined)
  if (!answer.ok || !hasKeys(list))
    throw unavailable(`the list of signing keys has status ${answer.status} and another form`)
  return publicKeys(list)
}

/** A shared secret has no place in a list that everybody may read; one that stands there is no key of ours. */
const publicKeys = (list: { keys: JWK[] } | undefined) =>
  list?.keys.filter(({ kty }) => kty === 'EC' || kty === 'RSA') ?? []

// Jose is loaded with the first token: a worker that only sees API keys starts without it.
async function verifyWith(keys: JWK[]): Promise<TokenKeys> {
  const { createLocalJWKSet } = await import('jose/jwks/local')
  return { key: createLocalJWKSet({ keys }), algorithms: ['ES256', 'RS256'] }
}

/**
 * Auth of a self-hosted project may sign with JWT_SECRET alone. That is so when it lists no public key; what the header of a
 * token says decides nothing.
 */
function verifyWithSecret(secret = ''): TokenKeys {
  const bytes = new TextEncoder().encode(secret)
  return { key: async () => bytes, algorithms: ['HS256'] }
}
