/** The access-token hook: what it adds, what it leaves alone, and who gets no token. */
import { describe, expect, test } from 'vitest'
import { callHookIn, rolledBackWithHooks } from './hooks-support.ts'
import { newAccount, type Tx } from './support.ts'

const claimsOf = (userId: string, sessionId: string) => ({
  iss: 'https://example.com/auth/v1',
  aud: 'authenticated',
  exp: 1900000000,
  iat: 1800000000,
  sub: userId,
  email: 'a@example.com',
  phone: '',
  role: 'authenticated',
  aal: 'aal1',
  amr: [{ method: 'password', timestamp: 1800000000 }],
  session_id: sessionId,
  is_anonymous: false,
  app_metadata: { provider: 'email' },
  user_metadata: { user_role: 'admin' },
})

const tokenFor = (tx: Tx, account: { id: string; sessionId: string }, method = 'token_refresh') =>
  callHookIn(tx, 'custom_access_token', {
    metadata: { ip_address: '192.0.2.7' },
    user_id: account.id,
    authentication_method: method,
    claims: claimsOf(account.id, account.sessionId),
  })

describe('no token, at sign-in and at refresh alike, for', () => {
  const states: [string, (tx: Tx, account: { id: string; sessionId: string }) => PromiseLike<unknown>][] = [
    ['a suspended account', (tx, { id }) => tx`update public.profiles set status = 'suspended' where id = ${id}`],
    ['a deleted account', (tx, { id }) => tx`update public.profiles set status = 'deleted' where id = ${id}`],
    [
      'a banned account',
      (tx, { id }) => tx`update auth.users set banned_until = now() + interval '1 day' where id = ${id}`,
    ],
    [
      'a session that was idle for too long',
      (tx, account) => tx`
        update auth.sessions set refreshed_at = (now() - interval '169 hours') at time zone 'UTC' where id = ${account.sessionId}`,
    ],
    [
      'a session that is too old',
      (tx, account) => tx`
        update auth.sessions set created_at = now() - interval '721 hours', refreshed_at = now() at time zone 'UTC'
        where id = ${account.sessionId}`,
    ],
  ]

  test.each(states)('%s', async (_who, change) => {
    await rolledBackWithHooks(async (tx) => {
      const account = await newAccount(tx)
      await change(tx, account)

      for (const method of ['password', 'token_refresh', 'recovery', 'totp']) {
        const answer = await tokenFor(tx, account, method)
        expect(answer).toEqual({ error: { http_code: 403, message: expect.any(String) } })
      }
    })
  })
})

describe('a token', () => {
  test('has the role of the profile and every claim that Auth put in', async () => {
    await rolledBackWithHooks(async (tx) => {
      const account = await newAccount(tx)

      const user = await tokenFor(tx, account)
      await tx`update public.profiles set role = 'support' where id = ${account.id}`
      const support = await tokenFor(tx, account)

      const claims = claimsOf(account.id, account.sessionId)
      expect(user).toEqual({ claims: { ...claims, user_role: 'user' } })
      expect(support).toEqual({ claims: { ...claims, user_role: 'support' } })
    })
  })

  test('is made for a pending account, and where the session cannot be seen yet', async () => {
    await rolledBackWithHooks(async (tx) => {
      const { id } = await newAccount(tx, { confirmed: false })

      const answer = await tokenFor(tx, { id, sessionId: crypto.randomUUID() }, 'password')

      expect(answer.claims).toMatchObject({ sub: id, user_role: 'user' })
    })
  })
})
