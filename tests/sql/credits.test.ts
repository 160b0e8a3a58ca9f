import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { runs } from '../support/runs.ts'
import {
  asRole,
  asUser,
  changeCredits,
  creditsOf,
  newAccount,
  racing,
  refusal,
  rolledBack,
  together,
} from './support.ts'

const verbs = ['grant', 'refund', 'deduct'] as const

describe('who may change credits', () => {
  test.each(verbs)('a signed-in user cannot %s them, not even their own', (verb) =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      const refused = await refusal(tx, (sp) => asUser(sp, id, (as) => changeCredits(as, verb, id, 5)))

      expect(refused.sqlstate).toBe('42501')
    }),
  )

  test.each(['anon', 'authenticated'])('whoever carries a token of %s is refused behind the grants, too', (role) =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await tx`select set_config('request.jwt.claims', ${JSON.stringify({ sub: id, role })}, true)`

      const refused = await refusal(tx, (sp) => changeCredits(sp, 'grant', id, 5))

      expect(refused).toMatchObject({ code: 'not_allowed', status: 403 })
    }),
  )

  test('the service role grants, refunds and deducts', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      const balances = await asRole(tx, 'service_role', { role: 'service_role' }, async (as) => [
        (await changeCredits(as, 'grant', id, 50)).balance,
        (await changeCredits(as, 'refund', id, 5)).balance,
        (await changeCredits(as, 'deduct', id, 155)).balance,
      ])

      expect(balances).toEqual([150, 155, 0])
    }))

  test('a user sees their own balance and ledger and nobody else’s', () =>
    rolledBack(async (tx) => {
      const [owner, other] = [await newAccount(tx), await newAccount(tx, { credits: 40 })]

      const [credits, entries] = await asUser(tx, other.id, async (as) => [
        await as`select balance::int, held::int from public.get_my_credits()`,
        await as`select user_id from public.credit_entries`,
      ])

      expect(credits?.[0]).toEqual({ balance: 40, held: 0 })
      expect(entries?.map((entry) => entry.user_id)).toEqual([other.id, other.id])
      expect((await creditsOf(tx, owner.id)).balance).toBe(100)
    }))
})

describe('requests that are refused', () => {
  test.each([0, -1, null, 1_000_000_000_001n])('%s is no amount', (amount) =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      for (const verb of verbs) {
        const refused = await refusal(tx, (sp) => changeCredits(sp, verb, id, amount))
        expect(refused).toMatchObject({ code: 'invalid_request_error', status: 400 })
      }
      expect(await creditsOf(tx, id)).toEqual({ balance: 100, held: 0 })
    }),
  )

  test.each([
    ['an empty reason', 'key', ''],
    ['a reason of 201 characters', 'key', 'r'.repeat(201)],
    ['an empty key', '', 'reason'],
    ['a key of 256 characters', 'k'.repeat(256), 'reason'],
  ])('%s is refused', (_name, key, reason) =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      const refused = await refusal(tx, (sp) => changeCredits(sp, 'grant', id, 1, key, reason))

      expect(refused).toMatchObject({ code: 'invalid_request_error', status: 400 })
    }),
  )

  test('an account that does not exist is not found', () =>
    rolledBack(async (tx) => {
      const refused = await refusal(tx, (sp) => changeCredits(sp, 'grant', crypto.randomUUID(), 1))

      expect(refused).toMatchObject({ code: 'not_found', status: 404 })
    }))

  test('more than the balance cannot be taken, and the balance stays', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      const refused = await refusal(tx, (sp) => changeCredits(sp, 'deduct', id, 101))

      expect(refused).toMatchObject({ code: 'insufficient_credits', status: 402 })
      expect(await creditsOf(tx, id)).toEqual({ balance: 100, held: 0 })
    }))

  test('what running calls hold cannot be taken', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await tx`update private.accounts set held = 30 where user_id = ${id}`

      const refused = await refusal(tx, (sp) => changeCredits(sp, 'deduct', id, 71))
      await changeCredits(tx, 'deduct', id, 70)

      expect(refused.code).toBe('insufficient_credits')
      expect(await creditsOf(tx, id)).toEqual({ balance: 30, held: 30 })
    }))
})

describe('idempotency', () => {
  test.each([
    ['another amount', 'grant', 6],
    ['another kind of change', 'refund', 5],
    ['the opposite change', 'deduct', 5],
  ] as const)('a key that comes again with %s is refused', (_name, verb, amount) =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await changeCredits(tx, 'grant', id, 5, 'key')

      const refused = await refusal(tx, (sp) => changeCredits(sp, verb, id, amount, 'key'))

      expect(refused).toMatchObject({ code: 'idempotency_key_reused', status: 422 })
      expect((await creditsOf(tx, id)).balance).toBe(105)
    }),
  )

  test('the same request again gets the same answer and changes nothing', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const first = await changeCredits(tx, 'deduct', id, 100, 'key')

      const again = await changeCredits(tx, 'deduct', id, 100, 'key')

      expect(again).toEqual(first)
      expect(await creditsOf(tx, id)).toEqual({ balance: 0, held: 0 })
    }))

  test('the same key of two users is two entries', () =>
    rolledBack(async (tx) => {
      const [one, two] = [await newAccount(tx), await newAccount(tx)]

      await changeCredits(tx, 'grant', one.id, 5, 'key')
      await changeCredits(tx, 'grant', two.id, 7, 'key')

      expect((await creditsOf(tx, one.id)).balance).toBe(105)
      expect((await creditsOf(tx, two.id)).balance).toBe(107)
    }))

  test('one key that 20 send at once is one entry', () =>
    racing(20, async (sql, account) => {
      const { id } = await account()

      const answers = await together(20, () => changeCredits(sql, 'grant', id, 5, 'key'))

      expect(new Set(answers.map((answer) => JSON.stringify(answer))).size).toBe(1)
      expect((await creditsOf(sql, id)).balance).toBe(105)
    }))
})

describe('the ledger', () => {
  test.each([
    ['change', 'update private.credit_bookings set amount = 1000 where user_id = $1'],
    ['remove', 'delete from private.credit_bookings where user_id = $1'],
  ])('the project’s owner cannot %s an entry', (_verb, statement) =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      const refused = await refusal(tx, (sp) => sp.unsafe(statement, [id]))

      expect(refused).toMatchObject({ sqlstate: '42501', message: 'credit_bookings is append-only' })
    }),
  )

  // A cascade reaches several append-only tables; whichever comes first refuses.
  test.each([
    ['truncate private.credit_bookings', /^credit_bookings is append-only$/],
    ['truncate auth.users cascade', /^\w+ is append-only$/],
  ])('"%s" is refused, too', (statement, message) =>
    rolledBack(async (tx) => {
      await newAccount(tx)
      // A truncate is refused earlier while deferred triggers wait.
      await tx`set constraints all immediate`

      const refused = await refusal(tx, (sp) => sp.unsafe(statement))

      expect(refused).toMatchObject({ sqlstate: '42501', message: expect.stringMatching(message) })
    }),
  )

  test.each(['insert', 'update', 'delete', 'truncate'])('no API role has the right to %s', (verb) =>
    rolledBack(async (tx) => {
      const rows = await tx`
        select role, has_table_privilege(role, 'public.credit_entries', ${verb}) as may
        from unnest(array['anon', 'authenticated', 'service_role']) role`

      expect(rows.filter((row) => row.may)).toEqual([])
    }),
  )

  test('it goes with its account', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await changeCredits(tx, 'grant', id, 5)

      await tx`delete from auth.users where id = ${id}`

      const entries = await tx`select from public.credit_entries where user_id = ${id}`
      expect(entries.length).toBe(0)
      expect(await creditsOf(tx, id)).toEqual({ balance: undefined, held: undefined })
    }))

  test('verify_accounts names an account whose balance is not its entries’ sum', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await tx`update private.accounts set balance = 99, held = 2 where user_id = ${id}`

      const rows = await tx`
        select balance::int, entries_sum::int, held::int, open_holds::int from private.verify_accounts()
        where user_id = ${id}`

      expect([...rows]).toEqual([{ balance: 99, entries_sum: 100, held: 2, open_holds: 0 }])
    }))
})

describe('any number of changes at the same time', () => {
  const changes = fc.array(
    fc.record({ verb: fc.constantFrom(...verbs), amount: fc.integer({ min: 1, max: 90 }), key: fc.nat({ max: 8 }) }),
    { minLength: 5, maxLength: 40 },
  )

  test('the balance is the sum of the entries, never below zero, and every answer is true', () =>
    racing(12, async (sql, account) =>
      fc.assert(
        fc.asyncProperty(changes, async (list) => {
          const { id } = await account()

          const answers = await together(list.length, async (index) => {
            const { verb, amount, key } = list[index] ?? { verb: 'grant', amount: 1, key: 0 }
            return changeCredits(sql, verb, id, amount, `key-${key}`)
          })

          const entries = await sql`
            select id, amount::int, balance_after::int as after from public.credit_entries where user_id = ${id}`
          const ids = new Set(entries.map((entry) => entry.id))
          for (const answer of answers) {
            if ('entry_id' in answer) expect(ids).toContain(answer.entry_id)
            else expect(['insufficient_credits', 'idempotency_key_reused']).toContain(answer.code)
          }
          const { balance } = await creditsOf(sql, id)
          expect(balance).toBe(entries.reduce((sum, entry) => sum + entry.amount, 0))
          for (const { after } of entries) expect(after).toBeGreaterThanOrEqual(0)
          expect((await sql`select from private.verify_accounts() where user_id = ${id}`).length).toBe(0)
        }),
        { numRuns: runs(40) },
      ),
    ))
})
