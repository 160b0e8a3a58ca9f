/** The gate columns of private.accounts: whatever an account's state comes from changes, they say the same in the same transaction. */
import { describe, expect, test } from 'vitest'
import { insertAndCommit, newcomer } from './registration-support.ts'
import { newAccount, racing, rolledBack, type Sql, type Tx, together } from './support.ts'

const gatesOf = async (sql: Sql | Tx, id: string) => {
  const [row] = await sql`
    select account_state, is_active, has_factor, banned_until > now() as is_banned
    from private.accounts where user_id = ${id}`
  return row
}
const wrong = (sql: Sql | Tx, id: string) => sql`select * from private.compare_account_gates() where user_id = ${id}`
const good = { account_state: 'active', is_active: true, has_factor: false, is_banned: false }

const addFactor = (tx: Tx, id: string, status: 'verified' | 'unverified') => tx`
  insert into auth.mfa_factors (id, user_id, factor_type, status, created_at, updated_at)
  values (gen_random_uuid(), ${id}, 'totp', ${status}, now(), now())`

/** One after the other on one account; after each of them the gates are these beside what they were. */
const changes: [what: string, change: (tx: Tx, id: string) => PromiseLike<unknown>, gates: object][] = [
  [
    'a suspension',
    (tx, id) => tx`select public.suspend_account(${id}, 'spam')`,
    { account_state: 'suspended', is_active: false, is_banned: true },
  ],
  [
    'its end',
    (tx, id) => tx`select public.reinstate_account(${id}, 'sorry')`,
    { account_state: 'active', is_active: true, is_banned: false },
  ],
  [
    'a ban by the Auth service',
    (tx, id) => tx`update auth.users set banned_until = now() + interval '1 hour' where id = ${id}`,
    { is_banned: true },
  ],
  [
    'a ban that is over',
    (tx, id) => tx`update auth.users set banned_until = now() - interval '1 hour' where id = ${id}`,
    { is_banned: false },
  ],
  ['no ban', (tx, id) => tx`update auth.users set banned_until = null where id = ${id}`, {}],
  ['a factor that is not finished', (tx, id) => addFactor(tx, id, 'unverified'), {}],
  [
    'a factor that is',
    (tx, id) => tx`update auth.mfa_factors set status = 'verified' where user_id = ${id}`,
    { has_factor: true },
  ],
  ['a second factor', (tx, id) => addFactor(tx, id, 'verified'), {}],
  [
    'one factor less',
    (tx, id) =>
      tx`delete from auth.mfa_factors where id in (select id from auth.mfa_factors where user_id = ${id} limit 1)`,
    {},
  ],
  ['none left', (tx, id) => tx`delete from auth.mfa_factors where user_id = ${id}`, { has_factor: false }],
  [
    'an account that its owner closed',
    (tx, id) => tx`select public.delete_account(${id}, 'left')`,
    { account_state: 'deleted', is_active: false, is_banned: true },
  ],
]

describe('the gate columns of an account', () => {
  test('follow everything that they come from', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const expected: object[] = [good]
      const seen = [await gatesOf(tx, id)]

      for (const [, change, gates] of changes) {
        await change(tx, id)
        expected.push({ ...expected.at(-1), ...gates })
        seen.push(await gatesOf(tx, id))
      }

      expect(seen).toEqual(expected)
      expect([...(await wrong(tx, id))]).toEqual([])
    }))

  test.each([
    ['whose address is not verified', { confirmed: false }, 'pending', 'active'],
    ['whose address was verified elsewhere', { confirmed: true }, 'active', 'active'],
    ['who is anonymous', { isAnonymous: true }, 'pending', 'active'],
  ] as const)(
    'of somebody %s are right from the first moment on, and after the address was verified',
    (...[, given, before, after]) =>
      rolledBack(async (tx) => {
        const user = newcomer(given)
        await insertAndCommit(tx, user)
        expect(await gatesOf(tx, user.id)).toMatchObject({ account_state: before, is_active: before === 'active' })

        await tx`
        update auth.users set email = ${`new-${user.id}@example.com`}, email_confirmed_at = now(), is_anonymous = false,
          raw_user_meta_data = ${JSON.stringify(user.data)}::text::jsonb
        where id = ${user.id}`

        expect(await gatesOf(tx, user.id)).toMatchObject({ account_state: after, is_active: true })
        expect([...(await wrong(tx, user.id))]).toEqual([])
      }),
  )

  test('that are wrong are found, told once a night, and mended', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await tx`update private.accounts set has_factor = true, account_state = 'pending' where user_id = ${id}`

      await tx`select private.warn_of_wrong_gates()`

      expect(await wrong(tx, id)).toMatchObject([
        {
          stored: { has_factor: true, account_state: 'pending' },
          expected: { has_factor: false, account_state: 'active' },
        },
      ])
      const events = await tx`select severity, details from public.security_events where type = 'account_gates_wrong'`
      expect(events).toMatchObject([{ severity: 'critical', details: { accounts: 1, some: [id] } }])
      await tx`select private.refresh_account_gates(${id})`
      expect([...(await wrong(tx, id))]).toEqual([])
    }))

  test('do not stand in the way of an account that is erased', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await addFactor(tx, id, 'verified')

      await tx`delete from auth.users where id = ${id}`

      expect(await gatesOf(tx, id)).toBeUndefined()
    }))

  test('are right, and nobody waits in a circle, when plan, ban, factor and suspension change at the same time', () =>
    racing(8, async (sql, newAccountOf) => {
      const { id } = await newAccountOf()
      const acts: ((tx: Sql, n: number) => PromiseLike<unknown>)[] = [
        (tx, n) => tx`update public.profiles set plan_id = ${n % 3 ? 'premium' : 'free'} where id = ${id}`,
        (tx) => tx`select public.suspend_account(${id}, 'race')`,
        (tx) => tx`select public.reinstate_account(${id}, 'race')`,
        (tx, n) => tx`update auth.users set banned_until = now() + ${`${n - 30} minutes`}::interval where id = ${id}`,
        (tx) => tx`
          insert into auth.mfa_factors (id, user_id, factor_type, status, created_at, updated_at)
          values (gen_random_uuid(), ${id}, 'totp', 'verified', now(), now())`,
        (tx) => tx`delete from auth.mfa_factors where user_id = ${id}`,
      ]

      const answers = await together(90, (n) => Promise.resolve(acts[n % acts.length]?.(sql, n)))

      expect(answers.filter((answer) => 'sqlstate' in (answer as object))).toEqual([])
      expect([...(await wrong(sql, id))]).toEqual([])
    }))
})
