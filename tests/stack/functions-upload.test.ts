/** What `supabase functions deploy --use-api` uploads is whole: each function starts from its files alone, without node_modules. */
import { execFile, spawn } from 'node:child_process'
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { root } from '../../stack/config.ts'
import { denoBinary } from '../../stack/platform/functions.ts'
import { endProcess } from '../../stack/platform/postgres.ts'
import { freePort } from '../../stack/platform/scratch.ts'
import { type DeployedFunction, type ManagementApi, ref, startManagementApi } from '../support/management-api.ts'

const execute = promisify(execFile)
const cli = join(root, 'node_modules', '.bin', 'supabase')
/** Packages that Deno gets from the registry, as the real bundler does; kept for the next run. */
const cache = join(root, 'node_modules', '.cache', 'palisade-deno-uploads')
const mostBytes = 4 * 1024 * 1024

/** A path that each function has. */
const paths: Record<string, string> = {
  account: '/undo',
  ai: '/v1/chat/completions',
  billing: '/portal',
  credentials: '',
  jobs: '/send-mails',
  portfolio: '/sync',
  'stripe-webhook': '',
}
const slugs = Object.keys(paths)
let api: ManagementApi
let folder: string

beforeAll(async () => {
  api = await startManagementApi()
  folder = await mkdtemp(join(tmpdir(), 'palisade-uploads-'))
  const args = ['functions', 'deploy', '--use-api', `--remote=${ref}`, '--yes', '--agent', 'no']
  await execute(cli, args, { cwd: root, env: { PATH: process.env.PATH, ...api.env } })
})
afterAll(async () => {
  await api?.close()
  await rm(folder, { recursive: true, force: true })
})

const uploadOf = (slug: string): DeployedFunction => {
  const deployed = api.state.functions.get(slug)
  if (!deployed) throw new Error(`${slug} was not deployed`)
  return deployed
}

test('every function of the project is deployed, and none checks tokens before us', () => {
  expect([...api.state.functions.keys()].sort()).toEqual(slugs)
  for (const { verify_jwt } of api.state.functions.values()) expect(verify_jwt).toBe(false)
})

describe.each(slugs)('%s', (slug) => {
  test('is small enough', () => {
    const bytes = uploadOf(slug).files.reduce((sum, file) => sum + file.bytes.length, 0)

    expect(bytes).toBeGreaterThan(0)
    expect(bytes).toBeLessThanOrEqual(mostBytes)
  })

  test('starts from what was uploaded, and answers in our form', async () => {
    const home = await unpack(uploadOf(slug))

    await download(home, slug)
    const answer = await ask(home, slug)

    // Two of them know their callers by what is in the body.
    expect(answer.status).toBe(['account', 'stripe-webhook'].includes(slug) ? 400 : 401)
    expect(await answer.json()).toMatchObject({ error: { code: expect.any(String), message: expect.any(String) } })
    expect(await readdir(home)).not.toContain('package.json')
  })
})

test('exchanges load from what was uploaded', async () => {
  const home = await unpack(uploadOf('portfolio'))
  const program = join(home, 'program.ts')
  await writeFile(
    program,
    `import { requiredFields } from './functions/_shared/exchanges/load-exchange.ts'
     for (const name of ['binance', 'coinbase', 'kraken']) console.log(...await requiredFields(name))`,
  )

  await download(home, 'portfolio')
  const run = ['run', '--cached-only', '--quiet', '--no-prompt', `--allow-read=${home}`, '--allow-env', ...config(home)]
  const { stdout } = await execute(denoBinary(), [...run, program], { env: { DENO_DIR: cache, NO_COLOR: '1' } })

  expect(stdout).toBe('api_key api_secret\n'.repeat(3))
})

async function unpack({ slug, files }: DeployedFunction): Promise<string> {
  const home = join(folder, slug)
  for (const { path, bytes } of files) {
    await mkdir(dirname(join(home, path)), { recursive: true })
    await writeFile(join(home, path), bytes)
  }
  return home
}

/** Frozen: a package that the lock does not have, or has with other bytes, ends it. */
const locked = ['--frozen', '--lock', join(root, 'functions/deno.lock')]
const config = (home: string) => [...locked, '--node-modules-dir=none', '--config', join(home, 'functions/deno.json')]

/** Everything that the function can reach is resolved and downloaded: what is missing is said here. */
async function download(home: string, slug: string): Promise<void> {
  const entry = join(home, uploadOf(slug).entrypoint_path)
  await execute(denoBinary(), ['cache', '--quiet', ...config(home), entry], {
    env: { ...process.env, DENO_DIR: cache, NO_COLOR: '1' },
  })
}

/** Asks the function once, with what hosted Supabase gives to it and nothing behind it: no database, no Auth. */
async function ask(home: string, slug: string): Promise<Response> {
  const port = await freePort()
  const server = fileURLToPath(new URL('../../stack/platform/functions-server.ts', import.meta.url))
  const permissions = ['--no-prompt', '--allow-net', '--allow-env', `--allow-read=${home}`, '--cached-only', '--quiet']
  const args = ['run', '--unstable-no-legacy-abort', ...permissions, ...config(home), server]
  const child = spawn(denoBinary(), [...args, join(home, 'functions'), String(port)], {
    cwd: home,
    stdio: ['pipe', 'ignore', 'inherit'],
    env: { DENO_DIR: cache, NO_COLOR: '1', ...hosted },
  })
  try {
    await expect
      .poll(() =>
        fetch(`http://127.0.0.1:${port}/_health`).then(
          (health) => health.ok,
          () => false,
        ),
      )
      .toBe(true)
    return await fetch(`http://127.0.0.1:${port}/${slug}${paths[slug]}`, { method: 'POST', body: '{}' })
  } finally {
    await endProcess(child, 5_000)
  }
}

const nowhere = 'postgresql://nobody:nothing@127.0.0.1:1/none'
const hosted = {
  SUPABASE_URL: 'https://abcdefghijklmnopqrst.supabase.co',
  SUPABASE_DB_URL: nowhere,
  AI_DB_URL: nowhere,
  SUPABASE_JWKS: JSON.stringify({ keys: [{ kty: 'EC', crv: 'P-256', kid: 'a', x: 'a', y: 'a', alg: 'ES256' }] }),
  SUPABASE_PUBLISHABLE_KEYS: JSON.stringify({ default: 'sb_publishable_a' }),
  SUPABASE_SECRET_KEYS: JSON.stringify({ default: 'sb_secret_a' }),
  STRIPE_SECRET_KEY: 'sk_test_a',
  STRIPE_WEBHOOK_SECRETS: 'whsec_a',
  BILLING_RETURN_URLS: 'https://app.example.com',
}
