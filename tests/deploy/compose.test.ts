/**
 * deploy/self-hosted/docker-compose.palisade.yml without Docker: it parses, names what Supabase's compose has
 * (tests/support/supabase-compose.json), and says what supabase/config.toml says.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { parse as parseToml } from 'smol-toml'
import { expect, test } from 'vitest'
import { parse } from 'yaml'
import { z } from 'zod'
import { variables } from '../../functions/_shared/env.ts'
import { projectFile, root } from '../../stack/config.ts'
import { durationMs } from '../../stack/platform/auth/settings.ts'

const folder = join(root, 'deploy/self-hosted')
const read = (name: string) => readFileSync(join(folder, name), 'utf8')

const service = z.object({
  image: z.string().optional(),
  container_name: z.string().optional(),
  environment: z.record(z.string(), z.string()).default({}),
  volumes: z.array(z.string()).default([]),
  ports: z.array(z.string()).default([]),
  depends_on: z.union([z.array(z.string()), z.record(z.string(), z.unknown()).transform(Object.keys)]).default([]),
  command: z.array(z.string()).default([]),
})
/** Compose's own tag: in the place of the base file's list, not added to it. */
const override = { tag: '!override', collection: 'seq' as const }
const compose = z
  .object({ services: z.record(z.string(), service), volumes: z.record(z.string(), z.null()) })
  .parse(parse(read('docker-compose.palisade.yml'), { merge: true, customTags: [override] }))
const of = (name: string) => compose.services[name] ?? service.parse({})

const facts = z
  .object({
    services: z.record(z.string(), z.object({ image: z.string(), environment: z.array(z.string()) })),
    env: z.array(z.string()),
  })
  .parse(JSON.parse(readFileSync(join(root, 'tests/support/supabase-compose.json'), 'utf8')))

/** The names that a file of variables sets, also those that are commented out. */
const setIn = (text: string) => [...text.matchAll(/^#?([A-Z][A-Z0-9_]*)=/gm)].map(([, name = '']) => name)
const ours = ['functions-2', 'proxy']

test('it adds to services that Supabase has, in variables that they read', () => {
  const others = Object.keys(compose.services).filter((name) => !ours.includes(name))

  expect(others.filter((name) => !facts.services[name])).toEqual([])
  // Besides what Supabase gives to functions, they read ours.
  const known = (name: string) => [
    ...(facts.services[name]?.environment ?? []),
    ...(name === 'functions' ? Object.keys(variables) : []),
  ]
  expect(
    others.flatMap((name) => Object.keys(of(name).environment).filter((one) => !known(name).includes(one))),
  ).toEqual([])
})

test('both containers of functions are the same, with the image that Supabase has', () => {
  const { image, environment, volumes, command } = of('functions')

  expect(of('functions-2')).toMatchObject({ image, environment, volumes, command })
  expect(image).toBe(facts.services.functions?.image)
})

test('no variable of .env is left unsaid: Supabase has it, or the example does', () => {
  const text = read('docker-compose.palisade.yml').replaceAll(/^\s*#.*$/gm, '')
  const asked = [...text.matchAll(/\$\{([A-Z0-9_]+)/g)].map(([, name = '']) => name)
  const example = setIn(read('compose.env.example'))

  expect(asked.filter((name) => !facts.env.includes(name) && !example.includes(name))).toEqual([])
  // And nothing is explained that nobody reads.
  expect(example.filter((name) => !facts.env.includes(name) && !asked.includes(name))).toEqual([])
})

test('the example of the functions names their own secrets, and no others', () => {
  const given = Object.keys(of('functions').environment)
  const example = setIn(read('functions.env.example'))
  // A provider's key has the name that private.providers gives it.
  const known = [...Object.keys(variables), 'OPENROUTER_API_KEY']

  expect(example.filter((name) => !known.includes(name))).toEqual([])
  expect(example.filter((name) => given.includes(name))).toEqual([])
})

test('functions get neither the secret that all services share nor the key that opens everything', () => {
  const { environment } = of('functions')

  expect(environment).toMatchObject({ JWT_SECRET: '', SUPABASE_JWKS: '', SUPABASE_SERVICE_ROLE_KEY: '' })
  expect(JSON.stringify(environment)).not.toMatch(/\$\{(?:JWT_SECRET|JWT_JWKS|JWT_KEYS|SERVICE_ROLE_KEY)\b/)
})

test('only the proxy is reached from outside', () => {
  const open = Object.entries(compose.services).flatMap(([name, { ports }]) =>
    ports.some((port) => !port.startsWith('127.0.0.1:')) ? [name] : [],
  )

  expect(open).toEqual(['proxy'])
})

test('what is mounted is there, and every named volume is declared or Supabase’s', () => {
  const sources = Object.values(compose.services).flatMap(({ volumes }) => volumes)
  const paths = sources.flatMap((volume) => /^\$\{PALISADE_DIR:\?\}\/([^:]+):/.exec(volume)?.[1] ?? [])
  const names = sources.flatMap((volume) => /^([a-z-]+):/.exec(volume)?.[1] ?? [])

  expect(paths).toContain('deploy/self-hosted/Caddyfile')
  expect(paths.filter((path) => !statSync(join(root, path), { throwIfNoEntry: false }))).toEqual([])
  expect(names.filter((name) => !(name in compose.volumes) && name !== 'deno-cache')).toEqual([])
})

test('functions have what their import map maps, where it maps it', () => {
  const { imports } = z
    .object({ imports: z.record(z.string(), z.string()) })
    .parse(JSON.parse(readFileSync(join(root, 'functions/deno.json'), 'utf8')))
  const outside = Object.values(imports).flatMap((path) => (path.startsWith('../') ? [path.slice(3)] : []))
  const mounted = of('functions').volumes.map((volume) => volume.split(':').at(-2)?.replace('/home/deno/', '') ?? '')

  expect(outside.length).toBeGreaterThan(0)
  expect(outside.filter((path) => !mounted.some((mount) => path.startsWith(`${mount}/`)))).toEqual([])
})

test('the proxy gets every variable that has no default, and reaches the containers that are there', () => {
  const caddyfile = read('Caddyfile')
  const asked = [...caddyfile.matchAll(/\{\$([A-Z_]+)(:?)/g)].flatMap(([, name = '', hasDefault]) =>
    hasDefault ? [] : [name],
  )
  const given = Object.keys(of('proxy').environment)
  const reached = [...caddyfile.matchAll(/_UPSTREAMS?:([^}]+)\}/g)].flatMap(([, list = '']) => list.split(' '))

  expect([...new Set(asked)].filter((name) => !given.includes(name))).toEqual([])
  expect(given.filter((name) => !caddyfile.includes(`{$${name}`))).toEqual([])
  expect(new Set(reached)).toEqual(new Set(['functions:9000', 'functions-2:9000', 'api-gw:8000']))
  expect(reached.map((address) => address.split(':')[0]).filter((name = '') => !(name in compose.services))).toEqual([])
})

const config = z
  .looseObject({
    api: z.looseObject({ schemas: z.array(z.string()), extra_search_path: z.array(z.string()), max_rows: z.number() }),
    storage: z.looseObject({ file_size_limit: z.string() }),
    auth: z.looseObject({
      jwt_expiry: z.number(),
      enable_signup: z.boolean(),
      enable_anonymous_sign_ins: z.boolean(),
      enable_refresh_token_rotation: z.boolean(),
      refresh_token_reuse_interval: z.number(),
      minimum_password_length: z.number(),
      password_requirements: z.string(),
      sessions: z.record(z.string(), z.string()),
      email: z.record(z.string(), z.union([z.boolean(), z.number(), z.string()])),
      rate_limit: z.record(z.string(), z.number()),
      hook: z.record(z.string(), z.object({ enabled: z.boolean(), uri: z.string() })),
    }),
  })
  .parse(parseToml(readFileSync(projectFile, 'utf8')))
const { auth } = config

/** config.toml's classes of characters, as Auth is told them. */
const characters: Record<string, string> = {
  lower_upper_letters_digits: 'abcdefghijklmnopqrstuvwxyz:ABCDEFGHIJKLMNOPQRSTUVWXYZ:0123456789',
}
/** config.toml's name of a limit and Auth's. */
const limits: Record<string, string> = {
  email_sent: 'EMAIL_SENT',
  sms_sent: 'SMS_SENT',
  anonymous_users: 'ANONYMOUS_USERS',
  token_refresh: 'TOKEN_REFRESH',
  sign_in_sign_ups: 'OTP',
  token_verifications: 'VERIFY',
  web3: 'WEB3',
}
const settings: Record<string, string> = {
  enabled: 'GOTRUE_EXTERNAL_EMAIL_ENABLED',
  double_confirm_changes: 'GOTRUE_MAILER_SECURE_EMAIL_CHANGE_ENABLED',
  secure_password_change: 'GOTRUE_SECURITY_UPDATE_PASSWORD_REQUIRE_REAUTHENTICATION',
  otp_length: 'GOTRUE_MAILER_OTP_LENGTH',
  otp_expiry: 'GOTRUE_MAILER_OTP_EXP',
  max_frequency: 'GOTRUE_SMTP_MAX_FREQUENCY',
}

test('Auth is told what config.toml tells a hosted project', () => {
  const { enable_confirmations, ...email } = auth.email
  const hooks = Object.entries(auth.hook).flatMap(([name, { enabled, uri }]) => [
    [`GOTRUE_HOOK_${name.toUpperCase()}_ENABLED`, String(enabled)],
    [`GOTRUE_HOOK_${name.toUpperCase()}_URI`, uri],
  ])

  // Undefined where this test knows no name for a setting that is new in config.toml.
  expect(of('auth').environment).toEqual({
    GOTRUE_JWT_KEYS: expect.any(String),
    GOTRUE_RATE_LIMIT_HEADER: 'X-Client-Ip',
    GOTRUE_EXTERNAL_PHONE_ENABLED: 'false',
    GOTRUE_JWT_EXP: String(auth.jwt_expiry),
    GOTRUE_DISABLE_SIGNUP: String(!auth.enable_signup),
    GOTRUE_EXTERNAL_ANONYMOUS_USERS_ENABLED: String(auth.enable_anonymous_sign_ins),
    GOTRUE_SECURITY_REFRESH_TOKEN_ROTATION_ENABLED: String(auth.enable_refresh_token_rotation),
    GOTRUE_SECURITY_REFRESH_TOKEN_REUSE_INTERVAL: String(auth.refresh_token_reuse_interval),
    GOTRUE_PASSWORD_MIN_LENGTH: String(auth.minimum_password_length),
    GOTRUE_PASSWORD_REQUIRED_CHARACTERS: characters[auth.password_requirements],
    GOTRUE_MAILER_AUTOCONFIRM: String(!enable_confirmations),
    ...Object.fromEntries(Object.entries(email).map(([name, value]) => [settings[name], String(value)])),
    ...Object.fromEntries(
      Object.entries(auth.sessions).map(([name, value]) => [`GOTRUE_SESSIONS_${name.toUpperCase()}`, value]),
    ),
    ...Object.fromEntries(
      Object.entries(auth.rate_limit).map(([name, value]) => [`GOTRUE_RATE_LIMIT_${limits[name]}`, String(value)]),
    ),
    ...Object.fromEntries(hooks),
  })
})

test('PostgREST is, too, and Storage and the proxy take a file of the size that config.toml allows', () => {
  const [, amount = '', unit = ''] = /^(\d+)(MiB)$/.exec(config.storage.file_size_limit) ?? []
  const bytes = Number(amount) * 1024 ** 2
  const [, proxied = ''] = /handle \/storage\/v1\/\* \{[\s\S]*?max_size (\d+)MB/.exec(read('Caddyfile')) ?? []

  expect(unit).toBe('MiB')
  expect(of('rest').environment).toMatchObject({
    PGRST_DB_SCHEMAS: config.api.schemas.join(','),
    PGRST_DB_EXTRA_SEARCH_PATH: config.api.extra_search_path.join(','),
    PGRST_DB_MAX_ROWS: String(config.api.max_rows),
  })
  expect(of('storage').environment.FILE_SIZE_LIMIT).toBe(String(bytes))
  // With what a form adds around the file.
  expect(Number(proxied) * 1_000_000).toBeGreaterThan(bytes)
})

test('an answer that still streams outlives a restart: every wait is shorter than the one around it', () => {
  const text = read('docker-compose.palisade.yml')
  const grace = [...text.matchAll(/stop_grace_period: (\w+)/g)].map(([, value = '']) => durationMs.parse(value))
  const [functions = 0, proxy = 0] = grace
  const runtime = Number(of('functions').command.at(-1)) * 1_000
  const caddy = durationMs.parse(/grace_period (\w+)/.exec(read('Caddyfile'))?.[1])

  expect(runtime).toBeLessThan(functions)
  expect(caddy).toBeLessThan(proxy)
})

test('every function is one that the main service serves', () => {
  const folders = readdirSync(join(root, 'functions'), { withFileTypes: true })
  const served = folders.flatMap((entry) =>
    entry.isDirectory() && /^[a-z][a-z0-9-]*$/.test(entry.name) ? [entry.name] : [],
  )

  expect(
    served.filter((name) => !statSync(join(root, 'functions', name, 'index.ts'), { throwIfNoEntry: false })),
  ).toEqual([])
})

test('lines of functions and of the proxy are found in what Docker has of them', () => {
  const text = read('vector.yaml')
  const shipped = z
    .object({ sources: z.object({ containers: z.object({ include_containers: z.array(z.string()) }) }) })
    .parse(parse(text))
  const [, pattern = ''] = /parse_regex\([^,]+, r'([^']+)'\)/.exec(text) ?? []
  const json = (line: string) => new RegExp(pattern.replace('(?P<', '(?<')).exec(line)?.groups?.json

  // Names are matched from their beginning, so the second container of functions is meant, too.
  expect(shipped.sources.containers.include_containers).toEqual(['supabase-edge-functions', of('proxy').container_name])
  expect(of('functions-2').container_name).toMatch(/^supabase-edge-functions/)
  expect(json('[Info] {"level":"info","message":"answered"}\n')).toBe('{"level":"info","message":"answered"}')
  expect(json('{"level":"info","logger":"http.log.access"}')).toBe('{"level":"info","logger":"http.log.access"}')
  expect(json('worker boot error: {')).toBeUndefined()
})
