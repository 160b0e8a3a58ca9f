/** The door: keys, tokens, CORS, and what goes through it, as plain supabase-js and fetch meet them. */
import { readFileSync } from 'node:fs'
import { Agent, type IncomingMessage, request } from 'node:http'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { createClient } from '@supabase/supabase-js'
import { createLocalJWKSet, exportJWK, generateKeyPair, importJWK, jwtVerify, SignJWT, UnsecuredJWT } from 'jose'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { clientWith, newUser, password, signUpData, type TestUser } from '../support/users.ts'
import { target } from '../target.ts'

let user: TestUser
beforeAll(async () => {
  user = await newUser()
})

const rest = (path: string, headers: Record<string, string> = {}, init: RequestInit = {}) =>
  fetch(`${target().restUrl}/${path}`, { ...init, headers: { apikey: target().publishableKey, ...headers } })
const claimsOf = (token: string) => JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString())

describe('keys', () => {
  test('a request without a key, and one with a wrong key, are refused', async () => {
    const none = await fetch(`${target().restUrl}/plans`)
    const wrong = await rest('plans', { apikey: 'sb_publishable_wrong' })

    expect([none.status, wrong.status]).toEqual([401, 401])
    expect(await wrong.json()).toMatchObject({ message: 'Invalid API key' })
  })

  test('a secret key in a browser is refused', async () => {
    const response = await rest('plans', { apikey: target().secretKey, 'user-agent': 'Mozilla/5.0 (X11) Firefox/140' })

    expect(response.status).toBe(401)
  })

  test('a secret key acts as service_role, a key in Authorization counts as a key', async () => {
    const service = await clientWith(target().secretKey).from('profiles').select('id').eq('id', user.id)
    const bearer = await rest('plans', { authorization: `Bearer ${target().publishableKey}` })

    expect(service.data).toEqual([{ id: user.id }])
    expect(bearer.status).toBe(401)
    expect(await bearer.json()).toMatchObject({ code: '42501' })
  })
})

describe('tokens', () => {
  test('carry every claim of the real Auth service, signed with the published key', async () => {
    const jwks = await (await fetch(`${target().apiUrl}/auth/v1/.well-known/jwks.json`)).json()

    const { payload, protectedHeader } = await jwtVerify(
      user.accessToken,
      createLocalJWKSet(z.object({ keys: z.array(z.looseObject({ kty: z.string() })) }).parse(jwks)),
    )

    expect(protectedHeader).toMatchObject({ alg: 'ES256', kid: expect.any(String) })
    expect(JSON.stringify(jwks)).not.toContain('"d"')
    expect(payload).toEqual({
      iss: `${target().apiUrl}/auth/v1`,
      sub: user.id,
      aud: 'authenticated',
      exp: Number(payload.iat) + 900,
      iat: expect.any(Number),
      email: user.email,
      phone: '',
      app_metadata: { provider: 'email', providers: ['email'] },
      user_metadata: expect.objectContaining({ first_name: 'Ada', email_verified: true }),
      role: 'authenticated',
      aal: 'aal1',
      amr: [{ method: 'password', timestamp: expect.any(Number) }],
      session_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      is_anonymous: false,
      user_role: 'user',
    })
  })

  test('are verified by supabase-js itself', async () => {
    const { data, error } = await user.client.auth.getClaims(user.accessToken)

    expect(error).toBeNull()
    expect(data?.claims.sub).toBe(user.id)
  })

  test('of another key, without a signature, tampered, or of another algorithm are refused by REST, Auth and Functions', async () => {
    const claims = claimsOf(user.accessToken)
    const { privateKey, publicKey } = await generateKeyPair('ES256', { extractable: true })
    const { kid } = JSON.parse(Buffer.from(user.accessToken.split('.')[0] ?? '', 'base64url').toString())
    const [header, , signature] = user.accessToken.split('.')
    const forged = [
      await new SignJWT(claims).setProtectedHeader({ alg: 'ES256', kid }).sign(privateKey),
      new UnsecuredJWT(claims).encode(),
      `${header}.${Buffer.from(JSON.stringify({ ...claims, role: 'service_role' })).toString('base64url')}.${signature}`,
      await new SignJWT(claims)
        .setProtectedHeader({ alg: 'HS256' })
        .sign(new TextEncoder().encode(JSON.stringify(await exportJWK(publicKey)))),
    ]

    for (const token of forged) {
      const headers = {
        apikey: target().publishableKey,
        authorization: `Bearer ${token}`,
        'content-type': 'application/json',
      }
      const answers = await Promise.all([
        fetch(`${target().restUrl}/profiles`, { headers }),
        fetch(`${target().apiUrl}/auth/v1/user`, { headers }),
        fetch(`${target().functionsUrl}/ai/v1/models`, { headers }),
      ])
      expect(answers.map((answer) => answer.status)).toEqual([401, 403, 401])
    }
  })

  test('that have expired are refused, and the answer says so', async ({ skip }) => {
    const { own } = target()
    if (!own) return skip('needs the signing key of a stack of our own')
    const { signingKey } = JSON.parse(readFileSync(join(own.data, 'keys.json'), 'utf8'))
    const past = Math.floor(Date.now() / 1000) - 10
    const expired = await new SignJWT({ ...claimsOf(user.accessToken), exp: past })
      .setProtectedHeader({ alg: 'ES256', kid: signingKey.kid })
      .sign(await importJWK(signingKey, 'ES256'))

    const answers = await Promise.all([
      rest('profiles', { authorization: `Bearer ${expired}` }),
      fetch(`${target().functionsUrl}/ai/v1/models`, { headers: { authorization: `Bearer ${expired}` } }),
    ])

    expect(answers.map((answer) => answer.status)).toEqual([401, 401])
    expect(await answers[0]?.json()).toMatchObject({ code: 'PGRST303' })
    expect(await answers[1]?.text()).toMatch(/expired/)
  })
})

describe('Auth', () => {
  test('a weak password is refused with a clear message, in both shapes of error', async () => {
    const signUp = (headers: Record<string, string>) =>
      fetch(`${target().apiUrl}/auth/v1/signup`, {
        method: 'POST',
        headers: { apikey: target().publishableKey, 'content-type': 'application/json', ...headers },
        body: JSON.stringify({ email: `weak-${crypto.randomUUID()}@example.com`, password: 'weak' }),
      })

    const [modern, old] = await Promise.all([signUp({ 'x-supabase-api-version': '2024-01-01' }), signUp({})])

    expect([modern.status, old.status]).toEqual([422, 422])
    expect(modern.headers.get('x-sb-error-code')).toBe('weak_password')
    expect(await modern.json()).toMatchObject({
      code: 'weak_password',
      weak_password: { reasons: expect.arrayContaining(['length']) },
    })
    expect(await old.json()).toMatchObject({ code: 422, error_code: 'weak_password' })
  })

  test('a wrong password and an unknown address get the same answer', async () => {
    const client = clientWith(target().publishableKey)

    const wrong = await client.auth.signInWithPassword({ email: user.email, password: 'Wrong1Password' })
    const unknown = await client.auth.signInWithPassword({
      email: `no-${crypto.randomUUID()}@example.com`,
      password: 'Wrong1Password',
    })

    expect(wrong.error).toMatchObject({ code: 'invalid_credentials', status: 400 })
    expect([unknown.error?.code, unknown.error?.message]).toEqual([wrong.error?.code, wrong.error?.message])
  })

  test('a refreshed session keeps its id and how it was opened, and the old refresh token is spent', async () => {
    const fresh = await newUser()
    const before = (await fresh.client.auth.getSession()).data.session

    const { data } = await fresh.client.auth.refreshSession()

    const [then, now] = [claimsOf(before?.access_token ?? ''), claimsOf(data.session?.access_token ?? '')]
    expect(data.session?.refresh_token).not.toBe(before?.refresh_token)
    expect([now.session_id, now.amr]).toEqual([then.session_id, then.amr])
  })

  test('a session knows its device and address, and ends with signing out', async () => {
    const sql = postgres(target().dbUrl, { max: 1 })
    const fresh = await newUser()
    const [session] = await sql`select user_agent, host(ip) as ip, aal from auth.sessions where id = ${fresh.sessionId}`
    await fresh.client.auth.signOut()

    expect(session).toEqual({ user_agent: expect.any(String), ip: '127.0.0.1', aal: 'aal1' })
    expect(await sql`select from auth.sessions where user_id = ${fresh.id}`).toHaveLength(0)
    const { error } = await clientWith(target().publishableKey).auth.getUser(fresh.accessToken)
    expect(error?.name).toBe('AuthSessionMissingError')
    await sql.end()
  })

  test('a banned user gets no session', async () => {
    const sql = postgres(target().dbUrl, { max: 1 })
    const fresh = await newUser()
    await sql`update auth.users set banned_until = now() + interval '1 hour' where id = ${fresh.id}`

    const { error } = await clientWith(target().publishableKey).auth.signInWithPassword(fresh)

    expect(error?.code).toBe('user_banned')
    await sql.end()
  })

  test('a trigger that fails makes no half user', async ({ skip }) => {
    const { own } = target()
    if (!own) return skip('breaks the schema for a moment')
    const sql = postgres(target().dbUrl, { max: 1 })
    const email = `half-${crypto.randomUUID()}@example.com`
    await sql`alter table public.profiles add constraint half check (first_name is distinct from 'Half')`

    const { error } = await clientWith(target().publishableKey).auth.signUp({
      email,
      password,
      options: { data: { ...signUpData, first_name: 'Half' } },
    })
    await sql`alter table public.profiles drop constraint half`

    expect(error?.status).toBe(500)
    expect(await sql`select from auth.users where email = ${email}`).toHaveLength(0)
    await sql.end()
  })
})

describe('REST', () => {
  test('an error raised by our SQL arrives with its status, code and message', async () => {
    const service = clientWith(target().secretKey)
    const request = { user_id: user.id, amount: 1_000_000, reason: 'too much', idempotency_key: crypto.randomUUID() }

    const { error, status } = await service.rpc('deduct_credits', request)

    expect([status, error?.code]).toEqual([402, 'insufficient_credits'])
    expect(error?.message).toMatch(/1000000 credits are needed/)
  })

  test('insert, update, delete, count, order, range and embedding work as documented', async () => {
    const { client } = await newUser()
    const made = await client
      .from('chats')
      .insert([{ title: 'b' }, { title: 'a' }, { title: 'c' }])
      .select('id, title')
    const first = made.data?.[0]?.id ?? ''
    await client.from('messages').insert({ chat_id: first, role: 'user', content: 'hi' })

    const page = await client
      .from('chats')
      .select('title, messages(content)', { count: 'exact' })
      .order('title')
      .range(0, 1)
    const renamed = await client.from('chats').update({ title: 'z' }).eq('id', first).select('title').single()
    const gone = await client.from('chats').delete().eq('id', first).select('id')

    expect(page).toMatchObject({
      count: 3,
      data: [
        { title: 'a', messages: [] },
        { title: 'b', messages: [{ content: 'hi' }] },
      ],
    })
    expect([renamed.data?.title, gone.data]).toEqual(['z', [{ id: first }]])
  })

  test('nothing that REST did has changed a grant', async () => {
    const sql = postgres(target().dbUrl, { max: 1 })
    await rest('plans')
    const rows = await sql`
      select relname, relacl::text from pg_class
      where relnamespace in ('public'::regnamespace, 'private'::regnamespace) and relkind in ('r', 'p') and relacl::text ~ 'anon='`

    // The one table that everybody may read before signing up.
    expect(rows).toEqual([{ relname: 'legal_documents', relacl: expect.stringMatching(/\banon=r\//) }])
    await sql.end()
  })

  test('private tables and the schemas of the services are not there', async () => {
    const service = createClient(target().apiUrl, target().secretKey, { auth: { persistSession: false } })

    for (const schema of ['private', 'auth', 'storage', 'cron', 'vault']) {
      const { error } = await service.schema(schema).from('settings').select('*')
      expect(error?.code, schema).toMatch(/^PGRST/)
    }
  })
})

describe('Storage', () => {
  test('keeps a file for whom a policy allows it, and gives it to nobody else', async () => {
    const sql = postgres(target().dbUrl, { max: 1, onnotice: () => {} })
    const bucket = `test-${crypto.randomUUID()}`
    const [owner, other] = [await newUser(), await newUser()]
    const path = `${owner.id}/note.txt`
    await sql`insert into storage.buckets (id, name, public) values (${bucket}, ${bucket}, false)`
    await sql.unsafe(`
      create policy "${bucket} owners" on storage.objects for all to authenticated
      using (bucket_id = '${bucket}' and (storage.foldername(name))[1] = (select auth.uid())::text)
      with check (bucket_id = '${bucket}' and (storage.foldername(name))[1] = (select auth.uid())::text)`)

    const stored = await owner.client.storage
      .from(bucket)
      .upload(path, new Blob(['kept']), { contentType: 'text/plain' })
    const [mine, theirs, foreign] = await Promise.all([
      owner.client.storage.from(bucket).download(path),
      other.client.storage.from(bucket).download(path),
      other.client.storage.from(bucket).upload(`${owner.id}/x.txt`, new Blob(['x'])),
    ])

    expect(stored.error).toBeNull()
    expect(await mine.data?.text()).toBe('kept')
    expect([theirs.data, foreign.data]).toEqual([null, null])
    const limits = (await owner.client.rpc('get_my_limits')).data
    expect(limits?.find((row) => row.meter === 'storage_bytes')).toMatchObject({
      used: 4,
      amount: 52_428_800,
      resets_at: null,
    })
    // Nothing stays: other files look at all buckets there are.
    expect((await owner.client.storage.from(bucket).remove([path])).error).toBeNull()
    await sql.begin(async (tx) => {
      await tx`select set_config('storage.allow_delete_query', 'true', true)`
      expect(await tx`delete from storage.buckets where id = ${bucket} returning id`).toHaveLength(1)
    })
    await sql.unsafe(`drop policy "${bucket} owners" on storage.objects`)
    await sql.end()
  })
})

describe('browsers', () => {
  test('may call from anywhere and read what they need', async () => {
    const preflight = await fetch(`${target().functionsUrl}/ai/v1/chat/completions`, {
      method: 'OPTIONS',
      headers: {
        origin: 'https://app.example',
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'authorization, content-type',
      },
    })
    const refused = await fetch(`${target().functionsUrl}/ai/v1/models`, { headers: { origin: 'https://app.example' } })

    expect([preflight.status, preflight.headers.get('access-control-allow-headers')]).toEqual([
      204,
      'authorization, content-type',
    ])
    expect(refused.headers.get('access-control-allow-origin')).toBe('*')
    expect(refused.headers.get('access-control-expose-headers')).toMatch(/x-request-id/)
  })

  test('an unknown address and an unknown function say so', async () => {
    const [nowhere, none] = await Promise.all([
      fetch(`${target().apiUrl}/nowhere`),
      fetch(`${target().functionsUrl}/none/x`),
    ])

    expect([nowhere.status, none.status]).toEqual([404, 404])
  })
})

describe('jobs', () => {
  let sql: postgres.Sql
  beforeAll(() => {
    sql = postgres(target().dbUrl, { max: 1, onnotice: () => {} })
  })
  afterAll(() => sql.end())

  test('run on time, and what they did is noted', async () => {
    await sql`select private.schedule_job('test-job', '1 seconds', 'select 1')`

    // With pg_cron 1.4 that is when the minute turns.
    await expect
      .poll(() => sql`select status from cron.job_run_details where command = 'select 1' and status = 'succeeded'`, {
        timeout: 90_000,
      })
      .not.toEqual([])
    await sql`select cron.unschedule('test-job')`
    const [sweeper] = await sql`select active from cron.job where jobname = 'settle-abandoned-ai-calls'`
    expect(sweeper?.active).toBe(true)
  }, 120_000)

  test('pg_net sends what was queued and keeps the answer', async () => {
    const [request] = await sql`select net.http_get(${`${target().apiUrl}/auth/v1/.well-known/jwks.json`}) as id`

    await expect
      .poll(
        async () => (await sql`select status_code from net._http_response where id = ${request?.id}`)[0]?.status_code,
      )
      .toBe(200)
  })
})

describe.runIf(target().own)('a connection', () => {
  test('goes on after a body that was refused before its end', async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    const send = async (url: string, body: Buffer) => {
      const outgoing = request(url, { agent, method: body.length > 0 ? 'POST' : 'GET' }).end(body)
      const incoming = await new Promise<IncomingMessage>((answer, fail) =>
        outgoing.once('response', answer).once('error', fail),
      )
      await incoming.toArray()
      return { status: incoming.statusCode, reused: outgoing.reusedSocket }
    }

    const refused = await send(`${target().functionsUrl}/stripe-webhook`, Buffer.alloc(10_000_000))
    // the adaptor of our servers cuts connections that stalled after half a second
    await setTimeout(700)
    const next = await send(target().apiUrl, Buffer.alloc(0))
    agent.destroy()

    expect([refused, next]).toEqual([
      { status: 413, reused: false },
      { status: 200, reused: true },
    ])
  })
})
