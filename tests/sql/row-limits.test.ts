/** What an account may keep, how fast and how much of it, in every table that its user makes grow. */
import type postgres from 'postgres'
import { describe, expect, test } from 'vitest'
import { inSession } from './in-session.ts'
import { type Account, newAccount, racing, refusal, rolledBack, setLimit, type Tx, together } from './support.ts'

const chat = 'b6a4c0de-0000-7000-8000-000000000001'

/** How a user adds one row to each table that has an end, with what it needs to be there first. */
const adds: Record<string, (as: Tx, index: number) => PromiseLike<unknown>> = {
  chats: (as) => as`insert into public.chats (title) values ('x')`,
  documents: (as) => as`insert into public.documents (content) values ('"12345678"')`,
  messages: async (as, index) => {
    if (index === 0) await as`insert into public.chats (id) values (${chat})`
    await as`insert into public.messages (chat_id, role, content) values (${chat}, 'user', '1234567890')`
  },
  psychology_tests: (as) => as`
    insert into public.psychology_tests (questionnaire_id, questionnaire_version, answers) values ('mood_check', 1, '"12345678"')`,
  api_keys: (as) => as`select public.create_api_key('x', '{models}')`,
}

const totals = (tx: Tx, { id }: Account) => tx`
  select meter, used::int from private.usage_counts where user_id = ${id} and period = 'total' and used > 0 order by meter`

/** Adds so many rows as their user, each alone. */
const addTo = (tx: Tx, account: Account, table: string, times: number) =>
  inSession(tx, account, async (as) => {
    for (let index = 0; index < times; index++) await adds[table]?.(as, index)
  })

describe.each(Object.keys(adds))('%s', (table) => {
  test.each([
    ['total', 'insufficient_quota', 402],
    ['minute', 'rate_limit_exceeded', 429],
  ] as const)('of a %s are refused beyond the limit, and the ones before stay', (period, code, status) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await setLimit(tx, account.id, table, period, 2)
      await addTo(tx, account, table, 2)

      const refused = await refusal(tx, (sp) => inSession(sp, account, (as) => Promise.resolve(adds[table]?.(as, 1))))

      expect(refused).toMatchObject({ code, status, message: expect.stringContaining(`The limit of 2 ${table}`) })
      expect(await tx`select from ${tx(`public.${table}`)} where user_id = ${account.id}`).toHaveLength(2)
    }),
  )

  test('have a limit on every plan, also on one that says nothing of them', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await tx`insert into public.plans (id, name) values ('silent', 'Silent')`
      await tx`update public.profiles set plan_id = 'silent' where id = ${id}`

      const amounts = await tx`
        select period, amount::int > 0 as some from private.meter_amounts
        where user_id = ${id} and meter = ${table} and period in ('minute', 'total') order by period`

      expect(amounts).toEqual([
        { period: 'minute', some: true },
        { period: 'total', some: true },
      ])
    }))
})

describe('bytes', () => {
  test.each([
    ['documents', 10],
    ['messages', 10],
    ['psychology_tests', 10],
  ])('of %s have a limit of their own', (table, bytes) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await setLimit(tx, account.id, `${table}_bytes`, 'total', 2 * bytes)
      await addTo(tx, account, table, 2)

      const refused = await refusal(tx, (sp) => inSession(sp, account, (as) => Promise.resolve(adds[table]?.(as, 1))))

      expect(refused).toMatchObject({ code: 'insufficient_quota', status: 402 })
    }),
  )

  test('of a row that grows count, and those of one that shrinks are given back', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await setLimit(tx, account.id, 'documents_bytes', 'total', 25)
      await addTo(tx, account, 'documents', 2)
      const write = (as: Tx, content: string) =>
        as`update public.documents set content = ${content}::text::jsonb where true`

      const refused = await refusal(tx, (sp) => inSession(sp, account, (as) => write(as, '"12345678901"')))
      await inSession(tx, account, (as) => write(as, '"1"'))

      expect(refused.code).toBe('insufficient_quota')
      expect(await totals(tx, account)).toEqual([
        { meter: 'documents', used: 2 },
        { meter: 'documents_bytes', used: 6 },
      ])
    }))
})

describe('a minute that is full', () => {
  test('says when to try again, as a header that clients know', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await setLimit(tx, account.id, 'documents', 'minute', 1)
      await addTo(tx, account, 'documents', 1)

      const raised = await tx
        .savepoint((sp) => addTo(sp, account, 'documents', 1))
        .catch((error: postgres.PostgresError) => error)

      const detail = raised && JSON.parse(raised.detail ?? '{}')
      expect(detail).toEqual({ status: 429, headers: { 'Retry-After': '60' } })
    }))
})

describe('what is deleted', () => {
  test('makes room in the total and none in the minute', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await setLimit(tx, account.id, 'documents', 'total', 2)
      await setLimit(tx, account.id, 'documents', 'minute', 3)
      await addTo(tx, account, 'documents', 2)
      await inSession(tx, account, (as) => as`delete from public.documents where true`)

      await addTo(tx, account, 'documents', 1)
      const refused = await refusal(tx, (sp) => addTo(sp, account, 'documents', 1))

      expect(refused.code).toBe('rate_limit_exceeded')
    }))

  test('with a chat are its messages, too', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await addTo(tx, account, 'messages', 3)

      await inSession(tx, account, (as) => as`delete from public.chats where true`)

      expect(await totals(tx, account)).toEqual([])
    }))

  test('with the account leaves nothing behind', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      for (const table of Object.keys(adds)) await addTo(tx, account, table, 1)

      await tx`delete from auth.users where id = ${account.id}`

      expect(await tx`select from private.usage_counts where user_id = ${account.id}`).toHaveLength(0)
      expect(await tx`select from private.compare_row_counts()`).toHaveLength(0)
    }))
})

describe('many rows', () => {
  test('in one statement go in together or not at all', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await setLimit(tx, account.id, 'documents', 'total', 5)
      const add = (as: Tx, rows: number) =>
        as`insert into public.documents (title) select 'x' from generate_series(1, ${rows})`

      const refused = await refusal(tx, (sp) => inSession(sp, account, (as) => add(as, 6)))
      await inSession(tx, account, (as) => add(as, 5))

      expect(refused.code).toBe('insufficient_quota')
      expect(await totals(tx, account)).toMatchObject([{ meter: 'documents', used: 5 }, { meter: 'documents_bytes' }])
    }))

  test('of 20 who race for room for 7, exactly 7 get in', () =>
    racing(20, async (sql, accounts) => {
      const { id } = await accounts()
      await setLimit(sql, id, 'documents', 'total', 7)

      await together(20, () => sql`insert into public.documents (user_id, title) values (${id}, 'x')`)

      expect(await sql`select from public.documents where user_id = ${id}`).toHaveLength(7)
    }))
})

describe('other ends', () => {
  test('devices come at most so many a minute, and one that is known is none', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await setLimit(tx, account.id, 'devices', 'minute', 2)
      const register = (as: Tx, device: string) => as`select public.register_device(${device}, 'x', 'web')`
      await inSession(tx, account, async (as) => {
        for (const device of ['a', 'b', 'a', 'b']) await register(as, device)
      })

      const refused = await refusal(tx, (sp) => inSession(sp, account, (as) => register(as, 'c')))

      expect(refused).toMatchObject({ code: 'rate_limit_exceeded', status: 429 })
    }))

  test('consents have an end, after which selling can be forbidden and no longer allowed', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await setLimit(tx, account.id, 'consents', 'total', 1)
      const say = (as: Tx, value: boolean) => as`select public.set_do_not_sell(${value})`
      await inSession(tx, account, async (as) => {
        for (const value of [true, false, true]) await say(as, value)
      })

      const refused = await refusal(tx, (sp) => inSession(sp, account, (as) => say(as, false)))

      expect(refused.code).toBe('insufficient_quota')
      expect(await tx`select do_not_sell from public.profiles where id = ${account.id}`).toEqual([
        { do_not_sell: true },
      ])
    }))

  test('API keys count when they are revoked, too, until they are forgotten', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await setLimit(tx, account.id, 'api_keys', 'total', 1)
      await addTo(tx, account, 'api_keys', 1)
      await inSession(tx, account, (as) => as`select public.revoke_api_key(id) from public.api_keys`)
      const refused = await refusal(tx, (sp) => addTo(sp, account, 'api_keys', 1))

      await tx`update public.api_keys set revoked_at = now() - interval '91 days' where user_id = ${account.id}`
      await tx`select private.delete_old_api_keys()`
      await addTo(tx, account, 'api_keys', 1)

      expect(refused.code).toBe('insufficient_quota')
    }))

  test('a key is rotated at most so often a day', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await setLimit(tx, account.id, 'api_key_secrets', 'day', 2)
      await addTo(tx, account, 'api_keys', 1)
      const rotate = (as: Tx) => as`select public.rotate_api_key(id) from public.api_keys`
      await inSession(tx, account, rotate)

      expect((await refusal(tx, (sp) => inSession(sp, account, rotate))).code).toBe('daily_quota_exceeded')
    }))
})

describe('the totals', () => {
  test('that are wrong are found, told at night and counted anew', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await addTo(tx, account, 'documents', 2)
      expect(await tx`select from private.compare_row_counts()`).toHaveLength(0)
      await tx`update private.usage_counts set used = 1 where user_id = ${account.id} and meter = 'documents' and period = 'total'`
      await tx`delete from private.usage_counts where user_id = ${account.id} and meter = 'documents_bytes'`

      const [night] = await tx`select private.warn_of_wrong_row_counts() as wrong`
      const [mended] = await tx`select private.recount_rows(${account.id}) as totals`

      expect([night?.wrong, mended?.totals]).toEqual([2, 2])
      expect(
        await tx`select from public.security_events where type = 'row_counts_wrong' and created_at = now()`,
      ).toHaveLength(1)
      expect(await totals(tx, account)).toEqual([
        { meter: 'documents', used: 2 },
        { meter: 'documents_bytes', used: 20 },
      ])
    }))
})
