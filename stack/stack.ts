/** The whole local stack in one process tree: PostgreSQL, gateway with Auth, REST, Storage and Realtime, functions, mail, jobs. */
import { randomBytes } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { createAdaptorServer } from '@hono/node-server'
import postgres from 'postgres'
import { functionFiles, mailFrom, projectFile, type StackConfig, StackError } from './config.ts'
import { createAiProvider } from './doubles/ai-provider.ts'
import { createExchanges } from './doubles/exchanges.ts'
import { createStripe } from './doubles/stripe.ts'
import { writeJobSettings } from './job-settings.ts'
import { loadKeys, type StackKeys } from './keys.ts'
import { landingPage } from './landing.ts'
import { readProjectSettings } from './platform/auth/settings.ts'
import { bootstrap, localDbUrl } from './platform/bootstrap.ts'
import { PlatformError } from './platform/config.ts'
import { startFunctions } from './platform/functions.ts'
import { createGateway } from './platform/gateway.ts'
import { startJobs } from './platform/jobs.ts'
import { type DatabaseRole, publicJwks } from './platform/keys.ts'
import { createMailbox } from './platform/mailbox.ts'
import {
  clusterPid,
  clusterVersion,
  initCluster,
  installExtensions,
  postgresMajor,
  startCluster,
  stopCluster,
} from './platform/postgres.ts'
import { createRealtime, type Realtime, refuseUpgrade } from './platform/realtime.ts'
import { startSmtp } from './platform/smtp.ts'
import { applyMigrations, pendingMigrations, pushMigrations, refuseOtherHistory } from './schema.ts'
import { claimDataFolder, dropState, writeState } from './state.ts'

type Fetch = (
  request: Request,
  env: { incoming?: { socket: { remoteAddress?: string; destroy(): unknown } } },
) => Response | Promise<Response>
type Upgrade = (request: IncomingMessage, socket: Duplex, head: Buffer) => void
type Options = { watch: boolean; log(line: string): void; progress(line: string): void }

/** Starts everything and answers when it is ready; what was started is stopped again when a part fails. */
export async function startStack(
  config: StackConfig,
  options: Options,
): Promise<{ keys: StackKeys; stop(): Promise<void> }> {
  claimDataFolder(config)
  const undo: (() => unknown)[] = [() => dropState(config)]
  const stop = async () => {
    for (const step of undo.splice(0).reverse()) {
      await Promise.resolve(step()).catch((error: unknown) => options.log(`stopping: ${error}`))
    }
  }
  try {
    const keys = await loadKeys(config.files.keys)
    await startParts(config, keys, options, undo)
    return { keys, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

async function startParts(
  config: StackConfig,
  keys: StackKeys,
  options: Options,
  undo: (() => unknown)[],
): Promise<void> {
  const { ports } = config
  const mailbox = createMailbox({ file: config.files.mails })
  const listen = async (name: string, port: number, fetch: Fetch, upgrade?: Upgrade) =>
    undo.push(await serve(name, port, fetch, upgrade))
  // The ports first: a taken one must not cost the wait for the database.
  let gateway: Awaited<ReturnType<typeof createGateway>> | undefined
  let realtime: Realtime | undefined
  const starting = () =>
    Response.json({ message: 'The stack is starting.' }, { status: 503, headers: { 'retry-after': '1' } })
  await listen(
    'API',
    ports.api,
    (request, env) =>
      gateway ? gateway.fetch(request, { address: env.incoming?.socket.remoteAddress ?? '127.0.0.1' }) : starting(),
    (request, socket, head) =>
      realtime ? realtime.upgrade(request, socket, head) : refuseUpgrade(socket, 503, 'Realtime is not running.'),
  )
  await listen('mailbox', ports.mail, (request) => mailbox.fetch(request))
  undo.push(await startSmtp(ports.smtp, mailbox.deliver).catch(sayPortTaken('SMTP', ports.smtp)))
  await listen('console', ports.console, () => landingPage(config))
  const provider = createAiProvider()
  await listen('AI provider', ports.provider, (request, env) => provider.fetch(request, env))
  if (!config.real.exchanges) {
    const exchanges = createExchanges()
    await listen('exchanges', ports.exchanges, (request, env) => exchanges.fetch(request, env))
  }

  if (config.urls.stripe) {
    const { secretKey, webhookSecret } = keys.stripe
    const webhooks = [{ url: `${config.urls.api}/functions/v1/stripe-webhook`, secrets: [webhookSecret] }]
    const stripe = createStripe({ url: config.urls.stripe, secretKey, webhooks, file: config.files.stripe })
    undo.push(() => stripe.close())
    await listen('Stripe', ports.stripe, (request) => stripe.fetch(request))
  }

  const dbUrl = await startDatabase(config, keys, options, undo)
  const gatewayPassword = randomBytes(24).toString('base64url')
  const functions = startFunctions({
    files: functionFiles,
    port: ports.functions,
    env: functionsEnvironment(config, keys, dbUrl('postgres'), gatewayPassword),
    watch: options.watch,
    log: options.log,
  })
  undo.push(() => functions.stop())
  await migrate(config, dbUrl('postgres'), gatewayPassword, options)
  if (!config.real.db) await writeJobSettings(dbUrl('postgres'), `${config.urls.api}/functions/v1`, keys.secretKey)
  const settings = readProjectSettings(projectFile, ports.console)
  if (config.hashCost !== undefined) settings.auth.password_hash_cost = config.hashCost
  gateway = await createGateway({
    config: config.platform,
    keys,
    settings,
    dbUrl,
    deliverMail: mailbox.deliver,
    log: options.log,
  })
  undo.push(() => gateway?.close())
  if (!config.real.db) {
    realtime = await createRealtime({ config: config.platform, keys, dbUrl, log: options.log })
    undo.push(() => realtime?.close())
    const jobs = startJobs({
      adminUrl: dbUrl('supabase_admin'),
      urlFor: (role) => (role === 'postgres' ? dbUrl('postgres') : undefined),
      log: options.log,
    })
    undo.push(() => jobs.stop())
  }
  await functions.ready()
  const noteState = () => writeState(config, { pid: process.pid, ready: true, ...withPid(functions.pid()) })
  noteState()
  const timer = setInterval(noteState, 1_000)
  undo.push(() => clearInterval(timer))
}

const withPid = (functionsPid: number | undefined) => (functionsPid === undefined ? {} : { functionsPid })

async function startDatabase(config: StackConfig, keys: StackKeys, options: Options, undo: (() => unknown)[]) {
  const real = config.real.db
  if (real) {
    await checkConnection(real)
    return (role: DatabaseRole) => {
      const url = new URL(real)
      url.username = role
      return url.href
    }
  }
  const folder = config.files.postgres
  const version = clusterVersion(folder)
  if (version !== undefined && version !== postgresMajor) {
    throw otherVersion(folder, `It was made by PostgreSQL ${version}, this is ${postgresMajor}.`)
  }
  if (clusterPid(folder) !== undefined) stopCluster(folder)
  await checkPort('database', config.ports.db)
  const cluster = { folder, port: config.ports.db, superuserPassword: keys.passwords.supabase_admin }
  installExtensions()
  if (version === undefined) {
    options.progress('Making a new database')
    initCluster(cluster)
  }
  startCluster(cluster)
  undo.push(() => stopCluster(folder))
  const foreign = { auth: Boolean(config.real.auth), storage: Boolean(config.real.storage) }
  await bootstrap(config.ports.db, keys, foreign).catch((error: unknown) => {
    throw error instanceof PlatformError ? otherVersion(folder, error.message) : error
  })
  const timer = setInterval(() => {
    if (clusterPid(folder) !== undefined) return
    options.log('postgres: the server is gone; starting it again')
    startCluster(cluster)
  }, 2_000)
  undo.push(() => clearInterval(timer))
  return (role: DatabaseRole) => localDbUrl(config.ports.db, keys, role)
}

const otherVersion = (folder: string, why: string) =>
  new StackError(
    `${folder} cannot be used: ${why} Set PALISADE_DATA to another folder, or throw the data away with "npm run reset".`,
  )

/** Our migrations refer to the services' tables; a real service makes its own when it starts. */
async function awaitServices(config: StackConfig, url: string, options: Options): Promise<void> {
  const tables = [...(config.real.auth ? ['auth.users'] : []), ...(config.real.storage ? ['storage.objects'] : [])]
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    for (const table of tables) {
      for (let tries = 0; ; tries += 1) {
        const [row] = await sql`select to_regclass(${table}) is not null as there`
        if (row?.there) break
        if (tries === 0) options.progress(`Waiting for the real service to make ${table}`)
        if (tries > 120)
          throw new StackError(`${table} is not there: start the real service on DB_URL, then start again.`)
        await new Promise((resolve) => setTimeout(resolve, 1_000))
      }
    }
  } finally {
    await sql.end()
  }
}

async function migrate(config: StackConfig, url: string, gatewayPassword: string, options: Options): Promise<void> {
  await awaitServices(config, url, options)
  if (!config.real.db) await refuseOtherHistory(url, config.data)
  const pending = await pendingMigrations(url)
  if (pending.length > 0) {
    options.progress(`Applying ${pending.length} migration${pending.length === 1 ? '' : 's'}`)
    await (config.real.db ? pushMigrations(url, { seed: false }) : applyMigrations(url, pending))
  }
  if (config.real.db) return
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    // The stand-ins' ports follow PALISADE_PORT; real exchanges have no address here.
    await sql`update private.providers set base_url = ${`${config.urls.provider}/v1`} where id = 'demo'`
    await sql`
      update private.exchanges set base_url = ${config.urls.exchanges}::text || '/' || id
      where id in ('binance', 'coinbase', 'kraken')`
    // A new one at every start: nobody needs to know it but the function.
    await sql.unsafe(`alter role palisade_gateway password '${gatewayPassword}'`)
  } finally {
    await sql.end()
  }
}

/** What Supabase's edge runtime gives a function, and the provider keys of this machine. */
function functionsEnvironment(
  config: StackConfig,
  keys: StackKeys,
  dbUrl: string,
  gatewayPassword: string,
): Record<string, string> {
  const { OPENROUTER_API_KEY, AI_DB_URL } = process.env
  const gatewayUrl = new URL(dbUrl)
  gatewayUrl.username = 'palisade_gateway'
  gatewayUrl.password = gatewayPassword
  // In a database that is not ours, the role's password is its operator's: without AI_DB_URL the function warns.
  const aiDbUrl = config.real.db ? AI_DB_URL : gatewayUrl.href
  return {
    ...(aiDbUrl ? { AI_DB_URL: aiDbUrl } : {}),
    SUPABASE_URL: config.urls.api,
    SUPABASE_DB_URL: dbUrl,
    SUPABASE_PUBLISHABLE_KEYS: JSON.stringify({ default: keys.publishableKey }),
    SUPABASE_SECRET_KEYS: JSON.stringify({ default: keys.secretKey }),
    SUPABASE_JWKS: JSON.stringify(publicJwks(keys)),
    SMTP_URL: `smtp://127.0.0.1:${config.ports.smtp}`,
    MAIL_FROM: mailFrom,
    ...(OPENROUTER_API_KEY ? { OPENROUTER_API_KEY } : {}),
    ...(config.exchangesGapMs === undefined ? {} : { EXCHANGES_GAP_MS: String(config.exchangesGapMs) }),
    ...stripeEnvironment(config, keys),
  }
}

/** Of the stand-in, or of Stripe when this machine has a key of it. */
function stripeEnvironment(config: StackConfig, keys: StackKeys): Record<string, string> {
  const { secretKey, webhookSecrets } = config.real.stripe ?? {
    secretKey: keys.stripe.secretKey,
    webhookSecrets: keys.stripe.webhookSecret,
  }
  return {
    STRIPE_SECRET_KEY: secretKey,
    STRIPE_WEBHOOK_SECRETS: webhookSecrets,
    ...(config.urls.stripe ? { STRIPE_API_URL: config.urls.stripe } : {}),
    BILLING_RETURN_URLS: config.returnUrls,
  }
}

async function checkConnection(url: string): Promise<void> {
  const sql = postgres(url, { max: 1, connect_timeout: 10, onnotice: () => {} })
  try {
    await sql`select 1`
  } catch (error) {
    throw new StackError(`PALISADE_DB_URL does not answer: ${error instanceof Error ? error.message : error}`)
  } finally {
    await sql.end()
  }
}

const sayPortTaken = (name: string, port: number) => (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EADDRINUSE') throw error
  throw new StackError(
    `Port ${port} (${name}) is taken. Stop what uses it, or set PALISADE_PORT to another free range of ports.`,
  )
}

async function checkPort(name: string, port: number): Promise<void> {
  const close = await serve(name, port, () => new Response())
  await close()
}

function serve(name: string, port: number, fetch: Fetch, upgrade?: Upgrade): Promise<() => Promise<void>> {
  const server = createAdaptorServer({ fetch: (request, env) => fetch(request, env as never), hostname: '127.0.0.1' })
  server.on('request', readOnAfterAnswer)
  if (upgrade) server.on('upgrade', upgrade)
  return new Promise<() => Promise<void>>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, '127.0.0.1', () => resolve(() => closeServer(server)))
  }).catch(sayPortTaken(name, port))
}

/**
 * A body that was refused before its end has to be read on, or the caller's connection stalls. The adaptor does so, but the
 * stream that the body was read as pauses it again, and the adaptor cuts the connection half a second later, under the caller's
 * next request. So that stream is taken off.
 */
function readOnAfterAnswer(incoming: IncomingMessage, outgoing: ServerResponse): void {
  outgoing.once('close', () => {
    if (!incoming.readableEnded) incoming.removeAllListeners('data')
  })
}

function closeServer(server: ReturnType<typeof createAdaptorServer>): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve())
    if ('closeAllConnections' in server) server.closeAllConnections()
  })
}
