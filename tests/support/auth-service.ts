/** The gateway with our Auth service on a database of its own: real supabase-js, real SQL, no ports, a clock that can be moved. */
import { createAdaptorServer } from '@hono/node-server'
import { createClient, type SupabaseClient, type SupabaseClientOptions } from '@supabase/supabase-js'
import postgres from 'postgres'
import { projectFile, readConfig } from '../../stack/config.ts'
import { type AuthSettings, readProjectSettings } from '../../stack/platform/auth/settings.ts'
import { localDbUrl } from '../../stack/platform/bootstrap.ts'
import { createGateway } from '../../stack/platform/gateway.ts'
import { freePort, startScratch } from '../../stack/platform/scratch.ts'

type Mail = { to: string; subject: string; text?: string; html?: string }

export type AuthUnderTest = Awaited<ReturnType<typeof startAuth>>

export const password = 'Correct1Horse'
export const newEmail = () => `user-${crypto.randomUUID()}@example.com`

/** Settings are those of config.toml without hooks and waiting times; a test may change them, and the next one changes them back. */
export async function startAuth(options: { limited?: boolean; fetch?: typeof fetch } = {}) {
  const scratch = await startScratch()
  const database = `auth_${process.pid}`
  const postgresUrl = await scratch.createDatabase(database)
  const sql = postgres(scratch.superuserUrl(database), { max: 4, onnotice: () => {} })
  const nowhere = 'http://127.0.0.1:9'
  const config = readConfig({
    PALISADE_REST_URL: nowhere,
    PALISADE_STORAGE_URL: nowhere,
    PALISADE_PORT: '27100',
    PALISADE_AUTH_RATE_LIMITS: options.limited ? 'on' : 'off',
  })
  const settings = readProjectSettings(projectFile, config.ports.console)
  const plain = () => quiet(readProjectSettings(projectFile, config.ports.console).auth)
  Object.assign(settings.auth, plain())
  const mails: Mail[] = []
  const logs: string[] = []
  const clock: { offsetMs: number; frozenAt: number | null } = { offsetMs: 0, frozenAt: null }
  const gateway = await createGateway({
    config: config.platform,
    keys: scratch.keys,
    dbUrl: (role) => localDbUrl(scratch.port, scratch.keys, role, database),
    deliverMail: async (mail) => mails.push(mail),
    log: (line) => logs.push(line),
    settings,
    now: () => new Date((clock.frozenAt ?? Date.now()) + clock.offsetMs),
    ...(options.fetch ? { fetch: options.fetch } : {}),
  })
  const { publishableKey, secretKey } = scratch.keys
  const handle = (request: Request, address = '127.0.0.1') => gateway.fetch(request, { address })

  return {
    sql,
    postgresUrl,
    settings: settings.auth,
    mails,
    logs,
    clock,
    handle,
    url: config.urls.api,
    publishableKey,
    secretKey,
    /** A client of its own, as an app has it. */
    client(
      options: { key?: string; auth?: SupabaseClientOptions<'public'>['auth']; address?: string } = {},
    ): SupabaseClient {
      return createClient(config.urls.api, options.key ?? publishableKey, {
        auth: { persistSession: false, autoRefreshToken: false, ...options.auth },
        global: { fetch: (input, init) => handle(new Request(input, init), options.address) },
      })
    },
    /** One request below /auth/v1, for what supabase-js hides. */
    call(
      path: string,
      body?: unknown,
      headers: Record<string, string> = {},
      method = body === undefined ? 'GET' : 'POST',
    ) {
      return handle(
        new Request(`${config.urls.api}/auth/v1${path}`, {
          method,
          headers: {
            apikey: publishableKey,
            'content-type': 'application/json',
            'x-supabase-api-version': '2024-01-01',
            ...headers,
          },
          ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        }),
      )
    },
    /** The same behind a real port. */
    async listen() {
      const port = await freePort()
      const server = createAdaptorServer({ fetch: (request) => handle(request) })
      await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
      const close = () => new Promise<void>((resolve) => void server.close(() => resolve()))
      return { url: `http://127.0.0.1:${port}`, close }
    },
    reset() {
      Object.assign(settings.auth, plain())
      clock.offsetMs = 0
      clock.frozenAt = null
    },
    async stop() {
      await gateway.close()
      await sql.end()
      await scratch.stop()
    },
  }
}

/** Nobody waits in tests: cheap passwords, no pauses between mails, and limits that only a test of limits reaches. */
function quiet(settings: AuthSettings): AuthSettings {
  return {
    ...settings,
    hook: {},
    password_hash_cost: 4,
    email: { ...settings.email, max_frequency: 0 },
    rate_limit: Object.fromEntries(
      Object.keys(settings.rate_limit).map((name) => [name, 1_000_000]),
    ) as AuthSettings['rate_limit'],
  }
}

/** The newest mail to an address: its link, its code. */
export function lastMail(auth: AuthUnderTest, to: string): { subject: string; link: string; code: string } {
  const mail = auth.mails.findLast((one) => one.to === to)
  const text = mail?.text ?? ''
  return {
    subject: mail?.subject ?? '',
    link: /https?:\/\/\S+\/verify\?\S+/.exec(text)?.[0] ?? '',
    code: /code: (\d+)/.exec(text)?.[1] ?? '',
  }
}

/** Follows a link as a browser does, and says where it leads. */
export async function follow(auth: AuthUnderTest, link: string): Promise<URL> {
  const response = await auth.handle(new Request(link))
  return new URL(response.headers.get('location') ?? 'about:blank')
}

export type SignedUp = {
  email: string
  client: SupabaseClient
  id: string
  token: string
  refreshToken: string
  sessionId: string
}

/** Somebody who signed up, followed the mailed link and signed in by password. */
export async function newUser(auth: AuthUnderTest, options: { email?: string } = {}): Promise<SignedUp> {
  const email = options.email ?? newEmail()
  const signUp = await auth.client().auth.signUp({ email, password })
  if (signUp.error) throw signUp.error
  await follow(auth, lastMail(auth, email).link)
  return signIn(auth, email)
}

/** One more session of a user. */
export async function signIn(auth: AuthUnderTest, email: string, secret = password): Promise<SignedUp> {
  const client = auth.client()
  const { data, error } = await client.auth.signInWithPassword({ email, password: secret })
  if (error) throw error
  const { session, user } = data
  const sessionId = String(claimsOf(session.access_token).session_id)
  return { email, client, id: user.id, token: session.access_token, refreshToken: session.refresh_token, sessionId }
}

export const claimsOf = (token: string): Record<string, unknown> =>
  JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString())
