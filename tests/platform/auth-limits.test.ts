/** How often an address may call, how many mails a project sends, and the captcha before both do their work. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { projectFile } from '../../stack/config.ts'
import { createBuckets, createRateLimits } from '../../stack/platform/auth/rate-limit.ts'
import { type AuthSettings, readProjectSettings } from '../../stack/platform/auth/settings.ts'
import { type AuthUnderTest, newEmail, newUser, password, signIn, startAuth } from '../support/auth-service.ts'

const { auth: project } = readProjectSettings(projectFile, 3000)
const configured = project.rate_limit
let auth: AuthUnderTest
type Answer = (form: URLSearchParams) => Response | Promise<Response>
const provider: { asked: { url: string; form: URLSearchParams }[]; answer: Answer } = {
  asked: [],
  answer: () => Response.json({ success: true }),
}
beforeAll(async () => {
  auth = await startAuth({
    limited: true,
    fetch: async (input, init) => {
      const request = new Request(input, init)
      const form = new URLSearchParams(await request.text())
      provider.asked.push({ url: request.url, form })
      return provider.answer(form)
    },
  })
})
const clock = { now: Date.now() }
beforeEach(() => {
  // It stands still, hours after the test before: every bucket is full again, and none refills while a slow machine works.
  clock.now += 10 * 3_600_000
  auth.clock.frozenAt = clock.now
  auth.settings.rate_limit = { ...configured }
  provider.asked = []
})
afterEach(() => {
  auth.reset()
  provider.answer = () => Response.json({ success: true })
})
afterAll(() => auth.stop())

const problem = async (response: Response) => ({ status: response.status, ...((await response.json()) as object) })
const newAddress = () => `2001:db8::${crypto.randomUUID().slice(0, 4)}:${crypto.randomUUID().slice(0, 4)}`

type Sent = { method?: string; body?: unknown; headers?: Record<string, string> }

function send(address: string, path: string, { method = 'POST', body = {}, headers = {} }: Sent = {}) {
  const request = new Request(`${auth.url}/auth/v1${path}`, {
    method,
    headers: { apikey: auth.publishableKey, 'x-supabase-api-version': '2024-01-01', ...headers },
    ...(method === 'GET' ? {} : { body: JSON.stringify(body) }),
  })
  return auth.handle(request, address)
}

/** How many of this many requests are admitted. */
async function admitted(count: number, once: () => Promise<Response>): Promise<number> {
  const answers = await Promise.all(Array.from({ length: count }, once))
  const statuses = answers.map(({ status }) => status)
  return statuses.filter((status) => status !== 429).length
}

describe('an address', () => {
  test.each<[string, Sent, number]>([
    ['/token?grant_type=password', { body: { email: 'nobody@example.com', password: 'x' } }, 150 / 5],
    ['/token?grant_type=refresh_token', { body: { refresh_token: 'nothing' } }, 150 / 5],
    ['/signup', { body: { email: 'x' } }, 30 / 5],
    ['/otp', { body: { email: 'x' } }, 30 / 5],
    ['/magiclink', { body: { email: 'x' } }, 30 / 5],
    ['/recover', { body: { email: 'x' } }, 30 / 5],
    ['/resend', { body: { type: 'signup', email: 'x' } }, 30 / 5],
    ['/user', { method: 'PUT' }, 30 / 5],
    ['/verify', { body: { type: 'signup', token_hash: 'x' } }, 30 / 5],
    ['/verify?type=signup&token=x', { method: 'GET' }, 30 / 5],
    ['/factors/x/challenge', {}, 15],
    ['/factors/x/verify', {}, 15],
  ])('calls %s thirty times at once, then as often as the bucket refills', async (path, sent, perMinute) => {
    const address = newAddress()
    const once = () => send(address, path, sent)

    expect(await admitted(32, once)).toBe(30)
    const refused = await once()
    auth.clock.offsetMs = 60_000

    expect(await problem(refused)).toEqual({
      status: 429,
      code: 'over_request_rate_limit',
      message: 'Request rate limit reached',
    })
    expect(await admitted(perMinute + 2, once)).toBe(Math.min(30, perMinute))
  })

  test('that is used up leaves the others and the other routes alone', async () => {
    const address = newAddress()
    await admitted(40, () => send(address, '/otp', { body: { email: 'x' } }))

    const other = await send(newAddress(), '/otp', { body: { email: 'x' } })
    const elsewhere = await send(address, '/recover', { body: { email: 'x' } })

    expect([other.status, elsewhere.status]).toEqual([400, 400])
  })

  test('guesses a mailed code with a chance of one in a hundred thousand at the most while that lives', async () => {
    const { otp_length, otp_expiry } = auth.settings.email
    const address = newAddress()
    const guess = { type: 'email', email: newEmail(), token: '0'.repeat(otp_length) }
    const byCode = () => send(address, '/verify', { body: guess })
    const byLink = () => send(address, '/verify?type=email&token=x', { method: 'GET' })

    let tries = 0
    for (let second = 0; second <= otp_expiry; second += 60) {
      auth.clock.offsetMs = second * 1000
      tries += (await admitted(31, byCode)) + (await admitted(31, byLink))
    }

    expect(tries).toBeGreaterThan(60)
    expect(tries / 10 ** otp_length).toBeLessThan(1 / 100_000)
  })

  test('is not counted where there is no limit', async () => {
    const address = newAddress()

    expect(await admitted(60, () => send(address, '/settings', { method: 'GET' }))).toBe(60)
  })

  test('signs up anonymously as often as the limit of an hour says, at once', async () => {
    auth.settings.enable_anonymous_sign_ins = true
    auth.settings.rate_limit = { ...auth.settings.rate_limit, anonymous_users: 3 }
    const address = newAddress()

    expect(await admitted(5, () => send(address, '/signup'))).toBe(3)
    auth.clock.offsetMs = 20 * 60_000
    expect(await admitted(3, () => send(address, '/signup'))).toBe(1)
  })

  test('is told to supabase-js by its code', async () => {
    const address = newAddress()
    const client = auth.client({ address })
    await admitted(30, () => send(address, '/token?grant_type=password', { body: { email: 'x', password: 'x' } }))

    const { error } = await client.auth.signInWithPassword({ email: newEmail(), password })

    expect(error).toMatchObject({ status: 429, code: 'over_request_rate_limit' })
  })

  test('comes from sb-forwarded-for with a secret key, and with no other', async () => {
    const [server, visitor] = [newAddress(), newAddress()]
    const body = { email: 'x' }
    const forwarded = (apikey: string) => ({ body, headers: { apikey, 'sb-forwarded-for': `${visitor}, 10.0.0.1` } })
    await admitted(30, () => send(visitor, '/otp', { body }))

    const trusted = await send(server, '/otp', forwarded(auth.secretKey))
    const untrusted = await send(server, '/otp', forwarded(auth.publishableKey))

    expect([trusted.status, untrusted.status]).toEqual([429, 400])
  })

  test('in sb-forwarded-for that is none counts for nothing', async () => {
    const server = newAddress()
    const once = (text: string) =>
      send(server, '/otp', { body: { email: 'x' }, headers: { apikey: auth.secretKey, 'sb-forwarded-for': text } })

    expect(await admitted(32, () => once(`not-an-address-${crypto.randomUUID()}`))).toBe(30)
  })
})

test('a project sends its mails of the hour and then no more, and what was not mailed has not happened', async () => {
  auth.settings.rate_limit = { ...auth.settings.rate_limit, email_sent: 2 }
  const emails = [newEmail(), newEmail(), newEmail()]
  const answers = []
  for (const email of emails) answers.push(await send(newAddress(), '/signup', { body: { email, password } }))

  expect(answers.map(({ status }) => status)).toEqual([200, 200, 429])
  expect(await problem(answers[2] ?? new Response())).toMatchObject({ code: 'over_email_send_rate_limit' })
  expect(await auth.sql`select from auth.users where email = ${emails[2] ?? ''}`).toHaveLength(0)
  auth.clock.offsetMs = 30 * 60_000
  expect((await send(newAddress(), '/signup', { body: { email: emails[2], password } })).status).toBe(200)
})

test('a flood of addresses does not make a project’s mails of the hour start anew', () => {
  const limits = createRateLimits({ ...project, rate_limit: { ...configured, email_sent: 1 } }, () => new Date(0))
  const url = new URL(`${auth.url}/auth/v1/verify`)
  const rest = { request: new Request(url), url, body: {}, userAgent: null, apiVersion: null }
  const caller = { role: 'anon' as const, claims: { role: 'anon' }, token: null }
  limits.admitMail()

  for (let index = 0; index < 20_000; index += 1) {
    limits.admit({ ...rest, caller, address: `address ${index}` }, '/verify')
  }

  expect(() => limits.admitMail()).toThrow('email rate limit exceeded')
})

test('a service started without limits counts nothing', async () => {
  const free = await startAuth()
  try {
    free.settings.rate_limit = { ...free.settings.rate_limit, sign_in_sign_ups: 1, email_sent: 1 }
    const once = () => free.call('/otp', { email: newEmail() })
    expect(await admitted(40, once)).toBe(40)
  } finally {
    await free.stop()
  }
})

describe('the buckets', () => {
  const rate = { limit: 60, periodMs: 60_000, burst: 2 }

  test('never hold more than the burst, whichever way the clock moves', () => {
    const clock = { ms: 1_000_000 }
    const buckets = createBuckets(() => new Date(clock.ms))
    const takes = (count: number) => Array.from({ length: count }, () => buckets.take('a', rate))

    expect(takes(3)).toEqual([true, true, false])
    clock.ms -= 500_000
    expect(takes(1)).toEqual([false])
    clock.ms += 1_000
    expect(takes(2)).toEqual([true, false])
    clock.ms += 3_600_000
    expect(takes(3)).toEqual([true, true, false])
  })

  test('of addresses that have rested are forgotten', () => {
    const clock = { ms: 0 }
    const buckets = createBuckets(() => new Date(clock.ms))
    for (let index = 0; index < 100; index += 1) buckets.take(`old ${index}`, rate)
    clock.ms = 60_000

    for (let index = 0; index < 100; index += 1) buckets.take(`new ${index}`, rate)

    expect(buckets.size()).toBe(100)
  })

  test('of a flood of addresses stay within their bound, and the busiest caller stays refused', () => {
    const buckets = createBuckets(() => new Date(0), 50)

    for (let index = 0; index < 1_000; index += 1) {
      buckets.take('busy', rate)
      buckets.take(`address ${index}`, rate)
    }

    expect(buckets.size()).toBe(50)
    expect(buckets.take('busy', rate)).toBe(false)
  })
})

describe('the captcha', () => {
  type Captcha = NonNullable<AuthSettings['captcha']>
  const on = (secret: string, name: Captcha['provider'] = 'turnstile') => {
    auth.settings.rate_limit = { ...auth.settings.rate_limit, email_sent: 1_000_000 }
    auth.settings.captcha = { enabled: true, provider: name, secret }
  }
  afterEach(() => {
    auth.settings.captcha = undefined
  })
  const alwaysPasses = '1x0000000000000000000000000000000AA'
  const sent = (captcha_token?: string) => ({
    body: { email: newEmail(), password, gotrue_meta_security: { captcha_token } },
  })
  const signUp = (token?: string) => send(newAddress(), '/signup', sent(token))

  test.each(['/signup', '/recover', '/magiclink', '/otp', '/resend', '/token?grant_type=password'])(
    'is missed on %s without a token',
    async (path) => {
      on(alwaysPasses)

      const refused = await send(newAddress(), path, sent())

      expect(await problem(refused)).toEqual({
        status: 400,
        code: 'captcha_failed',
        message: 'captcha protection: request disallowed (no captcha_token found in request)',
      })
    },
  )

  test('is asked for neither of refreshes nor of codes, nor of servers with a secret key', async () => {
    on(alwaysPasses)
    const refresh = await send(newAddress(), '/token?grant_type=refresh_token', { body: { refresh_token: 'x' } })
    const pkce = await send(newAddress(), '/token?grant_type=pkce', { body: { auth_code: 'x', code_verifier: 'x' } })
    const server = await send(newAddress(), '/recover', { ...sent(), headers: { apikey: auth.secretKey } })

    expect(await problem(refresh)).toMatchObject({ code: 'refresh_token_not_found' })
    expect(await problem(pkce)).toMatchObject({ code: 'flow_state_not_found' })
    expect(server.status).toBe(200)
  })

  test('is off by default and when it is turned off', async () => {
    const byDefault = await signUp()
    on(alwaysPasses)
    auth.settings.captcha = { enabled: false, provider: 'turnstile', secret: alwaysPasses }

    expect([byDefault.status, (await signUp()).status]).toEqual([200, 200])
  })

  test.each([
    ['1x0000000000000000000000000000000AA', 'turnstile', 'XXXX.DUMMY.TOKEN.XXXX', null],
    ['2x0000000000000000000000000000000AA', 'turnstile', 'XXXX.DUMMY.TOKEN.XXXX', 'invalid-input-response'],
    ['3x0000000000000000000000000000000AA', 'turnstile', 'XXXX.DUMMY.TOKEN.XXXX', 'timeout-or-duplicate'],
    ['0x0000000000000000000000000000000000000000', 'hcaptcha', '10000000-aaaa-bbbb-cccc-000000000001', null],
    ['0x0000000000000000000000000000000000000000', 'hcaptcha', 'another', 'invalid-input-response'],
  ] as const)('with the test secret %s of %s judges %s without the network', async (secret, name, token, reason) => {
    on(secret, name)

    const answer = await signUp(token)

    expect(provider.asked).toEqual([])
    if (reason === null) expect(answer.status).toBe(200)
    else
      expect(await problem(answer)).toMatchObject({
        status: 400,
        code: 'captcha_failed',
        message: expect.stringContaining(reason),
      })
  })

  test.each([
    ['turnstile', 'https://challenges.cloudflare.com/turnstile/v0/siteverify'],
    ['hcaptcha', 'https://hcaptcha.com/siteverify'],
  ] as const)('of %s is judged at %s by secret, token and address', async (name, url) => {
    on('real-secret', name)
    const address = newAddress()

    const answer = await send(address, '/signup', sent(' token '))

    expect(answer.status).toBe(200)
    expect(provider.asked.map((one) => ({ url: one.url, form: Object.fromEntries(one.form) }))).toEqual([
      { url, form: { secret: 'real-secret', response: 'token', remoteip: address } },
    ])
  })

  test('counts once: what the provider calls a duplicate is refused, in supabase-js too', async () => {
    on('real-secret')
    const spent = new Set<string>()
    provider.answer = (form) => {
      const token = form.get('response') ?? ''
      if (spent.has(token)) return Response.json({ success: false, 'error-codes': ['timeout-or-duplicate'] })
      spent.add(token)
      return Response.json({ success: true })
    }
    const options = { captchaToken: 'once' }
    const client = auth.client({ address: newAddress() })

    const first = await client.auth.signUp({ email: newEmail(), password, options })
    const second = await client.auth.signUp({ email: newEmail(), password, options })

    expect(first.error).toBeNull()
    expect(second.error).toMatchObject({ status: 400, code: 'captcha_failed' })
  })

  test.each<[string, Answer]>([
    ['does not answer', () => Promise.reject(new TypeError('fetch failed'))],
    ['answers nonsense', () => new Response('<html>')],
  ])('refuses with 500 when the provider %s, and nothing happens', async (_how, answer) => {
    on('real-secret')
    provider.answer = answer
    const request = sent('token')

    const refused = await send(newAddress(), '/signup', request)

    expect(await problem(refused)).toMatchObject({ status: 500, code: 'unexpected_failure' })
    expect(await auth.sql`select from auth.users where email = ${request.body.email}`).toHaveLength(0)
    expect(auth.logs.join()).not.toContain('real-secret')
  })

  test('that is refused costs nobody a failed sign-in, and a limit comes before it', async () => {
    const user = await newUser(auth)
    on('real-secret')
    const address = newAddress()
    const body = { email: user.email, password, gotrue_meta_security: { captcha_token: 'token' } }

    await admitted(40, () => send(address, '/token?grant_type=password', { body }))

    expect(provider.asked).toHaveLength(30)
    auth.settings.captcha = undefined
    await expect(signIn(auth, user.email)).resolves.toMatchObject({ id: user.id })
  })
})
