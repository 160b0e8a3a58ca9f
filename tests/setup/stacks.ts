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
import { runSql } from '../../scripts/shared/connect-database.ts'
import { statusLines } from '../../scripts/shared/status-lines.ts'
import { readConfig, root } from '../../stack/config.ts'
import { loadKeys } from '../../stack/keys.ts'
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
  const env = { ...process.env, ...place, ...cheap }
  const config = readConfig(env)
  // Made before the stack looks for them, so that the address of everything is known at once.
  const keys = await loadKeys(config.files.keys)
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
    .then(() => (config.real.db ? seed(config.real.db, config.urls.provider) : undefined))
    .then(
      () => writeFileSync(outcome, ''),
      (error: unknown) => writeFileSync(outcome, `The stack did not start:\n${error}`),
    )
  const own = config.real.db ? null : { data, port }
  const superuserUrl = own && localDbUrl(config.ports.db, keys, 'supabase_admin')
  const target = { ...fromStatus(Object.fromEntries(statusLines(config, keys))), own, superuserUrl }
  const stop = async () => {
    child.kill('SIGTERM')
    await exited
    await rm(home, { recursive: true, force: true })
  }
  return { stack: { target, outcome }, stop }
}

/** The stack writes no seed into a database that is not its own; the tests need the stand-in's model there. */
async function seed(url: string, provider: string): Promise<void> {
  await runSql(url, readFileSync(join(root, 'supabase', 'seed.sql'), 'utf8'))
  await runSql(url, `update private.providers set base_url = '${provider}/v1' where id = 'demo'`)
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
  }
}
