/** The main story as a self-hosted project tells it: by TLS, through deploy/self-hosted/Caddyfile, before the local stack. */
import { getCACertificates, setDefaultCACertificates } from 'node:tls'
import { createClient } from '@supabase/supabase-js'
import OpenAI from 'openai'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Database } from '../../functions/_shared/database.types.ts'
import { type RunningProxy, startProxy } from '../support/caddy.ts'
import { describeWithDebian } from '../support/debian.ts'
import { newUser } from '../support/users.ts'
import { target } from '../target.ts'

describeWithDebian(['caddy'], 'behind the proxy of a self-hosted project', () => {
  const usual = getCACertificates('default')
  let proxy: RunningProxy
  let sql: postgres.Sql
  beforeAll(async () => {
    const functions = new URL(target().functionsUrl)
    const port = target().own?.port ?? Number(functions.port)
    proxy = await startProxy({
      GATEWAY_UPSTREAM: `127.0.0.1:${port}`,
      FUNCTIONS_UPSTREAMS: `127.0.0.1:${port + 5}`,
    })
    setDefaultCACertificates([...usual, proxy.ca])
    sql = postgres(target().dbUrl, { max: 1, onnotice: () => {} })
    await sql`update private.settings set value = '["x-client-ip"]' where key = 'http.client_ip_header'`
  })
  afterAll(async () => {
    await sql`
      update private.settings set value = '["cf-connecting-ip", "x-forwarded-for"]' where key = 'http.client_ip_header'`
    await sql.end()
    setDefaultCACertificates(usual)
    await proxy.stop()
  })
  const url = () => `https://localhost:${proxy.httpsPort}`

  test('a user signs in, streams a metered answer, and no header of theirs decides what address the log names', async () => {
    const { id, email, password } = await newUser()
    const client = createClient<Database>(url(), target().publishableKey, {
      auth: { persistSession: false, autoRefreshToken: false },
      global: { headers: { 'x-client-ip': '6.6.6.6', 'x-forwarded-for': '6.6.6.6' } },
    })
    const { data } = await client.auth.signInWithPassword({ email, password })
    const apiKey = data.session?.access_token ?? ''

    const openai = new OpenAI({ apiKey, baseURL: `${url()}/functions/v1/ai/v1`, maxRetries: 0 })
    const messages = [{ role: 'user' as const, content: 'Hello, proxy!' }]
    const stream = await openai.chat.completions.create({ model: 'demo/echo', messages, stream: true })
    const pieces = await Array.fromAsync(stream, (chunk) => chunk.choices[0]?.delta.content ?? '')
    await client.rpc('create_api_key', { name: 'Service', scopes: ['models'] }).throwOnError()

    expect(pieces.join('')).toBe('You said: Hello, proxy!')
    await expect.poll(async () => (await client.rpc('get_my_credits')).data).toMatchObject({ balance: 99, held: 0 })
    const entries = await sql<{ ip: string | null }[]>`
      select host(ip) as ip from private.audit_log where user_id = ${id} and resource_type = 'api_key'`
    expect(entries).toEqual([{ ip: expect.stringMatching(/^(?:127\.0\.0\.1|::1)$/) }])
  })
})
