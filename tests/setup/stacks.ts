/**
 * Starts the stacks of project `stack`, each on free ports and a fresh data folder, and removes them afterwards. They start while
 * other projects run already: own-stack.ts waits for one. Against a target from the environment nothing is started.
 */
import { spawn } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestProject } from 'vitest/node'
import { alone, createBillingDatabase } from '../../functions/_shared/billing/billing-database.ts'
import { createStripe } from '../../functions/_shared/billing/stripe-client.ts'
import { syncCatalogue } from '../../functions/_shared/billing/sync-catalogue.ts'
import { connectDatabase, runSql } from '../../scripts/shared/connect-database.ts'
import { startPgBouncer } from '../../scripts/shared/pgbouncer.ts'
import { statusLines } from '../../scripts/shared/status-lines.ts'
import { readConfig, root, type StackConfig } from '../../stack/config.ts'
import { checkSessions, pointToStack } from '../../stack/database.ts'
import { loadKeys, type StackKeys } from '../../stack/keys.ts'
import { localDbUrl } from '../../stack/platform/bootstrap.ts'
import { freeRange } from '../support/ports.ts'
import type { Target } from '../target.ts'

/** `outcome` is a file that appears when the start has ended, and then holds what went wrong, or nothing. */
type Stack = { target: Target; outcome: string | null }
declare module 'vitest' {
  interface ProvidedContext {
    stacks: Stack[]
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  if (process.env.API_URL) {
    project.provide('stacks', [{ target: fromStatus(process.env), outcome: null }])
    return async () => {}
  }
  const ports: number[] = []
  while (ports.length < project.config.maxWorkers) {
    const port = await freeRange()
    if (!ports.includes(port)) ports.push(port)
  }
  const started = await Promise.all(ports.map(startStack))
  project.provide(
    'stacks',
    started.map(({ stack }) => stack),
  )
  return async () => void (await Promise.all(started.map(({ stop }) => stop())))
}

async function startStack(port: number): Promise<{ stack: Stack; stop(): Promise<void> }> {
  const home = await mkdtemp(join(tmpdir(), 'palisade-test-'))
  const data = join(home, 'data')
  const place = { PALISADE_PORT: String(port), PALISADE_DATA: data }
  const cheap = { PALISADE_AUTH_RATE_LIMITS: 'off', PALISADE_AUTH_HASH_COST: '4', PALISADE_EXCHANGES_GAP_MS: '1' }
  const given = { ...process.env, ...place, ...cheap }
  const config = readConfig(given)
  const gatewayPassword = crypto.randomUUID()
  // Made before the stack looks for them, so that the address of everything is known at once.
  const keys = await loadKeys(config.files.keys)
  const database = { port: config.ports.db, superuserPassword: keys.passwords.supabase_admin }
  const pooler = process.env.PALISADE_TEST_POOLER ? await startPgBouncer(database) : undefined
  const env = {
    ...given,
    ...gatewayAddress(config.real.db, gatewayPassword),
    ...(pooler ? { PALISADE_POOLER_URL: pooler.urlFor('postgresql://127.0.0.1') } : {}),
  }
  const outcome = join(home, 'outcome')
  const child = spawn(process.execPath, ['scripts/start.ts', '--no-watch'], {
    cwd: root,
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  let output = ''
  const ready = new Promise<void>((resolve, reject) => {
    const read = (chunk: Buffer) => {
      output += chunk
      if (output.includes('Palisade is ready')) resolve()
    }
    child.stdout.on('data', read)
    child.stderr.on('data', read)
    child.once('exit', () => reject(new Error(output)))
  })
  ready
    .then(() => (config.real.db ? operate(config, keys, config.real.db, gatewayPassword) : undefined))
    .then(
      () => writeFileSync(outcome, ''),
      (error: unknown) => writeFileSync(outcome, `The stack did not start:\n${error}`),
    )
  const target = {
    ...fromStatus(Object.fromEntries(statusLines(config, keys))),
    own: { data, port },
    superuserUrl: config.real.db
      ? (process.env.SUPERUSER_URL ?? null)
      : localDbUrl(config.ports.db, keys, 'supabase_admin'),
    hasRealtime: !config.real.db,
    poolerPort: pooler?.port ?? null,
  }
  const stop = async () => {
    child.kill('SIGTERM')
    await exited
    await pooler?.stop()
    await rm(home, { recursive: true, force: true })
  }
  return { stack: { target, outcome }, stop }
}

function gatewayAddress(databaseUrl: string | undefined, password: string): { AI_DB_URL?: string } {
  if (!databaseUrl) return {}
  const url = new URL(databaseUrl)
  Object.assign(url, { username: 'palisade_gateway', password })
  return { AI_DB_URL: url.href }
}

/** What the stack leaves to the operator of a database that is not its own: seed, addresses, the gateway's password, prices. */
async function operate(config: StackConfig, keys: StackKeys, url: string, gatewayPassword: string): Promise<void> {
  await runSql(url, readFileSync(join(root, 'supabase', 'seed.sql'), 'utf8'))
  await pointToStack(config, keys, url, gatewayPassword)
  if (process.env.SUPERUSER_URL) await checkSessions(process.env.SUPERUSER_URL)
  const sql = connectDatabase(url, { max: 2 })
  try {
    const database = createBillingDatabase(sql, false)
    const stripe = createStripe(keys.stripe.secretKey, config.urls.stripe ?? undefined)
    await alone(sql, async () => syncCatalogue(await database.listItems(), { database, stripe, dryRun: false }))
  } finally {
    await sql.end()
  }
}

/** A target in the names of `supabase status -o env`. */
function fromStatus(env: Record<string, string | undefined>): Target {
  const need = (name: string) => {
    const value = env[name]
    if (!value) throw new Error(`API_URL is set, so ${name} must be set, too: eval "$(npx supabase status -o env)"`)
    return value
  }
  return {
    apiUrl: need('API_URL'),
    restUrl: need('REST_URL'),
    functionsUrl: need('FUNCTIONS_URL'),
    dbUrl: need('DB_URL'),
    mailUrl: need('MAILPIT_URL'),
    publishableKey: need('PUBLISHABLE_KEY'),
    secretKey: need('SECRET_KEY'),
    superuserUrl: env.SUPERUSER_URL ?? null,
    own: null,
    hasRealtime: true,
    poolerPort: null,
  }
}
