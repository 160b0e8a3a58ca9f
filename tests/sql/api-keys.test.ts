/** API keys: making, rotating, revoking them, and what one is worth at the moment of a call. */
import { describe, expect, test } from 'vitest'
import { verifyApiKey } from '../../functions/_shared/auth/identify-caller.ts'
import { addFactor } from '../support/sql.ts'
import { admit, newModel } from './ai-support.ts'
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

type Wish = { name?: string | null; scopes?: string[] | null; expires_at?: string | null; allowed_cidrs?: string[] }
type Made = { id: string; prefix: string; secret: string }

const chat = ['chat.completions']

const create = (as: Sql | Tx, { name = 'ci', scopes = chat, expires_at = null, allowed_cidrs = [] }: Wish = {}) =>
  as<Made[]>`
    select * from public.create_api_key(${name}, ${scopes}::text[], ${expires_at}::timestamptz, ${allowed_cidrs}::text[])`

const make = (tx: Tx, { id }: Account, wish: Wish = {}): Promise<Made> =>
  asUser(tx, id, async (as) => {
    const [made] = await create(as, wish)
    if (!made) throw new Error('no key was made')
    return made
  })

const hashOf = async (secret: string) => (await verifyApiKey(secret)).keyHash

const check = async (tx: Tx, secret: string, scope = 'chat.completions', ip: string | null = null) => {
  const [row] = await tx`
    select user_id, refusal ->> 'code' as code
    from private.check_api_key(decode(${await hashOf(secret)}, 'hex'), ${scope}, ${ip}::inet, null)`
  return row
}

const keysOf = (tx: Tx, { id }: Account) =>
  tx`select * from public.api_keys where user_id = ${id} order by id`.then((rows) => [...rows])

const auditOf = async (tx: Tx, { id }: Account) =>
  (await tx`select action from private.audit_log where user_id = ${id} and action like 'api_key.%' order by id`).map(
    ({ action }) => action,
  )

describe('a new key', () => {
  test('is shown once, known by its prefix, and kept as a hash only', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)

      const { id, prefix, secret } = await make(tx, account, { name: ' My service ' })

      expect(secret).toMatch(/^pal_live_[0-9a-hjkmnp-tv-z]{32}[0-9a-f]{8}$/)
      expect(prefix).toBe(secret.slice(0, 17))
      expect(await keysOf(tx, account)).toMatchObject([
        { id, prefix, name: 'My service', scopes: chat, expires_at: null, revoked_at: null, last_used_at: null },
      ])
      const dump = await tx`
        select (select string_agg(k::text, ' ') from public.api_keys k) || (select string_agg(s::text, ' ') from private.api_key_secrets s)
          || (select string_agg(l::text, ' ') from private.audit_log l) as everything`
      expect(dump[0]?.everything).toContain(prefix)
      expect(dump[0]?.everything).not.toContain(secret.slice(17))
      expect(await auditOf(tx, account)).toEqual(['api_key.create'])
    }))

  test.each<[string, Wish]>([
    ['without a name', { name: '  ' }],
    ['with no name at all', { name: null }],
    ['without a scope', { scopes: [] }],
    ['with no scopes at all', { scopes: null }],
    ['with a scope that does not exist', { scopes: ['chat.completions', 'everything'] }],
    ['that has expired already', { expires_at: '2020-01-01T00:00:00Z' }],
    ['for something that is no network', { allowed_cidrs: ['203.0.113.0/24', 'localhost'] }],
    ['for an address inside its network', { allowed_cidrs: ['203.0.113.7/24'] }],
    ['for too many networks', { allowed_cidrs: Array.from({ length: 21 }, (_, i) => `10.0.${i}.0/24`) }],
  ])('%s is refused', (_, wish) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)

      const refused = await refusal(tx, (sp) => make(sp, account, wish))

      expect(refused).toMatchObject({ code: 'invalid_request_error', status: 400 })
      expect(await keysOf(tx, account)).toEqual([])
    }),
  )

  test('needs the second factor of an account that has one', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await addFactor(tx, account.id)

      expect((await refusal(tx, (sp) => make(sp, account))).code).toBe('insufficient_aal')
    }))

  test('beyond the setting is refused, however many are made at once', () =>
    racing(12, async (sql, accounts) => {
      const { id, sessionId } = await accounts()
      const claims = JSON.stringify({ sub: id, role: 'authenticated', aal: 'aal1', session_id: sessionId })
      const one = () =>
        sql
          .begin(async (tx) => {
            await tx`select set_config('role', 'authenticated', true), set_config('request.jwt.claims', ${claims}, true)`
            await create(tx)
          })
          .then(
            () => true,
            () => false,
          )

      const made = await together(24, one)

      expect(made.filter(Boolean)).toHaveLength(20)
    }))
})

describe('a key is good', () => {
  test('for its owner, its scopes and nobody else’s eyes', () =>
    rolledBack(async (tx) => {
      const [owner, other] = [await newAccount(tx), await newAccount(tx)]
      const { id, secret } = await make(tx, owner)

      expect(await check(tx, secret)).toEqual({ user_id: owner.id, code: null })
      expect(await check(tx, secret, 'embeddings')).toEqual({ user_id: null, code: 'not_allowed' })
      expect(await asUser(tx, other.id, (as) => as`select id from public.api_keys where id = ${id}`)).toHaveLength(0)
      expect(await asUser(tx, owner.id, (as) => as`select id from public.api_keys where id = ${id}`)).toHaveLength(1)
    }))

  test('until it expires', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const { id, secret } = await make(tx, account, { expires_at: '2100-01-01T00:00:00Z' })
      expect(await check(tx, secret)).toMatchObject({ code: null })

      await tx`update public.api_keys set expires_at = now() where id = ${id}`

      expect(await check(tx, secret)).toMatchObject({ user_id: null, code: 'invalid_api_key' })
    }))

  test.each([
    ['203.0.113.9', null],
    ['2001:db8::17', null],
    ['203.0.114.9', 'not_allowed'],
    ['2001:db9::17', 'not_allowed'],
    [null, 'not_allowed'],
  ])('from the networks it names: from %s the answer is %s', (ip, code) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const { secret } = await make(tx, account, { allowed_cidrs: ['203.0.113.0/24', '2001:db8::/32'] })

      expect(await check(tx, secret, 'chat.completions', ip)).toMatchObject({ code })
    }),
  )

  test('and its use is noted once in five minutes', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const { id, secret } = await make(tx, account)
      const usedAt = async () => (await keysOf(tx, account))[0]?.last_used_at as Date

      await check(tx, secret)
      expect(await usedAt()).not.toBeNull()
      await tx`update public.api_keys set last_used_at = now() - interval '4 minutes' where id = ${id}`
      const before = await usedAt()
      await check(tx, secret)
      expect(await usedAt()).toEqual(before)
      await tx`update public.api_keys set last_used_at = now() - interval '6 minutes' where id = ${id}`
      await check(tx, secret)
      expect((await usedAt()).getTime()).toBeGreaterThan(before.getTime())
    }))
})

describe('rotating', () => {
  const rotate = (tx: Tx, { id }: Account, keyId: string, overlap: number | null = 3600) =>
    asUser(tx, id, async (as) => (await as`select * from public.rotate_api_key(${keyId}, ${overlap})`)[0] as Made)

  test('gives a new secret, and the old one works until the overlap is over', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const { id, secret: old } = await make(tx, account)

      const { secret, prefix } = await rotate(tx, account, id)

      expect(prefix).toBe(secret.slice(0, 17))
      expect((await keysOf(tx, account)).map((key) => key.prefix)).toEqual([prefix])
      expect([await check(tx, old), await check(tx, secret)]).toMatchObject([{ code: null }, { code: null }])
      await tx`update private.api_key_secrets set valid_until = now() where api_key_id = ${id} and valid_until is not null`
      expect([await check(tx, old), await check(tx, secret)]).toMatchObject([
        { code: 'invalid_api_key' },
        { code: null },
      ])
      expect(await auditOf(tx, account)).toEqual(['api_key.create', 'api_key.rotate'])
    }))

  test('without an overlap ends the old one at once, and a second rotation prolongs nothing', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const { id, secret: first } = await make(tx, account)
      const { secret: second } = await rotate(tx, account, id, 60)
      await tx`update private.api_key_secrets set valid_until = now() + interval '1 second' where valid_until is not null and api_key_id = ${id}`

      const { secret: third } = await rotate(tx, account, id, 0)

      const codes = [await check(tx, first), await check(tx, second), await check(tx, third)].map((row) => row?.code)
      expect(codes).toEqual(['invalid_api_key', 'invalid_api_key', null])
    }))

  test.each([-1, 604_801, null])('with an overlap of %s seconds is refused', (overlap) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const { id } = await make(tx, account)

      expect((await refusal(tx, (sp) => rotate(sp, account, id, overlap))).code).toBe('invalid_request_error')
    }),
  )

  test('and revoking are for the owner only', () =>
    rolledBack(async (tx) => {
      const [owner, other] = [await newAccount(tx), await newAccount(tx)]
      const { id, secret } = await make(tx, owner)
      const revoke = (sp: Tx) => asUser(sp, other.id, (as) => as`select public.revoke_api_key(${id})`)

      expect((await refusal(tx, (sp) => rotate(sp, other, id))).code).toBe('not_found')
      expect((await refusal(tx, revoke)).code).toBe('not_found')
      expect(await check(tx, secret)).toMatchObject({ code: null })
    }))
})

describe('revoking', () => {
  test('ends every secret of the key at once and for good', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const { id, secret } = await make(tx, account)
      const revoke = () => asUser(tx, account.id, (as) => as`select public.revoke_api_key(${id})`)

      await revoke()
      await revoke()

      expect(await check(tx, secret)).toMatchObject({ user_id: null, code: 'invalid_api_key' })
      expect(
        (await refusal(tx, (sp) => asUser(sp, account.id, (as) => as`select public.rotate_api_key(${id}, 0)`))).code,
      ).toBe('not_found')
      expect(await auditOf(tx, account)).toEqual(['api_key.create', 'api_key.revoke'])
    }))
})

describe('an AI call by key', () => {
  const byKey = async (tx: Tx, account: Account, secret: string, more: object = {}) =>
    admit(tx, account, {
      ...({ user_id: undefined, session_id: undefined, api_key_hash: await hashOf(secret), ...more } as object),
    })

  test('is admitted for the key’s owner without any session, and its row names the key', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await newModel(tx)
      const { id, secret } = await make(tx, account)
      await tx`delete from auth.sessions where user_id = ${account.id}`

      const answer = await byKey(tx, account, secret)

      expect(answer).toMatchObject({ admitted: true })
      const [call] =
        await tx`select user_id, session_id, api_key_id from private.ai_holds where call_id = ${answer.call_id}`
      expect(call).toEqual({ user_id: account.id, session_id: null, api_key_id: id })
    }))

  test('takes the key’s word for who calls, not the request’s', () =>
    rolledBack(async (tx) => {
      const [owner, victim] = [await newAccount(tx), await newAccount(tx)]
      await newModel(tx)
      const { secret } = await make(tx, owner)

      const answer = await byKey(tx, owner, secret, { user_id: victim.id, session_id: victim.sessionId })

      expect(await tx`select user_id from private.ai_holds where call_id = ${answer.call_id}`).toEqual([
        { user_id: owner.id },
      ])
    }))

  test('is refused for an unknown key, a missing scope and a suspended owner; nothing is charged', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await newModel(tx)
      const [good, embeddings] = [await make(tx, account), await make(tx, account, { scopes: ['embeddings'] })]
      const unknown = await make(tx, account)
      await tx`delete from private.api_key_secrets where api_key_id = ${unknown.id}`

      expect(await byKey(tx, account, unknown.secret)).toMatchObject({ admitted: false, code: 'invalid_api_key' })
      expect(await byKey(tx, account, embeddings.secret)).toMatchObject({ admitted: false, code: 'not_allowed' })
      await tx`select public.suspend_account(${account.id}, 'test')`
      expect(await byKey(tx, account, good.secret)).toMatchObject({ admitted: false, code: 'account_suspended' })
      expect(await tx`select held::int, balance::int from private.accounts where user_id = ${account.id}`).toEqual([
        { held: 0, balance: 100 },
      ])
    }))
})
