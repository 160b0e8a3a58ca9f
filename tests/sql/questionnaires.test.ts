import { describe, expect, test } from 'vitest'
import { inSession, shutOut } from './in-session.ts'
import {
  type Account,
  countersOf,
  newAccount,
  racing,
  refusal,
  rolledBack,
  setLimit,
  type Tx,
  together,
} from './support.ts'

const start = (tx: Tx, owner: Account, id = 'mood_check', version = 1) =>
  inSession(
    tx,
    owner,
    (as) => as`
    insert into public.psychology_tests (questionnaire_id, questionnaire_version) values (${id}, ${version}) returning id`,
  )

const newTest = async (tx: Tx, owner: Account): Promise<string> => (await start(tx, owner))[0]?.id

const strangers = async (tx: Tx) => {
  const [owner, other] = [await newAccount(tx), await newAccount(tx)]
  return { owner, other, run: await newTest(tx, owner) }
}

describe('tests of others', () => {
  test('nobody starts one in another’s name, and nothing is counted', () =>
    rolledBack(async (tx) => {
      const { owner, other } = await strangers(tx)

      const refused = await refusal(tx, (sp) =>
        inSession(
          sp,
          other,
          (as) => as`
          insert into public.psychology_tests (user_id, questionnaire_id, questionnaire_version)
          values (${owner.id}, 'mood_check', 1)`,
        ),
      )

      expect(refused.sqlstate).toBe('42501')
      expect(await countersOf(tx, owner.id)).toEqual({ 'psychology_tests/month': [1, 0] })
      expect(await countersOf(tx, other.id)).toEqual({})
    }))

  test('another sees, answers and deletes nothing', () =>
    rolledBack(async (tx) => {
      const { other, run } = await strangers(tx)

      const counts = await inSession(tx, other, async (as) => [
        (await as`select from public.psychology_tests`).count,
        (await as`update public.psychology_tests set answers = '{}' where id = ${run}`).count,
        (await as`delete from public.psychology_tests where id = ${run}`).count,
      ])

      expect(counts).toEqual([0, 0, 0])
    }))

  test.each(shutOut)('an owner who is %s reads, starts, answers and deletes nothing', (_how, shut) =>
    rolledBack(async (tx) => {
      const { owner, run } = await strangers(tx)
      await shut(tx, owner)

      const refused = await refusal(tx, (sp) => start(sp, owner))
      const counts = await inSession(tx, owner, async (as) => [
        (await as`select from public.psychology_tests`).count,
        (await as`select from public.questionnaires`).count,
        (await as`update public.psychology_tests set answers = '{}' where id = ${run}`).count,
        (await as`delete from public.psychology_tests where id = ${run}`).count,
      ])

      expect(refused.sqlstate).toBe('42501')
      expect(counts).toEqual([0, 0, 0, 0])
    }),
  )
})

describe('the owner', () => {
  test.each([
    ['give a test away', 'update public.psychology_tests set user_id = gen_random_uuid() where true'],
    ['move a test to another questionnaire', 'update public.psychology_tests set questionnaire_version = 2 where true'],
    ['date a test', 'update public.psychology_tests set started_at = now() where true'],
    ['change the catalogue', "update public.questionnaires set title = 'x' where true"],
    [
      'add to the catalogue',
      "insert into public.questionnaires (id, version, title, questions) values ('a', 1, 'x', '[]')",
    ],
    ['empty the tables', 'truncate public.psychology_tests, public.questionnaires'],
  ])('cannot %s', (_name, statement) =>
    rolledBack(async (tx) => {
      const { owner } = await strangers(tx)

      const refused = await refusal(tx, (sp) => inSession(sp, owner, (as) => as.unsafe(statement)))

      expect(refused.sqlstate).toBe('42501')
    }),
  )

  test('cannot start a test of a questionnaire that is disabled or does not exist', () =>
    rolledBack(async (tx) => {
      const { owner } = await strangers(tx)
      await tx`
        insert into public.questionnaires (id, version, title, questions, enabled) values ('old', 1, 'Old', '[]', false)`

      const disabled = await refusal(tx, (sp) => start(sp, owner, 'old'))
      const missing = await refusal(tx, (sp) => start(sp, owner, 'none'))

      expect([disabled.sqlstate, missing.sqlstate]).toEqual(['42501', '42501'])
    }))

  test('answers a test until it is completed; then it stays, at the time it was', () =>
    rolledBack(async (tx) => {
      const { owner, run } = await strangers(tx)
      const answer = (text: string, completedAt: string | null) =>
        inSession(
          tx,
          owner,
          async (as) =>
            (
              await as`
              update public.psychology_tests set answers = ${as.json({ text })}, completed_at = ${completedAt} where id = ${run}`
            ).count,
        )

      const counts = [await answer('a', null), await answer('b', '1999-01-01'), await answer('c', null)]

      expect(counts).toEqual([1, 1, 0])
      expect(
        await tx`
          select answers ->> 'text' as text, completed_at = now() as dated from public.psychology_tests where id = ${run}`,
      ).toEqual([{ text: 'b', dated: true }])
    }))
})

describe('the monthly limit', () => {
  test('the fourth test of a month is refused, and deleting one gives none back', () =>
    rolledBack(async (tx) => {
      const owner = await newAccount(tx)
      for (let run = 0; run < 3; run += 1) await newTest(tx, owner)
      await inSession(tx, owner, (as) => as`delete from public.psychology_tests where user_id = ${owner.id}`)

      const refused = await refusal(tx, (sp) => newTest(sp, owner))

      expect(refused).toMatchObject({ code: 'insufficient_quota', status: 402 })
      expect(await countersOf(tx, owner.id)).toEqual({ 'psychology_tests/month': [3, 0] })
    }))

  test('answering does not count', () =>
    rolledBack(async (tx) => {
      const { owner, run } = await strangers(tx)

      await inSession(tx, owner, (as) => as`update public.psychology_tests set answers = '{"a": 1}' where id = ${run}`)

      expect(await countersOf(tx, owner.id)).toEqual({ 'psychology_tests/month': [1, 0] })
    }))

  test('of forty that start at once under a limit of seven, seven do', () =>
    racing(40, async (sql, accounts) => {
      const owner = await accounts()
      await setLimit(sql, owner.id, 'psychology_tests', 'month', 7)

      const outcomes = await together(40, () => sql.begin((tx) => newTest(tx, owner)))

      const refused = outcomes.filter((outcome) => typeof outcome !== 'string')
      expect(refused.map(({ code, status }) => ({ code, status }))).toEqual(
        Array(33).fill({ code: 'insufficient_quota', status: 402 }),
      )
      expect((await sql`select from public.psychology_tests where user_id = ${owner.id}`).count).toBe(7)
      expect(await countersOf(sql, owner.id)).toEqual({ 'psychology_tests/month': [7, 0] })
    }))
})
