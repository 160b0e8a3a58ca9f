/**
 * Stands in for Supabase's Management API in tests: one project with its configuration, secrets, functions and keys as state, and SQL on
 * a real database. Paths and shapes are those of the API types in the Supabase CLI 3.1; what the real one refuses is refused.
 */
import { createHash, createHmac, randomBytes, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { type AddressInfo, connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { serve } from '@hono/node-server'
import { type Context, Hono } from 'hono'
import postgres from 'postgres'
import { z } from 'zod'

/** A file that was uploaded for a function, by its path from the project's root. */
type UploadedFile = { path: string; bytes: Buffer }
export type DeployedFunction = {
  slug: string
  version: number
  verify_jwt: boolean
  entrypoint_path: string
  import_map_path: string
  files: UploadedFile[]
}
type Lint = ReturnType<typeof lint>
type Backup = { id: number; is_physical_backup: boolean; status: 'COMPLETED' | 'FAILED'; inserted_at: string }
export type Asked = { method: string; path: string; body: string; byCli: boolean }

/** Limits of sessions come with `pro`, the password and MFA hooks of Auth with `team`. */
type Plan = 'free' | 'pro' | 'team'

type Options = {
  /**
   * The project's database: as a superuser, who makes the CLI's login role, and as role postgres, as which SQL that is sent here
   * runs. Without it nothing that needs one is answered.
   */
  database?: { superuserUrl: string; postgresUrl: string }
  plan?: Plan
}

export type ManagementApi = Awaited<ReturnType<typeof startManagementApi>>

/** 20 lower-case letters, as the CLI demands. */
export const ref = 'abcdefghijklmnopqrst'
const accessToken = `sbp_${'0123456789abcdef'.repeat(3).slice(0, 40)}`

/** What a project has when it was just made. Other switches are off, other fields null, or 0 where they cannot be. */
const newProject = {
  site_url: 'http://localhost:3000',
  uri_allow_list: '',
  jwt_exp: 3600,
  mailer_otp_exp: 3600,
  mailer_otp_length: 6,
  mfa_phone_otp_length: 6,
  sms_otp_length: 6,
  sessions_timebox: 0,
  sessions_inactivity_timeout: 0,
  smtp_max_frequency: 60,
  password_min_length: 6,
  password_required_characters: '',
  external_email_enabled: true,
  refresh_token_rotation_enabled: true,
  security_refresh_token_reuse_interval: 10,
  mfa_max_enrolled_factors: 10,
  mfa_totp_enroll_enabled: true,
  mfa_totp_verify_enabled: true,
  rate_limit_email_sent: 2,
  rate_limit_sms_sent: 30,
  rate_limit_anonymous_users: 30,
  rate_limit_token_refresh: 150,
  rate_limit_verify: 30,
  rate_limit_otp: 30,
  rate_limit_web3: 30,
}
const isSecret = (field: string) => /_(?:secrets?|pass|auth_token|access_key|api_key|api_secret)$/.test(field)

/** What is kept about a field of Auth: its type, with ? where it may be null. */
const authFields: Record<string, string> = z
  .record(z.string(), z.string())
  .parse(JSON.parse(readFileSync(new URL('auth-config-fields.json', import.meta.url), 'utf8')))
const zeros: Record<string, unknown> = { boolean: false, integer: 0, string: '' }
const freshAuth = (): Record<string, unknown> => ({
  ...Object.fromEntries(
    Object.entries(authFields).map(([field, type]) => [field, type === 'boolean?' ? false : (zeros[type] ?? null)]),
  ),
  ...newProject,
})

const secretsBody = z.array(z.object({ name: z.string().regex(/^(?!SUPABASE_)[^=]+$/), value: z.string().max(24_576) }))
const queryBody = z.object({
  query: z.string().min(1),
  parameters: z.array(z.unknown()).optional(),
  read_only: z.boolean().optional(),
})
const functionMetadata = z.object({
  entrypoint_path: z.string(),
  import_map_path: z.string().optional(),
  static_patterns: z.array(z.string()).optional(),
  verify_jwt: z.boolean().optional(),
  name: z.string().optional(),
})
const bulk = z.array(z.looseObject({ id: z.string(), slug: z.string(), name: z.string(), version: z.int() }))
const restBody = z.strictObject({
  db_schema: z.string().optional(),
  db_extra_search_path: z.string().optional(),
  max_rows: z.int().optional(),
  db_pool: z.int().optional(),
})
const storageBody = z.strictObject({ fileSizeLimit: z.int().optional(), features: z.looseObject({}).optional() })
const sslBody = z.strictObject({ requestedConfig: z.strictObject({ database: z.boolean() }) })
const networkBody = z.strictObject({
  dbAllowedCidrs: z.array(z.string()).optional(),
  dbAllowedCidrsV6: z.array(z.string()).optional(),
})

class Refusal extends Error {
  readonly status: 400 | 401 | 402 | 404
  constructor(status: 400 | 401 | 402 | 404, message: string) {
    super(message)
    this.status = status
  }
}

export async function startManagementApi({ database = nowhere, plan = 'pro' }: Options = {}) {
  const { superuserUrl, postgresUrl } = database
  const pooler = await startPooler(superuserUrl)
  const poolerHost = `127.0.0.1:${pooler.port}`
  const superuser = postgres(superuserUrl, { max: 1, onnotice: () => {} })
  const sql = postgres(postgresUrl, { max: 2, onnotice: () => {} })
  const state = {
    status: 'ACTIVE_HEALTHY',
    auth: freshAuth(),
    rest: { db_schema: 'public,graphql_public', db_extra_search_path: 'public,extensions', max_rows: 1000 },
    fileSizeLimit: 52_428_800,
    createdAt: new Date().toISOString(),
    ssl: false,
    network: {
      entitlement: 'allowed',
      config: { dbAllowedCidrs: ['0.0.0.0/0'], dbAllowedCidrsV6: ['::/0'] },
      status: 'applied',
    },
    /** What advisors find beside what follows from the configuration. */
    lints: { security: [] as Lint[], performance: [] as Lint[] },
    backups: { pitr_enabled: false, backups: [] as Backup[] },
    secrets: new Map<string, string>(),
    functions: new Map<string, DeployedFunction>(),
    keys: {
      publishable: `sb_publishable_${randomBytes(20).toString('hex')}`,
      secret: `sb_secret_${randomBytes(20).toString('hex')}`,
    },
  }
  const uploaded = new Map<string, DeployedFunction>()
  const asked: Asked[] = []
  const planted: { answer?: ((asked: Asked) => boolean | Response) | undefined } = {}

  const app = new Hono()
  app.onError((error, c) => {
    if (error instanceof Refusal) return c.json({ message: error.message }, error.status)
    if (error instanceof z.ZodError) return c.json({ message: z.prettifyError(error) }, 400)
    throw error
  })
  app.notFound((c) => c.json({ message: `Cannot ${c.req.method} ${c.req.path}` }, 404))
  app.use(async (c, next) => {
    const isForm = c.req.header('content-type')?.startsWith('multipart/') ?? false
    const call: Asked = {
      method: c.req.method,
      path: c.req.path.replace(`/v1/projects/${ref}`, ''),
      body: isForm ? '(files)' : await c.req.text(),
      byCli: c.req.header('user-agent')?.startsWith('SupabaseCLI/') ?? false,
    }
    asked.push(call)
    const answer = planted.answer?.(call) ?? false
    if (answer instanceof Response) return answer
    if (answer) throw new Refusal(400, 'planted by the test')
    const token = c.req.header('authorization')
    if (token !== `Bearer ${accessToken}`) throw new Refusal(401, 'Unauthorized')
    return next()
  })
  const project = () => ({
    ...{ id: ref, ref, organization_id: 'acme', organization_slug: 'acme', name: 'Palisade', region: 'eu-central-1' },
    ...{ created_at: state.createdAt, status: state.status },
    database: { host: `db.${ref}.${unreachable}`, version: '17.6.1.020', postgres_engine: '17', release_channel: 'ga' },
  })
  const of = (path: string) => `/v1/projects/:ref{${ref}}${path}`

  app.get('/v1/profile', (c) => c.json({ gotrue_id: randomUUID(), primary_email: 'ada@example.com', username: 'ada' }))
  app.get('/v1/organizations', (c) => c.json([{ id: 'acme', slug: 'acme', name: 'Acme' }]))
  app.get('/v1/organizations/acme', (c) =>
    c.json({ id: 'acme', name: 'Acme', plan, opt_in_tags: [], allowed_release_channels: ['ga'] }),
  )
  app.get('/v1/projects', (c) => c.json([project()]))
  app.get(of(''), (c) => c.json(project()))
  app.get(of('/billing/addons'), (c) => c.json({ selected_addons: [], available_addons: [] }))
  app.get(of('/api-keys'), (c) => c.json(apiKeys(state.keys, c.req.query('reveal') === 'true')))
  app.get(of('/branches'), (c) => c.json([]))

  // What `config diff` and `config push` compare with; they write by the paths of v1.
  app.get(`/v2/projects/:ref{${ref}}/config`, (c) => {
    const attributes = {
      ...{ database: databaseSettings(state.ssl), pooler: poolerSettings, auth: hidden(state.auth) },
      ...{ api: { ...state.rest, ...noPool }, realtime, storage: { ...storage, file_size_limit: state.fileSizeLimit } },
    }
    return c.json({ data: { type: 'project_config', id: ref, attributes } })
  })
  app.get(of('/config/auth'), (c) => c.json(hidden(state.auth)))
  app.patch(of('/config/auth'), async (c) => {
    const changes = z.record(z.string(), z.unknown()).parse(await c.req.json())
    refuseWrongFields(changes)
    for (const hook of plan === 'team' ? [] : ['password_verification_attempt', 'mfa_verification_attempt'])
      if (changes[`hook_${hook}_enabled`] === true)
        throw new Refusal(402, `The ${hook} hook is available on the Team and Enterprise plans only`)
    if (plan === 'free' && (changes.sessions_timebox || changes.sessions_inactivity_timeout))
      throw new Refusal(402, 'Limits of sessions are available on the Pro Plan and up')
    Object.assign(state.auth, changes)
    return c.json(hidden(state.auth))
  })
  app.get(of('/postgrest'), (c) => c.json({ ...state.rest, ...noPool }))
  app.patch(of('/postgrest'), async (c) => {
    Object.assign(state.rest, restBody.parse(await c.req.json()))
    return c.json({ ...state.rest, ...noPool })
  })
  app.get(of('/config/storage'), (c) => c.json({ ...storageV1, fileSizeLimit: state.fileSizeLimit }))
  app.patch(of('/config/storage'), async (c) => {
    const { fileSizeLimit } = storageBody.parse(await c.req.json())
    if (fileSizeLimit !== undefined) state.fileSizeLimit = fileSizeLimit
    return c.body(null, 200)
  })
  app.get(of('/config/database/postgres'), (c) => c.json({}))
  app.get(of('/config/database/pooler'), (c) => c.json([poolerConfig(poolerHost)]))
  app.get(of('/ssl-enforcement'), (c) => c.json({ currentConfig: { database: state.ssl }, appliedSuccessfully: true }))
  app.put(of('/ssl-enforcement'), async (c) => {
    state.ssl = sslBody.parse(await c.req.json()).requestedConfig.database
    return c.json({ currentConfig: { database: state.ssl }, appliedSuccessfully: true })
  })
  app.get(of('/network-restrictions'), (c) => c.json(state.network))
  app.post(of('/network-restrictions/apply'), async (c) => {
    Object.assign(state.network.config, networkBody.parse(await c.req.json()))
    return c.json(state.network, 201)
  })
  app.post(of('/network-bans/retrieve'), (c) => c.json({ banned_ipv4_addresses: [] }, 201))

  app.get(of('/database/backups'), (c) =>
    c.json({ region: 'eu-central-1', walg_enabled: true, physical_backup_data: {}, ...state.backups }),
  )
  app.get(of('/advisors/performance'), (c) => c.json({ lints: state.lints.performance }))
  app.get(of('/advisors/security'), (c) => {
    const leaked = lint('auth_leaked_password_protection', 'WARN', 'Leaked password protection is currently disabled.')
    return c.json({ lints: [...(state.auth.password_hibp_enabled === true ? [] : [leaked]), ...state.lints.security] })
  })

  app.get(of('/secrets'), (c) =>
    c.json(
      [...state.secrets].map(([name, value]) => ({ name, value: sha256(value), updated_at: '2026-11-30T00:00:00Z' })),
    ),
  )
  app.post(of('/secrets'), async (c) => {
    for (const { name, value } of secretsBody.parse(await c.req.json())) state.secrets.set(name, value)
    return c.body(null, 201)
  })

  app.get(of('/functions'), (c) => c.json([...state.functions.values()].map(described)))
  app.post(of('/functions/deploy'), async (c) => {
    const deployed = await readUpload(c, state.functions)
    uploaded.set(deployed.slug, deployed)
    if (c.req.query('bundleOnly') !== 'true') state.functions.set(deployed.slug, deployed)
    return c.json(described(deployed), 201)
  })
  app.put(of('/functions'), async (c) => {
    for (const { slug } of bulk.parse(await c.req.json())) {
      const deployed = uploaded.get(slug)
      if (!deployed) throw new Refusal(400, `Nothing was bundled for ${slug}`)
      state.functions.set(slug, deployed)
    }
    return c.json({ functions: [...state.functions.values()].map(described) })
  })

  app.post(of('/cli/login-role'), async (c) => {
    const password = randomBytes(16).toString('hex')
    await superuser.unsafe(
      `do $$ begin if not exists (select from pg_roles where rolname = '${loginRole}') then create role ${loginRole} login noinherit in role postgres; end if; end $$;
       alter role ${loginRole} password '${password}'`,
    )
    return c.json({ role: loginRole, password, ttl_seconds: 300 }, 201)
  })
  app.post(of('/database/query'), async (c) => {
    const { query, parameters = [], read_only } = queryBody.parse(await c.req.json())
    try {
      const rows = read_only
        ? await sql.begin('read only', (tx) => tx.unsafe(query, parameters as postgres.ParameterOrJSON<never>[]))
        : await sql.unsafe(query, parameters as postgres.ParameterOrJSON<never>[])
      return c.json(rows, 201)
    } catch (error) {
      const { code, message } = z.object({ code: z.string().catch(''), message: z.string() }).parse(error)
      throw new Refusal(400, `Failed to run sql query: ERROR:  ${code}: ${message}`)
    }
  })

  const server = serve({ fetch: app.fetch, port: 0, hostname: '127.0.0.1' })
  await once(server, 'listening')
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const home = await mkdtemp(join(tmpdir(), 'management-api-'))
  const profile = join(home, 'profile.yaml')
  const lines = { name: 'stand-in', api_url: url, dashboard_url: `${url}/dashboard`, project_host: unreachable }
  await writeFile(
    profile,
    Object.entries({ ...lines, pooler_host: '127.0.0.1' })
      .map(([key, value]) => `${key}: "${value}"\n`)
      .join(''),
  )

  return {
    url,
    state,
    /** Every request since the start, the oldest first. */
    asked,
    /** With these the CLI and our commands come here and nowhere else. */
    env: {
      SUPABASE_PROFILE: profile,
      SUPABASE_ACCESS_TOKEN: accessToken,
      SUPABASE_HOME: home,
      SUPABASE_API_URL: url,
      SUPABASE_NO_KEYRING: '1',
      SUPABASE_TELEMETRY_DISABLED: '1',
    },
    /** Requests of this kind fail, or get an answer of the test's own, until another kind is planted, or none. */
    plant(answer?: (asked: Asked) => boolean | Response): void {
      planted.answer = answer
    },
    /** Through the pooler, as functions connect: `user` without the project's ref. */
    poolerUrl: (user: string, password: string) =>
      `postgresql://${user}.${ref}:${password}@${poolerHost}${new URL(superuserUrl).pathname}`,
    async close(): Promise<void> {
      server.close()
      pooler.close()
      await Promise.all([superuser.end(), sql.end()])
      await rm(home, { recursive: true })
    },
  }
}

/** Hosts that no resolver knows (RFC 6761): the direct address of a project is reached by IPv6 only, and here not at all. */
const unreachable = 'project.invalid'
const nowhere = { superuserUrl: 'postgresql://127.0.0.1:1/none', postgresUrl: 'postgresql://127.0.0.1:1/none' }
const loginRole = 'cli_login_postgres'
const noPool = {
  ...{ db_pool: null, db_pool_acquisition_timeout: 10, db_pool_max_lifetime: 1800, db_pool_max_idletime: 30 },
}
const poolerSettings = {
  ...{ pool_mode: 'transaction', ignore_startup_parameters: '', server_idle_timeout: 60, server_lifetime: 3600 },
  ...{ query_wait_timeout: 120, reserve_pool_size: 0, default_pool_size: 15, max_client_conn: 200 },
}
const realtime = {
  ...{ private_only: false, connection_pool: 2, postgres_changes_pool: null, max_concurrent_users: 200 },
  ...{ max_events_per_second: 100, max_bytes_per_second: 100_000, max_channels_per_client: 100 },
  ...{ max_joins_per_second: 100, max_presence_events_per_second: 100, max_payload_size_in_kb: 100 },
  ...{ suspend: false, presence_enabled: true },
}
const databaseSettings = (ssl: boolean) => ({
  ...{ major_version: 17, ssl_enforced: ssl, postgres_settings: {} },
  network_restrictions: {
    ...{ entitlement: 'allowed', status: 'applied' },
    allowed_cidrs: [
      { address: '0.0.0.0/0', type: 'v4' },
      { address: '::/0', type: 'v6' },
    ],
  },
})
const storage = {
  features: {
    ...{ image_transformation: { enabled: true }, s3_protocol: { enabled: true }, purge_cache: { enabled: false } },
    iceberg_catalog: { enabled: false, max_namespaces: 0, max_tables: 0, max_catalogs: 0 },
    vector_buckets: { enabled: false, max_buckets: 0, max_indexes: 0 },
  },
  capabilities: { list_v2: true, iceberg_catalog: false, object_versioning: false },
  ...{ upstream_target: 'main', migration_version: null },
}
const storageV1 = {
  features: {
    ...{ imageTransformation: { enabled: true }, s3Protocol: { enabled: true }, purgeCache: { enabled: false } },
    icebergCatalog: { enabled: false, maxNamespaces: 0, maxTables: 0, maxCatalogs: 0 },
    vectorBuckets: { enabled: false, maxBuckets: 0, maxIndexes: 0 },
  },
  ...{ capabilities: storage.capabilities, external: { upstreamTarget: 'main' }, migrationVersion: null },
}

/** A finding of an advisor. */
export const lint = (name: string, level: 'ERROR' | 'WARN' | 'INFO', detail: string) => ({
  ...{ name, title: name, level, facing: 'EXTERNAL', categories: ['SECURITY'], description: detail, detail },
  ...{ remediation: `https://supabase.com/docs/guides/database/database-linter?lint=${name}`, cache_key: name },
})

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')

/** Secrets are never given back: each is told by its HMAC under the project's ref. */
const hidden = (auth: Record<string, unknown>) =>
  Object.fromEntries(
    Object.entries(auth).map(([field, value]) => [
      field,
      isSecret(field) && typeof value === 'string' && value !== ''
        ? createHmac('sha256', ref).update(value).digest('hex')
        : value,
    ]),
  )

function refuseWrongFields(changes: Record<string, unknown>): void {
  for (const [field, value] of Object.entries(changes)) {
    const type = authFields[field]
    if (type === undefined) throw new Refusal(400, `property ${field} should not exist`)
    const isRight =
      value === null || (type.startsWith('integer') ? Number.isInteger(value) : type.startsWith(typeof value))
    if (!isRight) throw new Refusal(400, `${field} must be of type ${type}`)
  }
}

function apiKeys(keys: { publishable: string; secret: string }, reveal: boolean) {
  const key = (type: string, name: string, text: string) => ({
    ...{ api_key: reveal || type === 'publishable' ? text : `${text.slice(0, 15)}···`, id: name, type, name },
    ...{ prefix: text.slice(0, 15), description: null, hash: sha256(text), secret_jwt_template: null },
  })
  return [key('publishable', 'default', keys.publishable), key('secret', 'default', keys.secret)]
}

const poolerConfig = (host: string) => {
  const [db_host = '', port] = host.split(':')
  const url = `postgresql://postgres.${ref}:[YOUR-PASSWORD]@${host}/postgres`
  return {
    ...{ identifier: ref, database_type: 'PRIMARY', is_using_scram_auth: true, db_user: `postgres.${ref}`, db_host },
    ...{ db_port: Number(port), db_name: 'postgres', connection_string: url, connectionString: url },
    ...{ default_pool_size: 15, max_client_conn: 200, pool_mode: 'transaction' },
  }
}

const described = ({ files: _files, ...rest }: DeployedFunction) => ({
  ...rest,
  ...{ id: rest.slug, name: rest.slug, status: 'ACTIVE', created_at: 1_795_000_000_000, updated_at: 1_795_000_000_000 },
  import_map: true,
})

/** Keeps what was uploaded, and refuses what the real one cannot bundle. */
async function readUpload(c: Context, before: Map<string, DeployedFunction>): Promise<DeployedFunction> {
  const form = await c.req.raw.formData()
  const metadata = functionMetadata.parse(JSON.parse(z.string().parse(form.get('metadata'))))
  const files = await Promise.all(
    form.getAll('file').map(async (file): Promise<UploadedFile> => {
      if (typeof file === 'string') throw new Refusal(400, 'a file is no text field')
      return { path: file.name, bytes: Buffer.from(await file.arrayBuffer()) }
    }),
  )
  const { entrypoint_path, import_map_path = '' } = metadata
  const find = (path: string) => files.find((file) => file.path === path)
  if (!find(entrypoint_path)) throw new Refusal(400, `Entrypoint path does not exist - ${entrypoint_path}`)
  if (import_map_path && !find(import_map_path))
    throw new Refusal(400, `Import map does not exist - ${import_map_path}`)
  const slug = c.req.query('slug') ?? metadata.name ?? ''
  return {
    ...{ slug, version: (before.get(slug)?.version ?? 0) + 1, verify_jwt: metadata.verify_jwt ?? true },
    ...{ entrypoint_path, import_map_path, files },
  }
}

/**
 * Stands in for the pooler as far as a login is concerned: the user's name ends with the project's ref, by which the pooler finds the
 * project, and Postgres knows it without. Sessions are not shared. TLS is refused, as on a loopback address nobody asks for it.
 */
async function startPooler(databaseUrl: string) {
  const { port: databasePort, pathname } = new URL(databaseUrl)
  const server = createServer((client) => {
    client.on('error', () => client.destroy())
    client.on('data', function first(chunk: Buffer) {
      if (chunk.readInt32BE(4) === sslRequest) {
        client.write('N')
        return
      }
      client.off('data', first)
      const parameters = chunk.subarray(8).toString('latin1').split('\0')
      const value = (name: string) => parameters.findIndex((text, at) => at % 2 === 0 && text === name) + 1
      const user = parameters[value('user')] ?? ''
      if (!user.endsWith(`.${ref}`)) return client.destroy()
      parameters[value('user')] = user.slice(0, -ref.length - 1)
      // Tests name their databases; the platform's is always called postgres.
      if (value('database') > 0) parameters[value('database')] = pathname.slice(1)
      const body = Buffer.from(parameters.join('\0'), 'latin1')
      const head = Buffer.from(chunk.subarray(0, 8))
      head.writeInt32BE(body.length + 8, 0)
      const database = connect(Number(databasePort), '127.0.0.1')
      database.on('error', () => client.destroy())
      database.write(Buffer.concat([head, body]))
      client.pipe(database).pipe(client)
      client.on('close', () => database.destroy())
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { port: (server.address() as AddressInfo).port, close: () => server.close() }
}

const sslRequest = 80_877_103
