/** The admin API: who may use it, and what it does to accounts, their factors and their links. */
import { bcrypt } from 'hash-wasm'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { authenticator } from '../../stack/platform/auth/mfa.ts'
import {
  type AuthUnderTest,
  claimsOf,
  follow,
  lastMail,
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

const admin = () => auth.client({ key: auth.secretKey }).auth.admin
const asServer = () => ({ apikey: auth.secretKey })
const problem = async (response: Response) => ({ status: response.status, ...((await response.json()) as object) })
const row = async (id: string) => (await auth.sql`select * from auth.users where id = ${id}`)[0]
const sessionsOf = (id: string) => auth.sql`select id from auth.sessions where user_id = ${id}`

async function create(fields: Parameters<ReturnType<typeof admin>['createUser']>[0]) {
  const { data, error } = await admin().createUser(fields)
  if (error) throw error
  return data.user
}

describe('the door', () => {
  test.each([
    ['GET', '/admin/users'],
    ['POST', '/admin/users'],
    ['GET', `/admin/users/${crypto.randomUUID()}`],
    ['PUT', `/admin/users/${crypto.randomUUID()}`],
    ['DELETE', `/admin/users/${crypto.randomUUID()}`],
    ['GET', `/admin/users/${crypto.randomUUID()}/factors`],
    ['PUT', `/admin/users/${crypto.randomUUID()}/factors/${crypto.randomUUID()}`],
    ['DELETE', `/admin/users/${crypto.randomUUID()}/factors/${crypto.randomUUID()}`],
    ['POST', '/admin/generate_link'],
    ['POST', '/invite'],
  ])('of %s %s is closed without a bearer, to publishable keys and to users', async (method, path) => {
    const user = await newUser(auth)
    const body = method === 'GET' ? undefined : {}
    const as = (authorization: string) => auth.call(path, body, { authorization }, method)

    expect(await problem(await auth.call(path, body, {}, method))).toMatchObject({
      status: 401,
      code: 'no_authorization',
    })
    expect(await problem(await as(`Bearer ${auth.publishableKey}`))).toMatchObject({ status: 403, code: 'not_admin' })
    expect(await problem(await as(`Bearer ${user.token}`))).toMatchObject({ status: 403, code: 'not_admin' })
    expect(await problem(await as('Bearer nonsense'))).toMatchObject({ status: 403, code: 'bad_jwt' })
  })

  test('is closed to a user’s token that comes with a secret key', async () => {
    const { token } = await newUser(auth)

    const refused = await auth.call('/admin/users', undefined, { ...asServer(), authorization: `Bearer ${token}` })

    expect(await problem(refused)).toMatchObject({ status: 403, code: 'not_admin' })
  })
})

describe('creating a user', () => {
  test.each([
    [{}, 400, 'validation_failed'],
    [{ email: 'no address' }, 400, 'validation_failed'],
    [{ phone: '0123' }, 400, 'validation_failed'],
    [{ email: 'a@example.com', id: 'x' }, 400, 'validation_failed'],
    [{ email: 'a@example.com', id: '00000000-0000-0000-0000-000000000000' }, 400, 'validation_failed'],
    [{ email: 'a@example.com', password: 'x'.repeat(73) }, 400, 'validation_failed'],
    [{ email: 'a@example.com', password_hash: 'md5' }, 400, 'validation_failed'],
    [{ email: 'a@example.com', password: 'x', password_hash: '$2a$10$x' }, 400, 'validation_failed'],
    [{ email: 'a@example.com', ban_duration: 'a while' }, 400, 'validation_failed'],
    [{ email: 'a@example.com', ban_duration: '99999999999h' }, 400, 'validation_failed'],
    [{ email: 5 }, 400, 'validation_failed'],
  ])('with %j is refused with %i %s', async (fields, status, code) => {
    expect(await problem(await auth.call('/admin/users', fields, asServer()))).toMatchObject({ status, code })
    expect(await auth.sql`select from auth.users where email = 'a@example.com'`).toHaveLength(0)
  })

  test('at an address or number that is taken is refused, however many try at once', async () => {
    const email = newEmail()
    const attempts = Array.from({ length: 5 }, () => admin().createUser({ email }))
    const codes = (await Promise.all(attempts)).map(({ error }) => error?.code ?? 'made')
    const phones = await Promise.all([1, 2].map(() => admin().createUser({ phone: '+491701234567' })))

    expect(codes.toSorted()).toEqual(['email_exists', 'email_exists', 'email_exists', 'email_exists', 'made'])
    expect(phones.map(({ error }) => error?.code ?? 'made').toSorted()).toEqual(['made', 'phone_exists'])
    expect((await admin().createUser({ email: email.toUpperCase() })).error).toMatchObject({ status: 422 })
  })

  test('that a trigger or a taken id refuses is answered with 500, and nobody is made', async () => {
    const [email, other] = [newEmail(), newEmail()]
    const taken = await create({ email: newEmail() })
    await auth.sql.unsafe(`
      create or replace function public.refuse_row() returns trigger language plpgsql as $$
        begin raise exception 'no more accounts'; end $$;
      create trigger refuse_row before insert on auth.users for each row when (new.email = '${email}')
        execute function public.refuse_row()`)
    const unexpected = { status: 500, code: 'unexpected_failure', message: 'Database error creating new user' }

    const refused = await auth.call('/admin/users', { email }, asServer())
    const sameId = await auth.call('/admin/users', { email: other, id: taken?.id }, asServer())
    await auth.sql`drop trigger refuse_row on auth.users`

    expect(await problem(refused)).toEqual(unexpected)
    expect(await problem(sameId)).toEqual(unexpected)
    expect(await auth.sql`select from auth.users where email in ${auth.sql([email, other])}`).toHaveLength(0)
    expect(auth.logs.join()).toContain('no more accounts')
  })

  test('asks no hook, sends no mail, wants no strong password, and takes the id', async () => {
    const email = newEmail()
    const uri = 'pg-functions://postgres/missing/missing'
    auth.settings.hook = { before_user_created: { uri, schema: 'missing', name: 'missing' } }
    const mails = auth.mails.length
    const id = crypto.randomUUID()

    const user = await create({ id, email, password: 'weak', email_confirm: true, user_metadata: { name: 'Ada' } })

    expect(user).toMatchObject({
      id,
      email,
      user_metadata: { name: 'Ada' },
      app_metadata: { provider: 'email', providers: ['email'] },
      identities: [{ provider: 'email', identity_data: { email } }],
    })
    expect(auth.mails).toHaveLength(mails)
    auth.settings.hook = {}
    await expect(signIn(auth, email, 'weak')).resolves.toMatchObject({ id })
  })

  test('without confirmation or password leaves an account nobody can enter', async () => {
    const email = newEmail()
    const user = await create({ email, app_metadata: { tier: 'gold' } })

    const { error } = await auth.client().auth.signInWithPassword({ email, password: '' })

    expect(user).toMatchObject({ app_metadata: { provider: 'email', tier: 'gold' } })
    expect(user?.email_confirmed_at).toBeUndefined()
    expect(error).not.toBeNull()
  })

  test('takes over a hash from elsewhere', async () => {
    const email = newEmail()
    const salt = crypto.getRandomValues(new Uint8Array(16))
    const password_hash = await bcrypt({ password: 'OldSystem1', salt, costFactor: 4, outputType: 'encoded' })

    const user = await create({ email, email_confirm: true, password_hash })

    expect(JSON.stringify(user)).not.toContain(password_hash)
    await expect(signIn(auth, email, 'OldSystem1')).resolves.toMatchObject({ email })
  })
})

describe('reading users', () => {
  test('one that is not there, or no id, is refused', async () => {
    const unknown = await admin().getUserById(crypto.randomUUID())
    const noId = await auth.call('/admin/users/42', undefined, asServer())

    expect(unknown.error).toMatchObject({ status: 404, code: 'user_not_found' })
    expect(await problem(noId)).toMatchObject({ status: 404, code: 'validation_failed' })
  })

  test.each(['page=x', 'per_page=-1', 'sort=email', 'sort=created_at sideways'])('%s is refused', async (query) => {
    const refused = await auth.call(`/admin/users?${query}`, undefined, asServer())

    expect(await problem(refused)).toMatchObject({ status: 400, code: 'validation_failed' })
  })

  test('goes page by page, newest first, with the total and the pages’ links', async () => {
    for (let count = 0; count < 3; count += 1) await create({ email: newEmail() })
    const all = await admin().listUsers({ page: 1, perPage: 1_000 })
    const second = await admin().listUsers({ page: 2, perPage: 2 })
    const total = all.data.users.length

    expect(second.data.users.map(({ id }) => id)).toEqual(all.data.users.slice(2, 4).map(({ id }) => id))
    expect(second.data).toMatchObject({ aud: 'authenticated', total, ...(total > 4 ? { nextPage: 3 } : {}) })
    const response = await auth.call('/admin/users?per_page=2', undefined, asServer())
    expect(response.headers.get('x-total-count')).toBe(String(total))
    expect(response.headers.get('link')).toBe(
      `</admin/users?page=2&per_page=2>; rel="next", </admin/users?page=${Math.ceil(total / 2)}&per_page=2>; rel="last"`,
    )
  })

  test('finds a part of the address, or of the full name in any case, oldest first when asked', async () => {
    const mark = crypto.randomUUID().slice(0, 8)
    const first = await create({ email: `x-${mark}@example.com` })
    const second = await create({ email: newEmail(), user_metadata: { full_name: `ADA ${mark.toUpperCase()}` } })

    const response = await auth.call(`/admin/users?filter=${mark}&sort=created_at asc`, undefined, asServer())

    const { users } = (await response.json()) as { users: { id: string }[] }
    expect(users.map(({ id }) => id)).toEqual([first?.id, second?.id])
  })
})

describe('changing a user', () => {
  test('is refused when there is none, the password is weak or the address taken', async () => {
    const [user, other] = [await newUser(auth), await newUser(auth)]
    const sessions = await sessionsOf(user.id)

    const unknown = await admin().updateUserById(crypto.randomUUID(), { role: 'x' })
    const weak = await admin().updateUserById(user.id, { password: 'weak' })
    const taken = await admin().updateUserById(user.id, { email: other.email })
    const ban = await admin().updateUserById(user.id, { ban_duration: 'forever' })

    expect(unknown.error).toMatchObject({ status: 404, code: 'user_not_found' })
    expect(weak.error).toMatchObject({ status: 422, code: 'weak_password' })
    expect(taken.error).toMatchObject({ status: 422, code: 'email_exists' })
    expect(ban.error).toMatchObject({ status: 400, code: 'validation_failed' })
    expect(await sessionsOf(user.id)).toEqual(sessions)
  })

  test('merges metadata, and null takes a key away', async () => {
    const user = await create({ email: newEmail(), user_metadata: { a: 1, b: 2 }, app_metadata: { tier: 'gold' } })

    const { data } = await admin().updateUserById(user?.id ?? '', {
      user_metadata: { b: null, c: 3 },
      app_metadata: { tier: null, plan: 'x' },
    })

    expect(data.user?.user_metadata).toEqual({ a: 1, c: 3 })
    expect(data.user?.app_metadata).toEqual({ provider: 'email', providers: ['email'], plan: 'x' })
  })

  test('of the password signs the user out everywhere', async () => {
    const user = await newUser(auth)
    await signIn(auth, user.email)

    await admin().updateUserById(user.id, { password: 'Another1Password' })

    expect(await sessionsOf(user.id)).toHaveLength(0)
    await expect(signIn(auth, user.email)).rejects.toMatchObject({ code: 'invalid_credentials' })
    await expect(signIn(auth, user.email, 'Another1Password')).resolves.toMatchObject({ id: user.id })
  })

  test('bans until the duration is over or "none" lifts it', async () => {
    const user = await newUser(auth)
    const refreshed = async () => (await user.client.auth.refreshSession()).error?.code ?? 'ok'
    const ban = (ban_duration: string) => admin().updateUserById(user.id, { ban_duration })

    const banned = await ban('1h30m')
    const during = await auth.client().auth.signInWithPassword({ email: user.email, password })
    await ban('none')
    const lifted = await refreshed()
    await ban('1h')
    auth.clock.offsetMs = 3_600_000 + 60_000

    expect(Date.parse(banned.data.user?.banned_until ?? '') - Date.now()).toBeGreaterThan(5_000_000)
    expect(during.error).toMatchObject({ code: 'user_banned' })
    expect(lifted).toBe('ok')
    await expect(signIn(auth, user.email)).resolves.toMatchObject({ id: user.id })
  })

  test('sets address, confirmation, phone and role', async () => {
    const email = newEmail()
    const user = await create({ email: newEmail(), password })
    const id = user?.id ?? ''

    const { data } = await admin().updateUserById(id, { email, email_confirm: true, phone: '+491709999999' })
    await admin().updateUserById(id, { role: 'editor' })

    expect(data.user).toMatchObject({ email, phone: '491709999999', email_confirmed_at: expect.any(String) })
    expect(data.user?.identities?.map(({ provider }) => provider)).toEqual(['email', 'phone'])
    const { token } = await signIn(auth, email)
    expect(claimsOf(token)).toMatchObject({ role: 'editor', email })
  })
})

describe('deleting a user', () => {
  test('that is not there is refused', async () => {
    expect((await admin().deleteUser(crypto.randomUUID())).error).toMatchObject({ status: 404, code: 'user_not_found' })
  })

  test('leaves nothing', async () => {
    const user = await newUser(auth)

    const { error } = await admin().deleteUser(user.id)

    expect(error).toBeNull()
    expect(await row(user.id)).toBeUndefined()
    expect((await user.client.auth.getUser()).error).toMatchObject({ code: 'user_not_found' })
  })

  test('softly leaves a row that nobody can read anything from, and frees the address', async () => {
    const user = await newUser(auth)

    await admin().deleteUser(user.id, true)
    await admin().deleteUser(user.id, true)

    const left = await row(user.id)
    expect(left).toMatchObject({ encrypted_password: null, raw_user_meta_data: {}, deleted_at: expect.any(Date) })
    expect(JSON.stringify(left)).not.toContain(user.email)
    expect(await sessionsOf(user.id)).toHaveLength(0)
    const [identity] = await auth.sql`select provider_id, identity_data from auth.identities where user_id = ${user.id}`
    expect(identity).toMatchObject({ identity_data: {} })
    await expect(newUser(auth, { email: user.email })).resolves.not.toMatchObject({ id: user.id })
  })
})

describe('a user’s factors', () => {
  async function enrolled() {
    const user = await newUser(auth)
    const { data } = await user.client.auth.mfa.enroll({ factorType: 'totp', friendlyName: 'phone' })
    const secret = data?.totp.secret ?? ''
    const factorId = data?.id ?? ''
    const code = authenticator({ secret }).generate()
    await user.client.auth.mfa.challengeAndVerify({ factorId, code })
    return { user, factorId, secret }
  }

  test('are listed and renamed without their secret', async () => {
    const { user, factorId, secret } = await enrolled()
    await user.client.auth.mfa.enroll({ factorType: 'totp', friendlyName: 'tablet' })
    const path = `/admin/users/${user.id}/factors/${factorId}`

    const { data } = await admin().mfa.listFactors({ userId: user.id })
    const renamed = await auth.call(path, { friendly_name: 'old phone' }, asServer(), 'PUT')
    const taken = await auth.call(path, { friendly_name: 'tablet' }, asServer(), 'PUT')

    expect(data?.factors).toMatchObject([{ id: factorId, status: 'verified' }, { friendly_name: 'tablet' }])
    expect(await renamed.json()).toMatchObject({ id: factorId, friendly_name: 'old phone' })
    expect(await problem(taken)).toMatchObject({ status: 422, code: 'mfa_factor_name_conflict' })
    expect(JSON.stringify(data)).not.toContain(secret)
  })

  test('are removed, but not through another user', async () => {
    const [{ user, factorId }, other] = [await enrolled(), await newUser(auth)]

    const foreign = await admin().mfa.deleteFactor({ id: factorId, userId: other.id })
    const removed = await admin().mfa.deleteFactor({ id: factorId, userId: user.id })

    expect(foreign.error).toMatchObject({ status: 404, code: 'mfa_factor_not_found' })
    expect(removed.error).toBeNull()
    expect((await admin().mfa.listFactors({ userId: user.id })).data?.factors).toEqual([])
  })
})

describe('a link', () => {
  const link = (fields: object) => auth.call('/admin/generate_link', fields, asServer())

  test('of no known type, to no address, or for nobody is refused', async () => {
    const email = newEmail()

    expect(await problem(await link({ type: 'x', email }))).toMatchObject({ status: 400, code: 'validation_failed' })
    expect(await problem(await link({ type: 'signup' }))).toMatchObject({ status: 400, code: 'validation_failed' })
    expect(await problem(await link({ type: 'signup', email }))).toMatchObject({ status: 400 })
    expect(await problem(await link({ type: 'signup', email, password: 'weak' }))).toMatchObject({ status: 422 })
    for (const type of ['recovery', 'email_change_current', 'email_change_new']) {
      expect(await problem(await link({ type, email }))).toMatchObject({ status: 404, code: 'user_not_found' })
    }
    expect(await auth.sql`select from auth.users where email = ${email}`).toHaveLength(0)
  })

  test.each(['signup', 'invite'] as const)('to %s a confirmed user is refused', async (type) => {
    const { email } = await newUser(auth)

    expect(await problem(await link({ type, email, password }))).toMatchObject({ status: 422, code: 'email_exists' })
  })

  test.each(['signup', 'invite', 'magiclink', 'recovery'] as const)(
    'for %s signs in and is mailed to nobody',
    async (type) => {
      const mails = auth.mails.length
      const known = type === 'recovery' ? await newUser(auth) : null
      const before = known ? auth.mails.length : mails
      const email = known?.email ?? newEmail()

      const { data } = await admin().generateLink({ type, email, password } as never)
      const target = await follow(auth, data.properties?.action_link ?? '')

      expect(auth.mails).toHaveLength(before)
      expect(data.properties).toMatchObject({
        verification_type: type === 'magiclink' ? 'signup' : type,
        email_otp: expect.stringMatching(/^\d{8}$/),
      })
      expect(data.user).toMatchObject({ email })
      expect(new URLSearchParams(target.hash.slice(1)).get('access_token')).not.toBeNull()
    },
  )

  test('gives a hash and a code that verify as a client does, once', async () => {
    const user = await newUser(auth)
    const { data } = await admin().generateLink({ type: 'magiclink', email: user.email })
    const token_hash = data.properties?.hashed_token ?? ''

    const first = await auth.client().auth.verifyOtp({ type: 'magiclink', token_hash })
    const second = await auth.client().auth.verifyOtp({ type: 'magiclink', token_hash })

    expect(first.data.user?.id).toBe(user.id)
    expect(second.error).toMatchObject({ code: 'otp_expired' })
  })

  test('leads where the body says, when that is allowed', async () => {
    const email = newEmail()
    const allowed = `${auth.settings.site_url}/welcome`

    const inside = await link({ type: 'magiclink', email, redirect_to: allowed })
    const outside = await link({ type: 'magiclink', email, redirect_to: 'https://evil.example' })

    expect(await inside.json()).toMatchObject({ redirect_to: allowed })
    expect(await outside.json()).toMatchObject({ redirect_to: auth.settings.site_url })
  })

  test('for each address changes the address when both are followed', async () => {
    const user = await newUser(auth)
    const newAddress = newEmail()
    const half = async (type: 'email_change_current' | 'email_change_new') => {
      const { data } = await admin().generateLink({ type, email: user.email, newEmail: newAddress })
      return data.properties?.action_link ?? ''
    }
    const links = [await half('email_change_current'), await half('email_change_new')]

    await follow(auth, links[0] ?? '')
    const between = await row(user.id)
    await follow(auth, links[1] ?? '')

    expect(between?.email).toBe(user.email)
    expect((await row(user.id))?.email).toBe(newAddress)
  })

  test('to another new address voids what was made for the first', async () => {
    const user = await newUser(auth)
    const change = { type: 'email_change_current' as const, email: user.email }
    const { data: first } = await admin().generateLink({ ...change, newEmail: newEmail() })
    await admin().generateLink({ ...change, type: 'email_change_new', newEmail: newEmail() })

    const target = await follow(auth, first.properties?.action_link ?? '')

    expect(target.href).toContain('otp_expired')
  })

  test.each(['signup', 'invite', 'magiclink'])('for somebody new (%s) asks before_user_created', async (type) => {
    await auth.sql.unsafe(`
      create or replace function public.refuse_everybody(event jsonb) returns jsonb language sql
      return '{"error": {"http_code": 403, "message": "Closed."}}'::jsonb`)
    const uri = 'pg-functions://postgres/public/refuse_everybody'
    auth.settings.hook = { before_user_created: { uri, schema: 'public', name: 'refuse_everybody' } }
    const email = newEmail()

    const refused = await link({ type, email, password })
    const invited = await admin().inviteUserByEmail(email)

    expect(await problem(refused)).toMatchObject({ status: 403, message: 'Closed.' })
    expect(invited.error).toMatchObject({ status: 403, message: 'Closed.' })
    expect(await auth.sql`select from auth.users where email = ${email}`).toHaveLength(0)
  })
})

describe('an invitation', () => {
  test('of a confirmed user, or of no address, is refused', async () => {
    const { email } = await newUser(auth)

    expect((await admin().inviteUserByEmail(email)).error).toMatchObject({ status: 422, code: 'email_exists' })
    expect((await admin().inviteUserByEmail('x')).error).toMatchObject({ status: 400, code: 'validation_failed' })
  })

  test('is mailed, may be repeated, and its newest link signs in', async () => {
    const email = newEmail()

    const { data } = await admin().inviteUserByEmail(email, { data: { team: 'red' } })
    await admin().inviteUserByEmail(email)
    const target = await follow(auth, lastMail(auth, email).link)

    expect(data.user).toMatchObject({ email, user_metadata: { team: 'red' }, invited_at: expect.any(String) })
    const session = new URLSearchParams(target.hash.slice(1))
    expect(session.get('type')).toBe('invite')
    expect(claimsOf(session.get('access_token') ?? '')).toMatchObject({ sub: data.user?.id, email })
  })
})
