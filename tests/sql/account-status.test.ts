import { describe, expect, test } from 'vitest'
import { adult, asAccount, insertAndCommit, newcomer, profileOf, setSetting, signUp } from './registration-support.ts'
import {
  type Account,
  asRole,
  newAccount,
  racing,
  refusal,
  rolledBack,
  type Sql,
  type Tx,
  together,
} from './support.ts'

type Verb = 'suspend' | 'reinstate' | 'delete'
const change = async (sql: Sql | Tx, verb: Verb, id: string, reason: string | null = 'because') => {
  const [row] = await sql`select ${sql(`public.${verb}_account`)}(${id}::uuid, ${reason}::text) as status`
  return row?.status
}
const setRole = async (sql: Sql | Tx, id: string, role: string | null) => {
  const [row] = await sql`select public.set_account_role(${id}::uuid, ${role}::text) as role`
  return row?.role
}
const changesOf = (tx: Tx, id: string) =>
  tx`select from_status, to_status, reason, actor_id from private.account_status_changes where user_id = ${id} order by id`
const authOf = async (tx: Tx, id: string) => {
  const [row] = await tx`
    select coalesce(u.banned_until > now() + interval '50 years', false) as banned,
      (select count(*)::int from auth.sessions s where s.user_id = u.id) as sessions
    from auth.users u where u.id = ${id}`
  return row
}
const makeAdmin = async (sql: Sql | Tx): Promise<Account> => {
  const admin = await newAccount(sql)
  await sql`update auth.sessions set aal = 'aal2' where id = ${admin.sessionId}`
  await setRole(sql, admin.id, 'admin')
  return admin
}
const asAdmin = <T>(tx: Tx, admin: Account, act: (tx: Tx) => Promise<T>, aal = 'aal2') =>
  asRole(tx, 'authenticated', { sub: admin.id, role: 'authenticated', session_id: admin.sessionId, aal }, act)

describe('who was locked in the system that they are imported from', () => {
  const imported = async (tx: Tx, more: object, confirmed = true) => {
    const user = newcomer({ data: {}, confirmed, appMetadata: { registered_by: 'import', ...more } })
    await insertAndCommit(tx, user)
    return user.id
  }
  const metadataOf = async (tx: Tx, id: string) =>
    (await tx`select raw_app_meta_data as app from auth.users where id = ${id}`)[0]?.app

  test.each([
    ['says it of themselves', { data: { suspended: 'x', registered_by: 'import' } }],
    ['is no import', { appMetadata: { registered_by: 'admin', suspended: 'x' } }],
    ['has no reason', { appMetadata: { registered_by: 'import', suspended: ' ' } }],
  ])('is nobody who %s', (_who, given) =>
    rolledBack(async (tx) => {
      const user = newcomer({ confirmed: true, ...given })

      await insertAndCommit(tx, user)

      expect(await profileOf(tx, user.id)).toMatchObject({ status: 'active' })
    }),
  )

  test('is suspended in the transaction that makes the account, with the reason, and no token carries it', () =>
    rolledBack(async (tx) => {
      const id = await imported(tx, { suspended: 'disabled is true in the old system' })

      expect(await profileOf(tx, id)).toMatchObject({ status: 'suspended' })
      expect(await changesOf(tx, id)).toMatchObject([
        { from_status: 'active', to_status: 'suspended', reason: 'disabled is true in the old system', actor_id: null },
      ])
      expect(await authOf(tx, id)).toMatchObject({ banned: true })
      expect(await metadataOf(tx, id)).toEqual({ provider: 'email', registered_by: 'import' })
      const [gate] = await tx`select is_active from private.accounts where user_id = ${id}`
      expect(gate).toEqual({ is_active: false })
    }))

  test('stays suspended when the address is confirmed, until somebody reinstates the account', () =>
    rolledBack(async (tx) => {
      const id = await imported(tx, { suspended: 'banned' }, false)
      await tx`update auth.users set email_confirmed_at = now() where id = ${id}`
      const before = await profileOf(tx, id)

      const status = await change(tx, 'reinstate', id)

      expect(before).toMatchObject({ status: 'suspended' })
      expect([status, await authOf(tx, id)]).toEqual(['active', { banned: false, sessions: 0 }])
    }))
})

describe('suspend, reinstate and delete', () => {
  const verbs: Verb[] = ['suspend', 'reinstate', 'delete']

  test.each(verbs)('a user cannot %s an account, neither another nor the own', (verb) =>
    rolledBack(async (tx) => {
      const [user, other] = [await newAccount(tx), await newAccount(tx)]

      for (const id of [user.id, other.id])
        expect((await refusal(tx, (sp) => asAccount(sp as Tx, user.id, (as) => change(as, verb, id)))).code).toBe(
          'not_allowed',
        )
      expect(await profileOf(tx, other.id)).toMatchObject({ status: 'active' })
    }),
  )

  test.each(verbs)('an admin without a second factor cannot %s an account', (verb) =>
    rolledBack(async (tx) => {
      const [admin, other] = [await makeAdmin(tx), await newAccount(tx)]

      const refused = await refusal(tx, (sp) => asAdmin(sp, admin, (as) => change(as, verb, other.id), 'aal1'))

      expect(refused).toMatchObject({ sqlstate: 'PGRST', status: 403 })
    }),
  )

  test.each(verbs)('%s: an unknown account is not_found, a reason is needed, nobody does it to themselves', (verb) =>
    rolledBack(async (tx) => {
      const [admin, other] = [await makeAdmin(tx), await newAccount(tx)]

      expect((await refusal(tx, (sp) => change(sp, verb, crypto.randomUUID()))).code).toBe('not_found')
      for (const reason of [null, '', '  '])
        expect((await refusal(tx, (sp) => change(sp, verb, other.id, reason))).code).toBe('invalid_request_error')
      expect((await refusal(tx, (sp) => asAdmin(sp, admin, (as) => change(as, verb, admin.id)))).code).toBe(
        'not_allowed',
      )
    }),
  )

  test.each([
    ['suspend', 'suspended'],
    ['delete', 'deleted'],
  ] as const)(
    '%s ends the sessions, bans sign-in and refresh, and keeps who, why and what was before',
    (verb, status) =>
      rolledBack(async (tx) => {
        const [admin, user, other] = [await makeAdmin(tx), await newAccount(tx), await newAccount(tx)]

        const answer = await asAdmin(tx, admin, (as) => change(as, verb, user.id, 'spam'))

        expect(answer).toBe(status)
        expect(await profileOf(tx, user.id)).toMatchObject({ status })
        expect(await authOf(tx, user.id)).toEqual({ banned: true, sessions: 0 })
        expect([...(await changesOf(tx, user.id))]).toEqual([
          { from_status: 'active', to_status: status, reason: 'spam', actor_id: admin.id },
        ])
        expect(await authOf(tx, other.id)).toEqual({ banned: false, sessions: 1 })
      }),
  )

  test('the ban is a date that the Auth service can read', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      await change(tx, 'suspend', id)

      const [row] =
        await tx`select banned_until < '9999-01-01' and isfinite(banned_until) as fine from auth.users where id = ${id}`
      expect(row?.fine).toBe(true)
    }))

  test.each(['suspend', 'delete'] as const)('a repeated %s changes nothing', (verb) =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const first = await change(tx, verb, id, 'one')

      expect(await change(tx, verb, id, 'two')).toBe(first)

      expect(await changesOf(tx, id)).toHaveLength(1)
    }),
  )

  test('reinstating an account that is not suspended changes nothing', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx, { confirmed: false })

      expect(await change(tx, 'reinstate', id)).toBe('pending')

      expect(await changesOf(tx, id)).toHaveLength(0)
    }))

  test.each([
    [true, 'active'],
    [false, 'pending'],
  ])('an account (verified: %j) comes back as %s, also from suspended and then deleted', (confirmed, status) =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx, { confirmed })
      await change(tx, 'suspend', id)
      await change(tx, 'delete', id)

      expect(await change(tx, 'reinstate', id)).toBe(status)

      expect((await authOf(tx, id))?.banned).toBe(false)
      expect((await changesOf(tx, id)).map((row) => row.to_status)).toEqual(['suspended', 'deleted', status])
    }),
  )

  test('an address that was verified while suspended makes the reinstated account active', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx, { confirmed: false })
      await change(tx, 'suspend', id)
      await tx`update auth.users set email_confirmed_at = now() where id = ${id}`

      expect(await change(tx, 'reinstate', id)).toBe('active')
    }))

  test('an account that waits for a guardian still waits when it is reinstated', () =>
    rolledBack(async (tx) => {
      await setSetting(tx, 'registration.under_age', 'park')
      const [young] = await tx`select (current_date - interval '12 years')::date::text as day`
      const user = newcomer({ data: { ...adult, birth_date: young?.day }, confirmed: true })
      await signUp(tx, user)
      await change(tx, 'suspend', user.id)

      expect(await change(tx, 'reinstate', user.id)).toBe('pending')
    }))

  test('a ban that was there before the suspension is there after it', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await tx`update auth.users set banned_until = '2090-01-01' where id = ${id}`
      await change(tx, 'suspend', id)

      await change(tx, 'reinstate', id)

      const [row] = await tx`select banned_until = '2090-01-01' as kept from auth.users where id = ${id}`
      expect(row?.kept).toBe(true)
    }))

  test('a deleted account cannot be suspended, and its e-mail, once verified, does not open it', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx, { confirmed: false })
      await change(tx, 'delete', id)

      expect((await refusal(tx, (sp) => change(sp, 'suspend', id))).code).toBe('invalid_request_error')
      await tx`update auth.users set email_confirmed_at = now() where id = ${id}`

      expect(await profileOf(tx, id)).toMatchObject({ status: 'deleted' })
    }))

  test.each([
    'update private.account_status_changes set reason = $$x$$ where true',
    'delete from private.account_status_changes where true',
  ])('nobody can "%s"', (statement) =>
    rolledBack(async (tx) => {
      await change(tx, 'suspend', (await newAccount(tx)).id)

      expect((await refusal(tx, (sp) => sp.unsafe(statement))).sqlstate).toBe('42501')
    }),
  )

  test('ten at the same time are one change', () =>
    racing(10, async (sql, accounts) => {
      const { id } = await accounts()

      const answers = await together(10, () => change(sql, 'suspend', id))

      const [row] = await sql`select count(*)::int as n from private.account_status_changes where user_id = ${id}`
      expect(answers).toEqual(Array(10).fill('suspended'))
      expect(row?.n).toBe(1)
    }))
})

describe('delete_my_account', () => {
  const leave = (tx: Tx, { id, sessionId }: Account, aal = 'aal1') =>
    asRole(
      tx,
      'authenticated',
      { sub: id, role: 'authenticated', session_id: sessionId, aal },
      (as) => as`select public.delete_my_account() as status`,
    )

  test('an account with a second factor needs it', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await tx`
        insert into auth.mfa_factors (id, user_id, factor_type, status, created_at, updated_at)
        values (gen_random_uuid(), ${account.id}, 'totp', 'verified', now(), now())`

      const refused = await refusal(tx, (sp) => leave(sp as Tx, account))

      expect(refused.status).toBe(403)
      expect(await profileOf(tx, account.id)).toMatchObject({ status: 'active' })
    }))

  test('it closes the account and ends its sessions', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)

      const [row] = await leave(tx, account)

      expect(row?.status).toBe('deleted')
      expect(await authOf(tx, account.id)).toEqual({ banned: true, sessions: 0 })
      expect([...(await changesOf(tx, account.id))]).toMatchObject([{ to_status: 'deleted', actor_id: account.id }])
    }))
})

describe('set_account_role', () => {
  test('a user cannot, and an admin cannot without a second factor', () =>
    rolledBack(async (tx) => {
      const [admin, user] = [await makeAdmin(tx), await newAccount(tx)]

      expect(
        (await refusal(tx, (sp) => asAccount(sp as Tx, user.id, (as) => setRole(as, user.id, 'admin')))).code,
      ).toBe('not_allowed')
      expect(
        (await refusal(tx, (sp) => asAdmin(sp, admin, (as) => setRole(as, user.id, 'admin'), 'aal1'))).status,
      ).toBe(403)
    }))

  test('not the own role, not an unknown role, not an unknown account', () =>
    rolledBack(async (tx) => {
      const [admin, user] = [await makeAdmin(tx), await newAccount(tx)]
      await makeAdmin(tx)

      expect((await refusal(tx, (sp) => asAdmin(sp, admin, (as) => setRole(as, admin.id, 'user')))).code).toBe(
        'not_allowed',
      )
      for (const role of ['root', '', null])
        expect((await refusal(tx, (sp) => setRole(sp, user.id, role))).code).toBe('invalid_request_error')
      expect((await refusal(tx, (sp) => setRole(sp, crypto.randomUUID(), 'user'))).code).toBe('not_found')
    }))

  test('the last active admin stays one, for the service role, too', () =>
    rolledBack(async (tx) => {
      await tx`update public.profiles set role = 'user' where role = 'admin'`
      const [admin, suspended] = [await makeAdmin(tx), await makeAdmin(tx)]
      await change(tx, 'suspend', suspended.id)

      expect(await refusal(tx, (sp) => setRole(sp, admin.id, 'support'))).toMatchObject({
        code: 'not_allowed',
        message: expect.stringContaining('last admin'),
      })
      expect(await setRole(tx, suspended.id, 'user')).toBe('user')
    }))

  test('two admins who demote each other at the same time leave one', () =>
    racing(4, async (sql, accounts) => {
      const admins = [await accounts(), await accounts()]
      // Admins that the tests of other files have left.
      await sql`update public.profiles set role = 'user' where role = 'admin'`
      for (const { id } of admins) await setRole(sql, id, 'admin')

      const answers = await together(2, (i) => setRole(sql, admins[i]?.id ?? '', 'user'))

      const left = await sql`select from public.profiles where role = 'admin'`
      expect(left).toHaveLength(1)
      expect(answers).toContainEqual(expect.objectContaining({ code: 'not_allowed' }))
    }))

  test('an admin gives a role; the same again changes nothing', () =>
    rolledBack(async (tx) => {
      const [admin, user] = [await makeAdmin(tx), await newAccount(tx)]

      expect(await asAdmin(tx, admin, (as) => setRole(as, user.id, 'support'))).toBe('support')
      expect(await asAdmin(tx, admin, (as) => setRole(as, user.id, 'support'))).toBe('support')

      expect(await profileOf(tx, user.id)).toMatchObject({ role: 'support', status: 'active' })
    }))
})

describe('what is left behind', () => {
  const leftBehind = async (tx: Tx, id: string) => ({
    audited: await tx`
      select action, details ->> 'reason' as reason, result from private.audit_log
      where user_id = ${id} and action like 'account.%' order by id`,
    events: await tx`
      select type, occurrences, details ->> 'reason' as reason from public.security_events where user_id = ${id} order by id`,
    notices: (await tx`select type from public.notifications where user_id = ${id} order by id`).map(
      ({ type }) => type,
    ),
  })

  test('every change of status is audited and a security event, with its reason; a repeated one is not', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const reason = 'spam'

      for (const verb of ['suspend', 'suspend', 'reinstate', 'delete', 'delete'] as const)
        await change(tx, verb, id, reason)

      expect(await leftBehind(tx, id)).toEqual({
        audited: ['account.suspend', 'account.reinstate', 'account.delete'].map((action) => ({
          action,
          reason,
          result: 'success',
        })),
        events: ['account_suspended', 'account_reinstated', 'account_deleted'].map((type) => ({
          type,
          reason,
          occurrences: 1,
        })),
        notices: [],
      })
    }))

  test('a changed role is audited, a security event and a notification', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      await setRole(tx, id, 'support')
      await setRole(tx, id, 'support')

      expect(await leftBehind(tx, id)).toMatchObject({
        audited: [{ action: 'account.set_role' }],
        events: [{ type: 'role_changed', occurrences: 1 }],
        notices: ['role_changed'],
      })
    }))
})

describe('find_account', () => {
  test('a user cannot look anybody up', () =>
    rolledBack(async (tx) => {
      const user = await newAccount(tx)
      const look = (as: Tx) => as`select * from public.find_account(${`sql-${user.id}@example.com`})`

      expect((await refusal(tx, (sp) => asAccount(sp as Tx, user.id, look))).code).toBe('not_allowed')
    }))

  test('an admin finds an account by its address, however it is typed, and nobody by another', () =>
    rolledBack(async (tx) => {
      const [admin, user] = [await makeAdmin(tx), await newAccount(tx)]
      const find = (email: string) => asAdmin(tx, admin, (as) => as`select * from public.find_account(${email})`)

      expect([...(await find(` SQL-${user.id}@Example.com `))]).toMatchObject([
        { id: user.id, status: 'active', role: 'user', plan_id: 'free' },
      ])
      expect(await find('%@example.com')).toHaveLength(0)
    }))
})
