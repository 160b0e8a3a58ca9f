/** The whole local stack in one process tree: PostgreSQL, gateway with Auth, REST, Storage and Realtime, functions, mail, jobs. */
import { randomBytes } from 'node:crypto'
import { functionFiles, mailFrom, projectFile, type StackConfig } from './config.ts'
import { migrate, startDatabase } from './database.ts'
import { createAiProvider } from './doubles/ai-provider.ts'
import { createExchanges } from './doubles/exchanges.ts'
import { createStripe } from './doubles/stripe.ts'
import { loadKeys, type StackKeys } from './keys.ts'
import { endLeftBehind, findLeftBehind } from './left-behind.ts'
import { readProjectSettings } from './platform/auth/settings.ts'
import { startFunctions } from './platform/functions.ts'
import { createGateway, refuseWhileStarting } from './platform/gateway.ts'
import { startJobs } from './platform/jobs.ts'
import { publicJwks } from './platform/keys.ts'
import { createMailbox } from './platform/mailbox.ts'
import { createRealtime, type Realtime, refuseUpgrade } from './platform/realtime.ts'
import { startSmtp } from './platform/smtp.ts'
import { type Fetch, sayPortTaken, serve, type Upgrade } from './serve.ts'
import { claimDataFolder, dropState, keepState } from './state.ts'
import { tellWhenLong } from './tell-when-long.ts'

type Options = {
  watch: boolean
  log(line: string): void
  progress(line: string): void
  /** Ends a start that waits. */
  interrupted: AbortSignal
}

/**
 * Starts everything and answers when it is ready; what was started is stopped again when a part fails. `renew` opens all
 * connections to the database anew.
 */
export async function startStack(
  config: StackConfig,
  options: Options,
): Promise<{ keys: StackKeys; renew(): Promise<void>; stop(): Promise<void> }> {
  const left = findLeftBehind(config)
  claimDataFolder(config)
  const undo: (() => unknown)[] = [() => dropState(config)]
  const stop = async () => {
    for (const step of undo.splice(0).reverse()) {
      await (async () => step())().catch((error: unknown) => options.log(`stopping: ${error}`))
    }
  }
  try {
    if (left.length > 0) options.progress(await endLeftBehind(left))
    const keys = await loadKeys(config.files.keys)
    const renew = await startParts(config, keys, options, undo)
    return { keys, renew, stop }
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
): Promise<() => Promise<void>> {
  const { ports } = config
  const mailbox = createMailbox({ file: config.files.mails, log: options.log })
  undo.push(() => mailbox.close())
  const listen = async (name: string, port: number, fetch: Fetch, upgrade?: Upgrade) =>
    undo.push(await serve(name, port, fetch, upgrade))
  // The ports first: a taken one must not cost the wait for the database.
  let gateway: Awaited<ReturnType<typeof createGateway>> | undefined
  let realtime: Realtime | undefined
  await listen(
    'API',
    ports.api,
    (request, env) =>
      gateway
        ? gateway.fetch(request, { address: env.incoming?.socket.remoteAddress ?? '127.0.0.1' })
        : refuseWhileStarting(request),
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
    const stripe = createStripe({
      url: config.urls.stripe,
      secretKey,
      webhooks,
      file: config.files.stripe,
      log: options.log,
    })
    undo.push(() => stripe.close())
    await listen('Stripe', ports.stripe, (request) => stripe.fetch(request))
  }

  const renew = async () => {
    await gateway?.renew()
    realtime?.renew()
  }
  const database = await startDatabase(config, keys, { ...options, back: renew }, undo)
  const dbUrl = database.urlOf
  const gatewayPassword = randomBytes(24).toString('base64url')
  const env = functionsEnvironment(config, keys, byPooler(config.pooler, dbUrl('postgres')), gatewayPassword)
  const functions = config.urls.functions.map((url) => {
    const { watch, log } = options
    return startFunctions({ files: functionFiles, port: Number(new URL(url).port), env, watch, log })
  })
  undo.push(() => Promise.all(functions.map((process) => process.stop())))
  const note = keepState(config, () => functions.flatMap((process) => process.pid() ?? []), options.log)
  undo.push(() => note.stop())
  await migrate(config, keys, dbUrl('postgres'), gatewayPassword, options)
  const settings = readProjectSettings(projectFile, ports.console)
  if (config.hashCost !== undefined) settings.auth.password_hash_cost = config.hashCost
  gateway = await createGateway({
    config: config.platform,
    keys,
    settings,
    dbUrl,
    database,
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
  const starting = Promise.all(functions.map((process) => process.ready()))
  await tellWhenLong(starting, () => options.progress('Starting the functions'))
  note.ready()
  return renew
}

/** The same database and login, by way of the pooler: what its URL has besides its host is for the functions to read. */
function byPooler(pooler: string | undefined, direct: string): string {
  if (pooler === undefined) return direct
  const url = new URL(direct)
  const { hostname, port, search } = new URL(pooler)
  return Object.assign(url, { hostname, port, search }).href
}

/** What Supabase's edge runtime gives a function, and the provider keys of this machine. */
function functionsEnvironment(
  config: StackConfig,
  keys: StackKeys,
  dbUrl: string,
  gatewayPassword: string,
): Record<string, string> {
  const { OPENROUTER_API_KEY, AI_DB_URL, DB_CA_CERT } = process.env
  const gatewayUrl = new URL(dbUrl)
  gatewayUrl.username = 'palisade_gateway'
  gatewayUrl.password = gatewayPassword
  // In a database that is not ours, the role's password is its operator's: without AI_DB_URL the function warns.
  const aiDbUrl = config.real.db ? AI_DB_URL : gatewayUrl.href
  return {
    ...(aiDbUrl ? { AI_DB_URL: aiDbUrl } : {}),
    ...(DB_CA_CERT ? { DB_CA_CERT } : {}),
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

/** The page at the site's address: where links in mails lead after they did their work. No script, no state. */
function landingPage(config: StackConfig): Response {
  const html = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Palisade, local stack</title>
<style>
  :root { color-scheme: light dark }
  body { font: 16px/1.6 system-ui, sans-serif; max-width: 34rem; margin: 15vh auto; padding: 0 1rem }
  h1 { font-size: 1.4rem }
</style>
<h1>Palisade runs on this machine</h1>
<p>A link in a mail from this stack leads here after it has done its work: your address is confirmed, and you can go back
to your app and sign in.</p>
<p>Mails that Auth sent: <a href="${config.urls.mail}">${config.urls.mail}</a></p>
</html>`
  const headers = {
    'content-type': 'text/html; charset=utf-8',
    'content-security-policy': "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    'referrer-policy': 'no-referrer',
  }
  return new Response(html, { headers })
}
