/** A second factor that counts: the database asks for it, not only the sign-in screen. */
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { enrol, prove, signInAgain } from '../support/mfa.ts'
import { clientWith, newUser } from '../support/users.ts'
import { target } from '../target.ts'

let sql: postgres.Sql
beforeAll(() => {
  sql = postgres(target().dbUrl, { max: 1, onnotice: () => {} })
})
afterAll(() => sql.end())

const service = () => clientWith(target().secretKey)

describe('an account with an authenticator app', () => {
  test('shows a session that knows only the password nothing but the profile', async () => {
    const user = await newUser()
    await user.client.from('chats').insert({ title: 'private' })
    const factor = await enrol(user.client)
    const passwordOnly = await signInAgain(user)

    expect((await passwordOnly.from('chats').select('id')).data).toEqual([])
    expect((await passwordOnly.from('chats').insert({ title: 'x' })).error?.code).toBe('42501')
    expect((await passwordOnly.rpc('get_my_credits')).error?.code).toBe('insufficient_aal')
    expect((await passwordOnly.from('profiles').select('id')).data).toHaveLength(1)

    await prove(passwordOnly, factor)

    expect((await passwordOnly.from('chats').select('title')).data).toEqual([{ title: 'private' }])
  })

  test('loses its other sessions when the app is added', async () => {
    const user = await newUser()
    const other = await signInAgain(user)

    await enrol(user.client)

    expect((await other.from('profiles').select('id')).status).toBe(401)
    // What supabase-js makes of session_not_found.
    expect((await other.auth.getUser()).error?.name).toBe('AuthSessionMissingError')
  })

  test('hears of it when the app is removed', async () => {
    const user = await newUser()
    const factor = await enrol(user.client)

    const { error } = await user.client.auth.mfa.unenroll({ factorId: factor.factorId })

    expect(error).toBeNull()
    const events = await user.client.from('security_events').select('type').eq('type', 'mfa_removed')
    expect(events.data).toHaveLength(1)
    expect((await user.client.from('notifications').select('type').eq('type', 'mfa_removed')).data).toHaveLength(1)
  })
})

describe('recovery codes', () => {
  test('are shown once, work once, and let somebody back in who lost the app', async () => {
    const user = await newUser()
    await enrol(user.client)
    const codes = (await user.client.rpc('create_recovery_codes')).data ?? []
    const stranded = await signInAgain(user)

    const first = await stranded.rpc('use_recovery_code', { code: codes[0] ?? '' })
    const second = await stranded.rpc('use_recovery_code', { code: codes[0] ?? '' })

    expect([codes.length, new Set(codes).size]).toEqual([10, 10])
    expect([first.error, first.data]).toEqual([null, 'accepted'])
    expect(second.data).toBe('wrong')
    expect((await stranded.from('chats').select('id')).error).toBeNull()
    expect((await stranded.auth.mfa.listFactors()).data?.totp).toEqual([])
  })

  test('cannot be made by a session that did not prove the app', async () => {
    const user = await newUser()
    await enrol(user.client)

    const { error } = await (await signInAgain(user)).rpc('create_recovery_codes')

    expect(error?.code).toBe('insufficient_aal')
  })
})

describe('an admin', () => {
  test('acts only with the second factor proven, whatever the token says of the role', async () => {
    const [admin, user] = [await newUser(), await newUser()]
    await service().rpc('set_account_role', { user_id: admin.id, role: 'admin' })
    const suspend = () => admin.client.rpc('suspend_account', { user_id: user.id, reason: 'spam' })

    const before = await suspend()
    await enrol(admin.client)
    const after = await suspend()

    expect(before.error?.code).toBe('insufficient_aal')
    expect(after.error).toBeNull()
    expect((await user.client.from('profiles').select('id')).status).toBe(401)
  })

  test('finds the role as a claim in the next token, and a user cannot give it to themselves', async () => {
    const user = await newUser()
    await user.client.auth.updateUser({ data: { user_role: 'admin', role: 'admin' } })
    const claimsOf = async () => {
      const { data } = await user.client.auth.refreshSession()
      const payload = data.session?.access_token.split('.')[1] ?? ''
      return JSON.parse(Buffer.from(payload, 'base64url').toString())
    }

    expect(await claimsOf()).toMatchObject({ user_role: 'user', role: 'authenticated' })
    await service().rpc('set_account_role', { user_id: user.id, role: 'support' })

    expect(await claimsOf()).toMatchObject({ user_role: 'support', role: 'authenticated' })
  })
})
