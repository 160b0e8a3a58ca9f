/** Role postgres may here what it may on hosted Supabase, and nothing more, except what platform-facts.ts lists. */
import postgres from 'postgres'
import { afterAll, describe, expect, test } from 'vitest'
import { facts, knownLooser, knownOtherWords, knownStricter } from '../support/platform-facts.ts'
import { target } from '../target.ts'

const warnings: string[] = []
const onnotice = ({ code = '' }: postgres.Notice) => {
  if (code.startsWith('01')) warnings.push(code)
}
const sql = postgres(target().dbUrl, { max: 1, onnotice })
afterAll(() => sql.end())

// The lists hold for our stand-in only: any other target must answer as hosted does.
const [here] = await sql`
  select to_regnamespace('local_platform') is not null as is_stand_in,
    current_setting('server_version_num')::integer / 10000 as major`
const major: number = here?.major ?? 0
const isStandIn: boolean = here?.is_stand_in ?? false

/** What a statement answers in a transaction that is rolled back: `yes`, `yes: values`, or `SQLSTATE message`. */
async function answer(statement: string): Promise<string> {
  const tx = await sql.reserve()
  await tx`begin`
  await tx`set local lock_timeout = '10s'`
  warnings.length = 0
  try {
    const results: unknown[] = await tx.unsafe(statement)
    // One result for one statement, a list of results for several.
    const last: unknown[] = Array.isArray(results.at(-1)) ? [results.at(-1)].flat() : results
    const values = Object.values(last[0] ?? {}).map(String)
    return `yes${values.length > 0 ? `: ${values.join('|')}` : ''}${warnings.length > 0 ? ` [${warnings}]` : ''}`
  } catch (error) {
    if (error instanceof postgres.PostgresError) return `${error.code} ${error.message}`
    throw error
  } finally {
    await tx`rollback`
    tx.release()
  }
}

const differences = [...knownStricter, ...knownLooser, ...knownOtherWords]
const known = new Map(isStandIn ? differences.map(({ statement, here }) => [statement, here]) : [])

// The facts are of 17: 15 has other words for many refusals, and CREATEROLE may more.
describe.runIf(major >= 17).each(Object.entries(facts))('%s', (_section, rows) => {
  test.each(rows)('%s', async (statement, hosted) => {
    expect(await answer(statement)).toBe(known.get(statement) ?? hosted)
  })
})

describe('the lists of differences', () => {
  const hosted = new Map(Object.values(facts).flat())
  const isRefusal = (answer: string | undefined) => /^[0-9A-Z]{5} /.test(answer ?? '')

  test('name each statement once, and only statements that are facts', () => {
    const statements = differences.map(({ statement }) => statement)

    expect(statements.filter((statement) => !hosted.has(statement))).toEqual([])
    expect(new Set(statements).size).toBe(statements.length)
  })

  test('hold only differences', () => {
    expect(differences.filter(({ statement, here }) => hosted.get(statement) === here)).toEqual([])
  })

  test.each(knownStricter)('$statement is refused only here', ({ statement, here }) => {
    expect([isRefusal(hosted.get(statement)), isRefusal(here)]).toEqual([false, true])
  })

  test.each(knownLooser)('$statement is not refused here', ({ here }) => {
    expect(isRefusal(here)).toBe(false)
  })

  test.each(knownOtherWords)('$statement is refused in both places', ({ statement, here }) => {
    expect([isRefusal(hosted.get(statement)), isRefusal(here)]).toEqual([true, true])
  })
})
