/** Real services in the place of ours: what the gateway sends them, and a database that is not the stack's own. */
import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type IncomingHttpHeaders } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createLocalJWKSet, jwtVerify } from 'jose'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { projectFile, readConfig, root } from '../../stack/config.ts'
import { loadKeys, type StackKeys } from '../../stack/keys.ts'
import { readProjectSettings } from '../../stack/platform/auth/settings.ts'
import { createTokens } from '../../stack/platform/gateway/tokens.ts'
import { createGateway, type Gateway } from '../../stack/platform/gateway.ts'
import { freePort, startScratch } from '../../stack/platform/scratch.ts'

type Seen = { url: string | undefined; headers: IncomingHttpHeaders }

describe('a real service by its address', () => {
  const seen: Seen[] = []
  const server = createServer((request, response) => {
    seen.push({ url: request.url, headers: request.headers })
    response.setHeader('content-type', 'application/json').end('{"real":true}')
  })
  let gateway: Gateway
  let keys: StackKeys
  let folder: string
  beforeAll(async () => {
    const port = await freePort()
    await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
    folder = await mkdtemp(join(tmpdir(), 'palisade-real-'))
    keys = await loadKeys(join(folder, 'keys.json'))
    const real = `http://127.0.0.1:${port}`
    const config = readConfig({
      PALISADE_DATA: folder,
      PALISADE_AUTH_URL: real,
      PALISADE_REST_URL: real,
      PALISADE_STORAGE_URL: real,
    })
    // No service of ours is built, so no database is asked for.
    gateway = await createGateway({
      config: config.platform,
      keys,
      settings: readProjectSettings(projectFile, config.ports.console),
      dbUrl: () => 'postgresql://127.0.0.1:9/none',
      deliverMail: async () => {},
      log: () => {},
    })
  })
  afterAll(async () => {
    server.close()
    await gateway.close()
    await rm(folder, { recursive: true, force: true })
  })
  const call = (path: string, headers: Record<string, string>) =>
    gateway.fetch(new Request(`http://127.0.0.1:54321${path}`, { headers }), { address: '127.0.0.1' })

  test.each([
    ['/rest/v1/plans?select=id', '/plans?select=id'],
    ['/auth/v1/settings', '/settings'],
    ['/storage/v1/bucket', '/bucket'],
  ])('%s arrives there as %s, with a short-lived token for the role of the key', async (path, arrives) => {
    const response = await call(path, { apikey: keys.secretKey })

    expect(await response.json()).toEqual({ real: true })
    const last = seen.at(-1)
    expect(last?.url).toBe(arrives)
    const { d: _private, ...publicKey } = keys.signingKey
    const token = last?.headers.authorization?.replace('Bearer ', '') ?? ''
    const { payload } = await jwtVerify(token, createLocalJWKSet({ keys: [publicKey] }))
    expect(payload).toMatchObject({ role: 'service_role' })
    expect(Number(payload.exp) - Number(payload.iat)).toBe(300)
  })

  test("a user's own token goes through untouched, a forged one does not go through", async () => {
    const tokens = await createTokens(keys, 'http://127.0.0.1:54321/auth/v1')
    const soon = Math.floor(Date.now() / 1000) + 60
    const claims = {
      iss: tokens.issuer,
      sub: crypto.randomUUID(),
      aud: 'authenticated',
      role: 'authenticated',
      session_id: crypto.randomUUID(),
      exp: soon,
    }
    const token = await tokens.sign(claims)

    await call('/rest/v1/chats', { apikey: keys.publishableKey, authorization: `Bearer ${token}` })
    const forwarded = seen.at(-1)?.headers.authorization
    const before = seen.length
    const forged = await call('/rest/v1/chats', {
      apikey: keys.publishableKey,
      authorization: `Bearer ${token.slice(0, -4)}AAAA`,
    })

    expect(forwarded).toBe(`Bearer ${token}`)
    expect([forged.status, seen.length]).toEqual([401, before])
  })
})

test('a database that exists already gets our migrations and nothing else of ours', { timeout: 120_000 }, async () => {
  const scratch = await startScratch()
  const data = await mkdtemp(join(tmpdir(), 'palisade-outside-'))
  const url = await scratch.createDatabase('outside')
  const admin = postgres(scratch.superuserUrl('outside'), { max: 1 })
  const { password } = new URL(url)
  for (const role of ['authenticator', 'supabase_auth_admin', 'supabase_storage_admin']) {
    await admin.unsafe(`alter role ${role} password '${password}'`)
  }
  const env = {
    ...process.env,
    PALISADE_DATA: data,
    PALISADE_PORT: String(32_000 + (process.pid % 70) * 10),
    PALISADE_DB_URL: url,
  }
  const child = spawn(process.execPath, ['scripts/start.ts', '--no-watch'], {
    cwd: root,
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  try {
    const screen = await new Promise<string>((resolve, reject) => {
      let text = ''
      child.stdout.on('data', (chunk: Buffer) => {
        text += chunk
        if (text.includes('SECRET_KEY')) resolve(text)
      })
      child.once('exit', () => reject(new Error(text)))
    })

    const sql = postgres(url, { max: 1 })
    const [found] = await sql`
      select to_regclass('public.ai_calls') is not null as migrated, (select count(*)::int from auth.users) as users,
        (select count(*)::int from private.providers where id = 'demo') as seeded`
    await sql.end()
    expect(found).toEqual({ migrated: true, users: 0, seeded: 0 })
    expect(screen).toContain(url)
  } finally {
    child.kill('SIGTERM')
    await new Promise((resolve) => child.once('exit', resolve))
    await admin.end()
    await scratch.stop()
    await rm(data, { recursive: true, force: true })
  }
})
