/** The one way to call SQL, against a real server: what comes back, and what goes wrong. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { z } from 'zod'
import { answer, callSql, connectDatabase, type Database, nothing } from '../../functions/_shared/db.ts'
import { describeFailure } from '../../functions/_shared/failure.ts'
import { target } from '../target.ts'

let sql: Database
beforeAll(async () => {
  sql = connectDatabase(target().dbUrl)
})
afterAll(() => sql.end())

test('a refusal that SQL raised keeps its words', async () => {
  const refused = callSql(sql`select private.raise_error('not_found', 'There is no such thing.')`, nothing)

  await expect(refused).rejects.toMatchObject({ code: 'not_found', message: 'There is no such thing.' })
})

test('any other error is ours, and what is told of it repeats no parameter', async () => {
  const refused = callSql(sql`select ${'a secret'}::text::integer`, nothing, { otherwise: 'accounting_unavailable' })
  const error = await refused.catch((cause: unknown) => cause)

  expect(error).toMatchObject({ code: 'accounting_unavailable' })
  // The routine of PostgreSQL's is pg_strtoint32 before 16.
  expect(describeFailure(error)).toMatch(/^accounting_unavailable: Postgres: 22P02 pg_strtoint32(?:_safe)?$/)
})

test('an answer of another form is no answer', async () => {
  await expect(callSql(sql`select 'x' as answer`, answer(z.int()))).rejects.toMatchObject({ code: 'internal' })
  await expect(callSql(sql`select 1 as answer where false`, answer(z.int()))).rejects.toMatchObject({
    code: 'internal',
  })
})

test('a statement that fails past its first row leaves nothing to the next one on its connection', async () => {
  const one = await sql.reserve()
  try {
    await expect(callSql(one`select 1 / (3 - n) from generate_series(1, 5) n`, nothing)).rejects.toThrow()

    expect(await callSql(one`select 1 as answer`, answer(z.int()))).toBe(1)
  } finally {
    one.release()
  }
})

test('what has no answer by its deadline is an error, and its statement is cancelled', async () => {
  const refused = callSql(sql`select pg_sleep(60)`, nothing, { deadlineMs: 50 })

  await expect(refused).rejects.toMatchObject({ code: 'internal' })
  const running = () =>
    callSql(
      sql`
        select count(*)::int as answer from pg_stat_activity
        where state = 'active' and query like '%pg_sleep(60)%' and pid <> pg_backend_pid()`,
      answer(z.int()),
    )
  await expect.poll(running).toBe(0)
})
