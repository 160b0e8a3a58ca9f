/** `@supabase/lite` as two services, each on a connection of its own role, so that grants are proven. */
import { AsyncLocalStorage } from 'node:async_hooks'
import { App, setExperimental } from '@supabase/lite'
import { createPostgresConnection } from '@supabase/lite/postgres'
import postgres from 'postgres'
import type { ProjectSettings } from '../auth/settings.ts'
import type { PlatformConfig } from '../config.ts'
import type { DatabaseRole, PlatformKeys } from '../keys.ts'
import { createFileStore } from './file-store.ts'
import { quotesArguments } from './quote-arguments.ts'
import { realLinks } from './storage-links.ts'
import { oneAtATime, tellRefusals } from './storage-order.ts'

export type Claims = Record<string, unknown>
export type Service = { fetch(request: Request, claims: Claims): Response | Promise<Response>; close(): Promise<void> }

type Parts = {
  config: PlatformConfig
  keys: PlatformKeys
  settings: ProjectSettings
  dbUrl(role: DatabaseRole): string
}

type LiteApp = { server: { fetch(request: Request): Response | Promise<Response> } }

type ServerOptions = NonNullable<NonNullable<ConstructorParameters<typeof App>[0]['options']>['server']>

const server = { apiKeys: false as const, disableStudio: true, disableFallback: true }

/**
 * The gateway has checked who calls; lite's REST and Storage take its word through the variables that lite's own admin
 * mode uses. Left to itself, lite would look users up in auth.users, which authenticator must not read.
 */
function trustGateway() {
  const claimsOf = new WeakMap<Request, Claims>()
  const middleware: NonNullable<ServerOptions['middlewares']>[number] = async (context, next) => {
    const claims = claimsOf.get(context.req.raw) ?? { role: 'anon' }
    context.set('ignoreAuthorization', true)
    context.set('apiKeyType', claims.role === 'service_role' ? 'secret' : 'publishable')
    context.set('jwt', claims)
    if (typeof claims.sub === 'string') context.set('userId', claims.sub)
    if (typeof claims.session_id === 'string') context.set('sessionId', claims.session_id)
    await next()
  }
  const fetchAs = (app: LiteApp) => (request: Request, claims: Claims) => {
    claimsOf.set(request, claims)
    return app.server.fetch(request)
  }
  return { middleware, fetchAs }
}

/** lite's Storage hands over JSON that is text already; written as it is, it stays an object, as the real service stores it. */
const jsonText = {
  to: 3802,
  from: [3802],
  serialize: (value: unknown) => (typeof value === 'string' ? value : JSON.stringify(value)),
  parse: (text: string): unknown => JSON.parse(text),
}

function connect(url: string, max: number, types: Record<string, typeof jsonText> = {}) {
  const connection = createPostgresConnection({ url, postgresOptions: { max, onnotice: () => {}, types } })
  // At its first request lite would create roles and GRANT ALL on every table with row-level security. Our grants are
  // the migrations', so its own bookkeeping is told that this is done.
  Reflect.set(connection, 'rlsState', 'active')
  return connection
}

/** The REST service as role authenticator, which becomes anon, authenticated or service_role for each request. */
export async function restService({ keys, settings, dbUrl }: Parts): Promise<Service> {
  const url = dbUrl('authenticator')
  const connection = connect(url, 16)
  const { middleware, fetchAs } = trustGateway()
  const app = new App({
    connection,
    auth: { enabled: false, jwt_secret: keys.innerJwtSecret },
    api: { enabled: true, schemas: settings.api.schemas, max_rows: settings.api.max_rows },
    storage: { enabled: false },
    options: { server: { ...server, middlewares: [middleware] } },
  })
  // PostgREST reads the catalogue itself; lite reads information_schema, where authenticator, which inherits nothing,
  // sees no table. So the catalogue, and only that, is read as postgres.
  const catalogue = connect(dbUrl('postgres'), 1)
  connection.introspect = (options) => catalogue.introspect(options)
  // PostgREST tells SQL about every request (request.headers, request.method, request.path); lite does so for RPC only.
  const requests = new AsyncLocalStorage<Request>()
  const withContext = connection.withContext.bind(connection)
  connection.withContext = (context, run, options) => {
    const request = requests.getStore()
    if (options?.rpc) return withContext(context, (db) => run(db.withPlugin(quotesArguments)), options)
    if (!request || options?.transaction) return withContext(context, run, options)
    const { method, url: address, headers } = request
    const path = new URL(address).pathname.replace(/^\/rest\/v1/, '')
    const rpc = { method, path, readOnly: false, requestHeaders: Object.fromEntries(headers) }
    return withContext(context, run, { ...options, rpc })
  }
  const listener = postgres(url, { max: 1, onnotice: () => {} })
  await listener.listen('pgrst', (payload) => {
    if (payload === 'reload schema' || payload === '') void catalogue.clearSchemaCache()
  })
  const close = async () => {
    await Promise.all([listener.end({ timeout: 1 }), catalogue.close(), connection.close()])
  }
  const fetch = fetchAs(app)
  return { fetch: (request, claims) => requests.run(request, () => fetch(request, claims)), close }
}

/** The Storage service as role supabase_storage_admin; files lie in the data folder. */
export function storageService({ config, keys, dbUrl }: Parts): Service {
  setExperimental('storage', true)
  const connection = connect(dbUrl('supabase_storage_admin'), 4, { jsonb: jsonText })
  const { middleware, fetchAs } = trustGateway()
  const app = new App({
    connection,
    auth: { enabled: false, jwt_secret: keys.innerJwtSecret },
    api: { enabled: false },
    storage: { enabled: true, file_size_limit: '16MiB' },
    options: { server: { ...server, middlewares: [middleware] } },
  })
  app._storageAdapter = createFileStore(config.storageFolder)
  const fetch = oneAtATime(realLinks(tellRefusals(connection, fetchAs(app))))
  return { fetch, close: () => connection.close() }
}
