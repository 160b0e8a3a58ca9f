/** What a signed-in user changes of the own account: password, address, data; and a forgotten password. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import {
  type AuthUnderTest,
  claimsOf,
  follow,
  lastMail,
  newEmail,
  newUser,
  password,
  type SignedUp,
  signIn,
  startAuth,
} from '../support/auth-service.ts'

let auth: AuthUnderTest
beforeAll(async () => {
  auth = await startAuth()
})
afterEach(() => auth.reset())
afterAll(() => auth.stop())

const next = 'Another1Password'
const canSignIn = async (email: string, secret: string) =>
  (await auth.client().auth.signInWithPassword({ email, password: secret })).error === null
const sessionsOf = (id: string) => auth.sql`select id from auth.sessions where user_id = ${id}`
const update = (user: SignedUp, body: object) =>
  auth.call('/user', body, { authorization: `Bearer ${user.token}` }, 'PUT')

describe('a new password', () => {
  test('is refused when it is weak, too long or the old one', async () => {
    const { client } = await newUser(auth)

    const weak = await client.auth.updateUser({ password: 'weak' })
    const long = await client.auth.updateUser({ password: `Aa1${'x'.repeat(70)}` })
    const same = await client.auth.updateUser({ password })
    const empty = await client.auth.updateUser({ password: '' })

    expect(weak.error).toMatchObject({ status: 422, code: 'weak_password', reasons: ['length', 'characters'] })
    expect(long.error).toMatchObject({ status: 400, code: 'validation_failed' })
    expect(same.error).toMatchObject({ status: 422, code: 'same_password' })
    expect(empty.error).toMatchObject({ status: 422, code: 'weak_password' })
  })

  test('takes the place of the old one and ends every other session, not this one', async () => {
    const user = await newUser(auth)
    await signIn(auth, user.email)

    const { error } = await user.client.auth.updateUser({ password: next })

    expect(error).toBeNull()
    expect((await sessionsOf(user.id)).map(({ id }) => id)).toEqual([user.sessionId])
    expect([await canSignIn(user.email, password), await canSignIn(user.email, next)]).toEqual([false, true])
  })

  test('needs a mailed code in a session older than a day; the code works once', async () => {
    const user = await newUser(auth)
    auth.clock.offsetMs = 25 * 3_600_000
    const without = await user.client.auth.updateUser({ password: next })
    const wrong = await user.client.auth.updateUser({ password: next, nonce: '000000' })
    await user.client.auth.reauthenticate()
    const { code: nonce } = lastMail(auth, user.email)

    const right = await user.client.auth.updateUser({ password: next, nonce })
    const again = await user.client.auth.updateUser({ password, nonce })

    expect(without.error).toMatchObject({ status: 400, code: 'reauthentication_needed' })
    expect(wrong.error).toMatchObject({ status: 422, code: 'reauthentication_not_valid' })
    expect(right.error).toBeNull()
    expect(again.error).toMatchObject({ status: 422, code: 'reauthentication_not_valid' })
  })

  test('is not bought with somebody else’s code', async () => {
    const [user, thief] = [await newUser(auth), await newUser(auth)]
    auth.clock.offsetMs = 25 * 3_600_000
    await user.client.auth.reauthenticate()

    const { error } = await thief.client.auth.updateUser({ password: next, nonce: lastMail(auth, user.email).code })

    expect(error).toMatchObject({ status: 422, code: 'reauthentication_not_valid' })
  })

  test('asks for the current one where the project wants that, but not after a recovery', async () => {
    auth.settings.email.require_current_password = true
    const user = await newUser(auth)
    const missing = await update(user, { password: next })
    const wrong = await update(user, { password: next, current_password: 'Wrong1Password' })
    const right = await update(user, { password: next, current_password: password })
    await auth.client().auth.resetPasswordForEmail(user.email)
    const recovered = auth.client()
    await recovered.auth.verifyOtp({ email: user.email, token: lastMail(auth, user.email).code, type: 'recovery' })

    const waived = await recovered.auth.updateUser({ password })

    const codes = [missing, wrong, right].map(({ headers }) => headers.get('x-sb-error-code'))
    expect(codes).toEqual(['current_password_required', 'current_password_invalid', null])
    expect(waived.error).toBeNull()
  })

  test('is not set at aal1 by a user with a second factor', async () => {
    const user = await newUser(auth)
    await auth.sql`
      insert into auth.mfa_factors (id, user_id, factor_type, status, created_at, updated_at)
      values (gen_random_uuid(), ${user.id}, 'totp', 'verified', now(), now())`

    const secret = await user.client.auth.updateUser({ password: next })
    const address = await user.client.auth.updateUser({ email: newEmail() })
    const harmless = await user.client.auth.updateUser({ data: { theme: 'dark' } })

    expect(secret.error).toMatchObject({ status: 401, code: 'insufficient_aal' })
    expect(address.error).toMatchObject({ status: 401, code: 'insufficient_aal' })
    expect(harmless.data.user?.factors).toMatchObject([{ status: 'verified', factor_type: 'totp' }])
  })

  test('set while somebody signs in with the old one leaves no session of the old one', async () => {
    const user = await newUser(auth)

    await Promise.all([
      user.client.auth.updateUser({ password: next }),
      ...Array.from({ length: 5 }, () => auth.client().auth.signInWithPassword({ email: user.email, password })),
    ])

    expect((await sessionsOf(user.id)).map(({ id }) => id)).toEqual([user.sessionId])
  })
})

describe('a forgotten password', () => {
  test('is answered alike for known and unknown addresses', async () => {
    const { email } = await newUser(auth)

    const [known, unknown] = [
      await auth.call('/recover', { email }),
      await auth.call('/recover', { email: newEmail() }),
    ]

    expect([known.status, unknown.status]).toEqual([200, 200])
    expect([await known.text(), await unknown.text()]).toEqual(['{}', '{}'])
  })

  test('is set anew by a link that works once, for an hour', async () => {
    const { email } = await newUser(auth)
    await auth.client().auth.resetPasswordForEmail(email)
    const { link, subject } = lastMail(auth, email)
    const landed = new URLSearchParams((await follow(auth, link)).hash.slice(1))
    const client = auth.client()
    await client.auth.setSession({
      access_token: landed.get('access_token') ?? '',
      refresh_token: landed.get('refresh_token') ?? '',
    })

    const { error } = await client.auth.updateUser({ password: next })
    const again = await follow(auth, link)
    await auth.client().auth.resetPasswordForEmail(email)
    auth.clock.offsetMs = 3_601_000
    const late = await follow(auth, lastMail(auth, email).link)

    expect([subject, landed.get('type'), error]).toEqual(['Reset your password', 'recovery', null])
    expect(await canSignIn(email, next)).toBe(true)
    expect([again.hash, late.hash]).toEqual(Array(2).fill(expect.stringContaining('error_code=otp_expired')))
  })

  test('code of an address does not open another one’s account', async () => {
    const [user, thief] = [await newUser(auth), await newUser(auth)]
    await auth.client().auth.resetPasswordForEmail(thief.email)
    const token = lastMail(auth, thief.email).code

    const { error } = await auth.client().auth.verifyOtp({ email: user.email, token, type: 'recovery' })

    expect(error).toMatchObject({ status: 403, code: 'otp_expired' })
  })

  test('confirms a pending address, since its owner has followed the link', async () => {
    const email = newEmail()
    await auth.client().auth.signUp({ email, password })
    await auth.client().auth.resetPasswordForEmail(email)

    await follow(auth, lastMail(auth, email).link)

    expect(await canSignIn(email, password)).toBe(true)
  })
})

describe('a new address', () => {
  const askFor = async (user: SignedUp, email = newEmail()) => {
    const { data, error } = await user.client.auth.updateUser({ email })
    return { email, error, data }
  }

  test('is refused when it belongs to somebody, or is none', async () => {
    const [user, other] = [await newUser(auth), await newUser(auth)]

    const taken = await askFor(user, other.email.toUpperCase())
    const none = await update(user, { email: 'nobody' })

    expect(taken.error).toMatchObject({ status: 422, code: 'email_exists' })
    expect(none.headers.get('x-sb-error-code')).toBe('validation_failed')
  })

  test('counts when both addresses have agreed, in any order', async () => {
    for (const order of ['current first', 'new first']) {
      const user = await newUser(auth)
      const { email, data } = await askFor(user)
      const links = [lastMail(auth, user.email).link, lastMail(auth, email).link]
      const [first = '', second = ''] = order === 'new first' ? links.toReversed() : links

      const halfWay = await follow(auth, first)
      const [between] = await auth.sql`select email from auth.users where id = ${user.id}`
      const done = await follow(auth, second)

      expect(data.user).toMatchObject({ email: user.email, new_email: email })
      expect(new URLSearchParams(halfWay.hash.slice(1)).get('message')).toBe(
        'Confirmation link accepted. Please proceed to confirm link sent to the other email',
      )
      expect([order, between?.email]).toEqual([order, user.email])
      const token = new URLSearchParams(done.hash.slice(1)).get('access_token') ?? ''
      expect(claimsOf(token)).toMatchObject({ email, user_metadata: { email, email_verified: true } })
      expect([await canSignIn(email, password), await canSignIn(user.email, password)]).toEqual([true, false])
      const [identity] = await auth.sql`select email from auth.identities where user_id = ${user.id}`
      expect(identity?.email).toBe(email)
    }
  })

  test('is not won by following one link twice, nor by asking again in between', async () => {
    const user = await newUser(auth)
    const { email } = await askFor(user)
    const { link } = lastMail(auth, email)

    await follow(auth, link)
    const twice = await follow(auth, link)
    await askFor(user, email)
    await follow(auth, lastMail(auth, email).link)

    const [row] = await auth.sql`select email from auth.users where id = ${user.id}`
    expect(twice.hash).toContain('otp_expired')
    expect(row?.email).toBe(user.email)
  })

  test('may be agreed to by code, the first of which is answered with a message and no session', async () => {
    const user = await newUser(auth)
    const { email } = await askFor(user)
    const codes = [lastMail(auth, user.email).code, lastMail(auth, email).code]
    const agree = (address: string, token = '') =>
      auth.client().auth.verifyOtp({ email: address, token, type: 'email_change' })

    const first = await agree(user.email, codes[0])
    const second = await agree(email, codes[1])

    expect([first.error, first.data.session, first.data.user]).toEqual([null, null, null])
    expect(second.data.user).toMatchObject({ email })
    expect(second.data.user?.new_email).toBeUndefined()
  })

  test('that somebody else has taken meanwhile is refused at the end', async () => {
    const user = await newUser(auth)
    const { email } = await askFor(user)
    const links = [lastMail(auth, user.email).link, lastMail(auth, email).link]
    await newUser(auth, { email })
    await follow(auth, links[0] ?? '')

    const late = await follow(auth, links[1] ?? '')

    expect(late.hash).toContain('error_code=email_exists')
    const [row] = await auth.sql`select email from auth.users where id = ${user.id}`
    expect(row?.email).toBe(user.email)
  })

  test('needs one agreement where the project wants no more, and none where it confirms nothing', async () => {
    const [one, two] = [await newUser(auth), await newUser(auth)]
    auth.settings.email.double_confirm_changes = false
    const first = await askFor(one)
    await follow(auth, lastMail(auth, first.email).link)
    auth.settings.email.enable_confirmations = false
    const second = await askFor(two)

    expect([await canSignIn(first.email, password), await canSignIn(second.email, password)]).toEqual([true, true])
  })

  test('can be asked for again, but not at once', async () => {
    auth.settings.email.max_frequency = 60_000
    const user = await newUser(auth)
    const { email } = await askFor(user)

    const soon = await auth.client().auth.resend({ type: 'email_change', email: user.email })
    auth.clock.offsetMs = 61_000
    const later = await auth.client().auth.resend({ type: 'email_change', email: user.email })

    expect(soon.error).toMatchObject({ status: 429, code: 'over_email_send_rate_limit' })
    expect(later.error).toBeNull()
    expect(auth.mails.filter(({ to }) => to === email)).toHaveLength(2)
  })

  test('makes an anonymous user one with an account', async () => {
    auth.settings.enable_anonymous_sign_ins = true
    const client = auth.client()
    const { data } = await client.auth.signInAnonymously()
    const email = newEmail()
    const noAddress = await client.auth.updateUser({ password })

    await client.auth.updateUser({ email })
    await follow(auth, lastMail(auth, email).link)
    const refreshed = await client.auth.refreshSession()
    const withPassword = await client.auth.updateUser({ password })

    expect(noAddress.error).toMatchObject({ status: 422, code: 'validation_failed' })
    expect(refreshed.data.user).toMatchObject({ id: data.user?.id, email, is_anonymous: false })
    expect(withPassword.error).toBeNull()
    expect(await canSignIn(email, password)).toBe(true)
  })
})

describe('own data', () => {
  test('is merged, a null takes a key away, and the project’s data is out of reach', async () => {
    const user = await newUser(auth)
    await user.client.auth.updateUser({ data: { theme: 'dark', language: 'de' } })

    const { data } = await user.client.auth.updateUser({ data: { theme: null, color: 'red' } })
    const refused = await update(user, { app_metadata: { role: 'admin' } })
    await update(user, { role: 'service_role', banned_until: null, email_confirmed_at: null })

    expect(data.user?.user_metadata).toMatchObject({ language: 'de', color: 'red' })
    expect(data.user?.user_metadata).not.toHaveProperty('theme')
    expect(refused.status).toBe(403)
    const [row] = await auth.sql`select role, raw_app_meta_data as app from auth.users where id = ${user.id}`
    expect(row).toEqual({ role: 'authenticated', app: { provider: 'email', providers: ['email'] } })
  })

  test('is not changed without a session', async () => {
    const user = await newUser(auth)
    await auth.sql`delete from auth.sessions where id = ${user.sessionId}`

    const answer = await update(user, { data: { theme: 'dark' } })

    expect([answer.status, answer.headers.get('x-sb-error-code')]).toEqual([403, 'session_not_found'])
  })
})
