/** Credits that expire: which are spent first, what holds keep alive, and what a clawback does. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { runs } from '../support/runs.ts'
import { abandon, admit, baseModel, callsOf, free, settle } from './ai-support.ts'
import {
  asUser,
  changeCredits,
  creditsOf,
  newAccount,
  racing,
  refusal,
  rolledBack,
  type Sql,
  setLimit,
  type Tx,
  together,
} from './support.ts'

const grant = (
  sql: Sql | Tx,
  userId: string,
  amount: number,
  kind = 'promotional',
  inTime: string | null = null,
) => sql`
  select public.grant_credits(${userId}, ${amount}, 'test', ${crypto.randomUUID()}, ${kind}, now() + ${inTime}::interval)`
const clawBack = async (sql: Sql | Tx, userId: string, amount: number, key: string = crypto.randomUUID()) =>
  (await sql`select public.claw_back_credits(${userId}, ${amount}, 'refunded', ${key}) as answer`)[0]?.answer
const lots = async (tx: Tx, userId: string) => {
  const rows = await asUser(
    tx,
    userId,
    (as) => as`select kind, remaining::int as left from public.get_my_credit_lots()`,
  )
  return rows.map(({ kind, left }) => `${kind} ${left}`)
}
/** Lets time pass for what an account was granted, under its lock, as everything that touches its lots. */
const pass = async (sql: Sql | Tx, userId: string, time: string) => {
  await sql`
    with account as materialized (select user_id from private.accounts where user_id = ${userId} for no key update),
      lots as (
        update private.credit_lots l set expires_at = expires_at - ${time}::interval from account a where l.user_id = a.user_id)
    update private.accounts a set next_expiry_at = next_expiry_at - ${time}::interval from account where a.user_id = account.user_id`
}
const unbalanced = async (sql: Sql | Tx, userId: string) =>
  (await sql`select * from private.verify_accounts() where user_id = ${userId}`).length

describe('the order in which credits are spent', () => {
  test('what expires first, then promotional, monthly, purchased', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx, { credits: 0 })
      await grant(tx, id, 10, 'purchased')
      await grant(tx, id, 10, 'monthly')
      await grant(tx, id, 10, 'promotional')
      await grant(tx, id, 10, 'purchased', '1 day')
      const seen = [await lots(tx, id)]
      for (let spent = 0; spent < 4; spent += 1) {
        await changeCredits(tx, 'deduct', id, 8)
        seen.push(await lots(tx, id))
      }

      expect(seen).toEqual([
        ['purchased 10', 'promotional 10', 'monthly 10', 'purchased 10'],
        ['purchased 2', 'promotional 10', 'monthly 10', 'purchased 10'],
        ['promotional 4', 'monthly 10', 'purchased 10'],
        ['monthly 6', 'purchased 10'],
        ['purchased 8'],
      ])
    }))

  test('what was spent before a grant is not taken from it', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx, { credits: 0 })
      await grant(tx, id, 10, 'purchased')
      await changeCredits(tx, 'deduct', id, 4)

      await grant(tx, id, 5, 'promotional', '1 hour')

      expect(await lots(tx, id)).toEqual(['promotional 5', 'purchased 6'])
    }))

  test('calls spend in the same order', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx, { credits: 0 })
      await grant(tx, account.id, 10, 'purchased')
      await grant(tx, account.id, 1, 'monthly', '1 day')
      for (let call = 0; call < 3; call += 1) await settle(tx, (await admit(tx, account, { model: baseModel })).call_id)

      expect(await lots(tx, account.id)).toEqual(['purchased 8'])
    }))
})

describe('credits that expire', () => {
  test('are gone at that moment, with an entry that says so, for whoever asks first', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx, { credits: 0 })
      await grant(tx, id, 10, 'monthly', '1 day')
      await grant(tx, id, 3, 'purchased')
      await changeCredits(tx, 'deduct', id, 4)
      await pass(tx, id, '25 hours')

      const [mine] = await asUser(tx, id, (as) => as`select balance::int, held::int from public.get_my_credits()`)

      const entries =
        await tx`select amount::int, kind from public.credit_entries where user_id = ${id} and kind = 'expiry'`
      expect(mine).toEqual({ balance: 3, held: 0 })
      expect([...entries]).toEqual([{ amount: -6, kind: 'expiry' }])
      expect(await unbalanced(tx, id)).toBe(0)
    }))

  test('cannot be spent by a call or a deduction after that', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx, { credits: 0 })
      await grant(tx, account.id, 10, 'promotional', '1 hour')
      await pass(tx, account.id, '2 hours')

      expect((await admit(tx, account, { model: baseModel })).code).toBe('insufficient_credits')
      expect((await refusal(tx, (sp) => changeCredits(sp, 'deduct', account.id, 1))).code).toBe('insufficient_credits')
    }))

  test('do not expire under a call that holds them; what it does not use, does', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx, { credits: 0 })
      await grant(tx, account.id, 2, 'promotional', '1 hour')
      const [used, failed] = [
        await admit(tx, account, { model: baseModel }),
        await admit(tx, account, { model: baseModel }),
      ]
      await pass(tx, account.id, '2 hours')

      await settle(tx, used.call_id)
      await settle(tx, failed.call_id, free)
      await pass(tx, account.id, '2 minutes')
      await tx`select private.expire_due_credits()`

      const entries =
        await tx`select kind, amount::int from public.credit_entries where user_id = ${account.id} and amount < 0 order by id`
      expect(entries.map(({ kind, amount }) => [kind, amount])).toContainEqual(['ai_call', -1])
      expect(await creditsOf(tx, account.id)).toEqual({ balance: 0, held: 0 })
      expect(await unbalanced(tx, account.id)).toBe(0)
    }))

  test.each([
    ['gift', null],
    ['monthly', '-1 second'],
  ])('%s credits, expiring in %s, cannot be granted', (kind, inTime) =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      expect((await refusal(tx, (sp) => grant(sp, id, 5, kind, inTime))).code).toBe('invalid_request_error')
    }),
  )
})

describe('a clawback', () => {
  test('takes also what is spent already; then nothing can be spent until the balance is above zero again', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx, { credits: 5 })
      expect(await clawBack(tx, account.id, 12)).toMatchObject({ balance: -7 })

      const call = await admit(tx, account, { model: baseModel })
      const deduction = await refusal(tx, (sp) => changeCredits(sp, 'deduct', account.id, 1))
      await grant(tx, account.id, 9, 'purchased')

      expect([call.code, deduction.code]).toEqual(['insufficient_credits', 'insufficient_credits'])
      expect((await admit(tx, account, { model: baseModel })).admitted).toBe(true)
      expect(await lots(tx, account.id)).toEqual(['purchased 2'])
      expect(await unbalanced(tx, account.id)).toBe(0)
    }))

  test('lets the calls that run end as they were promised', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx, { credits: 3 })
      const { call_id } = await admit(tx, account, { model: baseModel })
      await clawBack(tx, account.id, 3)

      expect(await settle(tx, call_id)).toMatchObject({ settled: true, credits_charged: 1 })
      expect(await creditsOf(tx, account.id)).toEqual({ balance: -1, held: 0 })
      expect(await unbalanced(tx, account.id)).toBe(0)
    }))

  test('with the same key takes once', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const answers = [await clawBack(tx, id, 30, 'dispute-1'), await clawBack(tx, id, 30, 'dispute-1')]

      expect(answers.map(({ balance }) => balance)).toEqual([70, 70])
      expect((await refusal(tx, (sp) => clawBack(sp, id, 31, 'dispute-1'))).code).toBe('idempotency_key_reused')
    }))

  test('is nothing a user can do', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      expect((await refusal(tx, (sp) => asUser(sp, id, (as) => clawBack(as as Tx, id, 1)))).sqlstate).toBe('42501')
    }))
})

describe('anything at the same time', () => {
  const step = fc.oneof(
    fc.record({
      do: fc.constant('grant' as const),
      amount: fc.integer({ min: 1, max: 20 }),
      kind: fc.constantFrom('promotional', 'monthly', 'purchased'),
      expires: fc.constantFrom(null, '1 hour', '1 day'),
    }),
    fc.record({
      do: fc.constantFrom('deduct' as const, 'refund' as const, 'clawback' as const),
      amount: fc.integer({ min: 1, max: 15 }),
    }),
    fc.record({ do: fc.constantFrom('call' as const, 'fail' as const, 'abandon' as const, 'later' as const) }),
  )

  test(
    'the balance is the sum of the entries and of the lots, holds are those of open calls, and below zero only by a clawback',
    () =>
      racing(8, async (sql, accounts) =>
        fc.assert(
          fc.asyncProperty(fc.array(step, { minLength: 8, maxLength: 40 }), async (steps) => {
            const account = await accounts()
            const { id } = account
            await setLimit(sql, id, 'ai_concurrency', 'total', null)
            const call = async () => (await admit(sql, account, { model: baseModel })).call_id

            const answers = await together(steps.length, async (index) => {
              const now = steps[index]
              if (now?.do === 'grant') return grant(sql, id, now.amount, now.kind, now.expires)
              if (now?.do === 'clawback') return clawBack(sql, id, now.amount)
              if (now?.do === 'deduct' || now?.do === 'refund') return changeCredits(sql, now.do, id, now.amount)
              if (now?.do === 'later') return pass(sql, id, '2 hours')
              const callId = await call()
              if (!callId) return null
              if (now?.do === 'call') return settle(sql, callId)
              if (now?.do === 'fail') return settle(sql, callId, free)
              await abandon(sql, callId)
              return sql`select private.settle_abandoned_ai_calls()`
            })

            const refusals = answers.flatMap((answer) =>
              answer && 'sqlstate' in answer ? [answer.code ?? answer.message] : [],
            )
            expect(refusals.filter((code) => code !== 'insufficient_credits')).toEqual([])
            await sql`select private.settle_abandoned_ai_calls()`
            expect([...(await sql`select * from private.verify_accounts() where user_id = ${id}`)]).toEqual([])
            const { balance, held } = await creditsOf(sql, id)
            const clawedBack = steps.reduce((sum, now) => sum + (now.do === 'clawback' ? now.amount : 0), 0)
            expect(held).toBe(0)
            expect(balance).toBeGreaterThanOrEqual(-clawedBack)
            expect((await callsOf(sql, id)).filter((row) => row.state === 'held')).toEqual([])
          }),
          { numRuns: runs(25) },
        ),
      ),
    120_000,
  )
})
