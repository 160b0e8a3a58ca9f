/** What outlives a session: it needs a recent sign-in, is told to the owner at once, and a mailed link takes it back. */
import { createHash } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { addFactor, addSession } from '../support/sql.ts'
import { rolledBackWithHooks } from './hooks-support.ts'
import {
  type Account,
  asUser,
  newAccount,
  racing,
  refusal,
  rolledBack,
  type Sql,
  type Tx,
  together,
} from './support.ts'

const undoPage = 'https://app.test/undo/'

/** A project whose links lead to a page of its app. */
const linksLeadTo = (tx: Tx) =>
  tx`update private.settings set value = to_jsonb(${`${undoPage}{token}`}::text) where key = 'account.undo_url'`

const makeKey = async (tx: Tx, { id }: Account, claims: object = {}): Promise<string> => {
  const [made] = await asUser(tx, id, (as) => as`select id from public.create_api_key('ci', array['models'])`, claims)
  return made?.id
}

const ageSignIn = (tx: Tx, sessionId: string, minutes: number) => tx`
  update auth.mfa_amr_claims set updated_at = now() - make_interval(mins => ${minutes}) where session_id = ${sessionId}`

/** What its owner was told, newest last: the type of the notification, whom the mail goes to, and the token of its link. */
const toldOf = async (tx: Tx | Sql, { id }: Account) => {
  const told = await tx`select type from public.notifications where user_id = ${id} order by id`
  const mails = await tx`
    select coalesce(m.address, u.email) as address, m.body from private.mails m join auth.users u on u.id = m.user_id
    where m.user_id = ${id} and m.state = 'waiting' order by m.id`
  const audit = await tx`
    select action from private.audit_log where user_id = ${id} and action not like 'security.%' order by id`
  return {
    types: told.map(({ type }) => type),
    addresses: mails.map(({ address }) => address),
    tokens: mails.map(({ body }) => /undo\/([\w-]{43})$/.exec(body)?.[1] ?? ''),
    audit: audit.map(({ action }) => action),
  }
}

const hashed = (token: string | undefined) =>
  createHash('sha256')
    .update(token ?? '')
    .digest()

const addIdentity = async (tx: Tx, { id }: Account, provider: string): Promise<string> => {
  const [row] = await tx`
    insert into auth.identities (id, provider, provider_id, user_id, identity_data, created_at, updated_at)
    values (gen_random_uuid(), ${provider}, ${crypto.randomUUID()}, ${id}, '{}', now(), now()) returning id`
  return row?.id
}

const changes: [
  what: string,
  type: string,
  change: (tx: Tx, account: Account) => PromiseLike<unknown>,
  entry: string,
][] = [
  ['a second factor', 'mfa_added', (tx, { id }) => addFactor(tx, id), 'mfa.add_factor'],
  ['an API key', 'api_key_created', makeKey, 'api_key.create'],
  ['a linked sign-in', 'identity_linked', (tx, account) => addIdentity(tx, account, 'github'), 'account.link_identity'],
  [
    'another password',
    'password_changed',
    (tx, { id }) => tx`update auth.users set encrypted_password = 'another' where id = ${id}`,
    'account.change_password',
  ],
]

/** An account as the Auth service leaves it after a sign-up: with a password and its first identity. */
const signedUp = async (tx: Tx): Promise<Account> => {
  await linksLeadTo(tx)
  const account = await newAccount(tx)
  await addIdentity(tx, account, 'email')
  await tx`update auth.users set encrypted_password = 'the first' where id = ${account.id}`
  return account
}

describe('the owner is told at once', () => {
  test.each(changes)('of %s: in the log, in the app and by mail', (_, type, change, entry) =>
    rolledBack(async (tx) => {
      const account = await signedUp(tx)
      expect(await toldOf(tx, account)).toMatchObject({ types: [], addresses: [] })

      await change(tx, account)

      const told = await toldOf(tx, account)
      expect(told).toMatchObject({ types: [type], addresses: [`sql-${account.id}@example.com`], audit: [entry] })
      expect(told.tokens[0]).toHaveLength(43)
    }),
  )

  test('of recovery codes', () =>
    rolledBack(async (tx) => {
      const account = await signedUp(tx)
      await addFactor(tx, account.id)
      await tx`update auth.sessions set aal = 'aal2' where id = ${account.sessionId}`

      await asUser(tx, account.id, (as) => as`select public.create_recovery_codes()`, { aal: 'aal2' })

      expect((await toldOf(tx, account)).types).toEqual(['mfa_added', 'recovery_codes_created'])
    }))

  test('of a factor when it is proven, and not when it is only begun', () =>
    rolledBack(async (tx) => {
      const account = await signedUp(tx)
      await tx`
        insert into auth.mfa_factors (id, user_id, factor_type, status, created_at, updated_at)
        values (gen_random_uuid(), ${account.id}, 'totp', 'unverified', now(), now())`
      expect((await toldOf(tx, account)).types).toEqual([])

      await tx`update auth.mfa_factors set status = 'verified' where user_id = ${account.id}`

      expect((await toldOf(tx, account)).types).toEqual(['mfa_added'])
    }))

  test('of another address at the old one, whoever changed it', () =>
    rolledBack(async (tx) => {
      const account = await signedUp(tx)

      await tx`update auth.users set email = ${`new-${account.id}@example.com`} where id = ${account.id}`

      const told = await toldOf(tx, account)
      expect(told).toMatchObject({ types: ['email_changed'], audit: ['account.change_email'] })
      expect(told.addresses).toEqual([`sql-${account.id}@example.com`])
      const [sent] = await tx`select address from private.claim_mails(100) where address like ${`%${account.id}%`}`
      expect(sent).toEqual({ address: `sql-${account.id}@example.com` })
    }))

  test('of a first password beside another way to sign in', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await addIdentity(tx, account, 'github')

      await tx`update auth.users set encrypted_password = 'the first' where id = ${account.id}`

      expect((await toldOf(tx, account)).types).toEqual(['password_changed'])
    }))

  test('and nobody by mail at an address that was never verified', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx, { confirmed: false })

      await addFactor(tx, account.id)
      await tx`update auth.users set email = ${`new-${account.id}@example.com`} where id = ${account.id}`

      expect(await toldOf(tx, account)).toMatchObject({
        addresses: [],
        audit: ['mfa.add_factor', 'account.change_email'],
      })
    }))
})

/** What the account has of each that can be taken back. */
const had = async (tx: Tx | Sql, { id }: Account) => {
  const [row] = await tx`
    select (select count(*)::int from auth.mfa_factors where user_id = ${id}) as factors,
      (select count(*)::int from auth.identities where user_id = ${id}) as identities,
      (select count(*)::int from public.api_keys where user_id = ${id} and revoked_at is null) as keys,
      (select count(*)::int from auth.sessions where user_id = ${id}) as sessions,
      (select status from public.profiles where id = ${id}) as status, (select email from auth.users where id = ${id}) as email`
  return row
}
const use = async (tx: Tx | Sql, token: string | undefined) =>
  (await tx`select private.use_undo_link(${hashed(token)}) as answer`)[0]?.answer
const show = async (tx: Tx, token: string | undefined) =>
  (await tx`select private.show_undo_link(${hashed(token)}) as answer`)[0]?.answer

describe('the link in the mail', () => {
  test.each(changes)('takes back %s, freezes the account and ends its sessions', (_, type, change) =>
    rolledBack(async (tx) => {
      const account = await signedUp(tx)
      const before = await had(tx, account)
      await change(tx, account)
      const { tokens } = await toldOf(tx, account)

      const undone = await use(tx, tokens[0])

      expect(undone).toMatchObject({ state: 'undone', change: type })
      expect(await had(tx, account)).toEqual({ ...before, sessions: 0, status: 'suspended' })
      expect((await toldOf(tx, account)).types.at(-1)).toBe('account_frozen')
    }),
  )

  test('about another address freezes the account, and gives no address back', () =>
    rolledBack(async (tx) => {
      const account = await signedUp(tx)
      const email = `new-${account.id}@example.com`
      await tx`update auth.users set email = ${email} where id = ${account.id}`

      await use(tx, (await toldOf(tx, account)).tokens[0])

      expect(await had(tx, account)).toMatchObject({ email, status: 'suspended', sessions: 0 })
    }))

  test('says what it would do and changes nothing, and tells nobody whose account it is', () =>
    rolledBack(async (tx) => {
      const account = await signedUp(tx)
      await makeKey(tx, account)
      const { tokens } = await toldOf(tx, account)
      const before = await had(tx, account)

      const said = await show(tx, tokens[0])

      expect(said).toMatchObject({ state: 'open', change: 'api_key_created', undo: 'The API key is revoked.' })
      expect(JSON.stringify(said)).not.toMatch(new RegExp(`${account.id}|@`))
      expect(await had(tx, account)).toEqual(before)
    }))

  test('works for 72 hours and once, and one of nobody is not found', () =>
    rolledBack(async (tx) => {
      const account = await signedUp(tx)
      await makeKey(tx, account)
      const [token] = (await toldOf(tx, account)).tokens
      const shift = (by: string) =>
        tx`update private.undo_links set expires_at = expires_at + ${by}::interval where user_id = ${account.id}`

      await shift('-72 hours')
      expect([(await show(tx, token)).state, (await use(tx, token)).state]).toEqual(['expired', 'expired'])
      expect(await had(tx, account)).toMatchObject({ keys: 1, status: 'active' })
      await shift('1 second')
      expect([(await use(tx, token)).state, (await use(tx, token)).state]).toEqual(['undone', 'used'])
      expect((await refusal(tx, (sp) => use(sp, 'nobody'))).code).toBe('not_found')
    }))

  test('used ten times at the same moment acts once', () =>
    racing(10, async (sql, accounts) => {
      const account = await accounts()
      const tokens: string[] = []
      await sql.begin(async (tx) => {
        await linksLeadTo(tx)
        await makeKey(tx, account)
        tokens.push(...(await toldOf(tx, account)).tokens)
        await tx`update private.settings set value = 'null' where key = 'account.undo_url'`
      })

      const answers = await together(10, () => use(sql, tokens[0]))

      expect(answers.filter((answer) => answer.state === 'undone')).toHaveLength(1)
      expect((await toldOf(sql, account)).audit.filter((action) => action === 'account.undo_change')).toHaveLength(1)
    }))

  test('leads nowhere while no page is known: the mail says the rest', () =>
    rolledBack(async (tx) => {
      await tx`update private.settings set value = 'null' where key in ('account.undo_url', 'jobs.functions_url')`
      const account = await newAccount(tx)

      await makeKey(tx, account)

      const mails = await tx`select body from private.mails where user_id = ${account.id}`
      expect(mails).toHaveLength(1)
      expect(mails[0]?.body).toMatch(/in your name\.$/)
    }))
})

describe('a sign-in of more than ten minutes ago', () => {
  const acts: [what: string, act: (tx: Tx, account: Account) => Promise<unknown>][] = [
    ['makes no API key', makeKey],
    [
      'renews no API key',
      (tx, { id }) =>
        asUser(tx, id, (as) => as`select public.rotate_api_key((select max(id::text)::uuid from public.api_keys), 0)`),
    ],
    [
      'makes no recovery codes',
      async (tx, { id, sessionId }) => {
        await addFactor(tx, id)
        await tx`update auth.sessions set aal = 'aal2' where id = ${sessionId}`
        return asUser(tx, id, (as) => as`select public.create_recovery_codes()`, { aal: 'aal2' })
      },
    ],
    ['adds no credential', (tx, { id, sessionId }) => tx`select private.start_secret_transfer(${id}, ${sessionId})`],
  ]

  test.each(acts)('%s', (_, act) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await makeKey(tx, account)
      await ageSignIn(tx, account.sessionId, 10)

      expect(await refusal(tx, (sp) => act(sp, account))).toMatchObject({
        code: 'recent_sign_in_required',
        status: 403,
      })

      await ageSignIn(tx, account.sessionId, 9)
      await act(tx, account)
    }),
  )

  test('is not made younger by another session, by a second factor or by a refresh', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await ageSignIn(tx, account.sessionId, 11)
      for (const method of ['totp', 'token_refresh', 'email_change', 'anonymous'])
        await tx`
        insert into auth.mfa_amr_claims (id, session_id, authentication_method, created_at, updated_at)
        values (gen_random_uuid(), ${account.sessionId}, ${method}, now(), now())`
      await addSession(tx, account.id)

      const refused = await refusal(tx, (sp) => makeKey(sp, account, { session_id: account.sessionId }))

      expect(refused.code).toBe('recent_sign_in_required')
      const [asked] = await asUser(tx, account.id, (as) => as`select public.has_recent_sign_in() as is_recent`, {
        session_id: account.sessionId,
      })
      expect(asked?.is_recent).toBe(false)
    }))

  const byAuth: [what: string, statement: string][] = [
    [
      'enrols no factor',
      `insert into auth.mfa_factors (id, user_id, factor_type, status, created_at, updated_at)
       values (gen_random_uuid(), $1, 'totp', 'unverified', now(), now())`,
    ],
    ['asks for no other address', "update auth.users set email_change = 'thief@example.com' where id = $1"],
  ]

  test.each(byAuth)('%s where the Auth service acts', (_, statement) =>
    rolledBackWithHooks(async (tx) => {
      const account = await newAccount(tx)
      const act = async (as: Tx) => {
        await as`set local role supabase_auth_admin`
        await as.unsafe(statement, [account.id])
        await as`set local role postgres`
      }
      await ageSignIn(tx, account.sessionId, 11)

      expect(await refusal(tx, act)).toMatchObject({ sqlstate: 'PT403', message: 'recent_sign_in_required' })

      await ageSignIn(tx, account.sessionId, 9)
      await act(tx)
    }),
  )
})

describe('API keys', () => {
  /** A key of the session that is there first, and one of a session that began a day later, as a thief's might. */
  const twoSessions = async (tx: Tx) => {
    const account = await newAccount(tx)
    await tx`update auth.sessions set created_at = now() - interval '2 days' where id = ${account.sessionId}`
    const mine = await makeKey(tx, account, { session_id: account.sessionId })
    const thief = await addSession(tx, account.id)
    const theirs = await makeKey(tx, account, { session_id: thief })
    const orphan = await makeKey(tx, account, { session_id: thief })
    await tx`update public.api_keys set session_id = null where id = ${orphan}`
    return { account, mine, theirs, orphan }
  }
  const left = async (tx: Tx, { id }: Account): Promise<string[]> =>
    (await tx`select id from public.api_keys where user_id = ${id} and revoked_at is null order by id`).map(
      ({ id }) => id,
    )

  test.each([
    ['session', ['mine']],
    ['all', []],
    ['none', ['mine', 'theirs', 'orphan']],
  ] as const)('with keys %s, ending the other sessions leaves %j', (keys, names) =>
    rolledBack(async (tx) => {
      const { account, ...made } = await twoSessions(tx)

      await asUser(tx, account.id, (as) => as`select public.revoke_my_other_sessions(${keys})`, {
        session_id: account.sessionId,
      })

      expect(await left(tx, account)).toEqual(names.map((name) => made[name]))
    }),
  )

  test('of all sessions and younger ones go when an admin ends all; a word that is none of the three changes nothing', () =>
    rolledBack(async (tx) => {
      const { account } = await twoSessions(tx)
      const end = (as: Tx, keys: string) => as`select public.revoke_all_sessions(${account.id}, ${keys})`

      expect((await refusal(tx, (sp) => end(sp, 'some'))).code).toBe('invalid_request_error')
      expect(await left(tx, account)).toHaveLength(3)
      await tx`select public.revoke_all_sessions(${account.id})`

      expect(await left(tx, account)).toEqual([])
    }))

  test.each([
    ['session', 1],
    ['all', 0],
    ['none', 3],
  ])('with the setting %s, a password change leaves %d', (keys, count) =>
    rolledBack(async (tx) => {
      const { account } = await twoSessions(tx)
      await tx`update private.settings set value = to_jsonb(${keys}::text) where key = 'sessions.keys_on_password_change'`
      await tx`update auth.users set encrypted_password = 'the first' where id = ${account.id}`
      await tx`set constraints all immediate`
      await tx`set constraints all deferred`

      // As the Auth service does it: the password, then all sessions but the one that asked.
      await tx`update auth.users set encrypted_password = 'another' where id = ${account.id}`
      await tx`delete from auth.sessions where user_id = ${account.id} and id <> ${account.sessionId}`
      await tx`set constraints all immediate`

      expect(await left(tx, account)).toHaveLength(count)
    }),
  )

  test('that a thief renewed go with the thief', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const key = await makeKey(tx, account)
      await tx`update private.api_key_secrets set created_at = now() - interval '2 days' where api_key_id = ${key}`
      await tx`update auth.sessions set created_at = now() - interval '2 days' where id = ${account.sessionId}`
      const thief = await addSession(tx, account.id)
      await asUser(tx, account.id, (as) => as`select public.rotate_api_key(${key})`, { session_id: thief })

      await asUser(tx, account.id, (as) => as`select public.revoke_my_session(${thief})`, {
        session_id: account.sessionId,
      })

      expect(await left(tx, account)).toEqual([])
    }))
})
