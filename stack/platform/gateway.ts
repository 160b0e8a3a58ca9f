/** One door in front of Auth, REST, Storage and Functions that behaves as hosted Supabase's does. */
import { AuthProblem, renderAuthProblem } from './auth/errors.ts'
import { type AuthService, createAuthService } from './auth/service.ts'
import type { ProjectSettings } from './auth/settings.ts'
import type { PlatformConfig } from './config.ts'
import { type Caller, identify } from './gateway/callers.ts'
import type { Service } from './gateway/lite.ts'
import { restService } from './gateway/rest.ts'
import { createTokens, type Tokens } from './gateway/tokens.ts'
import { unavailable } from './gateway/unavailable.ts'
import type { KeptCluster } from './keep-postgres.ts'
import { type DatabaseRole, type PlatformKeys, publicJwks } from './keys.ts'
import { createStorageService } from './storage/service.ts'

type OutgoingMail = { from: string; to: string; subject: string; text?: string; html?: string }

type GatewayOptions = {
  config: PlatformConfig
  keys: PlatformKeys
  dbUrl(role: DatabaseRole): string
  /** Of a database that may go away and come back. */
  database?: Pick<KeptCluster, 'isUp' | 'check'>
  deliverMail(message: OutgoingMail): Promise<unknown>
  settings: ProjectSettings
  /** Another clock: for tests. */
  now?: () => Date
  /** Instead of the network, for Auth's captcha. */
  fetch?: typeof fetch
  log(line: string): void
}

export type Gateway = {
  fetch(request: Request, peer: { address: string }): Promise<Response>
  /** New connections for everything, after the database was away. */
  renew(): Promise<void>
  close(): Promise<void>
}

type Call = { request: Request; path: string; address: string }

/** Routes that work without an API key: keys and health, links in mails, public and signed files. */
const keylessRoutes = [
  /^\/auth\/v1\/(?:\.well-known\/|health$|verify$|callback$|authorize$)/,
  /^\/storage\/v1\/object\/(?:(?:info\/)?public|sign|upload\/sign)\//,
  /^\/storage\/v1\/render\/image\/(?:public|sign)\//,
]

export async function createGateway(options: GatewayOptions): Promise<Gateway> {
  const { config, keys, settings, dbUrl, log, database = alwaysUp } = options
  const tokens = await createTokens(keys, `${config.urls.api}/auth/v1`)
  const parts = { config, keys, settings, dbUrl }
  const auth = config.real.auth ? null : ourAuth(options, tokens)
  const openServices = async () => ({
    rest: config.real.rest ? null : await restService(parts),
    storage: config.real.storage ? null : createStorageService({ ...parts, log }),
  })
  let services = await openServices()

  let turn = 0
  const nextFunctions = () => {
    turn = (turn + 1) % config.urls.functions.length
    return config.urls.functions[turn]
  }

  const route = async (call: Call): Promise<Response> => {
    const { request, path, address } = call
    if (path === '/') return Response.json(config.about)
    const functionPath = /^\/functions\/v1(\/.+)$/.exec(path)?.[1]
    if (functionPath) return forward(request, `${nextFunctions()}${functionPath}`, { address })
    if (path === '/auth/v1/.well-known/jwks.json') {
      return Response.json(publicJwks(keys), { headers: { 'cache-control': 'public, max-age=600' } })
    }
    const service = /^\/(auth|rest|storage)\/v1(?:\/|$)/.exec(path)?.[1]
    if (!service) return Response.json({ message: `There is nothing at ${path}.` }, { status: 404 })
    const caller = await identify(
      request,
      keys,
      tokens,
      keylessRoutes.some((keyless) => keyless.test(path)),
    )
    if ('status' in caller) {
      const version = request.headers.get('x-supabase-api-version')
      if (service === 'auth' && caller.problem !== 'key')
        return renderAuthProblem(
          new AuthProblem(403, 'bad_jwt', `invalid JWT: the token is ${caller.problem}`),
          version,
        )
      return Response.json(caller.body, { status: caller.status })
    }
    if (service === 'auth') {
      return auth ? auth.fetch(request, caller, address) : toReal(config.real.auth ?? '', call, caller, tokens)
    }
    const ours = services[service === 'rest' ? 'rest' : 'storage']
    const real = service === 'rest' ? config.real.rest : config.real.storage
    if (!ours) return toReal(real ?? '', call, caller, tokens)
    const bare = withoutKey(request)
    setAddress(bare.headers, address)
    return ours.fetch(bare, caller.claims)
  }

  return {
    async fetch(request, peer) {
      const path = new URL(request.url).pathname
      const isFunction = path.startsWith('/functions/v1/')
      // a function answers its own, as on hosted: what it forgets to allow fails here, too
      if (isPreflight(request)) {
        if (!isFunction) return answerPreflight(request)
      } else if (needsDatabase(path) && !database.isUp()) return withCors(unavailable(request, databaseAway))
      try {
        const answer = await route({ request, path, address: peer.address.replace(/^::ffff:/, '') })
        // Functions say themselves what they cannot do without their database; the services call it a failure of theirs.
        const isFailed = !isFunction && isDoubtful(answer, path) && !(await database.check())
        return withCors(isFailed ? unavailable(request, databaseAway) : answer)
      } catch (error) {
        if (request.signal.aborted) return new Response(null, { status: 499 })
        log(`gateway: ${request.method} ${path}: ${error instanceof Error ? error.message : error}`)
        if (error instanceof TypeError && error.message === 'fetch failed')
          return withCors(unavailable(request, 'The service does not answer.'))
        if (!isFunction && !(await database.check())) return withCors(unavailable(request, databaseAway))
        return withCors(Response.json({ message: 'Internal error' }, { status: 500 }))
      }
    },
    async renew() {
      const old = services
      services = await openServices()
      auth?.renew()
      // Not waited for: a connection that is lost may never say so.
      void closeServices(old).catch(() => {})
    },
    async close() {
      await Promise.all([auth?.close(), closeServices(services)])
    },
  }
}

type Services = { rest: Service | null; storage: Service | null }
const closeServices = ({ rest, storage }: Services) => Promise.all([rest?.close(), storage?.close()])

const alwaysUp: NonNullable<GatewayOptions['database']> = { isUp: () => true, check: async () => true }
const databaseAway = 'The database does not answer at this moment.'

/** All but what the gateway says of itself, and the keys by which others check tokens. */
const needsDatabase = (path: string) => path !== '/' && path !== '/auth/v1/.well-known/jwks.json'

/** A failure; and of REST that something is not there, which it says, too, when it cannot read the catalogue. */
const isDoubtful = ({ status }: Response, path: string) =>
  status >= 500 || (status === 404 && path.startsWith('/rest/'))

/** For as long as there is no gateway yet. */
export function refuseWhileStarting(request: Request): Response {
  return isPreflight(request) ? answerPreflight(request) : withCors(unavailable(request, 'The stack is starting.'))
}

function ourAuth(options: GatewayOptions, tokens: Tokens): AuthService {
  const { config, settings, dbUrl, deliverMail, log, now, fetch: reach = fetch } = options
  return createAuthService({
    dbUrl: dbUrl('supabase_auth_admin'),
    settings: settings.auth,
    limited: config.rateLimits,
    fetch: reach,
    tokens,
    urls: { api: config.urls.api, site: settings.auth.site_url },
    sendMail: (message) => deliverMail({ from: config.mailFrom, ...message }),
    log,
    ...(now ? { now } : {}),
  })
}

/** A request as REST and Storage get it: the key has done its work, and tokens of the outside stay outside. */
function withoutKey(request: Request): Request {
  const headers = new Headers(request.headers)
  headers.delete('apikey')
  headers.delete('authorization')
  const url = new URL(request.url)
  url.searchParams.delete('apikey')
  return new Request(url, {
    method: request.method,
    headers,
    body: request.body,
    signal: request.signal,
    ...(request.body ? { duplex: 'half' as const } : {}),
  })
}

/** The same request to a real service, with a token for the key's role when the caller has none of their own. */
async function toReal(
  base: string,
  { request, path, address }: Call,
  caller: Caller,
  tokens: Tokens,
): Promise<Response> {
  const token = caller.token ?? (await tokens.signRole(caller.role))
  const target = `${base.replace(/\/$/, '')}${path.replace(/^\/(?:auth|rest|storage)\/v1/, '')}`
  return forward(request, target, { address, authorization: `Bearer ${token}` })
}

/** Headers that belong to one connection (RFC 9110, 7.6.1), or that fetch sets itself. */
const hopByHop = [
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'host',
  'content-length',
]

/** This is the outermost hop: what a caller claims about earlier ones, or about Cloudflare's, does not count. */
function setAddress(headers: Headers, address: string): void {
  headers.set('x-forwarded-for', address)
  headers.delete('cf-connecting-ip')
}

/** As streams, both ways; when the caller hangs up, the far end hears it. */
async function forward(
  request: Request,
  target: string,
  options: { address: string; authorization?: string },
): Promise<Response> {
  const incoming = new URL(request.url)
  const headers = new Headers(request.headers)
  for (const name of hopByHop) headers.delete(name)
  setAddress(headers, options.address)
  headers.set('x-forwarded-host', incoming.host)
  headers.set('x-forwarded-proto', incoming.protocol.slice(0, -1))
  headers.set('accept-encoding', 'identity')
  if (options.authorization) headers.set('authorization', options.authorization)
  const response = await fetch(`${target}${incoming.search}`, {
    method: request.method,
    headers,
    body: request.body,
    redirect: 'manual',
    signal: request.signal,
    ...(request.body ? { duplex: 'half' as const } : {}),
  })
  const answer = new Headers(response.headers)
  for (const name of hopByHop) answer.delete(name)
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers: answer })
}

/** CORS as Supabase answers it: any origin, because the API is guarded by keys and tokens, never by cookies. */
const methods = 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS'

const isPreflight = (request: Request) =>
  request.method === 'OPTIONS' && request.headers.has('access-control-request-method')

function answerPreflight(request: Request): Response {
  const headers = {
    'access-control-allow-origin': '*',
    'access-control-allow-methods': methods,
    'access-control-allow-headers': request.headers.get('access-control-request-headers') ?? '*',
    'access-control-max-age': '3600',
  }
  return new Response(null, { status: 204, headers })
}

/** Adds what a browser needs to read the answer; an answer that brings its own rules (a function's) keeps them. */
function withCors(response: Response): Response {
  if (response.headers.has('access-control-allow-origin')) return response
  const headers = new Headers(response.headers)
  headers.set('access-control-allow-origin', '*')
  headers.set(
    'access-control-expose-headers',
    'content-range, content-profile, location, link, retry-after, x-total-count, x-sb-error-code, x-request-id',
  )
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers })
}
