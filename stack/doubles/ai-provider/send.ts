import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Behaviours } from './behaviours.ts'
import type { StreamEvent } from './chat-answer.ts'

/** A request as `GET /calls` shows it. `chunks_sent` counts the events with JSON, not comments and not [DONE]. */
export type Call = {
  id: string
  model: string | null
  at: string
  headers: Record<string, string>
  body: unknown
  aborted: boolean
  finished: boolean
  chunks_sent: number
}

/** The part of @hono/node-server's bindings that tearing a connection needs. */
export type Socket = { destroy(): unknown }

/** A call that is being answered. `signal` aborts when the caller hangs up, however we learn of it. */
export type Exchange = { call: Call; wants: Behaviours; signal: AbortSignal; hangUp(): void; tear(): boolean }

export function openExchange(call: Call, wants: Behaviours, caller: AbortSignal, socket: Socket | undefined): Exchange {
  const gone = new AbortController()
  let torn = false
  const hangUp = () => {
    if (!torn && !call.finished) call.aborted = true
    gone.abort()
  }
  if (caller.aborted) hangUp()
  else caller.addEventListener('abort', hangUp, { once: true })
  const tear = () => {
    torn = true
    socket?.destroy()
    return socket !== undefined
  }
  return { call, wants, signal: gone.signal, hangUp, tear }
}

/** Holds no timer, so that a forgotten call does not keep the process alive. */
export async function untilHungUp({ signal }: Exchange): Promise<never> {
  if (!signal.aborted) await once(signal, 'abort')
  throw signal.reason
}

async function tearConnection(exchange: Exchange): Promise<never> {
  await sleep(20, undefined, { signal: exchange.signal }) // What was written before gets a chance to arrive.
  if (exchange.tear()) await untilHungUp(exchange)
  throw new Error('connection reset')
}

const gapMs = (wants: Behaviours): number => {
  if (wants.has('slower')) return 500
  if (wants.has('slow')) return 20
  return wants.has('endless') ? 5 : 0
}

function encode(event: { chunk: object } | { text: string }, crlf: boolean): string {
  if ('text' in event) return crlf ? event.text.replaceAll('\n', '\r\n') : event.text
  if (!crlf) return `data: ${JSON.stringify(event.chunk)}\n\n`
  const lines = JSON.stringify(event.chunk, null, 1).split('\n')
  return `${lines.map((line) => `data: ${line}\r\n`).join('')}\r\n`
}

/** The bytes, or with `utf8-split` a part per multi-byte character, each ending inside a character. */
async function* writes(text: string, { wants, signal }: Exchange): AsyncGenerator<Uint8Array> {
  const bytes = new TextEncoder().encode(text)
  let start = 0
  for (const [position, byte] of wants.has('utf8-split') ? bytes.entries() : []) {
    if (byte < 0xc0) continue // Only lead bytes of multi-byte characters are this large.
    yield bytes.subarray(start, position + 1)
    start = position + 1
    await sleep(1, undefined, { signal })
  }
  yield bytes.subarray(start)
}

async function* eventWrites(events: Iterable<StreamEvent>, exchange: Exchange): AsyncGenerator<Uint8Array> {
  const { call, wants, signal } = exchange
  const gap = gapMs(wants)
  for (const event of events) {
    signal.throwIfAborted()
    if (event === 'silence') return await untilHungUp(exchange)
    if (event === 'tear') return await tearConnection(exchange)
    if (gap > 0 && call.chunks_sent > 0) await sleep(gap, undefined, { signal })
    if ('chunk' in event) call.chunks_sent += 1
    else if (event.text.startsWith('data: [DONE]')) call.finished = true // A client may stop reading here.
    yield* writes(encode(event, wants.has('crlf')), exchange)
  }
  call.finished = true
}

async function* jsonWrites(text: string, exchange: Exchange): AsyncGenerator<Uint8Array> {
  const { wants, call } = exchange
  if (wants.has('hang-body') || wants.has('endless')) await untilHungUp(exchange)
  if (wants.has('reset')) {
    yield new TextEncoder().encode(text.slice(0, text.length / 2))
    await tearConnection(exchange)
  }
  yield* writes(text, exchange)
  call.finished = true
}

/** Pulls, so that nothing is produced that nobody reads. */
function bodyOf(source: AsyncGenerator<Uint8Array>, exchange: Exchange): ReadableStream<Uint8Array> {
  const pull = async (controller: ReadableStreamDefaultController<Uint8Array>) => {
    try {
      const { done, value } = await source.next()
      if (done) controller.close()
      else controller.enqueue(value)
    } catch (error) {
      controller.error(error)
    }
  }
  return new ReadableStream({ pull, cancel: exchange.hangUp }, { highWaterMark: 0 })
}

export function sendStream(events: Iterable<StreamEvent>, exchange: Exchange): Response {
  const headers = { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' }
  return new Response(bodyOf(eventWrites(events, exchange), exchange), { headers })
}

const jsonInParts: Behaviours = new Set(['hang-body', 'endless', 'reset', 'utf8-split'] as const)

export async function sendJson(body: object, exchange: Exchange): Promise<Response> {
  const { wants, call, signal } = exchange
  const gap = wants.has('endless') ? 0 : gapMs(wants)
  if (gap > 0) await sleep(gap, undefined, { signal })
  const text = wants.has('garbage') ? '<html><title>502 Bad Gateway</title></html>' : JSON.stringify(body)
  const headers = { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(text)) }
  if (!wants.isDisjointFrom(jsonInParts)) return new Response(bodyOf(jsonWrites(text, exchange), exchange), { headers })
  call.finished = true
  return new Response(text, { headers })
}
