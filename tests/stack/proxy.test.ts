/** deploy/self-hosted/Caddyfile in Debian's Caddy, before small servers in the place of Supabase's gateway and of two function containers. */
import { once } from 'node:events'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  request as requestPlainly,
  type Server,
} from 'node:http'
import { connect as connectHttp2 } from 'node:http2'
import { type RequestOptions, request as requestSecurely } from 'node:https'
import { type AddressInfo, isIP } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect, type SecureVersion } from 'node:tls'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { WebSocket, WebSocketServer } from 'ws'
import { type RunningProxy, startProxy } from '../support/caddy.ts'
import { describeWithDebian } from '../support/debian.ts'

type Seen = { server: string; method: string; url: string; headers: IncomingMessage['headers']; bytes: number }
type Answer = { status: number; headers: IncomingMessage['headers']; body: string }

/** What a server does with one request; without an entry for the path it says who it is. */
const behaviours = new Map<string, RequestListener>()
const seen: Seen[] = []

async function startServer(name: string, port = 0): Promise<Server> {
  const server = createServer((incoming, response) => {
    if (incoming.url === '/_health') return response.end('{"ok":true}')
    const entry = { server: name, method: incoming.method ?? '', url: incoming.url ?? '', headers: incoming.headers }
    const asked: Seen = { ...entry, bytes: 0 }
    seen.push(asked)
    const behaviour = behaviours.get(asked.url)
    if (behaviour) return behaviour(incoming, response)
    incoming.on('data', (chunk: Buffer) => {
      asked.bytes += chunk.length
    })
    incoming.on('end', () => response.setHeader('content-type', 'application/json').end(JSON.stringify({ name })))
  })
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  return server
}

const portOf = (server: Server) => (server.address() as AddressInfo).port

async function stopServer(server: Server): Promise<void> {
  server.closeAllConnections()
  server.close()
  await once(server, 'close')
}

describeWithDebian(['caddy'], 'the proxy of a self-hosted project', () => {
  let gateway: Server
  let first: Server
  let second: Server
  let proxy: RunningProxy
  let site: string
  beforeAll(async () => {
    site = await mkdtemp(join(tmpdir(), 'palisade-site-'))
    await mkdir(join(site, 'assets'))
    await writeFile(join(site, 'index.html'), '<title>app</title>')
    await writeFile(join(site, 'assets', 'app-3f2a.js'), 'run()')
    await writeFile(join(site, '.env'), 'SECRET=1')
    gateway = await startServer('gateway')
    first = await startServer('functions-1')
    second = await startServer('functions-2')
    proxy = await startProxy(upstreams())
  })
  afterAll(async () => {
    await proxy?.stop()
    await Promise.all([gateway, first, second].map(stopServer))
    await rm(site, { recursive: true, force: true })
  })
  const upstreams = () => ({
    GATEWAY_UPSTREAM: `127.0.0.1:${portOf(gateway)}`,
    FUNCTIONS_UPSTREAMS: `127.0.0.1:${portOf(first)} 127.0.0.1:${portOf(second)}`,
    SITE_ROOT: site,
    // Longer than this nobody may take to send a body; the tests below are about what may take longer.
    READ_BODY_TIMEOUT: '1s',
  })

  const open = (path: string, options: RequestOptions = {}, to = proxy) =>
    requestSecurely({
      host: '127.0.0.1',
      port: to.httpsPort,
      path,
      ca: to.ca,
      agent: false,
      ...named('localhost'),
      ...options,
    })
  const named = (servername: string) => ({ servername, headers: { host: servername } })

  async function ask(path: string, options: RequestOptions & { body?: string } = {}, to = proxy): Promise<Answer> {
    const { body, headers, ...more } = options
    const asked = open(
      path,
      { method: body === undefined ? 'GET' : 'POST', ...more, headers: { host: 'localhost', ...headers } },
      to,
    )
    asked.end(body)
    return answerTo(asked)
  }
  async function answerTo(asked: ReturnType<typeof open>): Promise<Answer> {
    const [response] = (await once(asked, 'response')) as [IncomingMessage]
    const chunks = await Array.fromAsync(response as AsyncIterable<Buffer>)
    return { status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks).toString() }
  }
  const nothing: Pick<Seen, 'headers'> = { headers: {} }
  const lastSeen = (url: string) => seen.findLast((one) => one.url === url)

  const handshake = (version: SecureVersion) =>
    new Promise<string | null>((resolve) => {
      // Our own OpenSSL would refuse TLS 1.1 by itself.
      const limits = { minVersion: version, maxVersion: version, ciphers: 'DEFAULT@SECLEVEL=0' }
      const socket = connect({
        host: '127.0.0.1',
        port: proxy.httpsPort,
        servername: 'localhost',
        ca: proxy.ca,
        ...limits,
      })
      socket.once('secureConnect', () => {
        resolve(socket.getProtocol())
        socket.destroy()
      })
      socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
    })

  test('TLS before 1.2 is refused', async () => {
    const answers = [await handshake('TLSv1.1'), await handshake('TLSv1.2'), await handshake('TLSv1.3')]

    expect(answers).toEqual(['ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION', 'TLSv1.2', 'TLSv1.3'])
  })

  test('who comes without TLS is sent to https, and nothing is asked on the way', async () => {
    const asked = requestPlainly({
      host: '127.0.0.1',
      port: proxy.httpPort,
      path: '/rest/v1/plain?a=b',
      headers: { host: 'localhost' },
    })
    asked.end()
    const [response] = (await once(asked, 'response')) as [IncomingMessage]
    response.resume()

    expect([response.statusCode, response.headers.location]).toEqual([308, 'https://localhost/rest/v1/plain?a=b'])
    expect(lastSeen('/rest/v1/plain?a=b')).toBeUndefined()
  })

  test.each(['/rest/v1/plans', '/functions/v1/ai/v1/models', '/storage/v1/object/x', '/auth/v1/health', '/nowhere'])(
    'an answer of %s has the headers of security',
    async (path) => {
      const { headers } = await ask(path)

      expect(headers).toMatchObject({
        'strict-transport-security': 'max-age=31536000; includeSubDomains',
        'x-content-type-options': 'nosniff',
        'x-frame-options': 'DENY',
        'referrer-policy': 'no-referrer',
        'content-security-policy': "default-src 'none'; frame-ancestors 'none'; sandbox",
        'cache-control': 'no-store',
      })
      expect(headers).not.toHaveProperty('server')
    },
  )

  test('what says itself how long it may be kept is believed', async () => {
    behaviours.set('/storage/v1/object/sign/kept', (_, response) => {
      response.setHeader('cache-control', 'max-age=60').end()
    })

    expect((await ask('/storage/v1/object/sign/kept')).headers['cache-control']).toBe('max-age=60')
  })

  test.each(['/', '/project/default', '/pg/query', '/mcp', '/api/mcp', '/rest', '/functions/v1'])(
    'Studio and what comes with it are not reached: %s',
    async (path) => {
      const { status, body } = await ask(path)

      expect([status, JSON.parse(body).error.code]).toEqual([404, 'not_found'])
      expect(lastSeen(path)).toBeUndefined()
    },
  )

  // What Caddy takes for an address of ours, and the gateway behind it, which reads the path as it is written, for its own.
  test.each([
    '/pg/..%2frest/v1/x',
    '/pg/../rest/v1/x',
    '/pg/%2e%2E/rest/v1/x',
    '//pg/..//rest/v1/x',
    '/project/..%2Ffunctions/v1/ai',
    '/rest%2fv1/x',
  ])('a path that leads back to an address of ours is not passed on: %s', async (path) => {
    const { status, body } = await ask(path)

    expect([status, JSON.parse(body).error.code]).toEqual([404, 'not_found'])
    expect(lastSeen(path)).toBeUndefined()
  })

  test('names of files may have slashes that are encoded, and dots', async () => {
    const path = '/storage/v1/object/public/avatars/..a%2Fb..c/.d?x=/../y'

    expect((await ask(path)).status).toBe(200)

    expect(lastSeen(path)?.server).toBe('gateway')
  })

  test.each([
    ['/auth/v1/signup', 1_000_000],
    ['/rest/v1/rpc/x', 10_000_000],
    ['/functions/v1/billing/big', 2_000_000],
    ['/functions/v1/ai/big', 21_000_000],
    ['/storage/v1/object/images/x', 18_000_000],
  ])('a body that says it is too large for %s is refused unread', async (path, limit) => {
    const inner = path.replace('/functions/v1', '')
    const asked = open(path, { method: 'POST' })
    asked.setHeader('content-length', limit + 1_000_000)
    asked.flushHeaders()
    const { status, body, headers } = await answerTo(asked)
    asked.destroy()

    expect([status, JSON.parse(body).code, headers['access-control-allow-origin']]).toEqual([
      413,
      'request_too_large',
      '*',
    ])
    expect(lastSeen(inner)).toBeUndefined()
    expect((await ask(path, { body: 'x'.repeat(limit - 1) })).status).toBe(200)
    expect(lastSeen(inner)?.bytes).toBe(limit - 1)
  })

  test('a body that does not say how large it is gets no further than the limit', async () => {
    const asked = open('/auth/v1/endless', { method: 'POST' })
    asked.on('error', () => {})
    for (let i = 0; i < 30; i += 1) asked.write('x'.repeat(100_000))
    asked.end()
    const { status } = await answerTo(asked)

    expect(status).toBe(413)
    expect(lastSeen('/auth/v1/endless')?.bytes ?? 0).toBeLessThanOrEqual(1_000_000)
  })

  const forged = {
    'x-forwarded-for': '6.6.6.6',
    'x-client-ip': '6.6.6.6',
    'x-real-ip': '6.6.6.6',
    'cf-connecting-ip': '6.6.6.6',
    'true-client-ip': '6.6.6.6',
    'sb-forwarded-for': '6.6.6.6',
    forwarded: 'for=6.6.6.6',
  }

  test.each([
    ['/rest/v1/address', '/rest/v1/address'],
    ['/auth/v1/address', '/auth/v1/address'],
    ['/storage/v1/address', '/storage/v1/address'],
    ['/functions/v1/ai/address', '/ai/address'],
  ])('a caller of %s cannot say where they come from', async (path, inner) => {
    await ask(path, { headers: forged, localAddress: '127.0.0.2' })

    const { headers } = lastSeen(inner) ?? nothing
    expect([headers['x-client-ip'], headers['x-forwarded-for']]).toEqual(['127.0.0.2', '127.0.0.2'])
    expect(JSON.stringify(headers)).not.toContain('6.6.6.6')
  })

  test('behind a CDN the address is the one that it names', async () => {
    const behind = await startProxy({ ...upstreams(), CLIENT_IP_FROM: 'http.request.header.Cf-Connecting-Ip' })
    try {
      await ask('/rest/v1/cdn', { headers: { ...forged, 'cf-connecting-ip': '203.0.113.7' } }, behind)
    } finally {
      await behind.stop()
    }

    const { headers } = lastSeen('/rest/v1/cdn') ?? nothing
    expect([headers['x-client-ip'], headers['x-forwarded-for']]).toEqual(['203.0.113.7', '203.0.113.7'])
    expect(isIP(String(headers['x-client-ip']))).toBe(4)
  })

  test('an answer goes out chunk by chunk, and may take longer than a body may', async () => {
    let goOn = () => {}
    behaviours.set('/ai/stream', (incoming, response) => {
      incoming.resume()
      response.setHeader('content-type', 'text/event-stream').write('data: 1\n\n')
      goOn = () => response.end('data: [DONE]\n\n')
    })
    const slow = open('/functions/v1/ai/slow', { method: 'POST' })
    const cut = once(slow, 'close')
    slow.on('error', () => {})
    const asked = open('/functions/v1/ai/stream', { method: 'POST' })
    asked.end('{}')
    const [response] = (await once(asked, 'response')) as [IncomingMessage]
    const [chunk] = await once(response, 'data')
    expect(String(chunk)).toBe('data: 1\n\n')

    // Begun after the stream, and cut by the limit for bodies: so the stream is older than that.
    slow.write('{')
    await cut
    goOn()
    const [rest] = await once(response, 'data')

    expect(String(rest)).toBe('data: [DONE]\n\n')
    expect(response.headers['content-encoding']).toBeUndefined()
  })

  test('over HTTP/2, too, it goes out chunk by chunk', async () => {
    let goOn = () => {}
    behaviours.set('/ai/stream-2', (_, response) => {
      response.setHeader('content-type', 'text/event-stream').write('data: 1\n\n')
      goOn = () => response.end('data: [DONE]\n\n')
    })
    const session = connectHttp2(`https://localhost:${proxy.httpsPort}`, { ca: proxy.ca })
    const stream = session.request({ ':path': '/functions/v1/ai/stream-2' })
    const [chunk] = await once(stream, 'data')
    goOn()
    const [rest] = await once(stream, 'data')
    session.close()

    expect([String(chunk), String(rest)]).toEqual(['data: 1\n\n', 'data: [DONE]\n\n'])
  })

  test('a function hears that its caller hung up', async () => {
    const hungUp = Promise.withResolvers<boolean>()
    behaviours.set('/ai/long', (_, response) => {
      response.setHeader('content-type', 'text/event-stream').write('data: 1\n\n')
      response.once('close', () => hungUp.resolve(!response.writableEnded))
    })
    const asked = open('/functions/v1/ai/long')
    asked.on('error', () => {})
    asked.end()
    const [response] = (await once(asked, 'response')) as [IncomingMessage]
    response.on('error', () => {})
    await once(response, 'data')
    asked.destroy()

    expect(await hungUp.promise).toBe(true)
  })

  test('a WebSocket passes, both ways', async () => {
    const sockets = new WebSocketServer({ server: gateway })
    sockets.on('connection', (socket, incoming) =>
      socket.on('message', (text) => socket.send(`${incoming.url} ${text}`)),
    )
    const client = new WebSocket(`wss://localhost:${proxy.httpsPort}/realtime/v1/websocket?apikey=sb_secret_in_query`, {
      ca: proxy.ca,
    })
    await once(client, 'open')
    client.send('hello')
    const [text] = await once(client, 'message')
    client.terminate()
    sockets.close()

    expect(String(text)).toBe('/realtime/v1/websocket?apikey=sb_secret_in_query hello')
  })

  const answering = async (times: number, body?: string) => {
    const options = body === undefined ? {} : { body }
    const answers = await Promise.all(Array.from({ length: times }, () => ask('/functions/v1/ai/who', options)))
    return new Set(answers.map(({ status, body: who }) => (status === 200 ? JSON.parse(who).name : status)))
  }

  test('all containers of functions are used, one that is down is passed over, and is used again when it is back', async () => {
    await expect.poll(() => answering(20, '{}')).toEqual(new Set(['functions-1', 'functions-2']))

    const port = portOf(first)
    await stopServer(first)
    // What only reads fails for nobody; a call is refused until the first refusal has been noticed.
    expect(await answering(20)).toEqual(new Set(['functions-2']))
    await expect.poll(() => answering(20, '{}')).toEqual(new Set(['functions-2']))

    first = await startServer('functions-1', port)
    await expect.poll(() => answering(20, '{}')).toEqual(new Set(['functions-1', 'functions-2']))
  })

  test('a call that reached a container which then died is not made again', async () => {
    behaviours.set('/ai/dies', (incoming) => incoming.socket.destroy())

    const { status, headers, body } = await ask('/functions/v1/ai/dies', { body: '{}' })

    expect([status, headers['retry-after'], JSON.parse(body).error.code]).toEqual([502, '5', 'service_unavailable'])
    expect(seen.filter(({ url }) => url === '/ai/dies')).toHaveLength(1)
  })

  test('the log has every request, and neither keys nor tokens', async () => {
    const secrets = { authorization: 'Bearer eyJ-token', apikey: 'sb_secret_in_header', cookie: 'sb=session-cookie' }
    behaviours.set('/auth/v1/verify?token=mail-token', (_, response) => {
      response
        .writeHead(303, { location: 'https://app/#access_token=session-token', 'set-cookie': 'sb=new-cookie' })
        .end()
    })
    const headers = { ...secrets, 'stripe-signature': 't=1,v1=signature' }
    await ask('/auth/v1/verify?token=mail-token', { headers })
    // An error is logged by another hand than an answer.
    behaviours.set('/ai/fails?key=query-key', (incoming) => incoming.socket.destroy())
    await ask('/functions/v1/ai/fails?key=query-key', { headers, body: '{}' })
    await expect.poll(() => proxy.log()).toContain('/functions/v1/ai/fails"')

    const lines = proxy
      .log()
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(lines).toContainEqual(
      expect.objectContaining({
        status: 303,
        request: expect.objectContaining({ uri: '/auth/v1/verify', remote_ip: '127.0.0.1' }),
      }),
    )
    expect(lines).toContainEqual(
      expect.objectContaining({ level: 'error', request: expect.objectContaining({ uri: '/functions/v1/ai/fails' }) }),
    )
    expect(proxy.log()).not.toMatch(/eyJ-token|sb_secret_|-cookie|-token|query-key|signature/)
  })

  test('pages of the app may be kept by their names', async () => {
    const page = (path: string) => ask(path, { servername: '', headers: { host: '127.0.0.1' } })
    const cacheOf = async (path: string) => {
      const { status, headers, body } = await page(path)
      return [status, headers['cache-control'], body]
    }

    expect(await cacheOf('/assets/app-3f2a.js')).toEqual([200, 'public, max-age=31536000, immutable', 'run()'])
    expect(await cacheOf('/assets/app-gone.js')).toEqual([404, 'no-store', '404'])
    expect(await cacheOf('/')).toEqual([200, 'public, no-cache', '<title>app</title>'])
    expect(await cacheOf('/settings/keys')).toEqual([200, 'public, no-cache', '<title>app</title>'])
    expect((await page('/.env')).body).not.toContain('SECRET')
    expect((await page('/')).headers['strict-transport-security']).toBe('max-age=31536000; includeSubDomains')
  })
})
