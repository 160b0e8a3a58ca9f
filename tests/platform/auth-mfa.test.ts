/** Second factors: enrolling, challenging and verifying an authenticator app, and what sessions are worth before and after. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { authenticator } from '../../stack/platform/auth/mfa.ts'
import { type AuthUnderTest, claimsOf, newUser, type SignedUp, signIn, startAuth } from '../support/auth-service.ts'

let auth: AuthUnderTest
beforeAll(async () => {
  auth = await startAuth()
})
afterEach(() => auth.reset())
afterAll(() => auth.stop())

type Enrolled = { id: string; secret: string }

async function enroll(user: SignedUp, friendlyName = 'phone'): Promise<Enrolled> {
  const { data, error } = await user.client.auth.mfa.enroll({ factorType: 'totp', friendlyName })
  if (error) throw error
  return { id: data.id, secret: data.totp.secret }
}

const codeOf = ({ secret }: Enrolled, offsetMs = 0) =>
  authenticator({ secret }).generate({
    timestamp: (auth.clock.frozenAt ?? Date.now()) + auth.clock.offsetMs + offsetMs,
  })

/** A code that is none of those that count now. */
function wrongCode(factor: Enrolled): string {
  const right = [-30_000, 0, 30_000].map((offsetMs) => codeOf(factor, offsetMs))
  return ['000000', '111111', '222222', '333333'].find((code) => !right.includes(code)) ?? ''
}

const verify = (user: SignedUp, factor: Enrolled, code = codeOf(factor)) =>
  user.client.auth.mfa.challengeAndVerify({ factorId: factor.id, code })

/** Somebody with a verified factor, in a session that is aal2. */
async function newProtectedUser(): Promise<SignedUp & { factor: Enrolled }> {
  const user = await newUser(auth)
  const factor = await enroll(user)
  const { data, error } = await verify(user, factor)
  if (error) throw error
  return { ...user, token: data.access_token, factor }
}

const as = (user: { token: string }) => ({ authorization: `Bearer ${user.token}` })
const problem = async (response: Response) => ({ status: response.status, ...((await response.json()) as object) })
const sessionsOf = async (userId: string) =>
  (await auth.sql`select id from auth.sessions where user_id = ${userId}`).map(({ id }) => String(id))

async function challenge(user: SignedUp, factor: Enrolled): Promise<string> {
  const { data, error } = await user.client.auth.mfa.challenge({ factorId: factor.id })
  if (error) throw error
  return data.id
}

const answer = (user: SignedUp, factor: Enrolled, challengeId: string, code = codeOf(factor)) =>
  auth.call(`/factors/${factor.id}/verify`, { challenge_id: challengeId, code }, as(user))

describe('enrolling', () => {
  test('is refused without a session, to a secret key and to anonymous users', async () => {
    auth.settings.enable_anonymous_sign_ins = true
    const { data } = await auth.client().auth.signInAnonymously()
    const body = { factor_type: 'totp', friendly_name: 'phone' }

    const nobody = await auth.call('/factors', body)
    const server = await auth.call('/factors', body, { apikey: auth.secretKey })
    const anonymous = await auth.call('/factors', body, as({ token: data.session?.access_token ?? '' }))

    expect(await problem(nobody)).toMatchObject({ status: 401, code: 'no_authorization' })
    expect(await problem(server)).toMatchObject({ status: 403, code: 'bad_jwt' })
    expect(await problem(anonymous)).toMatchObject({ status: 403, code: 'no_authorization' })
  })

  test.each([
    ['phone', 422, 'mfa_phone_enroll_not_enabled'],
    ['webauthn', 422, 'mfa_webauthn_enroll_not_enabled'],
    ['smoke-signal', 400, 'validation_failed'],
    [undefined, 400, 'validation_failed'],
  ])('a factor of type %s is refused with %i %s', async (factor_type, status, code) => {
    const user = await newUser(auth)

    const refused = await auth.call('/factors', { factor_type, friendly_name: 'x', phone: '+123456789' }, as(user))

    expect(await problem(refused)).toMatchObject({ status, code })
  })

  test('is refused when the project has turned it off', async () => {
    const user = await newUser(auth)
    auth.settings.mfa = { ...auth.settings.mfa, totp: { enroll_enabled: false, verify_enabled: true } }

    const { error } = await user.client.auth.mfa.enroll({ factorType: 'totp' })

    expect(error).toMatchObject({ status: 422, code: 'mfa_totp_enroll_not_enabled' })
  })

  test('is refused under a name that is taken, and beyond the most factors', async () => {
    const user = await newUser(auth)
    auth.settings.mfa = { ...auth.settings.mfa, max_enrolled_factors: 2 }
    await enroll(user, 'phone')

    const taken = await user.client.auth.mfa.enroll({ factorType: 'totp', friendlyName: 'phone' })
    await enroll(user, 'tablet')
    const many = await user.client.auth.mfa.enroll({ factorType: 'totp', friendlyName: 'watch' })

    expect(taken.error).toMatchObject({ status: 422, code: 'mfa_factor_name_conflict' })
    expect(many.error).toMatchObject({ status: 422, code: 'too_many_enrolled_mfa_factors' })
  })

  test('of a second factor needs the first one', async () => {
    const { email } = await newProtectedUser()
    const weak = await signIn(auth, email)

    const { error } = await weak.client.auth.mfa.enroll({ factorType: 'totp', friendlyName: 'tablet' })

    expect(error).toMatchObject({ status: 403, code: 'insufficient_aal' })
  })

  test('many at once never exceed the most factors', async () => {
    const user = await newUser(auth)
    auth.settings.mfa = { ...auth.settings.mfa, max_enrolled_factors: 3 }

    const names = ['a', 'b', 'c', 'd', 'e', 'f']
    const answers = await Promise.all(
      names.map((friendly_name) => auth.call('/factors', { factor_type: 'totp', friendly_name }, as(user))),
    )

    expect(answers.filter(({ status }) => status === 200)).toHaveLength(3)
  })

  test('shows secret, URI and QR code once, and the secret never again', async () => {
    const user = await newUser(auth)

    const { data } = await user.client.auth.mfa.enroll({
      factorType: 'totp',
      friendlyName: 'phone',
      issuer: 'Palisade',
    })
    const secret = data?.totp.secret ?? ''
    const listed = await user.client.auth.mfa.listFactors()
    const own = await user.client.auth.getUser()

    expect(secret).toMatch(/^[A-Z2-7]{32}$/)
    expect(data).toMatchObject({ type: 'totp', friendly_name: 'phone' })
    expect(data?.totp.uri).toMatch(/^otpauth:\/\/totp\/Palisade:user-.*algorithm=SHA1&digits=6&period=30$/)
    expect(data?.totp.qr_code).toMatch(/^data:image\/svg\+xml;utf-8,<svg [^#]*<\/svg>$/)
    expect(listed.data?.all).toMatchObject([{ id: data?.id, status: 'unverified', factor_type: 'totp' }])
    expect(listed.data?.totp).toEqual([])
    expect(JSON.stringify([listed, own, auth.logs])).not.toContain(secret)
  })

  test('clears away what was never challenged after five minutes', async () => {
    const user = await newUser(auth)
    await enroll(user, 'phone')
    const begun = await enroll(user, 'tablet')
    await challenge(user, begun)
    auth.clock.offsetMs = 301_000

    await enroll(user, 'watch')

    const { data } = await user.client.auth.mfa.listFactors()
    expect(data?.all.map(({ friendly_name }) => friendly_name)).toEqual(['tablet', 'watch'])
  })
})

describe('a challenge', () => {
  test('of a factor that is not there, somebody else’s or not an id is refused', async () => {
    const [user, other] = [await newUser(auth), await newUser(auth)]
    const factor = await enroll(other)

    const foreign = await user.client.auth.mfa.challenge({ factorId: factor.id })
    const unknown = await user.client.auth.mfa.challenge({ factorId: crypto.randomUUID() })
    const noId = await auth.call('/factors/42/challenge', {}, as(user))

    expect(foreign.error).toMatchObject({ status: 404, code: 'mfa_factor_not_found' })
    expect(unknown.error).toMatchObject({ status: 404, code: 'mfa_factor_not_found' })
    expect(await problem(noId)).toMatchObject({ status: 404, code: 'validation_failed' })
  })

  test('is refused when the project has turned verification off, and so is its answer', async () => {
    const user = await newUser(auth)
    const factor = await enroll(user)
    const id = await challenge(user, factor)
    auth.settings.mfa = { ...auth.settings.mfa, totp: { enroll_enabled: true, verify_enabled: false } }

    const refused = await user.client.auth.mfa.challenge({ factorId: factor.id })
    const unanswered = await answer(user, factor, id)

    expect(refused.error).toMatchObject({ status: 422, code: 'mfa_totp_verify_not_enabled' })
    expect(await problem(unanswered)).toMatchObject({ status: 422, code: 'mfa_totp_verify_not_enabled' })
  })

  test('lives for five minutes', async () => {
    const user = await newUser(auth)
    const factor = await enroll(user)

    const { data } = await user.client.auth.mfa.challenge({ factorId: factor.id })
    auth.clock.offsetMs = 300_000
    const late = await answer(user, factor, data?.id ?? '')

    expect(data).toMatchObject({ type: 'totp' })
    expect(Math.abs((data?.expires_at ?? 0) - Date.now() / 1000 - 300)).toBeLessThan(30)
    expect(await problem(late)).toMatchObject({ status: 422, code: 'mfa_challenge_expired' })
  })
})

describe('a code', () => {
  test('for no challenge, or that of another factor, is refused', async () => {
    const user = await newUser(auth)
    const [phone, tablet] = [await enroll(user, 'phone'), await enroll(user, 'tablet')]
    const id = await challenge(user, tablet)

    for (const challengeId of [crypto.randomUUID(), 'nothing', id]) {
      const refused = await answer(user, phone, challengeId)
      expect(await problem(refused)).toMatchObject({ status: 422, code: 'mfa_factor_not_found' })
    }
  })

  test('from another address than the challenge is refused', async () => {
    const user = await newUser(auth)
    const factor = await enroll(user)
    const id = await challenge(user, factor)
    const request = new Request(`${auth.url}/auth/v1/factors/${factor.id}/verify`, {
      method: 'POST',
      headers: { apikey: auth.publishableKey, 'x-supabase-api-version': '2024-01-01', ...as(user) },
      body: JSON.stringify({ challenge_id: id, code: codeOf(factor) }),
    })

    const refused = await auth.handle(request, '203.0.113.9')

    expect(await problem(refused)).toMatchObject({ status: 422, code: 'mfa_ip_address_mismatch' })
  })

  test('that is wrong leaves everything as it is', async () => {
    const user = await newUser(auth)
    const factor = await enroll(user)
    const id = await challenge(user, factor)

    for (const code of [wrongCode(factor), '', 'abcdef', `${codeOf(factor)}0`]) {
      const refused = await answer(user, factor, id, code)
      expect(await problem(refused)).toMatchObject({ status: 422, code: 'mfa_verification_failed' })
    }
    const { data } = await user.client.auth.mfa.listFactors()
    expect(data?.all).toMatchObject([{ status: 'unverified' }])
    expect((await answer(user, factor, id)).status).toBe(200)
  })

  test.each([-30_000, 30_000])('of the step %i ms away counts, two steps away does not', async (offsetMs) => {
    const user = await newUser(auth)
    const factor = await enroll(user)
    // No step ends between the making of a code and its check.
    auth.clock.frozenAt = Date.now()

    const far = await verify(user, factor, codeOf(factor, 3 * offsetMs))
    const near = await verify(user, factor, codeOf(factor, offsetMs))

    expect(far.error).toMatchObject({ code: 'mfa_verification_failed' })
    expect(near.error).toBeNull()
  })

  test('answers a challenge once, however many try at the same time', async () => {
    const user = await newUser(auth)
    const factor = await enroll(user)
    const id = await challenge(user, factor)

    const answers = await Promise.all(Array.from({ length: 6 }, () => answer(user, factor, id)))

    expect(answers.map(({ status }) => status).toSorted()).toEqual([200, 422, 422, 422, 422, 422])
    const again = await answer(user, factor, id)
    expect(await problem(again)).toMatchObject({ status: 422, code: 'mfa_ip_address_mismatch' })
  })

  test('raises the session to aal2, in place, and voids its old refresh token', async () => {
    const user = await newUser(auth)
    const factor = await enroll(user)

    const { data } = await verify(user, factor)
    const old = await auth.call('/token?grant_type=refresh_token', { refresh_token: user.refreshToken })
    const next = await auth.call('/token?grant_type=refresh_token', { refresh_token: data?.refresh_token })

    const claims = claimsOf(data?.access_token ?? '')
    expect(claims).toMatchObject({ aal: 'aal2', session_id: user.sessionId })
    expect(claims.amr).toMatchObject([{ method: 'totp' }, { method: 'password' }])
    expect(data).toMatchObject({ token_type: 'bearer', user: { factors: [{ id: factor.id, status: 'verified' }] } })
    expect(await problem(old)).toMatchObject({ status: 400 })
    const refreshed = (await next.json()) as { access_token: string }
    expect(claimsOf(refreshed.access_token)).toMatchObject({ aal: 'aal2' })
  })

  test('ends the user’s weaker sessions and unfinished factors, and nobody else’s', async () => {
    const [user, other] = [await newUser(auth), await newUser(auth)]
    await signIn(auth, user.email)
    await enroll(user, 'unfinished')
    const foreign = await enroll(other, 'unfinished')
    const factor = await enroll(user, 'phone')
    const others = await sessionsOf(other.id)

    await verify(user, factor)

    expect(await sessionsOf(user.id)).toEqual([user.sessionId])
    expect(await sessionsOf(other.id)).toEqual(others)
    const { data } = await user.client.auth.mfa.listFactors()
    expect(data?.all.map(({ id }) => id)).toEqual([factor.id])
    expect(await auth.sql`select from auth.mfa_factors where id = ${foreign.id}`).toHaveLength(1)
  })

  test('in a second session keeps the first one, which is aal2 already', async () => {
    const { email, id, sessionId, factor } = await newProtectedUser()
    const second = await signIn(auth, email)

    await verify(second, factor)

    expect((await sessionsOf(id)).toSorted()).toEqual([sessionId, second.sessionId].toSorted())
  })

  test('given in two weak sessions at once leaves no weak one', async () => {
    const { email, id, factor } = await newProtectedUser()
    const sessions = [await signIn(auth, email), await signIn(auth, email)]
    const challenges = await Promise.all(sessions.map((user) => challenge(user, factor)))

    const answers = await Promise.all(sessions.map((user, index) => answer(user, factor, challenges[index] ?? '')))

    expect(answers.map(({ status }) => status).toSorted()).toEqual([200, 403])
    expect(await auth.sql`select from auth.sessions where user_id = ${id} and aal = 'aal1'`).toHaveLength(0)
  })
})

describe('unenrolling', () => {
  test('of a verified factor needs aal2; of somebody else’s there is nothing', async () => {
    const { email, factor } = await newProtectedUser()
    const [weak, stranger] = [await signIn(auth, email), await newUser(auth)]

    const refused = await weak.client.auth.mfa.unenroll({ factorId: factor.id })
    const foreign = await stranger.client.auth.mfa.unenroll({ factorId: factor.id })

    expect(refused.error).toMatchObject({ status: 422, code: 'insufficient_aal' })
    expect(foreign.error).toMatchObject({ status: 404, code: 'mfa_factor_not_found' })
  })

  test('takes the assurance from every session that the factor raised', async () => {
    const user = await newProtectedUser()
    const second = await signIn(auth, user.email)
    await verify(second, user.factor)

    const { data } = await user.client.auth.mfa.unenroll({ factorId: user.factor.id })
    const refreshed = await second.client.auth.refreshSession()

    expect(data).toEqual({ id: user.factor.id })
    const rows = await auth.sql`select aal, factor_id from auth.sessions where user_id = ${user.id}`
    expect([...rows]).toEqual([
      { aal: 'aal1', factor_id: null },
      { aal: 'aal1', factor_id: null },
    ])
    expect(claimsOf(refreshed.data.session?.access_token ?? '')).toMatchObject({
      aal: 'aal1',
      amr: [{ method: 'password' }],
    })
  })

  test('of an unfinished factor works without a second one', async () => {
    const user = await newUser(auth)
    const factor = await enroll(user)

    const { error } = await user.client.auth.mfa.unenroll({ factorId: factor.id })

    expect(error).toBeNull()
    expect((await user.client.auth.mfa.listFactors()).data?.all).toEqual([])
  })
})

describe('the hook mfa_verification_attempt', () => {
  async function hook(body: string): Promise<void> {
    await auth.sql.unsafe(`
      create schema if not exists mfa_hook;
      create table if not exists mfa_hook.seen (id bigserial, event jsonb);
      create or replace function mfa_hook.attempt(event jsonb) returns jsonb language plpgsql security definer as $$
      begin
        insert into mfa_hook.seen (event) values (event);
        ${body}
      end $$;
      grant usage on schema mfa_hook to supabase_auth_admin`)
    const name = 'attempt'
    const uri = `pg-functions://postgres/mfa_hook/${name}`
    auth.settings.hook = { mfa_verification_attempt: { uri, schema: 'mfa_hook', name } }
  }

  test('hears of right and wrong codes, and what it writes is kept', async () => {
    const user = await newUser(auth)
    const factor = await enroll(user)
    await hook(`return '{"decision": "continue"}';`)

    await verify(user, factor, wrongCode(factor))
    await verify(user, factor)

    const rows = await auth.sql`select event from mfa_hook.seen where event ->> 'user_id' = ${user.id} order by id`
    const heard = { user_id: user.id, factor_id: factor.id, factor_type: 'totp' }
    expect(rows.map(({ event }) => event)).toMatchObject([
      { ...heard, valid: false, metadata: { name: 'mfa-verification' } },
      { ...heard, valid: true },
    ])
  })

  test.each([
    [`return '{"decision": "reject", "message": "Enough."}';`, 'Enough.'],
    [`return '{"decision": "reject"}';`, 'Further MFA verification attempts will be rejected.'],
  ])('that answers %s signs the user out everywhere, right code or not', async (body, message) => {
    const user = await newUser(auth)
    const factor = await enroll(user)
    await signIn(auth, user.email)
    await hook(body)
    const id = await challenge(user, factor)

    const refused = await answer(user, factor, id)

    expect(await problem(refused)).toEqual({ status: 403, code: 'mfa_verification_rejected', message })
    expect(await sessionsOf(user.id)).toEqual([])
    expect(await auth.sql`select from mfa_hook.seen where event ->> 'user_id' = ${user.id}`).toHaveLength(1)
  })

  test('that answers with an error refuses with it, and the factor stays unverified', async () => {
    const user = await newUser(auth)
    const factor = await enroll(user)
    await hook(`return '{"error": {"http_code": 429, "message": "Slowly."}}';`)

    const { error } = await verify(user, factor)

    expect(error).toMatchObject({ status: 429, message: 'Slowly.' })
    expect((await user.client.auth.mfa.listFactors()).data?.all).toMatchObject([{ status: 'unverified' }])
  })
})
