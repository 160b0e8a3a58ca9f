/** npm run deploy from start to end: the real CLI and a real database, a stand-in for Supabase's API and the one for Stripe. */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import postgres from 'postgres'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { root } from '../../stack/config.ts'
import { type Scratch, startScratch } from '../../stack/platform/scratch.ts'
import { type Asked, type ManagementApi, ref, startManagementApi } from '../support/management-api.ts'
import { type Ended, runScript } from '../support/run-script.ts'
import { createWorld, type StripeWorld } from '../support/stripe.ts'

let scratch: Scratch
let shop: StripeWorld
let folder: string
let made = 0

/** The CLI notes there to which project a folder is linked: a developer's own note comes back afterwards. */
const linked = join(root, 'supabase', '.temp')

beforeAll(async () => {
  ;[scratch, shop] = await Promise.all([startScratch(), createWorld()])
  folder = mkdtempSync(join(tmpdir(), 'palisade-deploy-test-'))
  if (existsSync(linked)) cpSync(linked, join(folder, 'linked'), { recursive: true })
  rmSync(linked, { recursive: true, force: true })
  commitEverything()
})
afterAll(async () => {
  await Promise.all([scratch?.stop(), shop?.close()])
  rmSync(linked, { recursive: true, force: true })
  if (existsSync(join(folder, 'linked'))) cpSync(join(folder, 'linked'), linked, { recursive: true })
  rmSync(folder, { recursive: true, force: true })
})

const gitEnv = () => ({ GIT_DIR: join(folder, 'git'), GIT_WORK_TREE: root })
const git = (...args: string[]) =>
  execFileSync('git', ['-c', 'user.name=Ada', '-c', 'user.email=ada@example.com', ...args], {
    cwd: root,
    env: { ...process.env, ...gitEnv() },
    stdio: 'pipe',
  })

/** A repository of the test's own that has these files as they are: a deployment wants a clean commit, a developer may have none. */
function commitEverything(): void {
  git('init', '-q')
  git('add', '--all')
  git('commit', '-qm', 'everything')
}

const password = (url: string) => decodeURIComponent(new URL(url).password)

/** What must be seen nowhere: neither printed, nor in the arguments of a process. */
const secrets = {
  smtp: 'smtp-password-1',
  captcha: 'captcha-secret-1',
  openrouter: 'sk-or-v1-secret-1',
}

async function newProject(lines: Record<string, string> = {}, plan: 'free' | 'pro' = 'pro') {
  made += 1
  const name = `project_${made}`
  const postgresUrl = await scratch.createDatabase(name)
  const api = await startManagementApi({ database: { superuserUrl: scratch.superuserUrl(name), postgresUrl }, plan })
  const file = join(folder, `${name}.env`)
  const values = {
    SITE_URL: 'https://app.example.com',
    REDIRECT_URLS: 'https://app.example.com/**',
    SMTP_URL: `smtps://mailer:${secrets.smtp}@smtp.example.com:465`,
    MAIL_FROM: 'Your App <noreply@example.com>',
    CAPTCHA_PROVIDER: 'turnstile',
    CAPTCHA_SECRET: secrets.captcha,
    OPENROUTER_API_KEY: secrets.openrouter,
    STRIPE_SECRET_KEY: shop.secretKey,
    BILLING_RETURN_URLS: 'https://app.example.com',
    // The CLI finds hosted databases by their names only, which no test has.
    DB_URL: postgresUrl,
    ...lines,
  }
  const text = Object.entries(values).map(([key, value]) => `${key}='${value}'\n`)
  writeFileSync(file, text.join(''), { mode: 0o600 })
  const sql = postgres(postgresUrl, { max: 1, onnotice: () => {} })
  return {
    api,
    sql,
    postgresUrl,
    deploy: (args = ['--yes', '--no-doctor'], env: Record<string, string | undefined> = {}): Promise<Ended> => {
      const ours = { PATH: process.env.PATH, HOME: folder, STRIPE_API_URL: shop.url, ...gitEnv(), ...api.env }
      const target = args.some((arg) => arg.startsWith('--db-url')) ? [] : ['--project-ref', ref]
      return runScript('deploy', [...target, '--env-file', file, ...args], { ...ours, ...env })
    },
    close: async () => {
      await sql.end()
      await api.close()
    },
  }
}

/** Requests that change something; SQL counts when its first word does. */
const writes = ({ asked }: ManagementApi): Asked[] =>
  asked.filter(({ method, path, body }) =>
    path === '/database/query'
      ? !/^\s*select(?! case)/.test(z.object({ query: z.string() }).parse(JSON.parse(body)).query)
      : !['GET', 'HEAD'].includes(method),
  )

/** Where each step can fail, in their order: what the CLI or we ask for then. */
const failures: [step: string, isAsked: (asked: Asked) => boolean][] = [
  ['secrets', ({ method, path, body }) => method === 'POST' && path === '/secrets' && body.includes('MAIL_FROM')],
  ['gateway login', ({ method, path, body }) => method === 'POST' && path === '/secrets' && body.includes('AI_DB_URL')],
  ['functions', ({ path }) => path === '/functions/deploy'],
  ['jobs', ({ body }) => body.includes('vault.create_secret')],
  ['configuration', ({ method, path }) => method === 'PATCH' && path === '/config/auth'],
  ['stripe prices', ({ body }) => body.includes('set_stripe_price')],
  ['stripe endpoint', ({ path, body }) => path === '/secrets' && body.includes('STRIPE_WEBHOOK_SECRETS')],
  ['record', ({ body }) => body.includes('insert into private.deployments')],
]

/** Looks at the arguments of every process while `act` runs, as anybody on the machine could. */
async function argumentsDuring<T>(act: () => Promise<T>): Promise<{ result: T; seen: string }> {
  const seen = new Set<string>()
  const look = () => {
    for (const pid of existsSync('/proc/self') ? readdirSync('/proc').filter((name) => /^\d+$/.test(name)) : []) {
      try {
        seen.add(readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' '))
      } catch {
        // It ended meanwhile.
      }
    }
  }
  const timer = setInterval(look, 20)
  try {
    return { result: await act(), seen: [...seen].join('\n') }
  } finally {
    clearInterval(timer)
  }
}

describe('a deployment', () => {
  let project: Awaited<ReturnType<typeof newProject>>
  const outputs: string[] = []
  let commandLines = ''
  const run = async (args = ['--yes', '--no-doctor']) => {
    const { result, seen } = await argumentsDuring(() => project.deploy(args))
    outputs.push(result.output)
    commandLines += seen
    return result
  }

  beforeAll(async () => {
    project = await newProject()
  })
  afterEach(() => project.api.plant())
  afterAll(() => project?.close())

  test('shows everything and changes nothing in a dry run', async () => {
    const before = structuredClone(project.api.state)

    const { code, stdout } = await run(['--dry-run'])

    expect(code).toBe(0)
    for (const [step] of failures) expect(stdout).toContain(`would     ${step}`)
    expect(stdout).toContain('local:  "https://app.example.com"')
    expect(stdout).toContain('remote: "http://localhost:3000"')
    expect(writes(project.api)).toEqual([])
    expect(project.api.state).toEqual(before)
    expect(existsSync(join(linked, 'project-ref'))).toBe(false)
    expect(await project.sql`select from pg_namespace where nspname = 'private'`).toHaveLength(0)
    expect((await shop.stripe.webhookEndpoints.list()).data.map(({ url }) => url)).toEqual([
      expect.stringContaining('127'),
    ])
  })

  test('changes nothing when nobody said yes', async () => {
    const { code, stderr } = await run([])

    expect(code).toBe(2)
    expect(stderr).toContain('run it again with --yes')
    expect(writes(project.api)).toEqual([])
  })

  test('that cannot link the folder, or stops at a migration, says so', async () => {
    project.api.plant(({ path, byCli }) => path === '' && byCli)
    expect((await run()).stderr).toContain('The step "link" failed')
    project.api.plant()
    await project.sql`create schema private`

    const { code, stderr } = await run()

    expect(code).toBe(1)
    expect(stderr).toContain('The step "migrations" failed')
    await project.sql`drop schema private`
  })

  test.each(failures)(
    'that fails at the step %s says so, and the next one goes on from there',
    async (step, isAsked) => {
      project.api.plant(isAsked)

      const { code, stderr } = await run()

      expect(stderr).toContain(`The step "${step}" failed`)
      expect(code).toBe(1)
    },
  )

  test('comes to its end, and the next one changes nothing', async () => {
    const last = await run()
    expect(last.output).toContain('Deployed.')
    expect(last.code).toBe(0)
    project.api.asked.length = 0

    const { code, stdout } = await run()

    expect(stdout).toContain('Everything is in place: nothing was changed.')
    expect(code).toBe(0)
    expect(writes(project.api)).toEqual([])
  })

  test('made the project what .env.production says', () => {
    const { auth, secrets: kept, functions } = project.api.state
    expect(auth).toMatchObject({
      site_url: 'https://app.example.com',
      uri_allow_list: 'https://app.example.com/**',
      smtp_host: 'smtp.example.com',
      smtp_port: '465',
      smtp_user: 'mailer',
      smtp_pass: secrets.smtp,
      smtp_admin_email: 'noreply@example.com',
      smtp_sender_name: 'Your App',
      security_captcha_enabled: true,
      security_captcha_provider: 'turnstile',
      security_captcha_secret: secrets.captcha,
      hook_before_user_created_enabled: true,
      hook_custom_access_token_enabled: true,
      hook_password_verification_attempt_enabled: false,
      hook_mfa_verification_attempt_enabled: false,
      jwt_exp: 900,
    })
    expect(kept.get('OPENROUTER_API_KEY')).toBe(secrets.openrouter)
    expect(kept.has('CAPTCHA_SECRET')).toBe(false)
    expect(functions.size).toBe(7)
    expect(JSON.stringify(auth)).not.toMatch(/127\.0\.0\.1|localhost|env\(/)
  })

  test('gave the gateway a login that works, through the pooler, and may do no more than before', async () => {
    const url = project.api.state.secrets.get('AI_DB_URL') ?? ''
    expect(new URL(url).username).toBe(`palisade_gateway.${ref}`)

    const gateway = postgres(url, { max: 1 })
    try {
      expect(await gateway`select current_user as me`).toEqual([{ me: 'palisade_gateway' }])
      await expect(gateway`select * from private.settings`).rejects.toThrow('permission denied')
    } finally {
      await gateway.end()
    }
  })

  test('told jobs where the functions are and what opens them', async () => {
    const [row] = await project.sql`
      select private.setting('jobs.functions_url') #>> '{}' as url, decrypted_secret as key
      from vault.decrypted_secrets where name = 'palisade_secret_key'`

    expect(row).toEqual({ url: `https://${ref}.project.invalid/functions/v1`, key: project.api.state.keys.secret })
  })

  test('left one endpoint at Stripe, whose secret the functions have, and prices for what is sold', async () => {
    const url = `https://${ref}.project.invalid/functions/v1/stripe-webhook`
    const { data } = await shop.stripe.webhookEndpoints.list()
    const ours = data.filter((endpoint) => endpoint.url === url)

    expect(ours).toMatchObject([{ status: 'enabled', metadata: { palisade: 'secret is kept' } }])
    expect(project.api.state.secrets.get('STRIPE_WEBHOOK_SECRETS')).toMatch(/^whsec_/)
    const [{ missing } = {}] = await project.sql`
      select count(*)::integer as missing from public.plan_prices p
      where p.enabled and not exists (select from private.stripe_prices s where s.plan_price_id = p.id and s.is_current)`
    expect(missing).toBe(0)
  })

  test('noted the commit once', async () => {
    const rows = await project.sql`select commit_sha, is_dirty from private.deployments`

    expect(rows).toEqual([{ commit_sha: git('rev-parse', 'HEAD').toString().trim(), is_dirty: false }])
  })

  test('showed no secret, neither in what it printed nor in an argument nor inside of SQL', () => {
    const { state, asked, env } = project.api
    const found = [
      ...Object.values(secrets),
      ...[env.SUPABASE_ACCESS_TOKEN, state.keys.secret, shop.secretKey, password(project.postgresUrl)],
      ...[state.secrets.get('STRIPE_WEBHOOK_SECRETS'), password(state.secrets.get('AI_DB_URL') ?? '')],
    ]
    const statements = asked.filter(({ path }) => path === '/database/query').map(({ body }) => JSON.parse(body).query)

    for (const secret of found) {
      expect(secret?.length).toBeGreaterThan(8)
      expect(outputs.join('\n')).not.toContain(secret)
      expect(commandLines).not.toContain(secret)
      expect(statements.join('\n')).not.toContain(secret)
    }
    expect(commandLines).toContain('functions deploy')
    expect(readdirSync(tmpdir()).filter((name) => /^palisade-deploy-(?!test-)/.test(name))).toEqual([])
  })

  test('notices what was changed behind its back, and mends that alone', async () => {
    project.api.state.auth.site_url = 'http://127.0.0.1:54323'
    project.api.state.secrets.set('OPENROUTER_API_KEY', 'another')
    project.api.state.secrets.set('AI_DB_URL', 'postgresql://postgres@elsewhere/postgres')
    await project.sql`update private.settings set value = '"https://elsewhere"' where key = 'jobs.functions_url'`

    const { code, stdout } = await run()

    expect(code).toBe(0)
    const done = stdout.match(/(?<=^done {6}).*/gm)
    expect(done).toEqual(['secrets', 'gateway login', 'jobs', 'configuration'])
    expect(project.api.state.auth.site_url).toBe('https://app.example.com')
    expect(project.api.state.secrets.get('OPENROUTER_API_KEY')).toBe(secrets.openrouter)
  })

  test('ends with the doctor, and is not well before the doctor is', async () => {
    const elsewhere = { DB_URL: project.postgresUrl.replace(/:\d+\//, ':1/') }

    const { code, stdout, stderr } = await project.deploy(['--yes'], elsewhere)

    expect(stdout).toContain('Everything is in place: nothing was changed.\n\nThe doctor looks at it.')
    expect(stderr).toContain('the doctor could not look at it: The database cannot be reached')
    expect(code).toBe(1)
  })

  test('is looked at by the doctor, through the same API: what was deployed is found, and what is open is told', async () => {
    project.api.state.auth.password_hibp_enabled = true
    project.api.asked.length = 0

    const nobody = { SUPABASE_URL: 'http://127.0.0.1:9', SMTP_URL: 'smtp://127.0.0.1:9' }
    const { code, stdout } = await project.deploy(['--yes'], nobody)

    const found = stdout.slice(stdout.indexOf('The doctor looks at it.'))
    for (const check of ['migrations', 'drift', 'access', 'hooks', 'hooks-enabled', 'auth-mail', 'provider-keys'])
      expect(found).toMatch(new RegExp(`^ok    ${check}: `, 'm'))
    for (const check of ['advisors', 'function-secrets', 'stripe-prices'])
      expect(found).toMatch(new RegExp(`^ok    ${check}: `, 'm'))
    expect(found).toContain('WRONG network: SSL is not enforced')
    expect(found).toMatch(/^skip {2}backups: the project is 0 hours old/m)
    expect(writes(project.api)).toEqual([])
    expect(code).toBe(1)
  }, 150_000)
})

describe('is refused before anything is changed', () => {
  let project: Awaited<ReturnType<typeof newProject>>
  beforeAll(async () => {
    project = await newProject()
  })
  afterAll(() => project?.close())
  beforeEach(() => {
    project.api.state.status = 'ACTIVE_HEALTHY'
  })

  const refused = async (args: string[], env: Record<string, string | undefined> = {}) => {
    const { code, output } = await project.deploy(args, env)
    expect(writes(project.api)).toEqual([])
    expect(code).toBe(2)
    return output
  }

  test.each([
    [['--nonsense'], "Unknown option '--nonsense'"],
    [
      ['--db-url', 'postgresql://postgres@127.0.0.1/postgres', '--project-ref', ref],
      'Either --project-ref or --db-url',
    ],
    [['--project-ref', 'Short'], '20 lower-case letters'],
    [['--project-ref', 'zzzzzzzzzzzzzzzzzzzz'], 'There is no project zzzzzzzzzzzzzzzzzzzz'],
    [['--env-file', '/nowhere/.env.production'], 'There is no /nowhere/.env.production'],
    [['--db-url', 'https://x'], '--db-url is not a postgres URL'],
    [['--db-url', 'postgresql://postgres:top@127.0.0.1:5432/postgres'], 'Everybody on this machine can read arguments'],
  ])('with %j', async (args, why) => {
    expect(await refused(args)).toContain(why)
  })

  test('without a login, and with one that Supabase refuses', async () => {
    expect(await refused(['--yes'], { SUPABASE_ACCESS_TOKEN: undefined })).toContain('Not logged in')
    expect(await refused(['--yes'], { SUPABASE_ACCESS_TOKEN: `sbp_${'f'.repeat(40)}` })).toContain(
      'refuses the access token',
    )
  })

  test('while the project is paused', async () => {
    project.api.state.status = 'INACTIVE'

    expect(await refused(['--yes'])).toContain('The project is INACTIVE')
  })

  test('when files differ from the commit', async () => {
    git('rm', '-q', '--cached', 'LICENSE')
    try {
      expect(await refused(['--yes'])).toContain('Some files differ from the commit')
    } finally {
      git('add', 'LICENSE')
    }
  })

  test('when the database has other migrations than these files', async () => {
    await project.sql`create schema if not exists supabase_migrations`
    await project.sql`
      create table if not exists supabase_migrations.schema_migrations (version text primary key, statements text[], name text)`
    await project.sql`
      insert into supabase_migrations.schema_migrations values ('20261129000000', array['select 1'], 'foundation')`
    expect(await refused(['--yes'])).toContain('its baseline was made anew since')

    await project.sql`update supabase_migrations.schema_migrations set version = '20991129000000'`
    expect(await refused(['--yes'])).toContain('which this version of Palisade does not have')
  })
})

test('on a plan without limits of sessions it names the switch that leaves them out, and comes to its end with it', async () => {
  const project = await newProject({}, 'free')
  try {
    const refused = await project.deploy()
    expect(refused.stderr).toMatch(/The step "configuration" failed[\s\S]*In \.env\.production AUTH_SESSION_LIMITS=off/)
    expect(refused.code).toBe(1)

    const file = join(folder, `project_${made}.env`)
    writeFileSync(file, `${readFileSync(file, 'utf8')}AUTH_SESSION_LIMITS=off\n`)
    const { code, stdout } = await project.deploy()

    expect(stdout.match(/(?<=^done {6}).*/gm)).toContain('configuration')
    expect(code).toBe(0)
    expect(project.api.state.auth).toMatchObject({ sessions_timebox: 0, jwt_exp: 900 })
    expect((await project.deploy()).stdout).toContain('Everything is in place: nothing was changed.')
  } finally {
    await project.close()
  }
})

test("without another way to the database, the migrations go by the CLI's own, which says what is missing", async () => {
  const project = await newProject({ DB_URL: '' })
  try {
    const { code, stderr } = await project.deploy()

    expect(stderr).toContain(
      'The step "migrations" failed: supabase db push: IPv6 is not supported on your current network',
    )
    expect(code).toBe(1)
  } finally {
    await project.close()
  }
})

test('a self-hosted project gets what a database can be given, and is told what is left to do', async () => {
  const chosen = 'chosen-by-the-operator'
  const login = `postgresql://palisade_gateway:${chosen}@db:5432/postgres`
  const secretKey = 'service-role-key-1'
  const project = await newProject({
    SUPABASE_URL: 'https://api.example.com',
    SUPABASE_SECRET_KEY: secretKey,
    AI_DB_URL: login,
  })
  try {
    const url = new URL(project.postgresUrl)
    url.password = ''
    const file = join(folder, `project_${made}.env`)
    writeFileSync(file, `${readFileSync(file, 'utf8')}SUPABASE_DB_PASSWORD='${password(project.postgresUrl)}'\n`)
    const { result: first, seen } = await argumentsDuring(() =>
      project.deploy(['--db-url', url.toString(), '--yes', '--no-doctor']),
    )

    expect(first.output).toContain('Deployed.')
    expect(first.stdout.match(/^by hand /gm)?.length).toBe(4)
    for (const secret of [password(project.postgresUrl), secretKey, chosen]) {
      expect(first.output).not.toContain(secret)
      expect(seen).not.toContain(secret)
    }
    const gateway = postgres(project.postgresUrl, {
      max: 1,
      user: 'palisade_gateway',
      password: chosen,
    })
    expect(await gateway`select current_user as me`).toEqual([{ me: 'palisade_gateway' }])
    await gateway.end()
    const [row] = await project.sql`
      select private.setting('jobs.functions_url') #>> '{}' as url, decrypted_secret as key,
        private.setting('deploy.gateway_digest') #>> '{}' as digest
      from vault.decrypted_secrets where name = 'palisade_secret_key'`
    expect(row).toEqual({
      url: 'https://api.example.com/functions/v1',
      key: secretKey,
      digest: createHash('sha256').update(login).digest('hex'),
    })

    const second = await project.deploy(['--db-url', url.toString(), '--yes', '--no-doctor'])
    expect(second.stdout).toContain('Everything is in place: nothing was changed.')
    expect(project.api.asked).toEqual([])
  } finally {
    await project.close()
  }
})

test("migrations do not go to another database than the project's, which a copied file may name", async () => {
  const other = await scratch.createDatabase('of_another_project')
  const { deploy, close } = await newProject({ DB_URL: other })
  const sql = postgres(other, { max: 1, onnotice: () => {} })
  try {
    const { code, stderr } = await deploy()

    expect([code, stderr]).toEqual([
      1,
      expect.stringContaining(`DB_URL in .env.production is not the database of ${ref}`),
    ])
    expect(await sql`select to_regnamespace('private') as made`).toEqual([{ made: null }])
  } finally {
    await sql.end()
    await close()
  }
})
