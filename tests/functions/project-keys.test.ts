/** Functions that were given no keys, as self-hosted ones: they ask the project, which is a function with a clock here. */
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import { beforeAll, beforeEach, expect, test } from 'vitest'
import { createUserTokenVerifier } from '../../functions/_shared/auth/verify-user-token.ts'
import type { TokenEnvironment } from '../../functions/_shared/env.ts'
import { describeFailure } from '../../functions/_shared/failure.ts'

const env = { SUPABASE_URL: 'http://kong:8000' }
const issuer = 'http://kong:8000/auth/v1'
const sub = '6c1b9f6e-0000-4000-8000-000000000001'
const session_id = '6c1b9f6e-0000-4000-8000-000000000002'
const JWT_SECRET = 'a secret that self-hosted services share'
const minute = 60_000

const pair = async (kid: string) => {
  const { privateKey, publicKey } = await generateKeyPair('ES256', { extractable: true })
  const { kty = '', ...jwk } = await exportJWK(publicKey)
  return { privateKey, jwk: { kty, ...jwk, kid, alg: 'ES256' } }
}
type Pair = Awaited<ReturnType<typeof pair>>
let first: Pair, second: Pair, stranger: Pair
beforeAll(async () => {
  ;[first, second, stranger] = await Promise.all([pair('first'), pair('second'), pair('stranger')])
})

const clock = { now: 0 }
/** What Auth answers: keys, or an outage. */
const auth: { answer: () => Response | Promise<Response>; asked: [string, RequestInit][] } = {
  answer: () => new Response(),
  asked: [],
}
beforeEach(() => {
  clock.now = Date.now()
  auth.asked = []
  lists(first)
})
const lists = (...pairs: Pair[]) => {
  auth.answer = () => Response.json({ keys: pairs.map(({ jwk }) => jwk) })
}
const isAway = () => {
  auth.answer = () => Promise.reject(new TypeError('fetch failed'))
}
const verifier = (over: Partial<TokenEnvironment> = {}) =>
  createUserTokenVerifier(
    { ...env, ...over },
    {
      now: () => clock.now,
      fetch: async (url, init) => {
        auth.asked.push([url, init])
        return auth.answer()
      },
    },
  )
/** Every token is another one, so that none is remembered. */
const claimsOf = (over: object) => ({
  sub,
  session_id,
  iss: issuer,
  aud: 'authenticated',
  jti: crypto.randomUUID(),
  ...over,
})
const expiry = () => Math.floor(clock.now / 1000) + 3 * 3_600
const token = ({ privateKey, jwk }: Pair, over = {}) =>
  new SignJWT(claimsOf({ exp: expiry(), ...over })).setProtectedHeader({ alg: 'ES256', kid: jwk.kid }).sign(privateKey)
const sharedToken = (secret: string | Uint8Array, header = {}) =>
  new SignJWT(claimsOf({ exp: expiry() }))
    .setProtectedHeader({ alg: 'HS256', ...header })
    .sign(typeof secret === 'string' ? new TextEncoder().encode(secret) : secret)
const refused = { code: 'invalid_api_key' }
const unavailable = { code: 'auth_unavailable', status: 503 }
const user = { userId: sub }

test('the keys are asked for once, with the public key that gateways want', async () => {
  const verify = verifier({ SUPABASE_ANON_KEY: 'anon' })

  const tokens = await Promise.all([1, 2, 3].map(() => token(first)))
  for (const verified of await Promise.all(tokens.map(verify))) expect(verified).toMatchObject(user)

  expect(auth.asked).toEqual([
    ['http://kong:8000/auth/v1/.well-known/jwks.json', expect.objectContaining({ headers: { apikey: 'anon' } })],
  ])
})

test('a key that came since is found when its first token does, and one that is gone opens nothing', async () => {
  const verify = verifier()
  await verify(await token(first))
  lists(second)
  clock.now += minute

  expect(await verify(await token(second))).toMatchObject(user)
  await expect(verify(await token(first))).rejects.toMatchObject(refused)
  expect(auth.asked).toHaveLength(2)
})

test('keys are looked at anew after ten minutes, and nobody waits for it', async () => {
  const verify = verifier()
  await verify(await token(first))
  let answerNow = () => {}
  auth.answer = () =>
    new Promise((resolve) => {
      answerNow = () => resolve(Response.json({ keys: [second.jwk] }))
    })
  clock.now += 10 * minute

  expect(await verify(await token(first))).toMatchObject(user)
  answerNow()
  await expect
    .poll(async () =>
      verify(await token(first)).then(
        () => 'in',
        () => 'out',
      ),
    )
    .toBe('out')
})

test('tokens of unknown keys cannot make us ask more than twice a minute', async () => {
  const verify = verifier()
  await verify(await token(first))
  for (let second = 0; second < 120; second += 1) {
    clock.now += 1_000
    const flood = await Promise.all([1, 2, 3].map(() => token(stranger)))
    for (const answer of await Promise.allSettled(flood.map(verify)))
      expect(answer).toMatchObject({ status: 'rejected', reason: refused })
  }

  expect(auth.asked.length).toBe(1 + 4)
  expect(await verify(await token(first))).toMatchObject(user)
})

test('while Auth is away at the start nothing is let in, it is asked every two seconds at most, and then all is well', async () => {
  isAway()
  const verify = verifier()
  for (let tries = 0; tries < 40; tries += 1) {
    await expect(verify(await token(first))).rejects.toMatchObject(unavailable)
    clock.now += 100
  }
  expect(auth.asked).toHaveLength(2)

  lists(first)
  clock.now += 2_000
  expect(await verify(await token(first))).toMatchObject(user)
})

test.each([
  [
    'refuses the connection',
    () => Promise.reject(Object.assign(new TypeError('fetch failed'), { cause: { code: 'ECONNREFUSED' } })),
  ],
  ['fails', () => new Response('no', { status: 502 })],
  ['answers with something else', () => Response.json({ hello: 'you' })],
  ['answers with no JSON', () => new Response('<html>')],
])('an Auth that %s has given no keys', async (_, answer) => {
  auth.answer = answer

  await expect(verifier()(await token(first))).rejects.toMatchObject(unavailable)
})

test('when Auth goes away later, the keys are good for another hour', async () => {
  const verify = verifier()
  await verify(await token(first))
  isAway()
  clock.now += 59 * minute

  expect(await verify(await token(first))).toMatchObject(user)
  await expect(verify(await token(stranger))).rejects.toMatchObject(refused)
  clock.now += minute
  await expect(verify(await token(first))).rejects.toMatchObject(unavailable)

  lists(first)
  clock.now += 2_000
  expect(await verify(await token(first))).toMatchObject(user)
})

test('a clock that is set back does not end the questions', async () => {
  const verify = verifier()
  await verify(await token(first))
  clock.now -= 24 * 60 * minute
  lists(second)

  expect(await verify(await token(second))).toMatchObject(user)
})

test('a project without keys of its own signs with the secret it shares, if the functions have it', async () => {
  lists()
  const verify = verifier({ JWT_SECRET })

  expect(await verify(await sharedToken(JWT_SECRET))).toMatchObject(user)
  await expect(verify(await sharedToken('another secret of about the same length'))).rejects.toMatchObject(refused)

  const error = await verifier()(await sharedToken(JWT_SECRET)).catch((cause: unknown) => cause)
  expect(error).toMatchObject(unavailable)
  expect(describeFailure(error)).toContain('JWT_SECRET is not set')
})

test('the secret opens nothing where there are keys: listed, given, or seen before', async () => {
  const listed = verifier({ JWT_SECRET })
  const given = verifier({ JWT_SECRET, SUPABASE_JWKS: { keys: [first.jwk] } })
  const bytes = [JWT_SECRET, new TextEncoder().encode(JSON.stringify(first.jwk))]
  for (const verify of [listed, given])
    for (const secret of bytes)
      for (const header of [{}, { kid: 'first' }])
        await expect(verify(await sharedToken(secret, header))).rejects.toMatchObject(refused)

  await listed(await token(first))
  lists()
  clock.now += 11 * minute
  await expect(listed(await sharedToken(JWT_SECRET))).rejects.toMatchObject(refused)
  expect(await listed(await token(first))).toMatchObject(user)
})

test('nor while it is not known whether there are keys', async () => {
  isAway()

  await expect(verifier({ JWT_SECRET })(await sharedToken(JWT_SECRET))).rejects.toMatchObject(unavailable)
})

test('a project that gets its first key is no longer opened by the secret', async () => {
  lists()
  const verify = verifier({ JWT_SECRET })
  await verify(await sharedToken(JWT_SECRET))
  lists(first)
  clock.now += minute

  expect(await verify(await token(first))).toMatchObject(user)
  await expect(verify(await sharedToken(JWT_SECRET))).rejects.toMatchObject(refused)
})

test('a shared secret that stands in the public list is no key', async () => {
  const k = Buffer.from(JWT_SECRET).toString('base64url')
  auth.answer = () => Response.json({ keys: [{ kty: 'oct', alg: 'HS256', kid: 'shared', k }] })

  await expect(verifier()(await sharedToken(JWT_SECRET, { kid: 'shared' }))).rejects.toMatchObject(unavailable)
})

test('a list of keys that is given empty counts as none', async () => {
  const verify = verifier({ SUPABASE_JWKS: { keys: [] } })

  expect(await verify(await token(first))).toMatchObject(user)
})

test('the issuer is what AUTH_ISSUER says, and who is sent away for it is told so', async () => {
  const AUTH_ISSUER = 'https://api.example.com/auth/v1'

  expect(await verifier({ AUTH_ISSUER })(await token(first, { iss: AUTH_ISSUER }))).toMatchObject(user)
  await expect(verifier()(await token(first, { iss: AUTH_ISSUER }))).rejects.toMatchObject({
    ...refused,
    message: expect.stringContaining('AUTH_ISSUER'),
  })
  await expect(verifier({ AUTH_ISSUER })(await token(first))).rejects.toMatchObject(refused)
  await expect(verifier()(await token(stranger, { iss: AUTH_ISSUER }))).rejects.not.toMatchObject({
    message: expect.stringContaining('AUTH_ISSUER'),
  })
})
