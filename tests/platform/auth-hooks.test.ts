/** Postgres hooks: what they are asked, in which transaction, what their answers do, and what happens when they fail. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { HookName } from '../../stack/platform/auth/settings.ts'
import {
  type AuthUnderTest,
  claimsOf,
  lastMail,
  newEmail,
  newUser,
  password,
  type SignedUp,
  signIn,
  startAuth,
} from '../support/auth-service.ts'

let auth: AuthUnderTest
/** For tests that leave a user as it was. */
let someone: SignedUp
beforeAll(async () => {
  auth = await startAuth()
  await auth.sql`create schema hooks`
  await auth.sql`create table hooks.seen (id bigserial primary key, name text, event jsonb, role text)`
  await auth.sql`grant usage on schema hooks to supabase_auth_admin`
  await auth.sql`grant insert, select on hooks.seen to supabase_auth_admin`
  await auth.sql`grant usage on sequence hooks.seen_id_seq to supabase_auth_admin`
  someone = await newUser(auth)
})
afterEach(() => auth.reset())
afterAll(() => auth.stop())

/** Configures a hook whose body is this PL/pgSQL; it also notes what it was asked, where its transaction lets it. */
async function hook(name: HookName, body: string, argument: 'json' | 'jsonb' = 'jsonb'): Promise<void> {
  await auth.sql`delete from hooks.seen where name = ${name}`
  await auth.sql.unsafe(`drop function if exists hooks.${name}(json); drop function if exists hooks.${name}(jsonb)`)
  await auth.sql.unsafe(`
    create function hooks.${name}(event ${argument}) returns ${argument} language plpgsql as $$
    begin
      insert into hooks.seen (name, event, role) values ('${name}', event, current_user);
      ${body}
    end $$;
    revoke execute on function hooks.${name}(${argument}) from public;
    grant execute on function hooks.${name}(${argument}) to supabase_auth_admin`)
  auth.settings.hook = {
    ...auth.settings.hook,
    [name]: { uri: `pg-functions://postgres/hooks/${name}`, schema: 'hooks', name },
  }
}

const seen = (name: HookName) => auth.sql`select event, role from hooks.seen where name = ${name} order by id`
const users = (email: string) => auth.sql`select id from auth.users where email = ${email}`
const signUp = (email: string) => auth.call('/signup', { email, password, data: { first_name: 'Ada' } })
const logIn = (email: string, secret = password) => auth.call('/token?grant_type=password', { email, password: secret })
const problem = async (response: Response) => ({ status: response.status, ...((await response.json()) as object) })
const asError = (name: HookName) => ({
  status: 500,
  code: 'unexpected_failure',
  message: `Error running hook URI: pg-functions://postgres/hooks/${name}`,
})

describe('before_user_created', () => {
  test('refuses with its own status and message, and there is no user and no mail', async () => {
    const email = newEmail()
    await hook('before_user_created', `return '{"error": {"http_code": 403, "message": "By invitation only."}}';`)
    const mails = auth.mails.length

    const refused = await signUp(email)
    const client = await auth.client().auth.signUp({ email, password })

    expect(await problem(refused)).toEqual({ status: 403, code: 'unknown', message: 'By invitation only.' })
    expect(client.error).toMatchObject({ status: 403, message: 'By invitation only.' })
    expect(await users(email)).toHaveLength(0)
    expect(auth.mails).toHaveLength(mails)
  })

  test('sees the user as it will be, with the caller’s address, as role supabase_auth_admin', async () => {
    const email = newEmail()
    await hook('before_user_created', `return '{}';`)

    await signUp(email)

    const [row] = await seen('before_user_created')
    const [user] = await users(email)
    expect(row).toEqual({
      role: 'supabase_auth_admin',
      event: {
        metadata: {
          uuid: expect.stringMatching(/^[0-9a-f-]{36}$/),
          time: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
          name: 'before-user-created',
          ip_address: '127.0.0.1',
        },
        user: {
          id: user?.id,
          aud: 'authenticated',
          role: 'authenticated',
          email,
          phone: '',
          app_metadata: { provider: 'email', providers: ['email'] },
          user_metadata: { first_name: 'Ada' },
          identities: [],
          created_at: '0001-01-01T00:00:00Z',
          updated_at: '0001-01-01T00:00:00Z',
          is_anonymous: false,
        },
      },
    })
  })

  test.each(['return null;', `return '{}';`, `return '{"error": {}}';`, `return '{"error": {"message": ""}}';`])(
    'accepts with %s',
    async (body) => {
      const email = newEmail()
      await hook('before_user_created', body)

      expect((await signUp(email)).status).toBe(200)
      expect(await users(email)).toHaveLength(1)
    },
  )

  test('that gives no status refuses with 500', async () => {
    await hook('before_user_created', `return '{"error": {"message": "No."}}';`)

    expect(await problem(await signUp(newEmail()))).toEqual({ status: 500, code: 'unexpected_failure', message: 'No.' })
  })

  test('that raises is a failure which tells nothing, except to callers of the old API version', async () => {
    const email = newEmail()
    await hook('before_user_created', `raise exception 'secret %', 42 using errcode = 'PT418', hint = 'tea';`)

    const modern = await signUp(email)
    const old = await auth.call('/signup', { email, password }, { 'x-supabase-api-version': '' })

    expect(await problem(modern)).toEqual(asError('before_user_created'))
    expect(await problem(old)).toEqual({ status: 418, code: 'PT418', message: 'secret 42', hint: 'tea' })
    expect(await users(email)).toHaveLength(0)
  })

  test('that works for longer than two seconds is stopped', async () => {
    const email = newEmail()
    await hook('before_user_created', `perform pg_sleep(60); return '{}';`)

    expect(await problem(await signUp(email))).toEqual(asError('before_user_created'))
    expect(await users(email)).toHaveLength(0)
  })

  test('that nobody has made is a failure, not an open door', async () => {
    const email = newEmail()
    await hook('before_user_created', `return '{}';`)
    await auth.sql`drop function hooks.before_user_created(jsonb)`

    expect(await problem(await signUp(email))).toEqual(asError('before_user_created'))
    expect(await users(email)).toHaveLength(0)
  })

  test('may take json instead of jsonb', async () => {
    await hook('before_user_created', `return '{"error": {"http_code": 422, "message": "json"}}';`, 'json')

    expect(await problem(await signUp(newEmail()))).toMatchObject({ status: 422, message: 'json' })
  })

  test('is asked for new accounts only: by link and anonymously too, not for an address that is known', async () => {
    const { email } = await newUser(auth)
    auth.settings.enable_anonymous_sign_ins = true
    await hook('before_user_created', `return '{"error": {"http_code": 403, "message": "closed"}}';`)

    const known = [await signUp(email), await auth.call('/otp', { email })]
    const fresh = [await auth.call('/otp', { email: newEmail() }), await auth.call('/signup', {})]

    expect([...known, ...fresh].map(({ status }) => status)).toEqual([200, 200, 403, 403])
    expect(await seen('before_user_created')).toHaveLength(2)
  })
})

describe('custom_access_token', () => {
  const withClaims = (change: string) =>
    hook('custom_access_token', `return jsonb_build_object('claims', (event -> 'claims') ${change});`)

  test('adds claims at sign-in and refresh, and is told how the session was opened', async () => {
    const { email, id } = await newUser(auth)
    await withClaims(`|| '{"user_role": "admin"}'`)

    const session = await signIn(auth, email)
    const { data } = await session.client.auth.refreshSession()

    expect(claimsOf(session.token)).toMatchObject({ user_role: 'admin', sub: id, aal: 'aal1' })
    expect(claimsOf(data.session?.access_token ?? '')).toMatchObject({ user_role: 'admin' })
    const rows = await seen('custom_access_token')
    expect(rows.map(({ event }) => [event.user_id, event.authentication_method, event.metadata.name])).toEqual([
      [id, 'password', 'customize-access-token'],
      [id, 'token_refresh', 'customize-access-token'],
    ])
    expect(rows[0]?.event.claims).toMatchObject({ email, session_id: session.sessionId, amr: [{ method: 'password' }] })
  })

  test('may drop what the service does not need, and the token is as small as it says', async () => {
    const { email } = someone
    await withClaims(`- 'app_metadata' - 'user_metadata' - 'amr' - 'iss' || '{"iss": "${auth.url}/auth/v1"}'`)

    const claims = claimsOf((await signIn(auth, email)).token)

    expect(Object.keys(claims)).not.toEqual(expect.arrayContaining(['amr']))
    expect(claims).not.toHaveProperty('user_metadata')
  })

  test.each(['aud', 'exp', 'iat', 'sub', 'email', 'phone', 'role', 'aal', 'session_id', 'is_anonymous'])(
    'that drops %s makes the sign-in fail',
    async (claim) => {
      const { email } = someone
      await withClaims(`- '${claim}'`)

      const answer = await problem(await logIn(email))

      expect(answer).toMatchObject({ status: 500, code: 'unexpected_failure' })
      expect(answer).toMatchObject({ message: expect.stringContaining(claim) })
    },
  )

  test.each([
    `'{"exp": "soon"}'`,
    `'{"role": 1}'`,
    `'{"aud": 1}'`,
    `'{"is_anonymous": "no"}'`,
    `'{"app_metadata": []}'`,
    `'{"amr": [1]}'`,
  ])('that gives a claim another type (%s) makes the sign-in fail', async (change) => {
    const { email } = someone
    await withClaims(`|| ${change}`)

    expect((await logIn(email)).status).toBe(500)
  })

  test.each(['return null;', `return '{}';`])('that answers no claims (%s) makes the sign-in fail', async (body) => {
    const { email } = someone
    await hook('custom_access_token', body)

    expect(await problem(await logIn(email))).toMatchObject({ status: 500, message: 'output claims field is missing' })
  })

  test('that refuses leaves nothing behind: no session at sign-in, no spent token at refresh', async () => {
    const user = await newUser(auth)
    const sessions = () => auth.sql`select id from auth.sessions where user_id = ${user.id}`
    const before = await sessions()
    await hook('custom_access_token', `return '{"error": {"http_code": 403, "message": "Locked."}}';`)

    const refused = await logIn(user.email)
    const refreshed = await auth.call('/token?grant_type=refresh_token', { refresh_token: user.refreshToken })
    const after = await sessions()
    auth.settings.hook = {}
    const { data } = await user.client.auth.refreshSession()

    expect(await problem(refused)).toEqual({ status: 403, code: 'unknown', message: 'Locked.' })
    expect(refreshed.status).toBe(403)
    expect(after).toEqual(before)
    expect(data.session).not.toBeNull()
    expect(await seen('custom_access_token')).toHaveLength(0)
  })

  test('sees, in the same transaction, the session that is being opened', async () => {
    const { email } = someone
    await hook(
      'custom_access_token',
      `return jsonb_build_object('claims', event -> 'claims' || jsonb_build_object('rows', (
         select count(*) from auth.sessions where id = (event -> 'claims' ->> 'session_id')::uuid)));`,
    )

    expect(claimsOf((await signIn(auth, email)).token)).toMatchObject({ rows: 1 })
  })

  test.each(['perform pg_sleep(60); return event;', `raise exception 'no';`])(
    'that fails (%s) makes sign-in and refresh fail',
    async (body) => {
      const user = await newUser(auth)
      await hook('custom_access_token', body)

      const answers = [
        await logIn(user.email),
        await auth.call('/token?grant_type=refresh_token', { refresh_token: user.refreshToken }),
      ]

      for (const answer of answers) expect(await problem(answer)).toEqual(asError('custom_access_token'))
    },
  )

  test('holds for the code of a mail, too', async () => {
    const { email } = await newUser(auth)
    await withClaims(`|| '{"user_role": "user"}'`)
    await auth.client().auth.signInWithOtp({ email })

    const { data } = await auth.client().auth.verifyOtp({ email, token: lastMail(auth, email).code, type: 'email' })

    expect(claimsOf(data.session?.access_token ?? '')).toMatchObject({ user_role: 'user' })
  })
})

describe('password_verification_attempt', () => {
  const reject = (more = '') =>
    hook('password_verification_attempt', `return '{"decision": "reject", "message": "Locked."${more}}';`)

  test('refuses the right password, too, in its own words; what it wrote stays', async () => {
    const { email, id } = await newUser(auth)
    await reject()

    const answers = [await logIn(email), await logIn(email, 'Wrong1Password')]

    for (const answer of answers) {
      expect(await problem(answer)).toEqual({ status: 400, code: 'invalid_credentials', message: 'Locked.' })
    }
    const rows = await seen('password_verification_attempt')
    expect(rows.map(({ event }) => [event.user_id, event.valid, event.metadata.name])).toEqual([
      [id, true, 'password-verification'],
      [id, false, 'password-verification'],
    ])
  })

  test('counts a wrong password although the sign-in fails', async () => {
    const { email } = someone
    await hook('password_verification_attempt', `return '{"decision": "continue"}';`)

    await Promise.all([1, 2, 3].map(() => logIn(email, 'Wrong1Password')))

    expect(await seen('password_verification_attempt')).toHaveLength(3)
  })

  test('ends every session of the user when it says so', async () => {
    const user = await newUser(auth)
    await reject()
    await logIn(user.email)
    const before = await auth.sql`select from auth.sessions where user_id = ${user.id}`
    await reject(', "should_logout_user": true')
    await logIn(user.email)

    expect(before.length).toBeGreaterThan(0)
    expect(await auth.sql`select from auth.sessions where user_id = ${user.id}`).toHaveLength(0)
  })

  test('that gives no message refuses in the words of the service', async () => {
    const { email } = someone
    await hook('password_verification_attempt', `return '{"decision": "reject"}';`)

    expect(await problem(await logIn(email))).toMatchObject({
      message: 'Further password verification attempts will be rejected.',
    })
  })

  test.each(['return null;', `return '{}';`, `return '{"decision": "maybe"}';`])('goes on with %s', async (body) => {
    const { email } = someone
    await hook('password_verification_attempt', body)

    expect([(await logIn(email)).status, (await logIn(email, 'Wrong1Password')).status]).toEqual([200, 400])
  })

  test.each(['perform pg_sleep(60); return event;', `raise exception 'no';`])(
    'that fails (%s) refuses everybody',
    async (body) => {
      const { email } = someone
      await hook('password_verification_attempt', body)

      expect(await problem(await logIn(email))).toEqual(asError('password_verification_attempt'))
    },
  )

  test('is not asked about unknown, banned and keyless users, nor about other grants', async () => {
    const [banned, user] = [await newUser(auth), await newUser(auth)]
    await auth.sql`update auth.users set banned_until = now() + interval '1 hour' where id = ${banned.id}`
    await hook('password_verification_attempt', `return '{}';`)

    await Promise.all([logIn(newEmail()), logIn(banned.email), user.client.auth.refreshSession()])

    expect(await seen('password_verification_attempt')).toHaveLength(0)
  })
})

describe('known and unknown addresses', () => {
  /** Milliseconds of one request over HTTP. */
  async function time(url: string, body: object): Promise<number> {
    const start = performance.now()
    const headers = { apikey: auth.publishableKey, 'content-type': 'application/json' }
    await (await fetch(url, { method: 'POST', headers, body: JSON.stringify(body) })).text()
    return performance.now() - start
  }

  test.each(['/token?grant_type=password', '/signup'])(
    'take the same time at %s',
    { timeout: 600_000 },
    async (path) => {
      // As much work as in the real service, so that the time of it would show.
      auth.settings.password_hash_cost = 10
      const { email } = await newUser(auth)
      await hook('password_verification_attempt', `return '{"decision": "continue"}';`)
      await hook('before_user_created', `return '{}';`)
      const { url, close } = await auth.listen()
      const times = { known: [] as number[], unknown: [] as number[] }
      const ask = { known: () => email, unknown: newEmail }
      // The fast end of both distributions: what else the machine does only ever adds time.
      const quantile = (all: number[], q: number) => all.toSorted((a, b) => a - b)[Math.floor(all.length * q)] ?? 0
      const ratios = () => [0, 0.1, 0.25].map((q) => quantile(times.unknown, q) / quantile(times.known, q))
      const differs = () => ratios().some((ratio) => !(ratio > 0.6 && ratio < 1.67))

      // Interleaved, so that a busy machine slows both alike. With more pairs the same work comes closer, and other work
      // does not: so only a difference that stays is one. The first pair warms up.
      for (let pair = 0; pair <= 24 || (differs() && pair <= 240); pair += 1) {
        for (const kind of pair % 2 ? (['known', 'unknown'] as const) : (['unknown', 'known'] as const)) {
          const ms = await time(`${url}/auth/v1${path}`, { email: ask[kind](), password: 'Wrong1Password' })
          if (pair > 0) times[kind].push(ms)
        }
      }
      await close()

      // Without the verification against nobody's hash the ratios are below 0.2.
      for (const ratio of ratios()) {
        expect(ratio).toBeGreaterThan(0.6)
        expect(ratio).toBeLessThan(1.67)
      }
    },
  )
})
