/** Signing up, and links and codes in mails, as supabase-js meets them. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { projectFile } from '../../stack/config.ts'
import { readProjectSettings } from '../../stack/platform/auth/settings.ts'
import {
  type AuthUnderTest,
  claimsOf,
  follow,
  lastMail,
  newEmail,
  newUser,
  password,
  startAuth,
} from '../support/auth-service.ts'

let auth: AuthUnderTest
beforeAll(async () => {
  auth = await startAuth()
})
afterEach(() => auth.reset())
afterAll(() => auth.stop())

const signUp = (email: string, options = {}) => auth.client().auth.signUp({ email, password, options })

describe('signing up is refused', () => {
  test('with a weak password, which is told why', async () => {
    const short = await auth.client().auth.signUp({ email: newEmail(), password: 'Ab1' })
    const plain = await auth.client().auth.signUp({ email: newEmail(), password: 'lowercaseonly' })

    expect(short.error).toMatchObject({ status: 422, code: 'weak_password', reasons: ['length'] })
    expect(plain.error).toMatchObject({ status: 422, code: 'weak_password', reasons: ['characters'] })
    expect(short.error?.message).toBe('Password should be at least 8 characters.')
  })

  test('with a password that bcrypt would cut off', async () => {
    const { error } = await auth.client().auth.signUp({ email: newEmail(), password: `Aa1${'x'.repeat(70)}` })

    expect(error).toMatchObject({ status: 400, code: 'validation_failed' })
  })

  test('with something that is no address, no password, or a phone number', async () => {
    const noAddress = await signUp('nobody')
    const noPassword = await auth.call('/signup', { email: newEmail() })
    const phone = await auth.client().auth.signUp({ phone: '+15550100', password })

    expect(noAddress.error).toMatchObject({ status: 400, code: 'validation_failed' })
    expect([noPassword.status, noPassword.headers.get('x-sb-error-code')]).toEqual([400, 'validation_failed'])
    expect(phone.error).toMatchObject({ status: 400, code: 'phone_provider_disabled' })
  })

  test('when the project is closed, or has no sign-up by e-mail', async () => {
    auth.settings.enable_signup = false
    const closed = await signUp(newEmail())
    auth.settings.enable_signup = true
    auth.settings.email.enable_signup = false
    const noEmail = await signUp(newEmail())

    expect(closed.error).toMatchObject({ status: 422, code: 'signup_disabled' })
    expect(noEmail.error).toMatchObject({ status: 400, code: 'email_provider_disabled' })
  })

  test('without an address, unless the project allows anonymous users', async () => {
    const refused = await auth.client().auth.signInAnonymously()
    auth.settings.enable_anonymous_sign_ins = true
    const { data } = await auth.client().auth.signInAnonymously({ options: { data: { theme: 'dark' } } })

    expect(refused.error).toMatchObject({ status: 422, code: 'anonymous_provider_disabled' })
    expect(data.user).toMatchObject({ is_anonymous: true, email: '', user_metadata: { theme: 'dark' } })
    const claims = claimsOf(data.session?.access_token ?? '')
    expect(claims).toMatchObject({ is_anonymous: true, amr: [{ method: 'anonymous' }], email: '' })
  })

  test('when the mail cannot be sent, and then there is no user', async () => {
    const email = newEmail()
    const push = auth.mails.push
    auth.mails.push = () => {
      throw new Error('no route to the mail server')
    }

    const { error } = await signUp(email)
    auth.mails.push = push

    expect(error?.status).toBe(500)
    expect(await auth.sql`select from auth.users where email = ${email}`).toHaveLength(0)
  })

  test('in the old shape of errors for callers that name no API version', async () => {
    const response = await auth.call(
      '/signup',
      { email: newEmail(), password: 'weak' },
      { 'x-supabase-api-version': '' },
    )

    expect(response.headers.get('x-sb-error-code')).toBe('weak_password')
    expect(await response.json()).toMatchObject({ code: 422, error_code: 'weak_password', msg: expect.any(String) })
  })

  test('with characters that no database keeps', async () => {
    const data = await auth.call('/signup', { email: newEmail(), password, data: { name: 'a\u0000b' } })
    const token = await auth.call('/verify', { type: 'email', token_hash: 'a\u0000b' })

    expect([data, token].map(({ status }) => status)).toEqual([400, 400])
  })

  test('with a body over 1 MB, or one that is not JSON', async () => {
    const large = await auth.call('/signup', { email: 'x'.repeat(1_100_000) })
    const broken = await auth.handle(
      new Request(`${auth.url}/auth/v1/signup`, {
        method: 'POST',
        headers: { apikey: auth.publishableKey },
        body: '{',
      }),
    )

    expect([large.status, large.headers.get('x-sb-error-code')]).toEqual([413, 'request_entity_too_large'])
    expect([broken.status, broken.headers.get('x-sb-error-code')]).toEqual([400, 'bad_json'])
  })
})

describe('a new user', () => {
  test('is pending: no session, a mail, an identity, no password anywhere in the answer', async () => {
    const email = newEmail()

    const { data } = await signUp(email.toUpperCase(), { data: { first_name: 'Ada' } })

    expect(data.session).toBeNull()
    expect(data.user).toMatchObject({
      email,
      role: 'authenticated',
      aud: 'authenticated',
      app_metadata: { provider: 'email', providers: ['email'] },
      user_metadata: { first_name: 'Ada', email, email_verified: false, phone_verified: false },
      identities: [{ provider: 'email', identity_data: { email } }],
      is_anonymous: false,
      confirmation_sent_at: expect.any(String),
    })
    expect(data.user?.email_confirmed_at).toBeUndefined()
    expect(JSON.stringify(data)).not.toMatch(/\$2a\$|Correct1Horse/)
    const refused = await auth.client().auth.signInWithPassword({ email, password })
    expect(refused.error).toMatchObject({ status: 400, code: 'email_not_confirmed' })
  })

  test('cannot choose what the project decides: role, app_metadata, confirmation', async () => {
    const email = newEmail()

    await auth.call('/signup', {
      email,
      password,
      role: 'service_role',
      aud: 'x',
      app_metadata: { role: 'admin' },
      email_confirm: true,
      data: { sub: 'x', email_verified: true },
    })

    const [row] = await auth.sql`
      select id, role, aud, raw_app_meta_data as app, raw_user_meta_data as data, email_confirmed_at from auth.users where email = ${email}`
    expect(row).toMatchObject({
      role: 'authenticated',
      aud: 'authenticated',
      app: { provider: 'email', providers: ['email'] },
      data: { sub: row?.id, email_verified: false },
      email_confirmed_at: null,
    })
  })

  test('whose row the real service can read: an instance, and no token that is missing', async () => {
    const email = newEmail()
    await signUp(email)

    const [row] = await auth.sql`
      select instance_id, confirmation_token, recovery_token, email_change_token_new, email_change_token_current,
        email_change, phone_change, phone_change_token, reauthentication_token
      from auth.users where email = ${email}`

    const { instance_id, ...tokens } = row ?? {}
    expect(instance_id).toBe('00000000-0000-0000-0000-000000000000')
    expect(new Set(Object.values(tokens))).toEqual(new Set(['']))
  })

  test('whose password is a bcrypt hash of cost 10 in the database, and whose code is not there at all', async () => {
    auth.settings.password_hash_cost = readProjectSettings(projectFile, 3000).auth.password_hash_cost
    const email = newEmail()
    await signUp(email)

    const [row] = await auth.sql`
      select u.encrypted_password, t.token_hash from auth.users u join auth.one_time_tokens t on t.user_id = u.id where u.email = ${email}`

    expect(row?.encrypted_password).toMatch(/^\$2a\$10\$/)
    expect(row?.token_hash).toMatch(/^[0-9a-f]{56}$/)
    expect(auth.logs.join('\n')).not.toContain(password)
  })

  test('follows the link once and is signed in by it; the second time it leads to an error', async () => {
    const email = newEmail()
    await signUp(email, { emailRedirectTo: 'http://127.0.0.1:3000/welcome' })
    const { link } = lastMail(auth, email)

    const first = await follow(auth, link)
    const second = await follow(auth, link)

    expect(link).toContain(`${auth.url}/auth/v1/verify?token=`)
    expect(first.href).toMatch(/^http:\/\/127.0.0.1:3000\/welcome#/)
    const fragment = Object.fromEntries(new URLSearchParams(first.hash.slice(1)))
    expect(fragment).toMatchObject({ token_type: 'bearer', type: 'signup', expires_in: '900' })
    expect(claimsOf(fragment.access_token ?? '')).toMatchObject({ email, amr: [{ method: 'otp' }] })
    expect(new URLSearchParams(second.hash.slice(1)).get('error_code')).toBe('otp_expired')
    const [row] = await auth.sql`
      select raw_user_meta_data ->> 'email_verified' as verified, email_confirmed_at from auth.users where email = ${email}`
    expect(row).toEqual({ verified: 'true', email_confirmed_at: expect.any(Date) })
  })

  test('may enter the code instead, once, while it is fresh', async () => {
    const email = newEmail()
    await signUp(email)
    const { code } = lastMail(auth, email)

    const wrong = await auth
      .client()
      .auth.verifyOtp({ email, token: code === '00000000' ? '00000001' : '00000000', type: 'email' })
    const right = await auth.client().auth.verifyOtp({ email, token: code, type: 'email' })
    const again = await auth.client().auth.verifyOtp({ email, token: code, type: 'email' })

    expect(code).toMatch(/^\d{8}$/)
    expect([wrong.error, again.error]).toEqual([
      expect.objectContaining({ status: 403, code: 'otp_expired' }),
      expect.objectContaining({ status: 403, code: 'otp_expired' }),
    ])
    expect(right.data.session?.user.email).toBe(email)
  })

  test('may enter the hash of the link, and a code older than ten minutes is refused', async () => {
    const [fresh, late] = [newEmail(), newEmail()]
    await Promise.all([signUp(fresh), signUp(late)])
    const hashOf = (email: string) => new URL(lastMail(auth, email).link).searchParams.get('token') ?? ''

    const taken = await auth.client().auth.verifyOtp({ token_hash: hashOf(fresh), type: 'email' })
    auth.clock.offsetMs = 601_000
    const expired = await auth.client().auth.verifyOtp({ token_hash: hashOf(late), type: 'email' })

    expect(taken.data.session).not.toBeNull()
    expect(expired.error).toMatchObject({ status: 403, code: 'otp_expired' })
  })

  test('is made once when twenty sign up with the address at the same moment', async () => {
    const email = newEmail()

    const answers = await Promise.all(Array.from({ length: 20 }, () => signUp(email)))

    expect(answers.map(({ error }) => error)).toEqual(Array(20).fill(null))
    expect(await auth.sql`select from auth.users where email = ${email}`).toHaveLength(1)
    expect(await auth.sql`select from auth.identities where email = ${email}`).toHaveLength(1)
  })

  test('whose code is entered twenty times at once gets one session', async () => {
    const email = newEmail()
    await signUp(email)
    const { code } = lastMail(auth, email)

    const answers = await Promise.all(
      Array.from({ length: 20 }, () => auth.client().auth.verifyOtp({ email, token: code, type: 'email' })),
    )

    expect(answers.filter(({ data }) => data.session)).toHaveLength(1)
    expect(
      await auth.sql`select from auth.sessions s join auth.users u on u.id = s.user_id where email = ${email}`,
    ).toHaveLength(1)
  })

  test('is signed in at once where the project confirms no addresses', async () => {
    auth.settings.email.enable_confirmations = false
    const email = newEmail()

    const first = await signUp(email)
    const second = await signUp(email)

    expect(first.data.session?.user.email_confirmed_at).toEqual(expect.any(String))
    expect(claimsOf(first.data.session?.access_token ?? '')).toMatchObject({ amr: [{ method: 'password' }] })
    expect(second.error).toMatchObject({ status: 422, code: 'user_already_exists' })
  })
})

describe('an address that is known', () => {
  test('is answered as a new one when it is confirmed, gets no mail and changes nothing', async () => {
    const { email, id } = await newUser(auth)
    const mails = auth.mails.length

    const { data, error } = await auth.client().auth.signUp({ email, password: 'Another1Password' })

    expect(error).toBeNull()
    expect(data.user).toMatchObject({ email, identities: [], confirmation_sent_at: expect.any(String) })
    expect(data.user?.id).not.toBe(id)
    expect(auth.mails).toHaveLength(mails)
    expect((await auth.client().auth.signInWithPassword({ email, password })).error).toBeNull()
  })

  test('gets another mail when it is not confirmed yet; the first link is void, the first password stays', async () => {
    const email = newEmail()
    await signUp(email)
    const first = lastMail(auth, email).link
    await auth.client().auth.signUp({ email, password: 'Another1Password' })

    const [void_, good] = [await follow(auth, first), await follow(auth, lastMail(auth, email).link)]

    expect([void_.hash, good.hash]).toEqual([
      expect.stringContaining('otp_expired'),
      expect.stringContaining('access_token'),
    ])
    expect((await auth.client().auth.signInWithPassword({ email, password })).error).toBeNull()
  })

  test('does not get mails faster than the project wants', async () => {
    auth.settings.email.max_frequency = 60_000
    const email = newEmail()
    await signUp(email)

    const { error } = await auth.client().auth.resend({ type: 'signup', email })
    auth.clock.offsetMs = 61_000
    const later = await auth.client().auth.resend({ type: 'signup', email })

    expect(error).toMatchObject({ status: 429, code: 'over_email_send_rate_limit' })
    expect(error?.message).toMatch(/^For security purposes, you can only request this after \d+ seconds\.$/)
    expect(later.error).toBeNull()
  })

  test('resending says nothing about unknown or confirmed ones', async () => {
    const { email } = await newUser(auth)
    const mails = auth.mails.length

    const answers = await Promise.all(
      [email, newEmail()].map(async (to) => (await auth.call('/resend', { type: 'signup', email: to })).json()),
    )

    expect(answers).toEqual([{}, {}])
    expect(auth.mails).toHaveLength(mails)
  })
})

describe('a link by mail to sign in with', () => {
  test('signs a known user in, by link or by code', async () => {
    const { email } = await newUser(auth)
    await auth.client().auth.signInWithOtp({ email })
    const { code, link } = lastMail(auth, email)

    const { data } = await auth.client().auth.verifyOtp({ email, token: code, type: 'email' })

    expect(new URL(link).searchParams.get('type')).toBe('magiclink')
    expect(claimsOf(data.session?.access_token ?? '')).toMatchObject({ amr: [{ method: 'otp' }] })
  })

  test('signs a new user up, unless the caller does not want that', async () => {
    const email = newEmail()
    const refused = await auth.client().auth.signInWithOtp({ email, options: { shouldCreateUser: false } })
    const { error } = await auth.client().auth.signInWithOtp({ email, options: { data: { first_name: 'Ada' } } })

    const { data } = await auth.client().auth.verifyOtp({ email, token: lastMail(auth, email).code, type: 'email' })

    expect(refused.error).toMatchObject({ status: 422, code: 'otp_disabled' })
    expect(error).toBeNull()
    expect(data.user?.user_metadata).toMatchObject({ first_name: 'Ada', email_verified: true })
  })

  test('leads nowhere but to the site and what the project allows', async () => {
    const { email } = await newUser(auth)
    auth.settings.additional_redirect_urls = ['https://*.example.com/app/**', 'palisade://login']
    const leadsTo = async (emailRedirectTo: string) => {
      await auth.client().auth.signInWithOtp({ email, options: { emailRedirectTo } })
      const url = await follow(auth, lastMail(auth, email).link)
      return url.href.split('#')[0]
    }

    expect(await leadsTo('https://evil.example.net/')).not.toContain('evil')
    expect(await leadsTo('https://a.b.example.com/app/')).not.toContain('example.com')
    expect(await leadsTo('https://evil.net/?x=https://a.example.com/app/')).not.toContain('evil')
    expect(await leadsTo('https://a.example.com/app/x/y')).toBe('https://a.example.com/app/x/y')
    expect(await leadsTo('palisade://login')).toBe('palisade://login')
  })

  test('does not let a banned user in', async () => {
    const { email, id } = await newUser(auth)
    await auth.client().auth.signInWithOtp({ email })
    await auth.sql`update auth.users set banned_until = now() + interval '1 day' where id = ${id}`

    const { error } = await auth.client().auth.verifyOtp({ email, token: lastMail(auth, email).code, type: 'email' })

    expect(error).toMatchObject({ status: 403, code: 'user_banned' })
  })
})

describe('a client with a code exchange (PKCE)', () => {
  const storage = () => {
    const items = new Map<string, string>()
    return {
      getItem: (name: string) => items.get(name) ?? null,
      setItem: (name: string, value: string) => void items.set(name, value),
      removeItem: (name: string) => void items.delete(name),
    }
  }
  const pkceClient = () => auth.client({ auth: { flowType: 'pkce', storage: storage(), persistSession: true } })

  test('exchanges the code of its link for a session, once; nobody else can', async () => {
    const email = newEmail()
    const [client, thief] = [pkceClient(), pkceClient()]
    await client.auth.signUp({ email, password })
    const code = (await follow(auth, lastMail(auth, email).link)).searchParams.get('code') ?? ''

    await thief.auth.signInWithOtp({ email: newEmail() })
    const stolen = await thief.auth.exchangeCodeForSession(code)
    const { data, error } = await client.auth.exchangeCodeForSession(code)
    const again = await auth.call('/token?grant_type=pkce', { auth_code: code, code_verifier: 'x'.repeat(43) })

    expect(stolen.error).toMatchObject({ status: 400, code: 'bad_code_verifier' })
    expect(error).toBeNull()
    expect(claimsOf(data.session?.access_token ?? '')).toMatchObject({ amr: [{ method: 'email/signup' }] })
    expect(again.headers.get('x-sb-error-code')).toBe('flow_state_not_found')
  })

  test('has five minutes to do so', async () => {
    const { email } = await newUser(auth)
    const client = pkceClient()
    await client.auth.resetPasswordForEmail(email)
    const code = (await follow(auth, lastMail(auth, email).link)).searchParams.get('code') ?? ''
    auth.clock.offsetMs = 301_000

    const { error } = await client.auth.exchangeCodeForSession(code)

    expect(error).toMatchObject({ code: 'flow_state_expired' })
  })
})
