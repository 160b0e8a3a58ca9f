/**
 * The way to a provider, in two forms: `fetch`, and the client of node:http where the runtime is Deno itself. They answer alike;
 * docs/decisions.md says why there are two. Neither follows a redirect, which would carry the key and the prompt to an address
 * that nobody entered in the table; both check certificates.
 */
import type { Agent, ClientRequest, IncomingMessage, RequestOptions } from 'node:http'
import type { Socket } from 'node:net'
import { inClear, type Source } from './decode-body.ts'

type Bytes = Uint8Array<ArrayBuffer>

export type ProviderRequest = { url: string; headers: Record<string, string>; body: string }
/** A status and headers, and a body that is still on its way. */
export type Reply = { status: number; header(name: string): string | null; body: Source }

/** Rejects with the runtime's own error when no answer begins. The signal ends the connection, before the answer or in it. */
export type AskProvider = (request: ProviderRequest, signal: AbortSignal) => Promise<Reply>

type Fetch = (url: string, init: RequestInit) => Promise<Response>

export const askByFetch =
  (fetch: Fetch): AskProvider =>
  async ({ url, headers, body }, signal) => {
    const response = await fetch(url, { method: 'POST', headers, body, redirect: 'manual', signal })
    const source = sourceOf(response)
    const coding = response.headers.get('content-encoding')
    return {
      status: response.status,
      header: (name) => response.headers.get(name),
      body: coding === null ? source : await inClear(source, coding),
    }
  }

/** Streams by the one, whose pieces cost less; whole answers by the other, whose requests do. */
export const askByKind =
  (streams: AskProvider, whole: AskProvider): AskProvider =>
  (request, signal) =>
    (request.headers.accept === 'text/event-stream' ? streams : whole)(request, signal)

/** Events of a stream are a few hundred bytes; buffers grow while they come back full. */
const smallPieceBytes = 16_384
const largestPieceBytes = 65_536

type Read = () => Promise<{ done: boolean; value: Bytes | undefined }>

/**
 * Reads into one buffer again and again, and tells copies that fit. The runtime's own are of 64 KiB for every chunk, however
 * small, and the pressure of so much memory outside of the heap makes V8 collect garbage all the time.
 */
function readerOf({ body }: Response): { read: Read; cancel(): Promise<void> } | undefined {
  if (!body) return undefined
  let reader: ReadableStreamBYOBReader
  try {
    reader = body.getReader({ mode: 'byob' })
  } catch {
    // Some streams have chunks of their own, such as those of tests.
    return body.getReader()
  }
  let buffer = new ArrayBuffer(smallPieceBytes)
  const read: Read = async () => {
    const { done, value } = await reader.read(new Uint8Array(buffer))
    if (!value) return { done, value }
    const isLarge = 2 * value.byteLength > value.buffer.byteLength
    buffer = isLarge ? new ArrayBuffer(Math.min(2 * value.buffer.byteLength, largestPieceBytes)) : value.buffer
    return { done, value: isLarge ? value : value.slice() }
  }
  return { read, cancel: () => reader.cancel() }
}

function sourceOf(response: Response): Source {
  const reader = readerOf(response)
  let isOver = false
  let isPaused = false
  let isReading = false
  let take = (_bytes: Bytes) => {}
  let end = (_cause?: unknown) => {}

  const finish = (cause?: unknown) => {
    if (!isOver) end(cause)
    isOver = true
  }
  const took = ({ done, value }: Awaited<ReturnType<Read>>) => {
    isReading = false
    if (isOver) return
    if (value && value.byteLength > 0) take(value)
    if (done) finish()
    else readOn()
  }
  const readOn = () => {
    if (isOver || isPaused || isReading) return
    if (!reader) return finish()
    isReading = true
    reader.read().then(took, finish)
  }
  return {
    listen(takeBytes, onEnd) {
      take = takeBytes
      end = onEnd
      readOn()
    },
    pause() {
      isPaused = true
    },
    resume() {
      isPaused = false
      readOn()
    },
    cancel() {
      isOver = true
      reader?.cancel().catch(() => {})
    },
  }
}

const proxies = ['HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY']

/** Whether the environment sends requests through a proxy: fetch goes there, and node:http does not. */
export const namesProxy = (environment: (name: string) => string | undefined): boolean =>
  proxies.some((name) => environment(name) || environment(name.toLowerCase()))

type Client = { request(options: RequestOptions): ClientRequest; agent: Agent }
/** By the protocol of a URL. */
type Clients = Map<string, Client>

/** As fetch: a way through the network may have forgotten a connection that was quiet for longer. */
const idleConnectionMs = 90_000

async function loadClients(idleMs: number): Promise<Clients> {
  const [http, https] = await Promise.all([import('node:http'), import('node:https')])
  const clients = new Map<string, Client>([
    ['http:', { request: http.request, agent: new http.Agent({ keepAlive: true }) }],
    ['https:', { request: https.request, agent: new https.Agent({ keepAlive: true }) }],
  ])
  // Not the agent's own `timeout`: that sets a timer anew with every chunk. It takes this one away when it uses the connection
  // again, and sets an earlier one when the provider says so.
  for (const { agent } of clients.values())
    agent.on('free', (socket: Socket) => {
      if (!socket.timeout) socket.setTimeout(idleMs)
    })
  return clients
}

/** Loaded with the first question: a worker that starts to refuse starts without it. */
export function askByNode(idleMs = idleConnectionMs): AskProvider {
  let clients: Promise<Clients> | undefined
  return async (request, signal) => {
    clients ??= loadClients(idleMs)
    return askOnce(await clients, request, signal)
  }
}

function askOnce(clients: Clients, asked: ProviderRequest, signal: AbortSignal): Promise<Reply> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted()
    const url = new URL(asked.url)
    const client = clients.get(url.protocol)
    if (!client) throw new TypeError(`no client for ${url.protocol}`)
    const request = client.request({
      agent: client.agent,
      method: 'POST',
      hostname: url.hostname.replace(/^\[|\]$/g, ''),
      port: url.port || null,
      path: url.pathname + url.search,
      auth: url.username ? decodeURIComponent(`${url.username}:${url.password}`) : null,
      // What fetch says of itself; some providers refuse who says nothing.
      headers: { 'user-agent': navigator.userAgent, 'accept-language': '*', ...asked.headers },
    })
    const stop = () => request.destroy()
    signal.addEventListener('abort', stop, { once: true })
    // By this Deno knows a kept connection, and when that breaks before the answer, even by our own hand, it asks again in silence.
    // Whether the provider is asked again is decided, and counted, in call-provider.ts.
    request.on('socket', () => {
      request.reusedSocket = false
    })
    request.on('close', () => signal.removeEventListener('abort', stop))
    request.on('response', (response) => resolve(replyOf(response)))
    request.on('error', reject)
    request.end(asked.body)
  })
}

function replyOf(response: IncomingMessage): Reply | Promise<Reply> {
  const { statusCode = 0, headers } = response
  const header = (name: string) => {
    const value = headers[name]
    return (typeof value === 'string' ? value : value?.join(', ')) ?? null
  }
  // Without a listener an error would end the process; who listens later is told by `close`.
  response.on('error', () => {})
  const body: Source = {
    listen(take, end) {
      let isOver = false
      const finish = (cause?: unknown) => {
        if (!isOver) end(cause)
        isOver = true
      }
      response.on('end', () => finish())
      response.on('error', finish)
      response.on('close', () => finish(new Error('the connection was closed')))
      response.on('data', take)
    },
    pause: () => void response.pause(),
    resume: () => void response.resume(),
    cancel: () => void response.destroy(),
  }
  const reply = { status: statusCode, header, body }
  const coding = header('content-encoding')
  return coding === null ? reply : inClear(body, coding).then((clear) => ({ ...reply, body: clear }))
}
