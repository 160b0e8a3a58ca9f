/** One door in front of Auth, REST, Storage and Functions that behaves as hosted Supabase's does. */
import postgres from 'postgres'
import type { StackConfig } from './config.ts'
import { authAnswer, authError } from './gateway/auth-answer.ts'
import { readProjectSettings } from './gateway/auth-settings.ts'
import { type Caller, identify } from './gateway/callers.ts'
import { completeSession } from './gateway/complete-session.ts'
import { answerPreflight, withCors } from './gateway/cors.ts'
import { forward, setAddress } from './gateway/forward.ts'
import { authService, restService, type Service, storageService } from './gateway/lite.ts'
import { unwrapUpload } from './gateway/storage-upload.ts'
import { createTokens, type Tokens } from './gateway/tokens.ts'
import { type DatabaseRole, publicJwks, type StackKeys } from './keys.ts'

type OutgoingMail = { from: string; to: string; subject: string; text?: string; html?: string }

export type GatewayOptions = {
  config: StackConfig
  keys: StackKeys
  dbUrl(role: DatabaseRole): string
  deliverMail(message: OutgoingMail): Promise<unknown>
  log(line: string): void
}

export type Gateway = { fetch(request: Request, peer: { address: string }): Promise<Response>; close(): Promise<void> }

type Call = { request: Request; path: string; address: string }

const authBodyLimit = 1024 * 1024

/** Routes that work without an API key: keys and health, links in mails, public and signed files. */
const keylessRoutes = [
  /^\/auth\/v1\/(?:\.well-known\/|health$|verify$|callback$|authorize$)/,
  /^\/storage\/v1\/object\/(?:public|sign|upload\/sign)\//,
  /^\/storage\/v1\/render\/image\/(?:public|sign)\//,
]

export async function createGateway(options: GatewayOptions): Promise<Gateway> {
  const { config, keys, dbUrl, log } = options
  const settings = readProjectSettings(config)
  const tokens = await createTokens(keys, `${config.urls.api}/auth/v1`)
  const sendMail = (message: { to: string; subject: string; text?: string; html?: string }) =>
    deliver(options, settings.auth.site_url, message)
  const parts = { config, keys, settings, dbUrl, sendMail }
  const auth = config.real.auth ? null : authService(parts)
  const rest = config.real.rest ? null : await restService(parts)
  const storage = config.real.storage ? null : storageService(parts)
  const authSql = auth ? postgres(dbUrl('supabase_auth_admin'), { max: 4, onnotice: () => {} }) : null

  const route = async (call: Call): Promise<Response> => {
    const { request, path, address } = call
    if (path === '/') return Response.json({ name: 'palisade', docs: 'README.md' })
    const functionPath = /^\/functions\/v1(\/.+)$/.exec(path)?.[1]
    if (functionPath) return forward(request, `${config.urls.functions}${functionPath}`, { address })
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
        return authError(403, 'bad_jwt', `invalid JWT: the token is ${caller.problem}`, version)
      return Response.json(caller.body, { status: caller.status })
    }
    if (service === 'auth') {
      return auth && authSql
        ? answerAuth(auth, authSql, tokens, call, caller)
        : toReal(config.real.auth ?? '', call, caller, tokens)
    }
    const lite = service === 'rest' ? rest : storage
    const real = service === 'rest' ? config.real.rest : config.real.storage
    if (!lite) return toReal(real ?? '', call, caller, tokens)
    const bare = withoutKey(request)
    setAddress(bare.headers, address)
    return lite.fetch(service === 'storage' ? await unwrapUpload(bare) : bare, caller.claims)
  }

  return {
    async fetch(request, peer) {
      if (request.method === 'OPTIONS' && request.headers.has('access-control-request-method'))
        return answerPreflight(request)
      const path = new URL(request.url).pathname
      try {
        return withCors(await route({ request, path, address: peer.address.replace(/^::ffff:/, '') }))
      } catch (error) {
        if (request.signal.aborted) return new Response(null, { status: 499 })
        log(`gateway: ${request.method} ${path}: ${error instanceof Error ? error.message : error}`)
        const unreachable = error instanceof TypeError && error.message === 'fetch failed'
        return withCors(
          Response.json(
            { message: unreachable ? 'The service does not answer.' : 'Internal error' },
            { status: unreachable ? 503 : 500 },
          ),
        )
      }
    },
    async close() {
      await Promise.all([auth?.close(), rest?.close(), storage?.close(), authSql?.end({ timeout: 1 })])
    },
  }
}

/** A request as lite gets it: the key has done its work, and tokens of the outside stay outside. */
function withoutKey(request: Request, body: ArrayBuffer | Request['body'] = request.body): Request {
  const headers = new Headers(request.headers)
  headers.delete('apikey')
  headers.delete('authorization')
  const url = new URL(request.url)
  url.searchParams.delete('apikey')
  return new Request(url, {
    method: request.method,
    headers,
    body,
    signal: request.signal,
    ...(body ? { duplex: 'half' as const } : {}),
  })
}

async function answerAuth(
  auth: Service,
  sql: postgres.Sql,
  tokens: Tokens,
  call: Call,
  caller: Caller,
): Promise<Response> {
  const { request, path, address } = call
  const version = request.headers.get('x-supabase-api-version')
  const body = await readBody(request, authBodyLimit)
  if (body === 'too large') return authError(413, 'request_entity_too_large', 'Request body exceeds 1 MB', version)
  const inner = withoutKey(request, body)
  // A key is not a user: only a user's token goes on, under lite's own secret.
  if (caller.token) inner.headers.set('authorization', `Bearer ${await tokens.inner(caller.claims)}`)
  const origin = {
    method: signInMethod(path, new URL(request.url)),
    userAgent: request.headers.get('user-agent'),
    address,
  }
  return authAnswer(
    await auth.fetch(inner, caller.claims),
    (token) => completeSession(sql, tokens, token, origin),
    version,
  )
}

/** How the session was opened, for `amr`; null when an open one goes on. */
function signInMethod(path: string, url: URL): string | null {
  if (path === '/auth/v1/token') return url.searchParams.get('grant_type') === 'password' ? 'password' : null
  if (path === '/auth/v1/signup') return 'password'
  return path === '/auth/v1/verify' ? 'otp' : null
}

async function readBody(request: Request, limit: number): Promise<ArrayBuffer | null | 'too large'> {
  if (!request.body) return null
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of request.body) {
    size += chunk.byteLength
    if (size > limit) return 'too large'
    chunks.push(chunk)
  }
  return new Blob(chunks.map((chunk) => new Uint8Array(chunk))).arrayBuffer()
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

/** Links in lite's mails lead to the site; the door to the Auth service is ours. */
async function deliver(
  { config, deliverMail }: GatewayOptions,
  siteUrl: string,
  message: Omit<OutgoingMail, 'from'>,
): Promise<void> {
  const point = (text: string | undefined) => text?.replaceAll(`${siteUrl}/auth/v1/`, `${config.urls.api}/auth/v1/`)
  const { to, subject } = message
  const [text, html] = [point(message.text), point(message.html)]
  await deliverMail({
    from: 'Palisade <noreply@palisade.local>',
    to,
    subject,
    ...(text ? { text } : {}),
    ...(html ? { html } : {}),
  })
}
