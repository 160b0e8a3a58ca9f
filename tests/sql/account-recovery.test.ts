/** Taking an account back by its address: slowly, told to everybody, stopped by whoever has the second factor. */
import { describe, expect, test } from 'vitest'
import { addFactor, addSession } from '../support/sql.ts'
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

/** An owner who lacks the factor of the account, in a session that began by a mail; `factorSession` is whoever has it. */
type Stranded = Account & { factorSession: string }

async function stranded(sql: Sql | Tx, account: Account, method = 'otp'): Promise<Stranded> {
  await addFactor(sql as Tx, account.id)
  await sql`update auth.sessions set aal = 'aal2' where id = ${account.sessionId}`
  const sessionId = await addSession(sql as Tx, account.id, { method })
  return { id: account.id, sessionId, factorSession: account.sessionId }
}
const newStranded = async (tx: Tx, method?: string) => stranded(tx, await newAccount(tx), method)

const as = <T>(tx: Tx, { id, sessionId }: Account, act: (tx: Tx) => Promise<T>, aal = 'aal1') =>
  asUser(tx, id, act, { session_id: sessionId, aal })
const ask = (tx: Tx, owner: Account) => as(tx, owner, (sp) => sp`select public.request_account_recovery() as due_at`)
const finish = (tx: Tx, owner: Account) => as(tx, owner, (sp) => sp`select public.finish_account_recovery()`)
const stop = async (tx: Tx, { id, factorSession }: Stranded) => {
  const holder = { id, sessionId: factorSession }
  return (await as(tx, holder, (sp) => sp`select public.stop_account_recovery() as stopped`, 'aal2'))[0]?.stopped
}
const wait = (sql: Sql | Tx, { id }: Account, time: string) => sql`
  update private.account_recoveries set requested_at = requested_at - ${time}::interval, due_at = due_at - ${time}::interval
  where user_id = ${id}`
const factorsOf = async (sql: Sql | Tx, { id }: Account) =>
  (await sql`select from auth.mfa_factors where user_id = ${id}`).length
const codeOf = async (tx: Tx, act: (sp: Tx) => Promise<unknown>) => (await refusal(tx, act)).code

describe('the factors of an account', () => {
  test('go after seven days and not before, with recovery codes, other sessions and all API keys', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await asUser(tx, account.id, (sp) => sp`select public.create_api_key('ci', array['models'])`)
      const owner = await stranded(tx, account)
      await ask(tx, owner)
      await wait(tx, owner, '6 days 23 hours 59 minutes')
      expect(await codeOf(tx, (sp) => finish(sp, owner))).toBe('not_allowed')
      expect(await factorsOf(tx, owner)).toBe(1)

      await wait(tx, owner, '1 minute')
      await finish(tx, owner)

      expect(await factorsOf(tx, owner)).toBe(0)
      expect([...(await tx`select id from auth.sessions where user_id = ${owner.id}`)]).toEqual([
        { id: owner.sessionId },
      ])
      expect(await tx`select from public.api_keys where user_id = ${owner.id} and revoked_at is null`).toHaveLength(0)
    }))

  test('stay when a session with the second factor says no, and the wish is not repeated the same day', () =>
    rolledBack(async (tx) => {
      const owner = await newStranded(tx)
      await ask(tx, owner)

      expect([await stop(tx, owner), await stop(tx, owner)]).toEqual([true, false])
      expect(await codeOf(tx, (sp) => ask(sp, owner))).toBe('rate_limit_exceeded')
      await wait(tx, owner, '8 days')
      expect(await codeOf(tx, (sp) => finish(sp, owner))).toBe('not_allowed')

      expect(await factorsOf(tx, owner)).toBe(1)
    }))

  test('stay when nobody comes for them within a week', () =>
    rolledBack(async (tx) => {
      const owner = await newStranded(tx)
      await ask(tx, owner)
      await wait(tx, owner, '14 days')

      expect(await codeOf(tx, (sp) => finish(sp, owner))).toBe('not_allowed')
    }))

  test('asked for and stopped at the same moment are stopped or removed, never both', () =>
    racing(10, async (sql, accounts) => {
      const owner = await stranded(sql, await accounts())
      await sql.begin((tx) => ask(tx, owner))
      await wait(sql, owner, '7 days')

      await together(10, (i) => sql.begin((tx) => (i % 2 ? finish(tx, owner) : stop(tx, owner))))

      const [row] = await sql`
        select (stopped_at is null) <> (finished_at is null) as is_one, finished_at is not null as is_finished
        from private.account_recoveries where user_id = ${owner.id}`
      expect(row).toEqual({ is_one: true, is_finished: (await factorsOf(sql, owner)) === 0 })
    }))
})

describe('who may ask', () => {
  test.each(['password', 'oauth', 'totp'])('is not who signed in by %s: that proves no address', (method) =>
    rolledBack(async (tx) => {
      const owner = await newStranded(tx, method)

      expect(await codeOf(tx, (sp) => ask(sp, owner))).toBe('recent_sign_in_required')
    }),
  )

  test.each(['support', 'admin'])('is not %s: for them there is no such way', (role) =>
    rolledBack(async (tx) => {
      const owner = await newStranded(tx)
      await tx`update public.profiles set role = ${role} where id = ${owner.id}`

      expect(await codeOf(tx, (sp) => ask(sp, owner))).toBe('not_allowed')
      expect(await codeOf(tx, (sp) => finish(sp, owner))).toBe('not_allowed')
    }),
  )

  test('is not who has no second factor, and a wish repeated is the same wish', () =>
    rolledBack(async (tx) => {
      const plain = await newAccount(tx)
      const mailed = { ...plain, sessionId: await addSession(tx, plain.id, { method: 'otp' }) }
      expect(await codeOf(tx, (sp) => ask(sp, mailed))).toBe('invalid_request_error')

      const owner = await newStranded(tx)

      expect(await ask(tx, owner)).toEqual(await ask(tx, owner))
      expect(
        await tx`select from private.mails where user_id = ${owner.id} and subject like 'Somebody asks%'`,
      ).toHaveLength(1)
    }))

  test('cannot stop it without the second factor', () =>
    rolledBack(async (tx) => {
      const owner = await newStranded(tx)
      await ask(tx, owner)

      const stopped = refusal(tx, (sp) => as(sp, owner, (it) => it`select public.stop_account_recovery()`))

      expect((await stopped).code).toBe('insufficient_aal')
    }))
})

test('every address of the account is told, the former ones too, and every session', () =>
  rolledBack(async (tx) => {
    const account = await newAccount(tx)
    await tx`update auth.users set email = ${`new-${account.id}@example.com`} where id = ${account.id}`
    const owner = await stranded(tx, account)

    await ask(tx, owner)

    const mails = await tx`
      select address from private.mails where user_id = ${owner.id} and subject like 'Somebody asks%' order by 1`
    expect(mails.map(({ address }) => address)).toEqual([`new-${owner.id}@example.com`, `sql-${owner.id}@example.com`])
    const told = await tx`select from public.notifications where user_id = ${owner.id} and type = 'recovery_requested'`
    expect(told).toHaveLength(1)
    const sent =
      await tx`select private from realtime.messages where topic = ${`user:${owner.id}`} and event = 'account_recovery'`
    expect([...sent]).toEqual([{ private: true }])
  }))

test('for 72 hours after it there are no API keys and credentials', () =>
  rolledBack(async (tx) => {
    const owner = await newStranded(tx)
    await ask(tx, owner)
    await wait(tx, owner, '7 days')
    await finish(tx, owner)
    const acts = [
      (sp: Tx) => as(sp, owner, (it) => it`select public.create_api_key('ci', array['models'])`),
      (sp: Tx) => as(sp, owner, (it) => it`select public.rotate_api_key(${crypto.randomUUID()})`),
      (sp: Tx) => sp`select private.start_secret_transfer(${owner.id}, ${owner.sessionId})`,
    ]

    for (const act of acts) expect(await codeOf(tx, async (sp) => act(sp))).toBe('not_allowed')
    await tx`update private.account_recoveries set finished_at = now() - interval '72 hours' where user_id = ${owner.id}`

    expect(await acts[0]?.(tx)).toHaveLength(1)
  }))
