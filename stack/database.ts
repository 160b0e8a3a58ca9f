/** The stack's database: started, or found where the environment says; migrated, and told where everything else is. */
import postgres from 'postgres'
import { type StackConfig, StackError } from './config.ts'
import type { StackKeys } from './keys.ts'
import { applyMigrations, pendingMigrations, pushMigrations, refuseOtherHistory } from './migrations.ts'
import { bootstrap, localDbUrl } from './platform/bootstrap.ts'
import { PlatformError } from './platform/config.ts'
import { keepCluster } from './platform/keep-postgres.ts'
import type { DatabaseRole } from './platform/keys.ts'
import {
  clusterVersion,
  initCluster,
  installExtensions,
  postgresMajor,
  startCluster,
  stopCluster,
} from './platform/postgres.ts'
import { checkPort } from './serve.ts'

type Options = { log(line: string): void; progress(line: string): void }
/** `interrupted` ends a start that waits; `back` is told that the database was away and answers again. */
type StartOptions = Options & { interrupted: AbortSignal; back(): Promise<void> }

/** The stack's own database, started and kept running, or one that the environment names. */
export async function startDatabase(
  config: StackConfig,
  keys: StackKeys,
  options: StartOptions,
  undo: (() => unknown)[],
) {
  const real = config.real.db
  if (real) {
    await checkConnection(real)
    const urlOf = (role: DatabaseRole) => {
      const url = new URL(real)
      url.username = role
      return url.href
    }
    return { urlOf, isUp: () => true, check: async () => true }
  }
  const folder = config.files.postgres
  const version = clusterVersion(folder)
  if (version !== undefined && version !== postgresMajor) {
    throw otherVersion(folder, `It was made by PostgreSQL ${version}, this is ${postgresMajor}.`)
  }
  await checkPort('database', config.ports.db)
  const cluster = { folder, port: config.ports.db, superuserPassword: keys.passwords.supabase_admin }
  installExtensions()
  if (version === undefined) {
    options.progress('Making a new database')
    initCluster(cluster)
  }
  undo.push(() => stopCluster(folder))
  const started = startCluster(cluster, () => options.progress('PostgreSQL recovers what it had written'))
  await unlessInterrupted(started, options.interrupted)
  const foreign = { auth: Boolean(config.real.auth), storage: Boolean(config.real.storage) }
  await bootstrap(config.ports.db, keys, foreign).catch((error: unknown) => {
    throw error instanceof PlatformError ? otherVersion(folder, error.message) : error
  })
  const kept = keepCluster(cluster, options)
  undo.push(() => kept.stop())
  return { ...kept, urlOf: (role: DatabaseRole) => localDbUrl(config.ports.db, keys, role) }
}

/** A recovery takes as long as it takes, and whoever waits may have enough of it. */
async function unlessInterrupted(work: Promise<void>, interrupted: AbortSignal): Promise<void> {
  const enough = new Promise<never>((_, reject) => {
    const give = () => reject(new StackError('Interrupted while PostgreSQL was starting.'))
    if (interrupted.aborted) give()
    else interrupted.addEventListener('abort', give)
  })
  await Promise.race([work, enough])
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

export async function migrate(
  config: StackConfig,
  keys: StackKeys,
  url: string,
  gatewayPassword: string,
  options: Options,
): Promise<void> {
  await awaitServices(config, url, options)
  if (!config.real.db) await refuseOtherHistory(url, config.data)
  const pending = await pendingMigrations(url)
  if (pending.length > 0) {
    options.progress(`Applying ${pending.length} migration${pending.length === 1 ? '' : 's'}`)
    await (config.real.db ? pushMigrations(url, { seed: false }) : applyMigrations(url, pending))
  }
  if (config.real.db) return
  await pointToStack(config, keys, url, gatewayPassword)
  await checkSessions(localDbUrl(config.ports.db, keys, 'supabase_admin'))
}

/**
 * What supautils lets a migration say on hosted, and plain PostgreSQL only a superuser.
 * @internal For tests: they are the operator of a database that is not the stack's own.
 */
export async function checkSessions(superuserUrl: string): Promise<void> {
  const sql = postgres(superuserUrl, { max: 1, onnotice: () => {} })
  try {
    await sql`alter role authenticator set pgrst.db_pre_request = 'public.check_session'`
    await sql`notify pgrst, 'reload config'`
  } finally {
    await sql.end()
  }
}

/**
 * What lets the database reach the stack's parts, and the function `ai` the database. Where it is not the stack's own, that is
 * its operator's.
 * @internal For tests: they are that operator.
 */
export async function pointToStack(
  config: StackConfig,
  keys: StackKeys,
  url: string,
  gatewayPassword: string,
): Promise<void> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    // The stand-ins' ports follow PALISADE_PORT; real exchanges have no address here.
    await sql`update private.providers set base_url = ${`${config.urls.provider}/v1`} where id = 'demo'`
    await sql`
      update private.exchanges set base_url = ${config.urls.exchanges}::text || '/' || id
      where id in ('binance', 'coinbase', 'kraken')`
    // A new one at every start: nobody needs to know it but the function.
    await sql.unsafe(`alter role palisade_gateway password '${gatewayPassword}'`)
    await noteFunctions(sql, `${config.urls.api}/functions/v1`, keys.secretKey)
  } finally {
    await sql.end()
  }
}

/** What lets jobs call the functions: their address in a setting, the secret key in Vault. On hosted an operator sets both. */
async function noteFunctions(sql: postgres.Sql, functionsUrl: string, secretKey: string): Promise<void> {
  await sql`update private.settings set value = ${sql.json(functionsUrl)} where key = 'jobs.functions_url'`
  const [secret] =
    await sql`select id, decrypted_secret as value from vault.decrypted_secrets where name = 'palisade_secret_key'`
  if (!secret) {
    await sql`select vault.create_secret(${secretKey}, 'palisade_secret_key', 'Secret API key with which jobs call the functions.')`
  } else if (secret.value !== secretKey) {
    await sql`select vault.update_secret(${secret.id}::uuid, ${secretKey})`
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
