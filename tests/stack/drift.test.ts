/** Migrations and sources are two roads to the same schema, and migrations run anywhere Supabase runs. */
import { execFile } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { appendFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { reviewAdvisors } from '../../scripts/checks/advisors.ts'
import { readCatalogue } from '../../scripts/checks/docs/catalogue.ts'
import { readPage } from '../../scripts/checks/docs/pages.ts'
import { wrongSqlIn } from '../../scripts/checks/docs/sql.ts'
import { newerIn } from '../../scripts/checks/newer-postgres.ts'
import { staleBaselineFiles, writeBaseline } from '../../scripts/shared/baseline.ts'
import {
  applySources,
  portable,
  prepareForComparison,
  rowDifference,
  schemaDifference,
  servicePolicyDifference,
} from '../../scripts/shared/compare-databases.ts'
import { runSql } from '../../scripts/shared/connect-database.ts'
import { root } from '../../stack/config.ts'
import { pushMigrations } from '../../stack/migrations.ts'
import { type Scratch, startScratch } from '../../stack/platform/scratch.ts'

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

  test('what db:diff writes of a new table, a view and a job in seconds runs on PostgreSQL 15, too', async () => {
    await runSql(
      sources,
      `create table public.examples (id uuid primary key);
       create view public.example_ids with (security_invoker = true) as select id from public.examples;
       revoke all on public.examples, public.example_ids from anon, authenticated, service_role;
       select private.schedule_job('example', '20 seconds', 'select 1')`,
    )
    await prepareForComparison(sources)

    const plan = await schemaDifference(migrated, sources)

    expect(newerIn('plan.sql', plan).join()).toMatch(/MAINTAIN.*a schedule in seconds/)
    expect(newerIn('plan.sql', portable(plan))).toEqual([])
    expect(portable(plan)).toMatch(/^select private\.schedule_job\('example', '20 seconds', 'select 1'\);$/m)
    await runSql(migrated, portable(plan))
    await prepareForComparison(migrated)
    // The second pass revokes what default privileges grant.
    await runSql(migrated, portable(await schemaDifference(migrated, sources)))
    expect(await schemaDifference(migrated, sources)).toBe('')
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
      // What a limit and a plan come to follows them.
      expect.stringMatching(/^only in migrations: private\.limit_sets .*"plan_id": "free".*"ai_calls": 50,/),
      expect.stringMatching(/^only in migrations: private\.settings .*"value": 100/),
      expect.stringMatching(/^only in migrations: public\.plan_limits .*"ai_calls"/),
      expect.stringMatching(/^only in sources: private\.limit_sets .*"plan_id": "free".*"ai_calls": -1,/),
      expect.stringMatching(/^only in sources: private\.limit_sets .*"plan_id": "team"/),
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

  test('SQL in a page that the schema does not know is found, by its line, and nothing of it stays', async () => {
    const wrongIn = (sql: string) =>
      wrongSqlIn([readPage('docs/page.md', `# Page\n\n\`\`\`sql\n${sql}\n\`\`\`\n`)], migrated)
    const right =
      "create table private.example (id uuid); -- ‘one’\nselect id from private.example;\nselect public.find_account('...');"

    expect(await wrongIn(right)).toEqual([])
    expect(await wrongIn(`${right}\n\n-- two\nselect nothing from private.example;`)).toEqual([
      'docs/page.md:9 column "nothing" does not exist',
    ])
    expect(await wrongIn("update private.settings set wert = '1'")).toHaveLength(1)
    expect(await wrongIn('select public.lose_account(1)')).toHaveLength(1)
    expect(await wrongIn("select public.find_account(nobody => 'x')")).toHaveLength(1)
    expect(await wrongIn('selekt 1')).toEqual(['docs/page.md:4 syntax error at or near "selekt"'])
    expect((await readCatalogue(migrated)).relations.has('private.example')).toBe(false)
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
  test('the baseline is what the sources make; a line that only one of them has is found, until it is closed', async () => {
    expect(await staleBaselineFiles()).toEqual([])

    const copy = await mkdtemp(join(tmpdir(), 'palisade-baseline-'))
    await mkdir(join(copy, 'migrations'))
    const written = await writeBaseline(copy)
    expect(written).toEqual(migrations.map(({ file }) => file).slice(0, written.length))
    await appendFile(join(copy, 'migrations', '20261129000200_plans.sql'), '-- a line\n')
    expect(await staleBaselineFiles(copy)).toEqual(['20261129000200_plans.sql'])

    await writeFile(join(copy, 'migrations', '20270101000000_more.sql'), 'select 1;')
    await expect(writeBaseline(copy)).rejects.toThrow(/what they do: 20270101000000_more\.sql\. Remove them first/)
    await writeFile(join(copy, 'baseline-closed'), 'Released.')
    await expect(writeBaseline(copy)).rejects.toThrow(/^The baseline is closed .*npm run db:diff NAME/)
    expect(await staleBaselineFiles(copy)).toEqual([])
    await rm(copy, { recursive: true })
  })

  test.each(migrations)('$file holds nothing that only the local stack has', ({ text }) => {
    expect(text).not.toMatch(/local_platform|supabase_admin|127\.0\.0\.1|localhost/)
    // Settings of the platform's roles are the platform's; the gateway's role is made by a migration and is ours.
    // Of the platform's roles hosted lets only the Data API's be told what to ask before a request.
    expect(text).not.toMatch(
      /alter\s+(?:role|database)\s(?!palisade_gateway\s|authenticator set pgrst\.db_pre_request).*\sset\s/i,
    )
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
  const { crypto, ...mapped } = imports
  const isFile = ([name]: [string, unknown]) => name.startsWith('ccxt/')
  const others = Object.fromEntries(Object.entries(mapped).filter((entry) => !isFile(entry)))

  // ccxt's exports have no single exchanges, and its files ask for Node's crypto without its scheme.
  expect(crypto).toBe('node:crypto')
  const files = Object.entries(mapped).filter(isFile)
  expect(files.length).toBeGreaterThan(0)
  for (const [name, file] of files)
    expect(file).toMatch(new RegExp(`^\\.\\./node_modules/ccxt/js/src/${name.slice(5)}$`))
  expect(Object.keys(others).length).toBeGreaterThan(0)
  for (const [key, specifier] of Object.entries(others)) {
    const [name, slash] = key.endsWith('/') ? [key.slice(0, -1), '/'] : [key, '']
    // Only ccxt asks for those that it has to itself.
    const { version } = packages[`node_modules/ccxt/node_modules/${name}`] ?? packages[`node_modules/${name}`]
    expect(specifier).toBe(`npm:${slash}${name}@${version}${slash}`)
  }
})
