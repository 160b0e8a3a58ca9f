import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import { beforeAll, expect, test } from 'vitest'
import { createUserTokenVerifier } from '../../functions/_shared/auth/verify-user-token.ts'

const url = 'https://project.supabase.co'
const sub = '6c1b9f6e-0000-4000-8000-000000000001'
const session_id = '6c1b9f6e-0000-4000-8000-000000000002'
const pair = async (alg: string) => {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true })
  const { kty = '', ...jwk } = await exportJWK(publicKey)
  return { privateKey, jwk: { kty, ...jwk, kid: alg, alg } }
}

let keys: Record<'ES256' | 'RS256' | 'PS256' | 'stranger', Awaited<ReturnType<typeof pair>>>
let verify: ReturnType<typeof createUserTokenVerifier>
beforeAll(async () => {
  keys = {
    ES256: await pair('ES256'),
    RS256: await pair('RS256'),
    PS256: await pair('PS256'),
    stranger: await pair('ES256'),
  }
  const jwks = { keys: [keys.ES256.jwk, keys.RS256.jwk, keys.PS256.jwk] }
  verify = createUserTokenVerifier({ SUPABASE_URL: url, SUPABASE_JWKS: jwks }, { fetch: askNobody, now: Date.now })
})

const token = (over: object = {}, key: keyof typeof keys = 'ES256') => {
  const claims = { sub, session_id, aal: 'aal2', is_anonymous: false, iss: `${url}/auth/v1`, aud: 'authenticated' }
  const exp = Math.floor(Date.now() / 1000) + 60
  const alg = key === 'stranger' ? 'ES256' : key
  return new SignJWT({ ...claims, exp, ...over }).setProtectedHeader({ alg, kid: alg }).sign(keys[key].privateKey)
}
/** Given keys are all there are: whatever the token, the network stays out of it. */
const askNobody = () => Promise.reject(new Error('the network was asked'))
const refused = { code: 'invalid_api_key', status: 401 }

test('a token of another project is refused, also when the key is ours', async () => {
  await expect(verify(await token({ iss: 'https://other.supabase.co/auth/v1' }))).rejects.toMatchObject(refused)
  await expect(verify(await token({}, 'stranger'))).rejects.toMatchObject(refused)
})

test('an expired token is refused and told so', async () => {
  const expired = await token({ exp: Math.floor(Date.now() / 1000) - 1 })

  await expect(verify(expired)).rejects.toMatchObject({ ...refused, message: expect.stringContaining('expired') })
})

test.each([{ aud: 'anon' }, { sub: undefined }, { sub: 'me' }, { session_id: undefined }, { exp: undefined }])(
  'a token with %o is refused',
  async (over) => {
    await expect(verify(await token(over))).rejects.toMatchObject(refused)
  },
)

test('only ES256 and RS256 are accepted: no shared secret, no unsigned token', async () => {
  const shared = new SignJWT({ sub, session_id, iss: `${url}/auth/v1`, aud: 'authenticated', exp: 9e9 })
  const hs256 = await shared
    .setProtectedHeader({ alg: 'HS256', kid: 'ES256' })
    .sign(new TextEncoder().encode(JSON.stringify(keys.ES256.jwk)))
  const [, payload = ''] = (await token()).split('.')
  const unsigned = `${Buffer.from('{"alg":"none"}').toString('base64url')}.${payload}.`

  for (const bad of [hs256, unsigned, await token({}, 'PS256'), 'abc', ''])
    await expect(verify(bad)).rejects.toMatchObject(refused)
})

test.each(['ES256', 'RS256'] as const)('a user of this project is recognised by %s', async (alg) => {
  expect(await verify(await token({}, alg))).toEqual({
    kind: 'user',
    userId: sub,
    sessionId: session_id,
    aal: 'aal2',
    isAnonymous: false,
  })
})

test('a token is verified once and refused from the second in which it expires', async () => {
  let now = Date.now()
  const env = { SUPABASE_URL: url, SUPABASE_JWKS: { keys: [keys.ES256.jwk] } }
  const cached = createUserTokenVerifier(env, { fetch: askNobody, now: () => now })
  const exp = Math.floor(now / 1000) + 60
  const short = await token({ exp })

  const first = await cached(short)
  now = exp * 1000 - 1
  expect(await cached(short)).toBe(first)
  now = exp * 1000
  for (const _ of [1, 2])
    await expect(cached(short)).rejects.toMatchObject({ ...refused, message: expect.stringContaining('expired') })
})

test('what was refused is not remembered as good', async () => {
  const good = await token()
  await verify(good)

  await expect(verify(`${good.slice(0, -4)}AAAA`)).rejects.toMatchObject(refused)
})
