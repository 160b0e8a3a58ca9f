/** What went wrong once must not stay wrong: one bad row, a missed job, a zone that could not follow yet. */
import { describe, expect, test } from 'vitest'
import { abandon, admit, baseModel, callOf, settle } from './ai-support.ts'
import { asUser, changeCredits, creditsOf, newAccount, refusal, rolledBack, type Tx } from './support.ts'

const sweep = async (tx: Tx) => (await tx`select private.settle_abandoned_ai_calls() as closed`)[0]?.closed

describe('the ledger’s own keys', () => {
  test.each(['sign_up', `ai_call:${crypto.randomUUID()}`, 'ai_calls:202608', 'stripe:session:cs_1'])(
    '%s is no key for a request',
    (key) =>
      rolledBack(async (tx) => {
        const { id } = await newAccount(tx)

        const refused = await refusal(tx, (sp) => changeCredits(sp, 'refund', id, 1, key))

        expect(refused).toMatchObject({ code: 'invalid_request_error', status: 400 })
        expect(await creditsOf(tx, id)).toEqual({ balance: 100, held: 0 })
      }),
  )
})

describe('a call that cannot be settled', () => {
  test('does not keep the sweeper from settling the others', () =>
    rolledBack(async (tx) => {
      await sweep(tx)
      const accounts = [await newAccount(tx), await newAccount(tx)] as const
      const [{ call_id: bad }, { call_id: good }] = [
        await admit(tx, accounts[0], { model: baseModel }),
        await admit(tx, accounts[1], { model: baseModel }),
      ]
      await tx`select private.start_ai_calls(${[bad, good]}::uuid[])`
      // It would give back more than is held.
      await tx`update private.accounts set held = 0, ai_concurrency_held = 0 where user_id = ${accounts[0].id}`
      for (const call of [bad, good]) await abandon(tx, call)

      expect(await sweep(tx)).toBe(1)

      expect(await callOf(tx, good)).toMatchObject({ state: 'expired', credits_charged: 1 })
      expect(await callOf(tx, bad)).toMatchObject({ state: 'held', hold_credits: 1 })
    }))
})

describe('partitions that were made too late', () => {
  /** The month, in UTC, in which the test's transaction began, as the names of partitions say it. */
  const monthOf = async (tx: Tx) => (await tx`select to_char(now() at time zone 'UTC', 'YYYYMM') as month`)[0]?.month

  test('take over the calls that landed in the default partition meanwhile', () =>
    rolledBack(async (tx) => {
      const name = `private.ai_calls_${await monthOf(tx)}`
      await tx.unsafe(`drop table if exists ${name}`)
      const { call_id } = await admit(tx, await newAccount(tx), { model: baseModel })
      await settle(tx, call_id)
      const placeOf = async () =>
        (await tx`select tableoid::regclass::text as name from public.ai_calls where id = ${call_id}`)[0]?.name
      expect(await placeOf()).toBe('private.ai_calls_default')

      await tx`select private.create_ai_call_partitions()`

      expect(await placeOf()).toBe(name)
      expect(await callOf(tx, call_id)).toMatchObject({ state: 'settled' })
    }))

  test('have the keys, indexes and checks of the others', () =>
    rolledBack(async (tx) => {
      const month = await monthOf(tx)
      const parts = async () => {
        const [row] = await tx`
          select (select count(*)::int from pg_constraint where conrelid = c.oid) as constraints,
            (select count(*)::int from pg_index where indrelid = c.oid) as indexes
          from pg_class c where c.oid = ${`private.ai_calls_${month}`}::regclass`
        return row
      }
      const [like] = await tx`
        select (select count(*)::int from pg_constraint where conrelid = c.oid) as constraints,
          (select count(*)::int from pg_index where indrelid = c.oid) as indexes
        from pg_class c where c.oid = 'private.ai_calls_default'::regclass`
      await tx.unsafe(`drop table if exists private.ai_calls_${month}`)

      await tx`select private.create_ai_call_partitions()`

      expect(await parts()).toEqual(like)
    }))
})

test('no index is invalid: what makes one partition fast makes all of them fast', () =>
  rolledBack(async (tx) => {
    const rows = await tx`
      select i.indexrelid::regclass::text as name from pg_index i join pg_class c on c.oid = i.indexrelid
      where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) and not (i.indisvalid and i.indisready)`

    expect(rows.map((row) => row.name)).toEqual([])
  }))

describe('daily limits that could not follow the zone yet', () => {
  test('follow when the zone is saved again after the wait', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const save = (zone: string) =>
        asUser(tx, id, (as) => as`update public.profiles set time_zone = ${zone} where id = ${id}`)
      await save('Europe/Berlin')
      await save('Asia/Tokyo')
      await tx`update public.profiles set quota_time_zone_changed_at = now() - interval '31 days' where id = ${id}`

      await save('Asia/Tokyo')

      const [row] = await tx`select quota_time_zone from public.profiles where id = ${id}`
      expect(row?.quota_time_zone).toBe('Asia/Tokyo')
    }))
})
