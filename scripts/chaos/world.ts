/** What chaos happens to: a durable database, two gateway processes, a provider that counts for itself, eight accounts. */
import { once } from 'node:events'
import { serve } from '@hono/node-server'
import { importJWK, SignJWT } from 'jose'
import postgres from 'postgres'
import { functionFiles } from '../../stack/config.ts'
import { createAiProvider } from '../../stack/doubles/ai-provider.ts'
import { pushMigrations } from '../../stack/migrations.ts'
import { startFunctions } from '../../stack/platform/functions.ts'
import { publicJwks } from '../../stack/platform/keys.ts'
import { freePort, type Scratch, startScratch } from '../../stack/platform/scratch.ts'

const projectUrl = 'http://127.0.0.1:9'
const gatewayPassword = 'chaos'

export type Account = { id: string; sessionId: string; bearer: string; limit: string }

/** Every account has one limit that it will reach; the last has none. */
const limits: { limit: string; meter?: string; period?: string; amount: number }[] = [
  { limit: 'credits', amount: 10 },
  { limit: 'tokens', meter: 'ai_tokens', period: 'month', amount: 3_000 },
  { limit: 'calls', meter: 'ai_calls', period: 'day', amount: 10 },
  { limit: 'rate', meter: 'ai_requests', period: 'minute', amount: 15 },
  { limit: 'concurrency', meter: 'ai_concurrency', period: 'total', amount: 2 },
  { limit: 'money', meter: 'ai_spend_micros', period: 'month', amount: 2_000 },
  { limit: 'key', meter: 'ai_calls', period: 'day', amount: 10 },
  { limit: 'none', amount: 0 },
]
const generous = [
  ['ai_calls', 'day', 1_000_000],
  ['ai_tokens', 'month', 1_000_000_000],
  ['ai_requests', 'minute', 1_000_000],
  ['images_generations_requests', 'minute', 1_000_000],
  ['ai_concurrency', 'total', 1_000],
  ['ai_spend_micros', 'month', 1_000_000_000],
] as const

/** Something between the gateways and the database, as a pooler: it answers where they reach what was at this address. */
export type Detour = (database: Scratch) => Promise<{ urlFor(direct: string): string; stop(): Promise<void> }>

export async function startWorld(log: (line: string) => void, detour: Detour = straightOn) {
  const undo: (() => unknown)[] = []
  const stop = async () => {
    for (const end of undo.reverse()) await end()
  }
  try {
    const scratch = await startScratch({ durable: true })
    undo.push(() => scratch.stop())
    const url = await scratch.createDatabase('chaos')
    await pushMigrations(url, { seed: false })
    const provider = await startProvider()
    undo.push(provider.close)
    // The pool outlives a crash of the database: statements that meet it fail, and are asked again.
    const warnings: string[] = []
    const onnotice = ({ severity, message }: postgres.Notice) => {
      if (severity === 'WARNING') warnings.push(message ?? '')
    }
    const connect = () => postgres(url, { max: 4, onnotice })
    const sql = connect()
    undo.push(() => sql.end({ timeout: 5 }))
    await seedModels(sql, provider.url)
    const accounts: Account[] = []
    for (const limit of limits) accounts.push(await seedAccount(sql, scratch, limit))
    await sql.unsafe(`alter role palisade_gateway password '${gatewayPassword}'`)

    const way = await detour(scratch)
    undo.push(way.stop)
    const gatewayUrl = new URL(url)
    gatewayUrl.username = 'palisade_gateway'
    gatewayUrl.password = gatewayPassword
    const env = {
      SUPABASE_URL: projectUrl,
      SUPABASE_DB_URL: way.urlFor(url),
      AI_DB_URL: way.urlFor(gatewayUrl.href),
      SUPABASE_JWKS: JSON.stringify(publicJwks(scratch.keys)),
    }
    const gateways = await Promise.all(
      [0, 1].map(async () => {
        const port = await freePort()
        const functions = startFunctions({ files: functionFiles, port, env, watch: false, log })
        undo.push(() => functions.stop())
        await functions.ready()
        return { functions, url: `http://127.0.0.1:${port}/ai/v1` }
      }),
    )
    return { sql, connect, warnings, accounts, gateways, asked: provider.asked, crashDatabase: scratch.crash, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

const straightOn: Detour = async () => ({ urlFor: (direct) => direct, stop: async () => {} })

export type ChaosWorld = Awaited<ReturnType<typeof startWorld>>

/** Counts every request by its id before the stand-in does anything with it. */
async function startProvider() {
  const asked = new Map<string, number>()
  const provider = createAiProvider()
  const server = serve({
    fetch: (request, env) => {
      const id = request.headers.get('x-request-id') ?? ''
      asked.set(id, (asked.get(id) ?? 0) + 1)
      return provider.fetch(request, env)
    },
    port: 0,
    hostname: '127.0.0.1',
  })
  await once(server, 'listening')
  const address = server.address()
  const url = typeof address === 'object' && address ? `http://127.0.0.1:${address.port}/v1` : ''
  const close = () =>
    new Promise<void>((done) => {
      server.close(() => done())
      if ('closeAllConnections' in server) server.closeAllConnections()
    })
  return { url, asked, close }
}

/** One model for every behaviour and kind, made when it is first asked for: see modelFor. */
async function seedModels(sql: postgres.Sql, providerUrl: string): Promise<void> {
  await sql`
    insert into private.providers (id, base_url, connect_timeout_ms, first_byte_timeout_ms, idle_timeout_ms, total_timeout_ms)
    values ('chaos', ${providerUrl}, 500, 700, 700, 4000)`
  await sql`update private.settings set value = '3' where key = 'ai.hold_grace_seconds'`
  // Many providers fail here on purpose; a breaker that stays open would leave nothing to test.
  await sql`update private.settings set value = '2' where key = 'ai.breaker_open_seconds'`
}

export async function modelFor(sql: postgres.Sql, kind: string, behaviour: string): Promise<string> {
  const id = `chaos/${kind}${behaviour && `+${behaviour}`}`
  const upstream = `echo${behaviour && `+${behaviour}`}`
  // The stand-in counts so many for an image.
  const mostOutput = kind === 'image' ? 1_000 : 300
  // Whoever writes to these tables makes every gateway's snapshot worthless, also when nothing was there to do.
  if ((await sql`select from public.models where id = ${id}`).length > 0) return id
  await sql`
    with model as (
      insert into public.models (id, provider_id, upstream_id, kind, context_tokens, max_output_tokens, credits_per_call)
      values (${id}, 'chaos', ${upstream}, ${kind}, 8000, ${mostOutput}, 1) on conflict do nothing returning id),
    price as (
      insert into public.model_prices (model_id, valid_from, input_usd_per_mtok, output_usd_per_mtok, image_usd)
      select id, '2026-01-01', 0.5, 1.5, 0.0001 from model)
    insert into public.plan_models (plan_id, model_id) select 'free', id from model`
  return id
}

async function seedAccount(
  sql: postgres.Sql,
  scratch: Scratch,
  { limit, meter, period, amount }: (typeof limits)[number],
): Promise<Account> {
  const [id, sessionId] = [crypto.randomUUID(), crypto.randomUUID()]
  await sql`
    insert into auth.users (id, email, email_confirmed_at, raw_user_meta_data, aud, role, created_at)
    values (${id}, ${`chaos-${limit}@example.com`}, now(), '{}', 'authenticated', 'authenticated', now())`
  await sql`insert into auth.sessions (id, user_id, aal, created_at) values (${sessionId}, ${id}, 'aal1', now())`
  for (const [name, length, most] of generous) {
    const own = name === meter && length === period && limit !== 'key'
    await sql`
      insert into public.limit_overrides (user_id, meter, period, amount) values (${id}, ${name}, ${length}, ${own ? amount : most})`
  }
  const credits = limit === 'credits' ? amount : 1_000_000
  await sql`select private.add_credit_entry(${id}, ${credits - 100}, ${credits > 100 ? 'grant' : 'deduction'}, 'chaos', 'chaos')`
  const bearer = limit === 'key' ? await seedKey(sql, id, amount) : await signToken(scratch, id, sessionId)
  return { id, sessionId, bearer, limit }
}

/** A key as create_api_key makes it, with a limit of its own. */
async function seedKey(sql: postgres.Sql, userId: string, amount: number): Promise<string> {
  const [row] = await sql`
    with key as (
      insert into public.api_keys (user_id, name, prefix, scopes)
      values (${userId}, 'chaos', 'pal_chaos', '{chat.completions,embeddings,images.generations,models}') returning id),
    own as (insert into public.api_key_limits select id, 'ai_calls', 'day', ${amount} from key)
    select id from key`
  const [secret] = await sql`select private.add_api_key_secret(${row?.id}) as secret`
  return String(secret?.secret)
}

async function signToken({ keys }: Scratch, userId: string, sessionId: string): Promise<string> {
  return new SignJWT({ session_id: sessionId, role: 'authenticated', aal: 'aal1', is_anonymous: false })
    .setProtectedHeader({ alg: 'ES256', kid: keys.signingKey.kid })
    .setIssuer(`${projectUrl}/auth/v1`)
    .setSubject(userId)
    .setAudience('authenticated')
    .setIssuedAt()
    .setExpirationTime('3h')
    .sign(await importJWK(keys.signingKey, 'ES256'))
}
