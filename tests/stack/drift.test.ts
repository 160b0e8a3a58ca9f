/** Migrations and sources are two roads to the same schema, and migrations run anywhere Supabase runs. */
import { execFile } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { reviewAdvisors } from '../../scripts/checks/advisors.ts'
import { violationsIn } from '../../scripts/checks/imports.ts'
import { secretsIn } from '../../scripts/checks/secrets.ts'
import { makeBaseline, staleBaselineFiles } from '../../stack/baseline.ts'
import { root } from '../../stack/config.ts'
import { type Scratch, startScratch } from '../../stack/platform/scratch.ts'
import { rowDifference } from '../../stack/rows.ts'
import { applySources, prepareForComparison, pushMigrations, runSql, schemaDifference } from '../../stack/schema.ts'
import { servicePolicyDifference } from '../../stack/service-policies.ts'

const folder = join(root, 'supabase', 'migrations')
const migrations = readdirSync(folder).map((file) => ({ file, text: readFileSync(join(folder, file), 'utf8') }))
const bin = (name: string) => join(root, 'node_modules', '.bin', name)

describe('schema', { timeout: 120_000 }, () => {
  let scratch: Scratch
  let migrated: string
  let sources: string
  beforeAll(async () => {
    scratch = await startScratch()
    migrated = await scratch.createDatabase('migrated')
    sources = await scratch.createDatabase('sources')
    await Promise.all([pushMigrations(migrated, { seed: true }), applySources(sources, { seed: true })])
    await Promise.all([prepareForComparison(migrated), prepareForComparison(sources)])
  }, 120_000)
  afterAll(() => scratch?.stop())

  test('migrations and sources agree; a column that only one of them has is found', async () => {
    expect(await schemaDifference(migrated, sources)).toBe('')

    await runSql(sources, 'alter table public.chats add column pinned boolean not null default false')

    expect(await schemaDifference(migrated, sources)).toContain('"pinned"')
  })

  test('they start with the same rows; a setting, a limit and a plan that only one of them has are found', async () => {
    expect(await rowDifference(migrated, sources)).toEqual([])

    await runSql(
      sources,
      `update private.settings set value = '101' where key = 'credits.on_sign_up';
       delete from public.plan_limits where plan_id = 'free' and meter = 'ai_calls';
       insert into public.plans (id, name) values ('team', 'Team');
       update public.plans set created_at = now() - interval '1 day' where id = 'free'`,
    )

    expect(await rowDifference(migrated, sources)).toEqual([
      expect.stringMatching(/^only in migrations: private\.settings .*"value": 100/),
      expect.stringMatching(/^only in migrations: public\.plan_limits .*"ai_calls"/),
      expect.stringMatching(/^only in sources: private\.settings .*"value": 101/),
      expect.stringMatching(/^only in sources: public\.plans .*"team"/),
    ])
  })

  test('a policy on Storage that only one of them has is found, and the difference mends it', async () => {
    await runSql(sources, 'create policy "all see" on storage.objects for select to anon using (bucket_id = $$x$$)')

    const difference = await servicePolicyDifference(migrated, sources)
    await runSql(migrated, difference)

    expect(difference).toMatch(/^create policy "all see" on storage\.objects as permissive for select to anon/)
    expect(await servicePolicyDifference(migrated, sources)).toBe('')
  })

  test('the advisors find nothing that was not reviewed; a careless function is found', async () => {
    expect(await reviewAdvisors(migrated)).toEqual([])

    await runSql(migrated, 'create function public.careless() returns integer language sql as $$ select 1 $$')

    expect(await reviewAdvisors(migrated)).toEqual([expect.stringContaining('public.careless')])
    expect(await reviewAdvisors(migrated, { gone: 'a reason' })).toContainEqual(
      expect.stringContaining('no longer found'),
    )
  })
})

describe('migrations', () => {
  test('the baseline is what the sources make; a line that only the sources have is found', async () => {
    expect(await staleBaselineFiles()).toEqual([])

    const changed = new Map(await makeBaseline())
    changed.set('20261129000200_plans.sql', `${changed.get('20261129000200_plans.sql')}-- a line`)

    expect(await staleBaselineFiles(changed)).toEqual(['20261129000200_plans.sql'])
  })

  test.each(migrations)('$file holds nothing that only the local stack has', ({ text }) => {
    expect(text).not.toMatch(/local_platform|supabase_admin|127\.0\.0\.1|localhost/)
    // Settings of the platform's roles are the platform's; the gateway's role is made by a migration and is ours.
    expect(text).not.toMatch(/alter\s+(?:role|database)\s(?!palisade_gateway\s).*\sset\s/i)
    expect(text).toMatch(/^set lock_timeout = /m)
  })

  test('pass squawk, and squawk does find a migration that locks', async () => {
    await promisify(execFile)(bin('squawk'), ['supabase/migrations/*.sql'], { cwd: root })

    const locking = promisify(execFile)(bin('squawk'), ['--stdin-filepath', 'x.sql'], { cwd: root })
    locking.child.stdin?.end('alter table public.chats add column n integer not null;\n')
    await expect(locking).rejects.toMatchObject({ stdout: expect.stringContaining('adding-required-field') })
  })
})

test('the functions run on the versions that package-lock.json has', () => {
  const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'))
  const { imports } = JSON.parse(readFileSync(join(root, 'functions', 'deno.json'), 'utf8'))
  const { 'ccxt/': ccxt, crypto, ...others } = imports

  // ccxt's exports have no single exchanges, and its files ask for Node's crypto without its scheme.
  expect([ccxt, crypto]).toEqual(['../node_modules/ccxt/js/src/', 'node:crypto'])
  expect(Object.keys(others).length).toBeGreaterThan(0)
  for (const [key, specifier] of Object.entries(others)) {
    const [name, slash] = key.endsWith('/') ? [key.slice(0, -1), '/'] : [key, '']
    // Only ccxt asks for those that it has to itself.
    const { version } = packages[`node_modules/ccxt/node_modules/${name}`] ?? packages[`node_modules/${name}`]
    expect(specifier).toBe(`npm:${slash}${name}@${version}${slash}`)
  }
})

describe('the other checks can fail', () => {
  test('an endpoint that imports another, and a domain that imports an endpoint', () => {
    expect(violationsIn('functions/ai/index.ts', "import { x } from '../billing/index.ts'")).toHaveLength(1)
    expect(violationsIn('functions/_shared/ai/x.ts', "import { x } from '../credentials/open.ts'")).toHaveLength(1)
    expect(violationsIn('stack/x.ts', "import { x } from '../tests/y.ts'")).toHaveLength(1)
    expect(
      violationsIn('functions/_shared/ai/x.ts', "import { AppError } from '../errors.ts'\nimport { y } from './y.ts'"),
    ).toEqual([])
  })

  test.each([
    ['the platform that imports the stack', 'stack/platform/gateway.ts', '../config.ts', false],
    ['and from a folder of it, a type', 'stack/platform/auth/settings.ts', '../../keys.ts', false],
    ['the platform that imports a double', 'stack/platform/gateway.ts', '../doubles/stripe.ts', false],
    ['the platform that imports a function', 'stack/platform/jobs.ts', '../../functions/_shared/db.ts', false],
    ['a double that imports the platform', 'stack/doubles/stripe/events.ts', '../../platform/jobs.ts', false],
    ['a double that imports the stack', 'stack/doubles/stripe.ts', '../config.ts', false],
    ['a double that imports another', 'stack/doubles/stripe/events.ts', '../exchanges/state.ts', false],
    ['the same by its first file', 'stack/doubles/stripe.ts', './exchanges.ts', false],
    ['the platform that imports itself', 'stack/platform/auth/service.ts', '../gateway/callers.ts', true],
    ['a double that imports itself', 'stack/doubles/stripe.ts', './stripe/state.ts', true],
    ['the stack that starts the platform', 'stack/stack.ts', './platform/gateway.ts', true],
    ['the stack that starts a double', 'stack/stack.ts', './doubles/stripe.ts', true],
  ])('the direction of stack/: %s', (_what, file, imported, isAllowed) => {
    expect(violationsIn(file, `import type { x } from '${imported}'`)).toHaveLength(isAllowed ? 0 : 1)
    expect(violationsIn(file, `export { x } from '${imported}'`)).toHaveLength(isAllowed ? 0 : 1)
  })

  test('the platform names neither Palisade nor its commands; who made a stand-in extension may say so', () => {
    const platform = join(root, 'stack', 'platform')
    const files = readdirSync(platform, { recursive: true, encoding: 'utf8' })
    const read = files.filter((file) => /^(?!extensions).*\.(?:ts|sql)$/.test(file))

    expect(read.length).toBeGreaterThan(30)
    expect(read.filter((file) => /palisade|npm run/i.test(readFileSync(join(platform, file), 'utf8')))).toEqual([])
  })

  test('a key in a file is found, and the finding does not repeat it', () => {
    const key = `sb_secret_${'x'.repeat(30)}`

    const found = secretsIn('notes.md', `one\nkey: ${key}\n`)

    expect(found).toEqual(['notes.md:2 looks like a Supabase key'])
    expect(secretsIn('notes.md', 'sb_secret_... is not a key')).toEqual([])
  })
})
