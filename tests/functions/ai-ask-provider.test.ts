/** Both ways to ask a provider, against servers that do what providers do to connections. */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type RequestListener } from 'node:http'
import type { Socket } from 'node:net'
import { brotliCompressSync, constants, createGzip, deflateRawSync, deflateSync, gzipSync } from 'node:zlib'
import { afterEach, describe, expect, test } from 'vitest'
import {
  type AskProvider,
  askByFetch,
  askByNode,
  namesProxy,
  type Reply,
} from '../../functions/_shared/ai/ask-provider.ts'

const undo: (() => void)[] = []
afterEach(() => {
  for (const close of undo.splice(0)) close()
})

async function serve(answer: RequestListener) {
  const sockets: Socket[] = []
  const server = createServer({ keepAliveTimeout: 60_000 }, answer)
  server.on('connection', (socket: Socket) => sockets.push(socket)).listen(0, '127.0.0.1')
  await once(server, 'listening')
  undo.push(
    () => server.close(),
    () => server.closeAllConnections(),
  )
  const address = server.address()
  return {
    sockets,
    url: `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}/v1/chat/completions?a=b`,
  }
}

const whole = (request: IncomingMessage) => request.setEncoding('utf8').toArray()
const never = () => new AbortController().signal
const question = { headers: { 'content-type': 'application/json', authorization: 'Bearer key' }, body: '{"ask":"é"}' }

async function textOf({ body }: Reply): Promise<string> {
  const chunks: Uint8Array[] = []
  const cause = await new Promise((end) => body.listen((chunk) => void chunks.push(chunk), end))
  if (cause !== undefined) throw cause
  return Buffer.concat(chunks).toString()
}

const ways: [string, () => AskProvider][] = [
  ['fetch', () => askByFetch(fetch)],
  ['node:http', askByNode],
]

describe.each(ways)('by %s', (_name, makeWay) => {
  test('the provider gets what was to be sent, and its answer comes whole', async () => {
    const got: unknown[] = []
    const { url } = await serve(async (request, response) => {
      const { host: _host, connection: _connection, ...headers } = request.headers
      got.push(request.method, request.url, headers, (await whole(request)).join(''))
      response.writeHead(201, { 'retry-after': '7' }).write('one')
      setImmediate(() => response.end('two'))
    })

    const reply = await makeWay()({ ...question, url }, never())

    expect([reply.status, reply.header('retry-after'), reply.header('none')]).toEqual([201, '7', null])
    expect(await textOf(reply)).toBe('onetwo')
    expect(got).toMatchObject(['POST', '/v1/chat/completions?a=b', question.headers, question.body])
    expect(got[2]).toMatchObject({
      'content-length': '12',
      'user-agent': expect.stringMatching(/./),
      'accept-language': '*',
    })
  })

  test('a redirect is an answer, and nobody else is asked', async () => {
    const asked: unknown[] = []
    const { url } = await serve(({ url: path }, response) => {
      asked.push(path)
      response.writeHead(307, { location: '/elsewhere' }).end()
    })

    const reply = await makeWay()({ ...question, url }, never())

    expect([reply.status, await textOf(reply), asked.length]).toEqual([307, '', 1])
  })

  test('one question after the other goes over the same connection', async () => {
    const { url, sockets } = await serve((_request, response) => response.end('ok'))
    const ask = makeWay()

    for (let asked = 0; asked < 5; asked += 1) expect(await textOf(await ask({ ...question, url }, never()))).toBe('ok')

    // Node's fetch may open a second one before the first is free.
    expect(sockets.length).toBeLessThan(3)
  })

  test('a signal before the answer ends the connection', async () => {
    const gone = new AbortController()
    const { url, sockets } = await serve(() => gone.abort(new Error('enough')))

    await expect(makeWay()({ ...question, url }, gone.signal)).rejects.toThrow()

    await Promise.all(sockets.map((socket) => socket.destroyed || once(socket, 'close')))
    await expect(makeWay()({ ...question, url }, gone.signal)).rejects.toThrow('enough')
  })

  test.each(['the signal', 'cancel'])('%s in the middle of an answer ends the connection', async (how) => {
    const gone = new AbortController()
    const closed: Promise<unknown>[] = []
    const { url } = await serve((_request, response) => {
      closed.push(once(response, 'close'))
      response.write('one')
    })
    const { body } = await makeWay()({ ...question, url }, gone.signal)

    await new Promise<void>((took) =>
      body.listen(
        () => took(),
        () => {},
      ),
    )
    how === 'cancel' ? body.cancel() : gone.abort()

    expect(closed).toHaveLength(1)
    await Promise.all(closed)
  })

  test('an answer that breaks off ends with a cause, once', async () => {
    const { url } = await serve((_request, response) => response.write('one', () => response.destroy()))
    const { body } = await makeWay()({ ...question, url }, never())
    const ends: unknown[] = []

    await new Promise<void>((done) =>
      body.listen(
        () => {},
        (cause) => {
          ends.push(cause)
          setImmediate(done)
        },
      ),
    )

    expect(ends).toEqual([expect.any(Error)])
  })

  test('while nobody reads the provider waits', async () => {
    let sent = 0
    const piece = Buffer.alloc(65_536)
    const { url } = await serve((_request, response) => {
      // At most 32 MB, whatever happens; the sockets of both sides take a few.
      const send = () => {
        while (sent < 512) {
          sent += 1
          if (!response.write(piece)) return void response.once('drain', send)
        }
        response.end()
      }
      send()
    })
    const { body } = await makeWay()({ ...question, url }, never())
    let told = 0
    const ended = new Promise((end) =>
      body.listen((chunk) => {
        if (told === 0) body.pause()
        told += chunk.byteLength
      }, end),
    )

    let before = -1
    const isStuck = () => {
      const isSame = told > 0 && sent === before
      before = sent
      return isSame
    }
    await expect.poll(isStuck, { interval: 100 }).toBe(true)
    expect(sent).toBeLessThan(512)
    expect(told).toBeLessThan(200_000)
    body.resume()
    expect(await ended).toBeUndefined()
    expect(told).toBe(512 * 65_536)
  })

  test.each<[string, (text: string) => Buffer]>([
    ['gzip', gzipSync],
    ['x-gzip', gzipSync],
    ['deflate', deflateSync],
    ['deflate', deflateRawSync],
    ['br', brotliCompressSync],
    ['identity', Buffer.from],
  ])('what is compressed as %s although nobody asked for it comes in clear', async (coding, compress) => {
    const text = JSON.stringify({ said: 'Příliš žluťoučký 🛡'.repeat(10_000) })
    const { url } = await serve((_request, response) => {
      response.writeHead(200, { 'content-encoding': coding }).end(compress(text))
    })

    expect(await textOf(await makeWay()({ ...question, url }, never()))).toBe(text)
  })

  test('events that are compressed arrive as they are sent, not at the end', async () => {
    let arrived = () => {}
    const { url } = await serve((_request, response) => {
      const zip = createGzip({ flush: constants.Z_SYNC_FLUSH })
      response.writeHead(200, { 'content-encoding': 'gzip' })
      zip.pipe(response)
      zip.write('data: 1\n\n')
      arrived = () => zip.end('data: 2\n\n')
    })
    const { body } = await makeWay()({ ...question, url }, never())
    let text = ''

    // The second event is sent when all of the first is there, in whatever pieces.
    await new Promise((end) =>
      body.listen((chunk) => {
        text += Buffer.from(chunk).toString()
        if (text === 'data: 1\n\n') arrived()
      }, end),
    )

    expect(text).toBe('data: 1\n\ndata: 2\n\n')
  })

  test('a small answer that becomes a large one is held back as it comes out, and can be left', async () => {
    const { url } = await serve((_request, response) => {
      response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(Buffer.alloc(20_000_000)))
    })
    const { body } = await makeWay()({ ...question, url }, never())
    let told = 0

    await new Promise<void>((done) =>
      body.listen(
        (chunk) => {
          told += chunk.byteLength
          if (told < 1_000_000) return
          body.cancel()
          done()
        },
        () => done(),
      ),
    )

    for (let turn = 0; turn < 100; turn += 1) await new Promise((done) => setImmediate(done))
    expect(told).toBeLessThan(2_000_000)
  })

  test('a server that is not there is an error', async () => {
    const { url, sockets } = await serve(() => {})
    for (const close of undo.splice(0)) close()

    await expect(makeWay()({ ...question, url }, never())).rejects.toThrow()
    expect(sockets).toHaveLength(0)
  })
})

test.each(['gzip', 'deflate', 'br'])('node:http: a header that wrongly says %s spoils nothing', async (coding) => {
  const { url } = await serve((_request, response) => {
    response.writeHead(200, { 'content-encoding': coding }).end('{"said":"so"}')
  })

  expect(await textOf(await askByNode()({ ...question, url }, never()))).toBe('{"said":"so"}')
})

test('what is compressed and breaks off ends with a cause; fetch gives what there is', async () => {
  const { url } = await serve((_request, response) => {
    const whole = gzipSync('x'.repeat(100_000))
    response.writeHead(200, { 'content-encoding': 'gzip' }).end(whole.subarray(0, whole.length - 20))
  })

  await expect(askByNode()({ ...question, url }, never()).then(textOf)).rejects.toThrow('unexpected end of file')
})

describe('connections that node:http keeps', () => {
  test('one that the provider closes with a question in it is an error, for the question may have been read', async () => {
    let seen = 0
    const { url, sockets } = await serve((request, response) => {
      seen += 1
      if (seen === 2) request.socket.destroy()
      else response.end('ok')
    })
    const ask = askByNode()

    await textOf(await ask({ ...question, url }, never()))
    await expect(ask({ ...question, url }, never())).rejects.toThrow()
    expect(await textOf(await ask({ ...question, url }, never()))).toBe('ok')

    expect([seen, sockets.length]).toEqual([3, 2])
  })

  test('one that nobody uses for a while is closed', async () => {
    const { url, sockets } = await serve((_request, response) => response.end('ok'))
    const ask = askByNode(50)

    await textOf(await ask({ ...question, url }, never()))

    await Promise.all(sockets.map((socket) => once(socket, 'close')))
    await textOf(await ask({ ...question, url }, never()))
    expect(sockets).toHaveLength(2)
  })
})

test.each([
  [{}, false],
  [{ HTTPS_PROXY: '' }, false],
  [{ HTTPS_PROXY: 'http://proxy:3128' }, true],
  [{ http_proxy: 'http://proxy:3128' }, true],
  [{ ALL_PROXY: 'socks5://proxy:1080' }, true],
])('an environment of %o has a proxy: %s', (environment: Record<string, string>, expected) => {
  expect(namesProxy((name) => environment[name])).toBe(expected)
})
