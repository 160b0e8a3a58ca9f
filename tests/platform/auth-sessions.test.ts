/** Signing in, refreshing and signing out: what opens a session, what keeps it, and what ends it. */
import { argon2id, bcrypt } from 'hash-wasm'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import {
  type AuthUnderTest,
  claimsOf,
  newEmail,
  newUser,
  password,
  signIn,
  startAuth,
} from '../support/auth-service.ts'

let auth: AuthUnderTest
beforeAll(async () => {
  auth = await startAuth()
})
afterEach(() => auth.reset())
afterAll(() => auth.stop())

const refresh = (token: string) => auth.call('/token?grant_type=refresh_token', { refresh_token: token })
const codeOf = (response: Response) => [response.status, response.headers.get('x-sb-error-code')]

type Session = { access_token: string; refresh_token: string; expires_at: number; user: { id: string } }
const sessionOf = async (response: Response) => (await response.json()) as Session

describe('signing in is refused', () => {
  test('in the same words for a wrong password and an unknown address', async () => {
    const { email } = await newUser(auth)

    const wrong = await auth.call('/token?grant_type=password', { email, password: 'Wrong1Password' })
    const unknown = await auth.call('/token?grant_type=password', { email: newEmail(), password: 'Wrong1Password' })

    expect([wrong.status, unknown.status]).toEqual([400, 400])
    const bodies = [await wrong.text(), await unknown.text()]
    expect(bodies[0]).toBe(bodies[1])
    expect(JSON.parse(bodies[0] ?? '')).toEqual({ code: 'invalid_credentials', message: 'Invalid login credentials' })
    const names = [wrong, unknown].map(({ headers }) => [...headers].filter(([name]) => name !== 'date'))
    expect(names[0]).toEqual(names[1])
  })

  test('with an empty, a missing or a very long password, as with any wrong one', async () => {
    const { email } = await newUser(auth)

    const answers = await Promise.all(
      [{ email, password: '' }, { email }, { email, password: 'x'.repeat(10_000) }].map((body) =>
        auth.call('/token?grant_type=password', body),
      ),
    )

    expect(answers.map(codeOf)).toEqual(Array(3).fill([400, 'invalid_credentials']))
  })

  test('to a banned user, and one without a password', async () => {
    const banned = await newUser(auth)
    const keyless = await newUser(auth)
    await auth.sql`update auth.users set banned_until = now() + interval '1 hour' where id = ${banned.id}`
    await auth.sql`update auth.users set encrypted_password = null where id = ${keyless.id}`

    const first = await auth.client().auth.signInWithPassword({ email: banned.email, password })
    const second = await auth.client().auth.signInWithPassword({ email: keyless.email, password })

    expect(first.error).toMatchObject({ status: 400, code: 'user_banned' })
    expect(second.error).toMatchObject({ status: 400, code: 'invalid_credentials' })
  })

  test('without an address, by phone, and for grants that are not offered', async () => {
    const missing = await auth.call('/token?grant_type=password', { password })
    const phone = await auth.call('/token?grant_type=password', { phone: '+15550100', password })
    const grant = await auth.call('/token?grant_type=client_credentials', {})

    expect([missing, phone].map(codeOf)).toEqual([
      [400, 'validation_failed'],
      [400, 'phone_provider_disabled'],
    ])
    expect([grant.status, await grant.json()]).toEqual([
      400,
      expect.objectContaining({ error: 'unsupported_grant_type' }),
    ])
  })
})

describe('a session', () => {
  test('knows device and address, and carries every claim of the real service', async () => {
    const { email, id } = await newUser(auth)
    const response = await auth.call(
      '/token?grant_type=password',
      { email, password },
      { 'user-agent': 'Palisade/1.0' },
    )
    const body = await sessionOf(response)

    const claims = claimsOf(body.access_token)
    const [row] = await auth.sql`
      select user_agent, host(ip) as ip, aal, refreshed_at from auth.sessions where id = ${String(claims.session_id)}`
    expect(row).toEqual({ user_agent: 'Palisade/1.0', ip: '127.0.0.1', aal: 'aal1', refreshed_at: null })
    expect(body).toMatchObject({ token_type: 'bearer', expires_in: 900, expires_at: claims.exp, user: { id, email } })
    expect(claims).toEqual({
      iss: `${auth.url}/auth/v1`,
      sub: id,
      aud: 'authenticated',
      exp: Number(claims.iat) + 900,
      iat: expect.any(Number),
      email,
      phone: '',
      app_metadata: { provider: 'email', providers: ['email'] },
      user_metadata: expect.objectContaining({ email_verified: true }),
      role: 'authenticated',
      aal: 'aal1',
      amr: [{ method: 'password', timestamp: expect.any(Number) }],
      session_id: expect.any(String),
      is_anonymous: false,
    })
  })

  test('is noted on the user, and addresses are the same in any case', async () => {
    const { email, id } = await newUser(auth)
    const [before] = await auth.sql`select last_sign_in_at from auth.users where id = ${id}`

    const { data } = await auth.client().auth.signInWithPassword({ email: email.toUpperCase(), password })

    const [after] = await auth.sql`select last_sign_in_at from auth.users where id = ${id}`
    expect(data.user?.id).toBe(id)
    expect(after?.last_sign_in_at.getTime()).toBeGreaterThan(before?.last_sign_in_at.getTime())
  })

  test('opened with a password that is too weak by now says so', async () => {
    const { email } = await newUser(auth)
    auth.settings.minimum_password_length = 30

    const { data } = await auth.client().auth.signInWithPassword({ email, password })

    expect(data.weakPassword).toMatchObject({ reasons: ['length'], message: expect.stringContaining('30 characters') })
  })

  test('opens with hashes from other systems', async () => {
    const salt = new Uint8Array(16).fill(7)
    const secret = 'Imported1Password'
    const bcryptHash = await bcrypt({ password: secret, salt, costFactor: 5, outputType: 'encoded' })
    const argon = { password: secret, salt, iterations: 2, parallelism: 1, memorySize: 1024, hashLength: 32 }
    const hashes = [
      bcryptHash.replace('$2a$', '$2y$'),
      await argon2id({ ...argon, outputType: 'encoded' }),
      // From Firebase's own documentation of its scrypt (github.com/firebase/scrypt): user1password.
      '$fbscrypt$v=1,n=14,r=8,p=1,ss=Bw==,sk=jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKbm0QsEmYUSDzZvpjeJ9WmXA==$42xEC+ixf3L2lw==$lSrfV15cpx95/sZS2W9c9Kp6i/LVgQNDNC/qzrCnh1SAyZvqmZqAjTdn3aoItz+VHjoZilo78198JAdRuid5lQ==',
    ]
    for (const [index, encrypted] of hashes.entries()) {
      const { email, id } = await newUser(auth)
      await auth.sql`update auth.users set encrypted_password = ${encrypted} where id = ${id}`

      const wrong = await auth.client().auth.signInWithPassword({ email, password: 'Wrong1Password' })
      const right = await auth
        .client()
        .auth.signInWithPassword({ email, password: index === 2 ? 'user1password' : secret })

      expect([index, wrong.error?.code, right.error]).toEqual([index, 'invalid_credentials', null])
    }
  })
})

describe('refreshing', () => {
  test('spends the token, keeps the session and how it was opened, and notes when and where', async () => {
    const user = await newUser(auth)
    auth.clock.offsetMs = 60_000

    const body = await sessionOf(await refresh(user.refreshToken))

    const [then, now] = [claimsOf(user.token), claimsOf(body.access_token)]
    expect(body.refresh_token).not.toBe(user.refreshToken)
    expect([now.session_id, now.amr, now.exp]).toEqual([then.session_id, then.amr, expect.any(Number)])
    expect(Number(now.exp)).toBeGreaterThan(Number(then.exp))
    const [row] = await auth.sql`
      select refreshed_at at time zone 'utc' > created_at as later from auth.sessions where id = ${user.sessionId}`
    expect(row?.later).toBe(true)
  })

  test('is refused without a token, in the words of OAuth, and with an unknown one', async () => {
    const missing = await auth.call('/token?grant_type=refresh_token', {})
    const unknown = await refresh('abcdefghijkl')

    expect([missing.status, await missing.json()]).toEqual([
      400,
      { error: 'invalid_request', error_description: 'refresh_token required' },
    ])
    expect(codeOf(unknown)).toEqual([400, 'refresh_token_not_found'])
  })

  test('with the token before the last one gives the last one again, as for a client that lost the answer', async () => {
    const { refreshToken } = await newUser(auth)
    const first = await sessionOf(await refresh(refreshToken))
    auth.clock.offsetMs = 3_600_000

    const again = await sessionOf(await refresh(refreshToken))

    expect(again.refresh_token).toBe(first.refresh_token)
  })

  test('with an older one ends the family: nobody can refresh any more, and that is kept', async () => {
    const { refreshToken, sessionId } = await newUser(auth)
    const second = await sessionOf(await refresh(refreshToken))
    const third = await sessionOf(await refresh(second.refresh_token))
    auth.clock.offsetMs = 11_000

    const reused = await refresh(refreshToken)
    const robbed = await refresh(third.refresh_token)

    expect([reused, robbed].map(codeOf)).toEqual(Array(2).fill([400, 'refresh_token_already_used']))
    const active = await auth.sql`select from auth.refresh_tokens where session_id = ${sessionId} and not revoked`
    expect(active).toHaveLength(0)
  })

  test('with an older one within ten seconds is taken for a race and gets a token', async () => {
    const { refreshToken } = await newUser(auth)
    const second = await sessionOf(await refresh(refreshToken))
    await refresh(second.refresh_token)

    const raced = await refresh(refreshToken)

    expect(raced.status).toBe(200)
  })

  test('twenty times at once with one token gives one next token', async () => {
    const { refreshToken, sessionId } = await newUser(auth)

    const answers = await Promise.all(Array.from({ length: 20 }, () => refresh(refreshToken)))

    const tokens = await Promise.all(answers.map(async (answer) => (await sessionOf(answer)).refresh_token))
    expect(new Set(tokens).size).toBe(1)
    const rows = await auth.sql`select revoked from auth.refresh_tokens where session_id = ${sessionId}`
    expect(rows.map(({ revoked }) => revoked).sort()).toEqual([false, true])
  })

  test('in a race of a spent token and the current one ends the family whichever comes first', async () => {
    const { refreshToken, sessionId } = await newUser(auth)
    const second = await sessionOf(await refresh(refreshToken))
    const third = await sessionOf(await refresh(second.refresh_token))
    auth.clock.offsetMs = 11_000

    await Promise.all([refresh(refreshToken), refresh(third.refresh_token), refresh(refreshToken)])

    const active = await auth.sql`select from auth.refresh_tokens where session_id = ${sessionId} and not revoked`
    expect(active).toHaveLength(0)
  })

  test('is refused for a session that is too old, idle too long, or over', async () => {
    const [old, idle, over] = [await newUser(auth), await newUser(auth), await newUser(auth)]
    await auth.sql`update auth.sessions set not_after = now() - interval '1 second' where id = ${over.sessionId}`
    const third = await refresh(over.refreshToken)
    auth.clock.offsetMs = 168 * 3_600_000 + 1_000
    const second = await refresh(idle.refreshToken)
    await auth.sql`update auth.sessions set refreshed_at = now() + interval '719 hours' where id = ${old.sessionId}`
    auth.clock.offsetMs = 720 * 3_600_000 + 1_000
    const first = await refresh(old.refreshToken)

    expect([first, second, third].map(codeOf)).toEqual(Array(3).fill([400, 'session_expired']))
    const messages = await Promise.all(
      [first, second, third].map(async (answer) => (await answer.json()) as { message: string }),
    )
    expect(messages.map(({ message }) => message)).toEqual([
      'Invalid Refresh Token: Session Expired',
      'Invalid Refresh Token: Session Expired (Inactivity)',
      'Invalid Refresh Token: Session Expired',
    ])
  })

  test('counts as use: a session refreshed each day does not become idle', async () => {
    let { refreshToken } = await newUser(auth)
    for (let day = 1; day <= 10; day += 1) {
      auth.clock.offsetMs = day * 24 * 3_600_000
      refreshToken = (await sessionOf(await refresh(refreshToken))).refresh_token
    }

    expect(refreshToken).toMatch(/^[a-z2-7]{12}$/)
  })

  test('is refused to a banned user, and to one who has signed out', async () => {
    const [banned, gone] = [await newUser(auth), await newUser(auth)]
    await auth.sql`update auth.users set banned_until = now() + interval '1 hour' where id = ${banned.id}`
    await gone.client.auth.signOut()

    const answers = [await refresh(banned.refreshToken), await refresh(gone.refreshToken)]

    expect(answers.map(codeOf)).toEqual([
      [400, 'user_banned'],
      [400, 'refresh_token_not_found'],
    ])
  })

  test('that waits for five seconds behind another one is a conflict', async () => {
    const { refreshToken, sessionId } = await newUser(auth)

    const answer = await auth.sql.begin(async (tx) => {
      await tx`select from auth.sessions where id = ${sessionId} for update`
      return refresh(refreshToken)
    })

    expect(codeOf(answer)).toEqual([409, 'conflict'])
    expect((await refresh(refreshToken)).status).toBe(200)
  })
})

describe('signing out', () => {
  const isAlive = async (token: string) =>
    (await auth.call('/user', undefined, { authorization: `Bearer ${token}` })).status === 200

  test('ends this session, the others, or all, as the scope says', async () => {
    const first = await newUser(auth)
    const [second, third] = [await signIn(auth, first.email), await signIn(auth, first.email)]
    const alive = () => Promise.all([first, second, third].map(({ token }) => isAlive(token)))

    await first.client.auth.signOut({ scope: 'local' })
    const afterLocal = await alive()
    await second.client.auth.signOut({ scope: 'others' })
    const afterOthers = await alive()
    await second.client.auth.signOut()
    const afterAll_ = await alive()

    expect([afterLocal, afterOthers, afterAll_]).toEqual([
      [false, true, true],
      [false, true, false],
      [false, false, false],
    ])
  })

  test('is refused without a token, with another scope, and by a session that is gone', async () => {
    const user = await newUser(auth)
    const bearer = { authorization: `Bearer ${user.token}` }

    const none = await auth.call('/logout', {})
    const scope = await auth.call('/logout?scope=everybody', {}, bearer)
    await auth.sql`delete from auth.sessions where id = ${user.sessionId}`
    const gone = await auth.call('/logout', {}, bearer)

    expect([none, scope, gone].map(codeOf)).toEqual([
      [401, 'no_authorization'],
      [400, 'validation_failed'],
      [403, 'session_not_found'],
    ])
  })

  test('does nothing to anybody else', async () => {
    const [one, other] = [await newUser(auth), await newUser(auth)]

    await one.client.auth.signOut({ scope: 'global' })

    expect(await isAlive(other.token)).toBe(true)
  })
})

describe('who is signed in', () => {
  test('is shown to the token’s owner only while the session lives and the user is not banned', async () => {
    const user = await newUser(auth)
    const shown = await user.client.auth.getUser()
    await auth.sql`update auth.users set banned_until = now() + interval '1 hour' where id = ${user.id}`
    const banned = await auth.call('/user', undefined, { authorization: `Bearer ${user.token}` })
    await auth.sql`delete from auth.users where id = ${user.id}`
    const deleted = await auth.call('/user', undefined, { authorization: `Bearer ${user.token}` })

    expect(shown.data.user).toMatchObject({ id: user.id, email: user.email, identities: [{ provider: 'email' }] })
    expect(codeOf(banned)).toEqual([403, 'user_banned'])
    expect(codeOf(deleted)).toEqual([403, 'user_not_found'])
  })

  test('is not asked with a key alone, publishable or secret', async () => {
    const publishable = await auth.call('/user')
    const secret = await auth.call('/user', undefined, { apikey: auth.secretKey })
    const none = await auth.handle(new Request(`${auth.url}/auth/v1/user`))

    expect([publishable, secret].map(codeOf)).toEqual([
      [401, 'no_authorization'],
      [403, 'bad_jwt'],
    ])
    expect(none.status).toBe(401)
  })

  test('is not decided by a session of somebody else', async () => {
    const [one, other] = [await newUser(auth), await newUser(auth)]
    await auth.sql`update auth.sessions set user_id = ${other.id} where id = ${one.sessionId}`

    const answer = await auth.call('/user', undefined, { authorization: `Bearer ${one.token}` })

    expect(codeOf(answer)).toEqual([403, 'session_not_found'])
  })
})

describe('the service', () => {
  test('says what it offers and that it is well', async () => {
    const [settings, health] = await Promise.all([auth.call('/settings'), auth.call('/health')])

    expect(await settings.json()).toMatchObject({
      external: { email: true, phone: false, anonymous_users: false },
      disable_signup: false,
      mailer_autoconfirm: false,
    })
    expect(health.status).toBe(200)
  })

  test('knows no other addresses, and no other methods', async () => {
    const [nowhere, method] = [await auth.call('/nowhere'), await auth.call('/token', undefined, {}, 'GET')]

    expect([nowhere.status, method.status]).toEqual([404, 405])
  })

  test('keeps passwords and tokens out of its log', async () => {
    const user = await newUser(auth)
    await auth.call('/token?grant_type=password', { email: user.email, password: 'Wrong1Password' })
    await refresh('notatoken123')

    const log = auth.logs.join('\n')
    expect(log).not.toMatch(/Correct1Horse|Wrong1Password|notatoken123/)
    expect(log).not.toContain(user.token)
  })
})
