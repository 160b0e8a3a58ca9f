/** Starts one stack for the whole run, on free ports and a fresh data folder, and removes it afterwards. */
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestProject } from 'vitest/node'
import { statusLines } from '../scripts/shared/status-lines.ts'
import { readConfig, root } from '../stack/config.ts'
import { localDbUrl } from '../stack/platform/bootstrap.ts'
import type { StackKeys } from '../stack/platform/keys.ts'
import { runSql } from '../stack/schema.ts'
import { freeRange } from './support/ports.ts'
import type { Target } from './target.ts'

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const given = process.env
  if (given.API_URL) {
    project.provide('target', fromStatus(given))
    return async () => {}
  }
  const data = await mkdtemp(join(tmpdir(), 'palisade-test-'))
  const port = await freeRange()
  const env = { ...process.env, PALISADE_PORT: String(port), PALISADE_DATA: data, PALISADE_AUTH_RATE_LIMITS: 'off' }
  const output: string[] = []
  const child = spawn(process.execPath, ['scripts/start.ts', '--no-watch'], {
    cwd: root,
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  const ready = new Promise<void>((resolve, reject) => {
    child.stdout.on('data', (chunk: Buffer) => {
      output.push(chunk.toString())
      if (output.join('').includes('Palisade is ready')) resolve()
    })
    child.stderr.on('data', (chunk: Buffer) => output.push(chunk.toString()))
    child.once('exit', () => reject(new Error(`The stack did not start:\n${output.join('')}`)))
  })
  const stop = async () => {
    child.kill('SIGTERM')
    await exited
    await rm(data, { recursive: true, force: true })
  }
  await ready.catch(async (error: unknown) => {
    await stop()
    throw error
  })
  const config = readConfig(env)
  const keys: StackKeys = JSON.parse(readFileSync(config.files.keys, 'utf8'))
  if (config.real.db) await seed(config.real.db, config.urls.provider)
  const own = { data, port, superuserUrl: localDbUrl(config.ports.db, keys, 'supabase_admin') }
  project.provide('target', {
    ...fromStatus(Object.fromEntries(statusLines(config, keys))),
    own: config.real.db ? null : own,
  })
  return stop
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
    own: null,
  }
}
