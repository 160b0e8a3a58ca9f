/** Signing up, being suspended, leaving: with plain supabase-js, as an app does it. Needs the Auth service's hooks. */
import { afterEach, describe, expect, test } from 'vitest'
import { confirmationLink } from '../../stack/demo-user.ts'
import { connect } from '../sql/support.ts'
import { clientWith, newEmail, newUser, password } from '../support/users.ts'
import { target } from '../target.ts'

const adult = { first_name: 'Ada', birth_date: '1990-12-10', accept_terms: true }
const anybody = () => clientWith(target().publishableKey)
const service = () => clientWith(target().secretKey)

const defaults = { 'launch.phase': 'open', 'launch.user_cap': 100, 'registration.under_age': 'refuse' }
async function set(settings: Partial<typeof defaults>): Promise<void> {
  const sql = connect()
  for (const [key, value] of Object.entries(settings))
    await sql`update private.settings set value = ${JSON.stringify(value)}::text::jsonb where key = ${key}`
  await sql.end()
}
afterEach(() => set(defaults))

const signUp = (data: object, email = newEmail()) => anybody().auth.signUp({ email, password, options: { data } })
const years = (count: number) => `${new Date().getUTCFullYear() - count}-01-01`

/** The user whose access token this is. */
const idIn = (token: string | null) =>
  String(JSON.parse(Buffer.from(token?.split('.')[1] ?? '', 'base64url').toString()).sub)

async function accountsTaken(): Promise<number> {
  const sql = connect()
  const [row] = await sql`select count(*)::int as n from public.profiles where status <> 'deleted'`
  await sql.end()
  return row?.n
}

describe('a sign-up is refused with 403 and the reason', () => {
  test.each<[string, object, RegExp]>([
    ['without a birth date', { accept_terms: true }, /birth_date/],
    ['with a birth date that is none', { ...adult, birth_date: '2001-02-29' }, /birth_date/],
    ['by a child', { ...adult, birth_date: years(9) }, /at least 13/],
    ['without the terms', { birth_date: '1990-12-10' }, /accept_terms/],
    ['with 900 kB of data', { ...adult, note: 'x'.repeat(900_000) }, /at most 8192 bytes/],
  ])('%s', async (_case, data, reason) => {
    const { data: answer, error } = await signUp(data)

    expect(error).toMatchObject({ status: 403, message: expect.stringMatching(reason) })
    expect(answer.user).toBeNull()
  })

  test('while sign-up is closed', async () => {
    await set({ 'launch.phase': 'closed' })

    const { error } = await signUp(adult)

    expect(error).toMatchObject({ status: 403, message: expect.stringMatching(/closed/) })
  })

  test('while it is by invitation and there is no code, or a wrong one', async () => {
    await set({ 'launch.phase': 'invite' })

    const errors = [await signUp(adult), await signUp({ ...adult, invite_code: 'AAAA-AAAA-AAAA-AAAA' })]

    expect(errors.map(({ error }) => error?.status)).toEqual([403, 403])
  })
})

test('who signed up with an address before its owner cannot sign in once the owner has confirmed it', async () => {
  const email = newEmail()
  const theirs = { email, password: 'Mallorys1Password' }
  await anybody().auth.signUp({ ...theirs, options: { data: { ...adult, first_name: 'Mallory' } } })
  const first = await confirmationLink(target().mailUrl, email)
  // Auth sends no two mails within a second.
  await expect
    .poll(
      async () => (await anybody().auth.signUp({ email, password, options: { data: adult } })).error?.code ?? 'sent',
    )
    .toBe('sent')
  await expect.poll(() => confirmationLink(target().mailUrl, email)).not.toBe(first)

  const opened = await fetch(await confirmationLink(target().mailUrl, email), { redirect: 'manual' })

  const token = new URLSearchParams(new URL(opened.headers.get('location') ?? '').hash.slice(1)).get('access_token')
  expect(token).not.toBeNull()
  for (const secret of [theirs.password, password])
    expect((await anybody().auth.signInWithPassword({ email, password: secret })).error?.code).toBe(
      'invalid_credentials',
    )
  const { data: known } = await service()
    .from('profiles')
    .select('first_name, status, parked_reason')
    .eq('id', idIn(token))
    .single()
  expect(known).toEqual({ first_name: null, status: 'pending', parked_reason: 'incomplete' })
})

test('metadata that asks for role, plan, status or credits gives none of them', async () => {
  const email = newEmail()
  const wishes = { role: 'admin', plan: 'premium', plan_id: 'premium', status: 'active', credits: 9999 }

  const { data } = await signUp({ ...adult, ...wishes }, email)

  const { data: profile } = await service()
    .from('profiles')
    .select()
    .eq('id', data.user?.id ?? '')
    .single()
  expect(profile).toMatchObject({ role: 'user', plan_id: 'free', status: 'pending' })
})

test('the accepted versions are recorded with time and IP, for their owner to read', async () => {
  const user = await newUser()

  const { data } = await user.client.from('consents').select('kind, version, granted, ip, created_at').order('kind')

  expect(data).toEqual([
    {
      kind: 'privacy',
      version: expect.any(String),
      granted: true,
      ip: expect.any(String),
      created_at: expect.any(String),
    },
    {
      kind: 'terms',
      version: expect.any(String),
      granted: true,
      ip: expect.any(String),
      created_at: expect.any(String),
    },
  ])
})

describe('many sign-ups at the same time', { timeout: 300_000 }, () => {
  /** Auth gives a hook two seconds, which a busy machine may not keep: such a sign-up left nothing behind, so it is sent again. */
  const insist = async (data: object): ReturnType<typeof signUp> => {
    const answer = await signUp(data)
    return answer.error?.message.startsWith('Error running hook') ? insist(data) : answer
  }
  const race = async (data: object) => {
    const answers = await Promise.all(Array.from({ length: 50 }, () => insist(data)))
    const statuses = answers.map(({ error }) => error?.status ?? 200)
    return Object.fromEntries(
      [...new Set(statuses)].map((status) => [status, statuses.filter((each) => each === status).length]),
    )
  }

  test('50 on a code with 10 uses make exactly 10 accounts', async () => {
    const { data: invite } = await service().rpc('create_invite', { label: 'race', max_uses: 10 })
    await set({ 'launch.phase': 'invite' })
    const before = await accountsTaken()

    expect(await race({ ...adult, invite_code: String(invite?.code).toLowerCase() })).toEqual({ 200: 10, 403: 40 })

    expect((await accountsTaken()) - before).toBe(10)
  })

  test('50 under a cap with 10 places left make exactly 10 accounts', async () => {
    // Somebody who was reserved a place and never came would hold one of the ten.
    const sql = connect()
    await sql`delete from private.registrations where confirmed_at is null`
    await sql.end()
    const before = await accountsTaken()
    await set({ 'launch.phase': 'capped', 'launch.user_cap': before + 10 })

    expect(await race(adult)).toEqual({ 200: 10, 403: 40 })

    expect((await accountsTaken()) - before).toBe(10)
  })
})

describe('the admin API', () => {
  const create = (more: object) =>
    service().auth.admin.createUser({ email: newEmail(), password, email_confirm: true, ...more })

  test('makes nobody while sign-up is closed, but whom app_metadata marks', async () => {
    await set({ 'launch.phase': 'closed' })

    const [plain, marked] = [await create({}), await create({ app_metadata: { registered_by: 'admin' } })]

    expect(plain.error).not.toBeNull()
    expect(marked.error).toBeNull()
  })

  test('makes no child', async () => {
    const { error } = await create({ user_metadata: { birth_date: years(9) } })

    expect(error).not.toBeNull()
  })
})

test('a child whom the setting parks waits for a guardian, whatever happens to the e-mail', async () => {
  await set({ 'registration.under_age': 'park' })
  const email = newEmail()
  const { data } = await signUp({ ...adult, birth_date: years(9) }, email)
  const id = data.user?.id ?? ''
  await fetch(await confirmationLink(target().mailUrl, email), { redirect: 'manual' })
  const statusNow = async () => (await service().from('profiles').select('status').eq('id', id).single()).data?.status
  expect(await statusNow()).toBe('pending')

  await service().rpc('record_guardian_consent', { user_id: id, note: 'Mother, by phone' })

  expect(await statusNow()).toBe('active')
})

describe('a suspended account', () => {
  test('neither signs in nor refreshes, and does both again when it is reinstated', async () => {
    const user = await newUser()
    const { data: before } = await user.client.auth.getSession()
    const suspended = await service().rpc('suspend_account', { user_id: user.id, reason: 'test' })
    expect(suspended).toMatchObject({ error: null, data: 'suspended' })

    const refreshed = await user.client.auth.refreshSession({ refresh_token: before.session?.refresh_token ?? '' })
    const again = await anybody().auth.signInWithPassword({ email: user.email, password })
    expect([refreshed.error, again.error]).not.toContain(null)
    await service().rpc('reinstate_account', { user_id: user.id, reason: 'test' })

    expect((await anybody().auth.signInWithPassword({ email: user.email, password })).error).toBeNull()
  })

  test('is no business of another user', async () => {
    const [user, other] = [await newUser(), await newUser()]

    const answers = await Promise.all([
      other.client.rpc('suspend_account', { user_id: user.id, reason: 'x' }),
      other.client.rpc('delete_account', { user_id: user.id, reason: 'x' }),
      other.client.rpc('set_account_role', { user_id: other.id, role: 'admin' }),
      other.client.rpc('find_account', { email: user.email }),
      other.client.rpc('create_invite', { label: 'x' }),
    ])

    expect(answers.map(({ status }) => status)).toEqual([403, 403, 403, 403, 403])
  })
})

test('who leaves is gone at once', async () => {
  const user = await newUser()

  const left = await user.client.rpc('delete_my_account')

  expect(left).toMatchObject({ error: null, data: 'deleted' })
  expect((await anybody().auth.signInWithPassword({ email: user.email, password })).error).not.toBeNull()
  const { data } = await service().from('profiles').select('status').eq('id', user.id).single()
  expect(data?.status).toBe('deleted')
})

test('the documents can be read before signing up', async () => {
  const { data } = await anybody().from('legal_documents').select('kind, version, url')

  expect(new Set(data?.map((row) => row.kind))).toEqual(new Set(['terms', 'privacy']))
})
