/** The log of calls is part of the ledger: written once, and when a month of it goes, what it cost stays. */
import { describe, expect, test } from 'vitest'
import { admit, baseModel, free, settle } from './ai-support.ts'
import { type Account, changeCredits, creditsOf, newAccount, refusal, rolledBack, type Tx } from './support.ts'

describe('a call that has ended', () => {
  test.each([
    ['changed', 'update public.ai_calls set credits_charged = 0 where user_id = $1'],
    ['removed', 'delete from public.ai_calls where user_id = $1'],
    ['taken into another account', `update public.ai_calls set user_id = gen_random_uuid() where user_id = $1`],
  ])('is not %s, by the project’s owner neither', (_verb, statement) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await settle(tx, (await admit(tx, account, { model: baseModel })).call_id)

      const refused = await refusal(tx, (sp) => sp.unsafe(statement, [account.id]))

      expect(refused).toMatchObject({
        sqlstate: '42501',
        message: expect.stringMatching(/^ai_calls_\w+ is append-only$/),
      })
    }),
  )

  test('is not truncated, with its table or its month', () =>
    rolledBack(async (tx) => {
      await settle(tx, (await admit(tx, await newAccount(tx), { model: baseModel })).call_id)
      await tx`set constraints all immediate`
      const [place] = await tx`select tableoid::regclass::text as name from public.ai_calls limit 1`

      for (const table of ['public.ai_calls', place?.name])
        expect(await refusal(tx, (sp) => sp.unsafe(`truncate ${table}`)), table).toMatchObject({ sqlstate: '42501' })
    }))

  test('goes with its account, and with nothing else', () =>
    rolledBack(async (tx) => {
      const [one, two] = [await newAccount(tx), await newAccount(tx)]
      for (const account of [one, two]) await settle(tx, (await admit(tx, account, { model: baseModel })).call_id)
      await admit(tx, one, { model: baseModel })

      await tx`delete from auth.users where id = ${one.id}`

      const left = await tx`
        select user_id from public.ai_calls where user_id in (${one.id}, ${two.id})
        union all select user_id from private.ai_holds where user_id in (${one.id}, ${two.id})`
      expect([...left]).toEqual([{ user_id: two.id }])
    }))
})

describe('a month of the log', () => {
  /** The first day of the month, in UTC, that was so many months before the test's transaction began. */
  const monthOf = async (tx: Tx, ago: number): Promise<string> =>
    (
      await tx`select (date_trunc('month', now() at time zone 'UTC') - make_interval(months => ${ago}))::date::text as day`
    )[0]?.day

  /** The partition of that month, as the job made it then. */
  async function addPartition(tx: Tx, day: string): Promise<string> {
    const name = `private.ai_calls_${day.slice(0, 7).replace('-', '')}`
    await tx.unsafe(`
      create table ${name} (like public.ai_calls including defaults including constraints);
      alter table public.ai_calls attach partition ${name}
        for values from ('${day} 00:00:00+00') to ('${day} 00:00:00+00'::timestamptz + interval '1 month')`)
    return name
  }

  /** A call that began on the 15th of a month. */
  async function callIn(tx: Tx, account: Account, day: string): Promise<string> {
    const { call_id } = await admit(tx, account, { model: baseModel })
    const [time] = await tx`
      select overlay(replace(${call_id}, '-', '') placing
        lpad(to_hex((extract(epoch from ${day}::date + interval '14 days') * 1000)::bigint), 12, '0') from 1 for 12)::uuid as id`
    await tx`
      update private.ai_holds set call_id = ${time?.id}, created_at = private.uuid_v7_time(${time?.id}) where call_id = ${call_id}`
    return time?.id
  }

  const entriesOf = async (tx: Tx, { id }: Account) => {
    const rows = await tx`
      select kind, amount::int, reason, balance_after::int as after from public.credit_entries where user_id = ${id} order by created_at, id`
    return rows.map(({ kind, amount, reason, after }) => [kind, amount, reason, after])
  }
  const drop = async (tx: Tx, day: string) =>
    (await tx`select private.drop_ai_calls(${day}::date)::int as accounts`)[0]?.accounts

  /** As the nightly job leaves the days of calls behind. */
  const addedUp = (tx: Tx) => tx`
    insert into private.ai_usage_days (day) select distinct (c.created_at at time zone 'UTC')::date from public.ai_calls c on conflict do nothing`

  test('stays until its days are added up', () =>
    rolledBack(async (tx) => {
      const day = await monthOf(tx, 3)
      await addPartition(tx, day)
      await settle(tx, await callIn(tx, await newAccount(tx), day))

      expect(await refusal(tx, (sp) => drop(sp, day))).toMatchObject({ code: 'invalid_request_error' })
      await addedUp(tx)
      expect(await drop(tx, day)).toBe(1)
    }))

  test('can go: each account has one entry in the place of its calls, and every balance is still the sum of its entries', () =>
    rolledBack(async (tx) => {
      const day = await monthOf(tx, 3)
      const partition = await addPartition(tx, day)
      const [one, two, idle] = [await newAccount(tx), await newAccount(tx), await newAccount(tx)]
      for (const account of [one, one, two]) await settle(tx, await callIn(tx, account, day))
      await settle(tx, await callIn(tx, idle, day), free)
      const recent = (await admit(tx, one, { model: baseModel })).call_id
      await settle(tx, recent)
      await changeCredits(tx, 'grant', two.id, 5)
      const balances = await Promise.all([one, two, idle].map(({ id }) => creditsOf(tx, id)))
      await addedUp(tx)

      expect(await drop(tx, day.replace(/01$/, '20'))).toBe(2)

      expect((await tx`select to_regclass(${partition}) as name`)[0]?.name).toBeNull()
      const month = day.slice(0, 7)
      expect((await entriesOf(tx, one)).slice(1)).toEqual([
        ['ai_call', -2, `2 AI calls of ${month}`, 98],
        ['ai_call', -1, `AI call: ${baseModel}`, 97],
      ])
      expect(await entriesOf(tx, two)).toContainEqual(['ai_call', -1, `1 AI calls of ${month}`, 99])
      expect((await entriesOf(tx, idle)).map(([kind]) => kind)).toEqual(['sign_up'])
      expect(await Promise.all([one, two, idle].map(({ id }) => creditsOf(tx, id)))).toEqual(balances)
      for (const { id } of [one, two, idle])
        expect(
          (await tx`select sum(amount)::int as sum from public.credit_entries where user_id = ${id}`)[0]?.sum,
        ).toBe((await creditsOf(tx, id)).balance)
      expect([...(await tx`select * from private.verify_accounts()`)]).toEqual([])
      expect((await tx`select id from public.ai_calls where user_id = ${one.id}`).map(({ id }) => id)).toEqual([recent])
    }))

  test.each([
    ['this month', 0],
    ['the last month', 1],
    ['the next month', -1],
  ])('stays when it is %s', (_name, ago) =>
    rolledBack(async (tx) => {
      await tx`select private.create_ai_call_partitions()`
      const day = await monthOf(tx, ago)

      expect(await refusal(tx, (sp) => drop(sp, day))).toMatchObject({ code: 'invalid_request_error' })
    }),
  )

  test('stays while a call of it runs', () =>
    rolledBack(async (tx) => {
      const day = await monthOf(tx, 3)
      await addPartition(tx, day)
      const running = await callIn(tx, await newAccount(tx), day)

      expect(await refusal(tx, (sp) => drop(sp, day))).toMatchObject({ code: 'invalid_request_error' })
      await settle(tx, running)
      await addedUp(tx)
      expect(await drop(tx, day)).toBe(1)
    }))

  test('that is not there changes nothing', () =>
    rolledBack(async (tx) => {
      const day = await monthOf(tx, 3)
      const account = await newAccount(tx)
      await settle(tx, await callIn(tx, account, day))
      await addedUp(tx)

      expect(await refusal(tx, (sp) => drop(sp, day))).toMatchObject({ sqlstate: '42P01' })
      expect(await entriesOf(tx, account)).toHaveLength(2)
    }))
})
