/** The same migrations on PostgreSQL 17, which hosted and local projects run, and on 15, which self-hosted ones still may. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import newerNames from '../../scripts/checks/newer-names.json' with { type: 'json' }
import type { Target } from '../../scripts/doctor/check.ts'
import { diagnose } from '../../scripts/doctor/diagnose.ts'
import { onDatabase } from '../../scripts/shared/run-vitest.ts'
import { root } from '../../stack/config.ts'
import { migrationVersions, pushMigrations } from '../../stack/migrations.ts'
import { type Scratch, startScratch } from '../../stack/platform/scratch.ts'
import { startScratch15 } from '../../stack/platform/scratch-15.ts'
import { describeWithDebian } from '../support/debian.ts'
import { newerSql } from '../support/newer-sql.ts'

type Server = { scratch: Scratch; url: string; sql: postgres.Sql }

/** A server with all migrations, pushed as a deployment pushes them. */
async function startServer(start: () => Promise<Scratch>): Promise<Server> {
  const scratch = await start()
  const url = await scratch.createDatabase('palisade')
  await pushMigrations(url, { seed: true })
  return { scratch, url, sql: postgres(url, { max: 1, onnotice: () => {} }) }
}

async function stopServer(server: Server | undefined): Promise<void> {
  await server?.sql.end()
  await server?.scratch.stop()
}

/** What a statement is refused with as the superuser; null when it is not. Nothing of it stays. */
async function refusal(server: Server, statement: string): Promise<string | null> {
  const admin = postgres(server.scratch.superuserUrl('palisade'), { max: 1, onnotice: () => {} })
  try {
    await admin.unsafe(`begin; ${statement}; rollback`)
    return null
  } catch (error) {
    return String(error)
  } finally {
    await admin.end()
  }
}

async function readNames({ sql }: Server) {
  const list = async (query: string) => (await sql.unsafe(query)).map((row): string => row.name)
  return {
    functions: await list(
      "select distinct proname as name from pg_proc where pronamespace = 'pg_catalog'::regnamespace",
    ),
    settings: await list('select name from pg_settings'),
    roles: await list("select rolname as name from pg_roles where rolname like 'pg\\_%'"),
    relations: await list(
      "select relname as name from pg_class where relnamespace = 'pg_catalog'::regnamespace and relkind in ('r', 'v')",
    ),
  }
}

/** A database alone: nobody has said where its API is. */
const bareTarget = (dbUrl: string): Target => ({
  ...{ kind: 'self-hosted', name: 'a server of the tests', dbUrl, superuserUrl: null, apiUrl: null },
  ...{ publishableKey: null, secretKey: null, values: {}, signingKey: null, management: null, sendMailTo: null },
  now: Date.now,
})

/** By the names of the jobs. */
const schedules = async ({ sql }: Server) =>
  new Map((await sql`select jobname, schedule from cron.job`).map((job) => [job.jobname, job.schedule]))

describeWithDebian(['postgresql-15'], 'PostgreSQL 15 and 17', () => {
  let old: Server
  let current: Server
  beforeAll(async () => {
    ;[current, old] = await Promise.all([startServer(startScratch), startServer(startScratch15)])
  })
  afterAll(async () => {
    await stopServer(old)
    await stopServer(current)
  })

  test('both have all migrations, pushed by role postgres, which is no superuser', async () => {
    const found = async ({ sql }: Server) => {
      const [row] = await sql`
        select current_setting('server_version_num')::integer / 10000 as major, current_user::text as role,
          (select rolsuper from pg_roles where rolname = current_user) as is_superuser,
          array(select version from supabase_migrations.schema_migrations order by 1) as versions`
      return row
    }
    const expected = { role: 'postgres', is_superuser: false, versions: await migrationVersions() }

    expect(await found(old)).toEqual({ major: 15, ...expected })
    expect(await found(current)).toEqual({ major: 17, ...expected })
  })

  test('pg_cron 1.4 runs once a minute what 1.6 runs every few seconds, and all other jobs alike', async () => {
    const [then, now] = [await schedules(old), await schedules(current)]

    expect([...now.values()].filter((schedule) => schedule.endsWith('seconds'))).not.toEqual([])
    expect(then).toEqual(new Map([...now].map(([name, at]) => [name, at.endsWith('seconds') ? '* * * * *' : at])))
  })

  describe.each([
    ['15', () => old],
    ['17', () => current],
  ])('on %s', (_version, server) => {
    test.each(['90 seconds', '0 seconds', '* * * *', 'often'])('a job "%s" is refused', async (schedule) => {
      const { sql } = server()

      const refusal = sql`select private.schedule_job('test', ${schedule}, 'select 1')`

      await expect(refusal).rejects.toMatchObject({ code: '22023', message: `invalid schedule: ${schedule}` })
      expect(await schedules(server())).not.toContain('test')
    })

    test('the doctor has nothing against what the migrations made', async () => {
      const only = ['version', 'extensions', 'gateway-role', 'migrations', 'drift', 'access', 'invalid', 'hooks']
      const others = ['jobs-scheduled', 'partitions', 'ledgers', 'caps']

      const findings = await diagnose(bareTarget(server().url), { only: [...only, ...others] })

      expect(findings.filter(({ state }) => state !== 'ok')).toEqual([])
      expect(findings).toHaveLength(only.length + others.length)
    })
  })

  test.each(Object.entries(newerSql))('15 does not know %s', async (_what, statement) => {
    expect(await refusal(current, statement)).toBeNull()
    expect(await refusal(old, statement)).not.toBeNull()
  })

  test('names that 15 does not know are those of the list', async () => {
    const [then, now] = [await readNames(old), await readNames(current)]
    const missing = (kind: keyof typeof then) => now[kind].filter((name) => !then[kind].includes(name)).sort()
    const listed = (kind: keyof typeof then) =>
      Object.values(newerNames)
        .flatMap((names) => names[kind])
        .sort()

    for (const kind of ['functions', 'settings', 'roles', 'relations'] as const)
      expect(missing(kind)).toEqual(listed(kind))
  })

  test('the access matrix and what reads addresses, ids, dates and times pass on 15', {
    timeout: 300_000,
  }, async () => {
    const groups = [
      'accounts',
      'api-keys',
      'audit',
      'billing-events',
      'credentials',
      'hooks',
      'lock-out',
      'registration',
    ]
    const files = ['tests/access', ...groups.map((name) => `tests/sql/${name}.test.ts`)]
    const env = { ...process.env, ...onDatabase(old.url), SUPERUSER_URL: old.scratch.superuserUrl('palisade') }

    const failures = await promisify(execFile)(
      join(root, 'node_modules', '.bin', 'vitest'),
      ['run', '--project', 'stack', ...files],
      { cwd: root, env, maxBuffer: 64 * 1024 * 1024 },
    ).then(
      () => '',
      (error: { stdout?: string }) => `${error.stdout}`,
    )

    expect(failures).toBe('')
  })
})
