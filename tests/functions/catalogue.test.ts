/** One catalogue of errors in three places: TypeScript, SQL, docs. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import postgres from 'postgres'
import { expect, test } from 'vitest'
import { catalogue } from '../../functions/_shared/errors.ts'
import { root } from '../../stack/config.ts'
import { target } from '../target.ts'

const codes = Object.keys(catalogue).sort()

test('docs/errors.md has a heading with the right status for every code, and no other', () => {
  const sections = readFileSync(join(root, 'docs', 'errors.md'), 'utf8')
    .split(/^## /m)
    .slice(1)
  const documented = sections.map((section) => section.split('\n').filter((line) => line !== ''))

  expect(documented.map(([code]) => code)).toEqual(codes)
  for (const [code, text] of documented) {
    expect(text, code).toMatch(
      new RegExp(`^${Object.entries(catalogue).find(([name]) => name === code)?.[1].status}\\.`),
    )
  }
})

test('every code that SQL knows has the same status in TypeScript', async () => {
  const sql = postgres(target().dbUrl, { max: 1 })
  try {
    const rows = await sql`select code, private.error_status(code) as status from unnest(${codes}::text[]) as code`
    const known = rows.filter((row) => row.status !== null)
    expect(known.length).toBeGreaterThan(10)
    expect(known.map((row) => [row.code, row.status])).toEqual(
      known.map((row) => [row.code, Object.entries(catalogue).find(([code]) => code === row.code)?.[1].status]),
    )
    const [source] =
      await sql`select prosrc, pg_get_functiondef(oid) as text from pg_proc where proname = 'error_status'`
    const inSql = [...String(source?.text).matchAll(/WHEN '([a-z_]+)'/g)].map((match) => match[1])
    expect(inSql.filter((code) => !codes.includes(String(code)))).toEqual([])
    expect(inSql.length).toBe(known.length)
  } finally {
    await sql.end()
  }
})

test("every code that SQL raises or returns is in SQL's catalogue", () => {
  const folder = join(root, 'sql')
  const text = readdirSync(folder)
    .map((name) => readFileSync(join(folder, name), 'utf8'))
    .join('\n')
  const used = [...text.matchAll(/raise_error\(\s*'([a-z_]+)'|'code',\s*'([a-z_]+)'/g)].map(
    (match) => match[1] ?? match[2],
  )

  expect(used.length).toBeGreaterThan(15)
  // No errors: the first answer to an idempotency key, and what the gateway works out once more.
  const answers = ['idempotency_replay', 'other_plan', 'other_version', 'probe_taken']
  const errors = used.filter((code) => !answers.includes(code ?? ''))
  for (const code of errors) expect(text.includes(`when '${code}' then`), code).toBe(true)
})
