/** A thief has a session: what would outlive it is told to the owner, can be taken back, and needs more than the session. */
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { enrol, signInAgain } from '../support/mfa.ts'
import { clientWith, newUser, openaiFor, type TestUser } from '../support/users.ts'
import { target } from '../target.ts'

let sql: postgres.Sql
beforeAll(() => {
  sql = postgres(target().dbUrl, { max: 1, onnotice: () => {} })
})
afterAll(() => sql.end())

/** The links of the mails to an address, newest first: as they were written, whether they were sent already or not. */
async function undoLinks({ id }: TestUser, address: string): Promise<string[]> {
  const mails = await sql`
    select m.body from private.mails m join auth.users u on u.id = m.user_id
    where m.user_id = ${id} and coalesce(m.address, u.email) = ${address} order by m.id desc`
  return mails.flatMap(({ body }) => /http\S+\/account\/undo\?token=\S+/.exec(body)?.[0] ?? [])
}

/** Opens a link as a browser does, and presses its button. */
async function press(link: string): Promise<string> {
  const page = await (await fetch(link)).text()
  const [, action = '', token = ''] = /action="([^"]+)".*?name="token" value="([^"]+)"/.exec(page) ?? []
  const answer = await fetch(new URL(action, link), { method: 'POST', body: new URLSearchParams({ token }) })
  return answer.text()
}

const createKey = (client: TestUser['client']) => client.rpc('create_api_key', { name: 'x', scopes: ['models'] })
const works = async (secret: string | undefined) =>
  openaiFor(secret ?? '')
    .models.list()
    .then(
      () => true,
      () => false,
    )
const typesOf = async ({ id }: TestUser) =>
  (await sql`select type from public.notifications where user_id = ${id} order by id`).map(({ type }) => type)
const ageSignIns = ({ id }: TestUser) => sql`
  update auth.mfa_amr_claims c set updated_at = now() - interval '11 minutes' from auth.sessions s
  where s.id = c.session_id and s.user_id = ${id}`

test('a factor and recovery codes that lock the owner out are told, and the link removes both ways in', async () => {
  const owner = await newUser()
  await enrol(owner.client)
  expect((await owner.client.rpc('create_recovery_codes')).error).toBeNull()
  expect(await typesOf(owner)).toEqual(['mfa_added', 'recovery_codes_created'])
  const [codes = '', factor = ''] = await undoLinks(owner, owner.email)

  expect(await press(factor)).toContain('This is done')
  expect(await press(codes)).toContain('This is done')

  const [left] = await sql`
    select (select count(*)::int from auth.mfa_factors where user_id = ${owner.id}) as factors,
      (select count(*)::int from private.recovery_codes where user_id = ${owner.id}) as codes`
  expect(left).toEqual({ factors: 0, codes: 0 })
  expect((await owner.client.from('profiles').select('id')).status).toBe(401)
})

test('a key made by the thief ends with the press of a button, which signs nobody in', async () => {
  const owner = await newUser()
  const secret = (await createKey(owner.client)).data?.[0]?.secret
  const [link = ''] = await undoLinks(owner, owner.email)
  expect(await works(secret)).toBe(true)

  const looked = await fetch(link)
  expect(await works(secret)).toBe(true)
  const pressed = await press(link)

  expect(await works(secret)).toBe(false)
  expect(looked.headers.get('set-cookie')).toBeNull()
  expect(pressed).not.toMatch(/access_token|refresh_token|http/)
  const again = await clientWith(target().publishableKey).auth.signInWithPassword(owner)
  expect(again.data.session).toBeNull()
})

test('a session whose sign-in was long ago makes nothing that outlives it, and works on', async () => {
  const owner = await newUser()
  await ageSignIns(owner)
  await owner.client.auth.refreshSession()

  const key = await createKey(owner.client)
  const factor = await owner.client.auth.mfa.enroll({ factorType: 'totp', friendlyName: 'theirs' })
  const address = await owner.client.auth.updateUser({ email: `thief-${owner.email}` })

  expect(key.error?.code).toBe('recent_sign_in_required')
  expect(key.error?.hint).toContain('repeat the call')
  expect([factor.error, address.error]).toMatchObject([{ status: 500 }, { status: 500 }])
  expect((await owner.client.rpc('has_recent_sign_in')).data).toBe(false)
  expect((await owner.client.from('profiles').select('id')).data).toHaveLength(1)
  expect((await createKey(await signInAgain(owner))).error).toBeNull()
})

test('keys of the thief end when the owner changes the password, and those of the owner stay', async () => {
  const owner = await newUser()
  const mine = (await createKey(owner.client)).data?.[0]?.secret
  const theirs = (await createKey(await signInAgain(owner))).data?.[0]?.secret
  expect([await works(mine), await works(theirs)]).toEqual([true, true])

  const changed = await owner.client.auth.updateUser({ password: 'Another2Horse' })

  expect(changed.error).toBeNull()
  expect([await works(mine), await works(theirs)]).toEqual([true, false])
})

test.each([
  ['session', [true, false]],
  ['all', [false, false]],
  ['none', [true, true]],
] as const)('ending the other sessions with keys %s leaves the keys of both as %j', async (keys, left) => {
  const owner = await newUser()
  const mine = (await createKey(owner.client)).data?.[0]?.secret
  const theirs = (await createKey(await signInAgain(owner))).data?.[0]?.secret

  const ended = await owner.client.rpc('revoke_my_other_sessions', { keys })

  expect(ended.error).toBeNull()
  expect([await works(mine), await works(theirs)]).toEqual(left)
})

test('another address, given by an admin, is told to the old one, whose link freezes and gives nothing back', async () => {
  const owner = await newUser()
  const email = `new-${owner.email}`
  const { error } = await clientWith(target().secretKey).auth.admin.updateUserById(owner.id, {
    email,
    email_confirm: true,
  })
  expect(error).toBeNull()
  const [link = ''] = await undoLinks(owner, owner.email)
  expect(await undoLinks(owner, email)).toEqual([])

  expect(await press(link)).toContain('This is done')

  const [user] =
    await sql`select u.email, p.status from auth.users u join public.profiles p using (id) where u.id = ${owner.id}`
  expect(user).toEqual({ email, status: 'suspended' })
  expect(await typesOf(owner)).toEqual(['email_changed', 'account_frozen'])
})
