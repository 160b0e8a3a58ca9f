/** What the local bootstrap makes has the catalogue of the real platform, except what catalogue-differences.ts lists. */
import { readFileSync } from 'node:fs'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Scratch, startScratch } from '../../stack/platform/scratch.ts'
import { type Catalogue, compareCatalogues, readCatalogue } from '../support/catalogue.ts'
import { knownDifferences } from '../support/catalogue-differences.ts'

const hosted: Catalogue = JSON.parse(readFileSync(new URL('../support/platform-catalog.json', import.meta.url), 'utf8'))

let scratch: Scratch
let found: ReturnType<typeof compareCatalogues>
beforeAll(async () => {
  scratch = await startScratch()
  const sql = postgres(await scratch.createDatabase('fresh'), { max: 1, onnotice: () => {} })
  try {
    // The facts hold the three extensions that a project makes itself.
    await sql`create extension pg_cron`
    await sql`create extension pg_net with schema extensions`
    await sql`create extension pgsodium`
    found = compareCatalogues(hosted, await readCatalogue(sql))
  } finally {
    await sql.end()
  }
})
afterAll(() => scratch.stop())

const known = Object.fromEntries(
  Object.entries(knownDifferences).map(([section, groups]) => [
    section,
    Object.assign({}, ...groups.map(({ here }) => here)),
  ]),
)

test.each([...new Set([...Object.keys(hosted.schemas ?? {}), 'installed extensions', 'roles', 'event triggers'])])(
  '%s differs from hosted only where the list says so',
  (section) => {
    expect(found[section] ?? {}).toEqual(known[section] ?? {})
  },
)

test('no other schema is here, and the list names nothing else', () => {
  expect(Object.keys(found).sort()).toEqual(Object.keys(known).sort())
})
