/** `@supabase/lite` on a connection of its own role, so that grants are proven. */
import type { App } from '@supabase/lite'
import { createPostgresConnection } from '@supabase/lite/postgres'
import type { ProjectSettings } from '../auth/settings.ts'
import type { PlatformConfig } from '../config.ts'
import type { DatabaseRole, PlatformKeys } from '../keys.ts'

export type Claims = Record<string, unknown>
export type Service = { fetch(request: Request, claims: Claims): Response | Promise<Response>; close(): Promise<void> }

export type Parts = {
  config: PlatformConfig
  keys: PlatformKeys
  settings: ProjectSettings
  dbUrl(role: DatabaseRole): string
}

type LiteApp = { server: { fetch(request: Request): Response | Promise<Response> } }

type ServerOptions = NonNullable<NonNullable<ConstructorParameters<typeof App>[0]['options']>['server']>

export const server = { apiKeys: false as const, disableStudio: true, disableFallback: true }

/**
 * The gateway has checked who calls; lite's REST takes its word through the variables that lite's own admin
 * mode uses. Left to itself, lite would look users up in auth.users, which authenticator must not read.
 */
export function trustGateway() {
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

export function connect(url: string, max: number) {
  const connection = createPostgresConnection({ url, postgresOptions: { max, onnotice: () => {} } })
  // At its first request lite would create roles and GRANT ALL on every table with row-level security. Our grants are
  // the migrations', so its own bookkeeping is told that this is done.
  Reflect.set(connection, 'rlsState', 'active')
  return connection
}
