/** What the doctor learns of hosted Supabase's Management API, and how it gets at a target: without a stack. */
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import postgres from 'postgres'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { readProduction } from '../../scripts/deploy/production-env.ts'
import type { Target } from '../../scripts/doctor/check.ts'
import { diagnose } from '../../scripts/doctor/diagnose.ts'
import { readTarget } from '../../scripts/doctor/target.ts'
import { runCli } from '../../stack/supabase-cli.ts'
import { isGiven } from '../projects.ts'
import { lint, type ManagementApi, ref, startManagementApi } from '../support/management-api.ts'
import { runScript } from '../support/run-script.ts'
import { target } from '../target.ts'

const hoursAgo = (hours: number) => new Date(Date.now() - hours * 3_600_000).toISOString()
const backup = (status: 'COMPLETED' | 'FAILED', hours: number) => ({
  ...{ id: 1, is_physical_backup: true, status, inserted_at: hoursAgo(hours) },
})

let api: ManagementApi
let asMade: ManagementApi['state']

beforeAll(async () => {
  api = await startManagementApi()
  asMade = structuredClone(api.state)
})
beforeEach(() => {
  Object.assign(api.state, structuredClone(asMade))
  makeHealthy(api.state)
  api.plant()
  api.asked.length = 0
})
afterAll(() => api?.close())

/** A project of some weeks that is as it should be. */
function makeHealthy(state: ManagementApi['state']): void {
  Object.assign(state, { createdAt: hoursAgo(500), ssl: true })
  Object.assign(state.auth, {
    site_url: 'https://app.example.org',
    uri_allow_list: 'https://app.example.org/**',
    smtp_host: 'smtp.example.org',
    smtp_port: '465',
    smtp_admin_email: 'noreply@example.org',
    hook_before_user_created_enabled: true,
    hook_before_user_created_uri: 'pg-functions://postgres/private/before_user_created',
    hook_custom_access_token_enabled: true,
    hook_custom_access_token_uri: 'pg-functions://postgres/private/custom_access_token',
    password_hibp_enabled: true,
  })
  state.lints.performance.push(lint('unindexed_foreign_keys', 'INFO', 'x'))
  state.backups.backups.push(backup('COMPLETED', 12))
  for (const name of ['AI_DB_URL', 'SMTP_URL', 'MAIL_FROM', 'OPENROUTER_API_KEY']) state.secrets.set(name, name)
}

const environment = () => ({ ...api.env, DB_URL: target().dbUrl })
/** The project's own address is nobody's here: what asks it is another file's. */
const hosted = async (env: Record<string, string> = {}): Promise<Target> => ({
  ...(await readTarget({ projectRef: ref }, { ...environment(), ...env })),
  apiUrl: null,
})
const only = [
  'hooks-enabled',
  'exposed-schemas',
  'auth-mail',
  'provider-keys',
  'advisors',
  'backups',
  'network',
  'function-secrets',
]
test('a project that is as it should be has nothing wrong, and nothing was asked of it but to be read', async () => {
  const findings = await diagnose(await hosted(), { only })

  expect(findings.filter(({ state: found }) => found !== 'ok')).toEqual([])
  expect(findings.map(({ check }) => check).toSorted()).toEqual(only.toSorted())
  expect(api.asked.filter(({ method }) => method !== 'GET')).toEqual([])
})

const faults: Record<string, [plant: (state: ManagementApi['state']) => unknown, check: string, says: RegExp]> = {
  'a hook that is off': [
    ({ auth }) => Object.assign(auth, { hook_custom_access_token_enabled: false }),
    'hooks-enabled',
    /Auth does not call private\.custom_access_token/,
  ],
  'a hook that leads elsewhere': [
    ({ auth }) => Object.assign(auth, { hook_before_user_created_uri: 'pg-functions://postgres/public/other' }),
    'hooks-enabled',
    /Auth does not call private\.before_user_created/,
  ],
  'schema private in the Data API': [
    ({ rest }) => Object.assign(rest, { db_schema: 'public, private' }),
    'exposed-schemas',
    /expose schema private/,
  ],
  "Supabase's own mail server": [
    ({ auth }) => Object.assign(auth, { smtp_host: null }),
    'auth-mail',
    /no mail server but Supabase's/,
  ],
  'a mail server inside a private network': [
    ({ auth }) => Object.assign(auth, { smtp_host: '0xa.0.0.7' }),
    'auth-mail',
    /Auth on hosted Supabase does not reach 0xa\.0\.0\.7/,
  ],
  'a provider without a key': [
    ({ secrets }) => secrets.delete('OPENROUTER_API_KEY'),
    'provider-keys',
    /provider openrouter has no key/,
  ],
  'a warning of the advisors': [
    ({ lints }) => lints.security.push(lint('auth_otp_long_expiry', 'WARN', 'is long')),
    'advisors',
    /WARN auth_otp_long_expiry: is long/,
  ],
  'no backup': [({ backups }) => backups.backups.splice(0), 'backups', /there is no backup/],
  'a backup that is old': [
    ({ backups }) => backups.backups.splice(0, 1, backup('COMPLETED', 50)),
    'backups',
    /the last backup is 50 hours old/,
  ],
  'a backup that failed': [
    ({ backups }) => backups.backups.splice(0, 1, backup('FAILED', 1)),
    'backups',
    /there is no backup/,
  ],
  'TLS that is not enforced': [(state) => Object.assign(state, { ssl: false }), 'network', /SSL is not enforced/],
  'a network that shuts the functions out': [
    ({ network }) => Object.assign(network.config, { dbAllowedCidrs: ['198.51.100.0/24'], dbAllowedCidrsV6: [] }),
    'network',
    /only 198\.51\.100\.0\/24 may reach the database: functions do not/,
  ],
  'a function without its secret': [
    ({ secrets }) => secrets.delete('AI_DB_URL'),
    'function-secrets',
    /have no AI_DB_URL/,
  ],
  'an answer of another form': [
    () => api.plant(({ path }) => path === '/database/backups' && Response.json({ other: true })),
    'backups',
    /in a form that is not known here/,
  ],
  'an answer that is none': [
    () => api.plant(({ path }) => path === '/database/backups'),
    'backups',
    /answers 400 to database\/backups: planted by the test/,
  ],
}

test.each(Object.entries(faults))('%s is found', async (_name, [plant, check, says]) => {
  plant(api.state)

  const found = (await diagnose(await hosted(), { only: [check] })).filter(({ state }) => state === 'wrong')

  expect(found.map(({ what }) => what).join('\n')).toMatch(says)
  expect(found.every(({ mend }) => mend?.text)).toBe(true)
})

test('what needs another plan can be accepted by its name, and is told all the same', async () => {
  api.state.auth.password_hibp_enabled = false
  const run = async (env: Record<string, string>) => diagnose(await hosted(env), { only: ['advisors'] })

  const [found] = await run({})
  expect(found).toMatchObject({ state: 'wrong', what: expect.stringContaining('auth_leaked_password_protection') })
  const [, line = ''] = /(DOCTOR_ACCEPTED=\S+) in/.exec(found?.mend?.text ?? '') ?? []
  const env = { DOCTOR_ACCEPTED: line.replace('DOCTOR_ACCEPTED=', '') }
  expect(await run(env)).toEqual([
    { check: 'advisors', state: 'ok', what: expect.stringMatching(/^WARN auth_leaked.*\(accepted\)$/), mend: null },
  ])

  api.state.lints.security.push(lint('rls_disabled_in_public', 'ERROR', 'is open'))
  expect((await run(env)).map(({ state }) => state)).toEqual(['ok', 'wrong'])
})

test('an answer that leads elsewhere is not followed, and the token stays where it was meant for', async () => {
  const location = `${api.url}/elsewhere`
  api.plant(({ path }) => path === '/database/backups' && new Response(null, { status: 307, headers: { location } }))

  const found = await diagnose(await hosted(), { only: ['backups'] })

  expect(found[0]?.what).toMatch(/answers 307 to database\/backups: it leads elsewhere/)
  expect(api.asked.map(({ path }) => path)).not.toContain('/elsewhere')
})

test('the CLI takes the commands that it prints as they stand', async () => {
  api.state.ssl = false

  const found = await diagnose(
    { ...(await hosted()), apiUrl: 'http://127.0.0.1:9' },
    { only: ['network', 'functions'] },
  )
  const commands = found.flatMap(({ mend }) => /^npx supabase (.+)$/.exec(mend?.text ?? '')?.[1] ?? [])
  for (const command of [commands[0], commands.at(-1)]) {
    const { output } = await runCli(command?.split(' ') ?? [], api.env)
    expect(output).toContain('Confirmation required')
    expect(output).not.toContain('deprecated')
  }

  expect(new Set(commands.map((command) => command.split(' ')[0]))).toEqual(new Set(['functions', 'ssl-enforcement']))
})

test('a redirect to this machine is found', async () => {
  Object.assign(api.state.auth, {
    site_url: 'http://localhost:3000',
    uri_allow_list: 'https://app.example.org,http://127.0.0.1:3000,https://*.app.local,myapp://callback',
  })

  const found = await diagnose({ ...(await hosted()), apiUrl: api.url }, { only: ['site-url'] })

  expect(found.map(({ what }) => what)).toEqual([
    'links in mails lead to http://localhost:3000',
    'Auth may redirect to http://127.0.0.1:3000',
    'Auth may redirect to https://*.app.local',
  ])
})

const skipped: Record<string, [target: () => Promise<Target>, check: string, says: RegExp]> = {
  'a secret that cannot be read back': [
    () => hosted(),
    'pooler',
    /the functions have AI_DB_URL, and a secret cannot be read back/,
  ],
  'a project before its first night': [
    () => {
      Object.assign(api.state, { createdAt: hoursAgo(5) })
      api.state.backups.backups.splice(0)
      return hosted()
    },
    'backups',
    /the project is 5 hours old, and the first backup comes with its first night/,
  ],
  'backups that are made elsewhere': [
    async () => ({ ...(await hosted()), kind: 'self-hosted', management: null }),
    'backups',
    /archive_mode is off, and what is dumped or copied elsewhere cannot be seen from here/,
  ],
  'an API without an address': [() => hosted(), 'functions', /SUPABASE_URL is not set/],
}

test.each(Object.entries(skipped))('%s is told as what it is: not looked at', async (_name, [find, check, says]) => {
  const findings = await diagnose(await find(), { only: [check] })

  expect(findings).toEqual([{ check, state: 'skip', what: expect.stringMatching(says), mend: null }])
})

// A pg_cron that is there runs them, whatever a test says.
test.skipIf(isGiven)('jobs that no longer run are found, one by one or all at once', async () => {
  const admin = postgres(target().superuserUrl ?? '', { max: 1, onnotice: () => {} })
  const run = (minutesAgo: number, which: string) =>
    admin.unsafe(`insert into cron.job_run_details (jobid, runid, status, start_time)
      select jobid, nextval('cron.runid_seq'), 'succeeded', now() - interval '${minutesAgo} minutes' from cron.job where ${which}`)
  const found = async () => (await diagnose(await hosted(), { only: ['jobs-run'] })).map(({ what }) => what)

  await run(30, 'true')
  expect(await found()).toEqual(['no job has run for minutes: pg_cron does not work'])
  await run(0, "jobname <> 'send-mails'")
  expect(await found()).toEqual(['job send-mails ran 30 minutes ago, and is due every minute or more often'])
  await run(0, 'true')
  expect(await found()).toEqual([expect.stringMatching(/^\d+ jobs, none failing$/)])

  await admin.end()
})

test('keys come from the project, and the address of its database with the password of the environment', async () => {
  const { DB_URL: _unset, ...env } = environment()

  const found = await readTarget({ projectRef: ref }, { ...env, SUPABASE_DB_PASSWORD: 'p@ss' })

  expect(found).toMatchObject({
    apiUrl: `https://${ref}.supabase.co`,
    publishableKey: api.state.keys.publishable,
    secretKey: api.state.keys.secret,
    dbUrl: `postgresql://postgres.${ref}:p%40ss@127.0.0.1:5432/postgres`,
  })
})

const refused: Record<string, [args: string[], env: Record<string, string>, says: RegExp]> = {
  'no target': [[], { PALISADE_DATA: '/nonexistent/palisade' }, /No stack runs/],
  'a project without a token': [['--project-ref', ref], {}, /Not logged in\. Set SUPABASE_ACCESS_TOKEN/],
  'a token that is not taken': [
    ['--project-ref', ref],
    { SUPABASE_ACCESS_TOKEN: 'other' },
    /Supabase refuses the access token/,
  ],
  'what is no project': [['--project-ref', 'x'], {}, /20 lower-case letters/],
  'a password in an argument': [
    ['--db-url', 'postgresql://postgres:secret@db.example.org/postgres'],
    {},
    /Everybody on this machine can read arguments/,
  ],
  'two targets': [
    ['--project-ref', ref, '--db-url', 'postgresql://db.example.org/postgres'],
    {},
    /Either --project-ref or --db-url/,
  ],
  'a database that does not answer': [
    [],
    { DB_URL: 'postgresql://postgres@127.0.0.1:9/postgres' },
    /cannot be reached/,
  ],
  'a file that is not there': [['--env-file', '/nonexistent/env'], {}, /There is no \/nonexistent\/env/],
  'a check that is none': [
    ['--only', 'nothing'],
    { DB_URL: 'postgresql://postgres@127.0.0.1:9/postgres' },
    /There is no check nothing/,
  ],
  'an accepted finding that nobody may accept': [
    [],
    { DB_URL: 'postgresql://postgres@127.0.0.1:9/postgres', DOCTOR_ACCEPTED: 'rls_disabled_in_public' },
    /DOCTOR_ACCEPTED may name auth_leaked_password_protection, .* and nothing else/,
  ],
  'a flag that is none': [['--nothing'], {}, /--nothing.*See --help/],
}

test.each(Object.entries(refused))(
  '%s ends with 2 and says why, without a secret',
  async (_name, [args, env, says]) => {
    const own = {
      ...process.env,
      DB_URL: '',
      SUPABASE_ACCESS_TOKEN: '',
      SUPABASE_HOME: '/nonexistent',
      SUPABASE_API_URL: api.url,
      ...env,
    }
    const { code, stdout, stderr } = await runScript('doctor', args, own)

    expect(stderr).toMatch(says)
    expect(stderr + stdout).not.toContain('secret')
    expect(code).toBe(2)
  },
)

test('a self-hosted database is named by --db-url, its password by the environment', async () => {
  const url = new URL(target().dbUrl)
  const env = { ...process.env, DB_URL: '', PGPASSWORD: decodeURIComponent(url.password) }
  url.password = ''

  const { code, stdout } = await runScript('doctor', ['--db-url', url.href, '--only', 'version', '--json'], env)

  expect(JSON.parse(stdout)).toMatchObject({ kind: 'self-hosted', findings: [{ check: 'version', state: 'ok' }] })
  expect(code).toBe(0)
})

test("the file that deploy reads is the doctor's, too: the password of --db-url is in it, and both keys", async () => {
  const folder = await mkdtemp(join(tmpdir(), 'palisade-doctor-'))
  const file = join(folder, 'env')
  const url = new URL(target().dbUrl)
  const { password } = url
  url.password = ''
  const lines = [`SUPABASE_DB_PASSWORD=${decodeURIComponent(password)}`, 'SUPABASE_PUBLISHABLE_KEY=sb_publishable_x']
  await writeFile(file, `${lines.join('\n')}\n`, { mode: 0o600 })

  const found = await readTarget({ dbUrl: url.href, envFile: file }, {})

  expect(found).toMatchObject({ dbUrl: target().dbUrl, publishableKey: 'sb_publishable_x' })
  expect((await readProduction(file)).functionSecrets.size).toBe(0)
  await rm(folder, { recursive: true })
})

test('a file of secrets that others may read is refused, and read when they may not', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'palisade-doctor-'))
  const file = join(folder, 'env')
  await writeFile(file, `DB_URL=${target().dbUrl}\n`, { mode: 0o644 })
  const run = () =>
    runScript('doctor', ['--env-file', file, '--only', 'version', '--only', 'api-keys'], { ...process.env, DB_URL: '' })

  expect(await run()).toMatchObject({ code: 2, stderr: expect.stringContaining(`chmod 600 ${file}`) })
  await chmod(file, 0o600)
  expect(await run()).toMatchObject({
    code: 0,
    stdout: expect.stringContaining('skip  api-keys: SUPABASE_URL is not set'),
  })
  await rm(folder, { recursive: true })
})
