/** Real services in the place of ours: what the gateway sends them, and a database that is not the stack's own. */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type IncomingHttpHeaders } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createClient } from '@supabase/supabase-js'
import { createLocalJWKSet, jwtVerify } from 'jose'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Database } from '../../functions/_shared/database.types.ts'
import { projectFile, readConfig, root, type StackConfig } from '../../stack/config.ts'
import { confirmationLink } from '../../stack/demo-user.ts'
import { loadKeys, type StackKeys } from '../../stack/keys.ts'
import { readProjectSettings } from '../../stack/platform/auth/settings.ts'
import { createTokens } from '../../stack/platform/gateway/tokens.ts'
import { createGateway, type Gateway } from '../../stack/platform/gateway.ts'
import { endProcess } from '../../stack/platform/postgres.ts'
import { freePort, type Scratch, startScratch } from '../../stack/platform/scratch.ts'
import { enrol } from '../support/mfa.ts'
import { freeRange } from '../support/ports.ts'
import { newEmail, password, signUpData } from '../support/users.ts'

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

describe('a database that exists already', () => {
  let scratch: Scratch
  let stack: ChildProcess | undefined
  let data: string
  let screen: string
  let sql: postgres.Sql
  let config: StackConfig
  let keys: StackKeys
  beforeAll(async () => {
    scratch = await startScratch()
    data = await mkdtemp(join(tmpdir(), 'palisade-outside-'))
    const url = await scratch.createDatabase('outside')
    sql = postgres(url, { max: 1, onnotice: () => {} })
    const admin = postgres(scratch.superuserUrl('outside'), { max: 1 })
    for (const role of ['authenticator', 'supabase_auth_admin', 'supabase_storage_admin']) {
      await admin.unsafe(`alter role ${role} password '${new URL(url).password}'`)
    }
    await admin.end()
    const place = { PALISADE_DATA: data, PALISADE_PORT: String(await freeRange()), PALISADE_DB_URL: url }
    const env = { ...process.env, ...place, PALISADE_AUTH_HASH_COST: '4' }
    config = readConfig(env)
    keys = await loadKeys(config.files.keys)
    const child = spawn(process.execPath, ['scripts/start.ts', '--no-watch'], {
      cwd: root,
      env,
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    stack = child
    screen = await new Promise<string>((resolve, reject) => {
      let text = ''
      child.stdout.on('data', (chunk: Buffer) => {
        text += chunk
        if (text.includes('SECRET_KEY')) resolve(text)
      })
      child.once('exit', () => reject(new Error(text)))
    })
  }, 120_000)
  afterAll(async () => {
    if (stack) await endProcess(stack, 30_000)
    await sql.end()
    await scratch.stop()
    await rm(data, { recursive: true, force: true })
  })

  test('gets our migrations and nothing else of ours', async () => {
    const [found] = await sql`
      select to_regclass('public.ai_calls') is not null as migrated, (select count(*)::int from auth.users) as users,
        (select count(*)::int from private.providers where id = 'demo') as seeded`

    expect(found).toEqual({ migrated: true, users: 0, seeded: 0 })
    expect(screen).toContain(config.real.db)
  })

  test('serves Auth: somebody signs up, in, refreshes and adds a second factor', async () => {
    const client = createClient<Database>(config.urls.api, keys.publishableKey, {
      auth: { persistSession: false, autoRefreshToken: false },
    })
    const person = { email: newEmail(), password }

    const signUp = await client.auth.signUp({ ...person, options: { data: signUpData } })
    await fetch(await confirmationLink(config.urls.mail, person.email), { redirect: 'manual' })
    const signIn = await client.auth.signInWithPassword(person)
    await enrol(client)
    const refresh = await client.auth.refreshSession()

    expect([signUp.error, signIn.error, refresh.error]).toEqual([null, null, null])
    const tokens = await sql`
      select s.aal, t.revoked, pg_typeof(s.aal)::text as level_type, pg_typeof(t.id)::text as id_type
      from auth.sessions s join auth.refresh_tokens t on t.session_id = s.id join auth.users u on u.id = s.user_id
      where u.email = ${person.email} order by s.created_at, t.id`
    const types = { level_type: 'auth.aal_level', id_type: 'bigint' }
    expect(tokens).toEqual([
      { aal: 'aal2', revoked: true, ...types },
      { aal: 'aal2', revoked: false, ...types },
    ])
  })
})
