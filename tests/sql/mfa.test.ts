/** Second factors: guessing is limited, and recovery codes are the way back when one is lost. */
import { describe, expect, test } from 'vitest'
import { addFactor, addSession } from '../support/sql.ts'
import { callHook, callHookIn, connectAsAdmin, rolledBackWithHooks } from './hooks-support.ts'
import { asUser, eventsOf, newAccount, racing, refusal, rolledBack, type Sql, type Tx, together } from './support.ts'

const verify = (userId: string, factorId: string, valid: boolean) => ({
  user_id: userId,
  factor_id: factorId,
  factor_type: 'totp',
  valid,
})

/** An account with a factor, signed in with it. */
async function withFactor(sql: Sql | Tx, account: { id: string; sessionId: string }) {
  await addFactor(sql as Tx, account.id)
  await sql`update auth.sessions set aal = 'aal2' where id = ${account.sessionId}`
  return account
}

const createCodes = async (tx: Tx, userId: string, aal = 'aal2'): Promise<string[]> => {
  const [row] = await asUser(tx, userId, (as) => as`select public.create_recovery_codes() as codes`, { aal })
  return row?.codes
}

const useCode = async (tx: Tx, userId: string, code: string | undefined, claims: object = {}): Promise<string> => {
  const [row] = await asUser(tx, userId, (as) => as`select public.use_recovery_code(${code ?? ''}) as answer`, claims)
  return row?.answer
}

const factorsOf = async (sql: Sql | Tx, userId: string) =>
  (await sql`select from auth.mfa_factors where user_id = ${userId}`).length

describe('a factor', () => {
  test('takes no code after five wrong ones, not even the right one', async () => {
    await rolledBackWithHooks(async (tx) => {
      const { id } = await newAccount(tx)
      const factor = await addFactor(tx, id)
      const attempt = (valid: boolean) => callHookIn(tx, 'mfa_verification_attempt', verify(id, factor, valid))
      for (let i = 0; i < 5; i++) expect(await attempt(false)).toEqual({ decision: 'continue' })

      expect(await attempt(true)).toMatchObject({ decision: 'reject' })
      expect(await eventsOf(tx, id)).toEqual(['mfa_locked high'])
      await tx`update private.mfa_failures set failed_at = failed_at - interval '16 minutes' where user_id = ${id}`
      expect(await attempt(true)).toEqual({ decision: 'continue' })
    })
  })

  test('tried twenty times at once takes five wrong codes', async () => {
    await racing(1, async (sql, accounts) => {
      const { id } = await accounts()
      const factor = await addFactor(sql, id)
      const auth = connectAsAdmin(20)

      const answers = await together(20, () => callHook(auth, 'mfa_verification_attempt', verify(id, factor, false)))

      await auth.end()
      expect(answers.filter((answer) => 'decision' in answer && answer.decision === 'continue')).toHaveLength(5)
    })
  })
})

describe('recovery codes', () => {
  test('are not made without the second factor', async () => {
    await rolledBack(async (tx) => {
      const plain = await newAccount(tx)
      const half = await newAccount(tx)
      await addFactor(tx, half.id)

      for (const { id } of [plain, half]) {
        expect((await refusal(tx, (sp) => createCodes(sp, id, 'aal1'))).code).toBe('insufficient_aal')
        expect((await refusal(tx, (sp) => createCodes(sp, id, 'aal2'))).code).toBe('insufficient_aal')
      }
    })
  })

  test('are ten, readable, and stored as hashes only; new ones replace the old', async () => {
    await rolledBack(async (tx) => {
      const { id } = await withFactor(tx, await newAccount(tx))
      const old = await createCodes(tx, id)

      const codes = await createCodes(tx, id)

      expect(new Set([...codes, ...old]).size).toBe(20)
      for (const code of codes) expect(code).toMatch(/^([0-9a-hjkmnp-tv-z]{4}-){3}[0-9a-hjkmnp-tv-z]{4}$/)
      const rows = await tx`select row_to_json(c)::text as row from private.recovery_codes c where user_id = ${id}`
      expect(rows).toHaveLength(10)
      expect(rows.filter((row) => codes.some((code) => row.row.includes(code)))).toEqual([])
      expect(await useCode(tx, id, old[0])).toBe('wrong')
    })
  })

  test('of somebody else, and after the session ended, are worth nothing', async () => {
    await rolledBack(async (tx) => {
      const [owner, other] = [await newAccount(tx), await newAccount(tx)]
      await withFactor(tx, owner)
      const codes = await createCodes(tx, owner.id)

      expect(await useCode(tx, other.id, codes[0])).toBe('wrong')
      const dead = refusal(tx, (sp) => useCode(sp, owner.id, codes[0], { session_id: crypto.randomUUID() }))
      expect((await dead).code).toBe('invalid_api_key')
    })
  })

  test('one takes away the factors, all other sessions and the other codes, and tells the user', async () => {
    await rolledBack(async (tx) => {
      const { id } = await withFactor(tx, await newAccount(tx))
      const codes = await createCodes(tx, id)
      const session = await addSession(tx, id)
      const current = { session_id: session }

      expect(await useCode(tx, id, codes[0]?.toUpperCase().replaceAll('-', ' ').replaceAll('0', 'o'), current)).toBe(
        'accepted',
      )

      expect(await factorsOf(tx, id)).toBe(0)
      expect(await tx`select id from auth.sessions where user_id = ${id}`).toEqual([{ id: session }])
      expect(await useCode(tx, id, codes[1], current)).toBe('wrong')
      expect(await eventsOf(tx, id)).toEqual(['mfa_removed high'])
      const [count] = await asUser(tx, id, (as) => as`select public.count_my_recovery_codes() as n`, current)
      expect(count?.n).toBe(0)
    })
  })

  test('go with the last factor', async () => {
    await rolledBack(async (tx) => {
      const { id } = await withFactor(tx, await newAccount(tx))
      await createCodes(tx, id)

      await tx`delete from auth.mfa_factors where user_id = ${id}`

      expect(await tx`select from private.recovery_codes where user_id = ${id}`).toHaveLength(0)
    })
  })

  test('five wrong ones lock them for a quarter of an hour, and the count outlives the refusal', async () => {
    await racing(2, async (sql, accounts) => {
      const { id } = await withFactor(sql, await accounts())
      const codes = (await sql.begin((tx) => createCodes(tx, id))) as string[]
      const guess = (code: string | undefined) => sql.begin((tx) => useCode(tx, id, code))

      const wrong = []
      for (let i = 0; i < 6; i++) wrong.push(await guess('0000-0000-0000-0000'))

      expect(wrong).toEqual(['wrong', 'wrong', 'wrong', 'wrong', 'wrong', 'locked'])
      expect(await guess(codes[0])).toBe('locked')
      expect(await eventsOf(sql, id)).toEqual(['mfa_locked high'])
      await sql`update private.mfa_failures set failed_at = failed_at - interval '16 minutes' where user_id = ${id}`
      expect(await guess(codes[0])).toBe('accepted')
    })
  })

  test('one used ten times at the same moment is accepted once', async () => {
    await racing(10, async (sql, accounts) => {
      const account = await withFactor(sql, await accounts())
      const codes = (await sql.begin((tx) => createCodes(tx, account.id))) as string[]

      const answers = await together(10, () =>
        sql.begin((tx) => useCode(tx, account.id, codes[0], { session_id: account.sessionId })),
      )

      expect(answers.filter((answer) => answer === 'accepted')).toHaveLength(1)
    })
  })
})
