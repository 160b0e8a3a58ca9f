/** A streamed answer: bytes pass through untouched while their usage is read. Pulled, never pushed: nothing piles up here. */
import { AppError, errorBody, toAppError } from '../errors.ts'
import type { Settlement } from './ledger-contract.ts'
import { causeOf } from './log-line.ts'
import { createUsageObserver, type EventKind } from './observe-usage.ts'
import type { OpenCall } from './open-call.ts'
import { readEvents, type SseEvent } from './sse-events.ts'
import type { AiWorld } from './world.ts'

type Seen = { bytes: Uint8Array<ArrayBuffer>; kind: EventKind; forward: boolean }
type Stream = {
  call: OpenCall
  world: AiWorld
  events: AsyncGenerator<SseEvent>
  observer: ReturnType<typeof createUsageObserver>
}

/** How long keep-alive comments are held back to see what the first real event is. */
const openingMs = 5_000

export async function streamAnswer(upstream: Response, call: OpenCall, world: AiWorld): Promise<Response> {
  const { first_byte_timeout_ms, idle_timeout_ms } = call.admission.provider
  let waitMs = first_byte_timeout_ms
  const events = readEvents(upstream.body ?? new Blob([]).stream(), async (work) => {
    const part = await call.watch.within(waitMs, work)
    waitMs = idle_timeout_ms
    return part
  })
  const observer = createUsageObserver(call.chat.stream_options?.include_usage ?? false)
  const stream = { call, world, events, observer }
  const opening = await readOpening(stream)
  const headers = {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-cache',
    'x-accel-buffering': 'no',
  }
  return new Response(bodyOf(stream, opening), { headers })
}

/** Up to the first event that is no comment. While nothing was sent, an error can still be a status of its own. */
async function readOpening({ call, world, events, observer }: Stream): Promise<Seen[]> {
  const openedAt = world.now()
  const seen: Seen[] = []
  for (;;) {
    const { done, value } = await nextOf(events)
    if (done) throw new AppError('upstream_error', { cause: 'the stream ended before it began' })
    const { kind, forward } = observer.observe(value)
    if (kind === 'error') {
      await events.return(undefined)
      throw new AppError('upstream_error', { cause: 'the stream began with an error' })
    }
    seen.push({ bytes: value.bytes, kind, forward })
    if (kind === 'comment' && world.now() - openedAt < openingMs) continue
    if (kind === 'content') call.firstTokenAt ??= world.now()
    return seen
  }
}

async function nextOf(events: AsyncGenerator<SseEvent>): Promise<IteratorResult<SseEvent>> {
  try {
    return await events.next()
  } catch (cause) {
    throw cause instanceof AppError ? cause : new AppError('upstream_error', { cause })
  }
}

/**
 * Every way to end early aborts the watch, and its signal settles: this runs when the caller hangs up (`cancel` or the
 * request's signal, whichever the runtime has), and also when the caller has stopped reading and nobody pulls any more.
 */
function bodyOf(stream: Stream, opening: Seen[]): ReadableStream<Uint8Array<ArrayBuffer>> {
  const { call, world, observer } = stream
  let responseBytes = 0
  const close = (error?: AppError) => call.close({ error, ...observer.observed, responseBytes })
  const deliver = (bytes: Uint8Array<ArrayBuffer>) => {
    if (responseBytes === 0) markStarted(call, world)
    responseBytes += bytes.byteLength
    return bytes
  }
  const { signal } = call.watch
  const onAbort = () => {
    close(toAppError(signal.reason))
    stream.events.return(undefined).catch(() => {})
  }
  if (signal.aborted) onAbort()
  else signal.addEventListener('abort', onAbort, { once: true })

  const source = relay(stream, opening, deliver, close)
  return new ReadableStream(
    {
      async pull(controller) {
        const { done, value } = await source.next()
        if (done) controller.close()
        else controller.enqueue(value)
      },
      cancel() {
        call.watch.hangUp()
        return source.return(undefined).then(() => {})
      },
    },
    { highWaterMark: 0 },
  )
}

/** The stream's events in order, with what was held back at the opening first. */
async function* seenEvents({ events, observer }: Stream, opening: Seen[]): AsyncGenerator<Seen> {
  yield* opening
  for await (const event of events) yield { bytes: event.bytes, ...observer.observe(event) }
}

async function* relay(
  stream: Stream,
  opening: Seen[],
  deliver: (bytes: Uint8Array<ArrayBuffer>) => Uint8Array<ArrayBuffer>,
  close: (error?: AppError) => Promise<Settlement | undefined>,
): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const { call, world, observer } = stream
  try {
    for await (const { bytes, kind, forward } of seenEvents(stream, opening)) {
      if (kind === 'content') call.firstTokenAt ??= world.now()
      if (!forward) continue
      deliver(bytes)
      if (kind !== 'done') {
        yield bytes
        continue
      }
      // Settled before the last event goes out: who has read it sees the new balance, and cannot hang up before it.
      await close(failureOf(observer.observed))
      return yield bytes
    }
    const failure = failureOf(observer.observed)
    if (!failure && !observer.observed.finished) throw new AppError('upstream_error', { cause: 'the stream broke off' })
    await close(failure)
  } catch (cause) {
    const error = cause instanceof AppError ? cause : new AppError('upstream_error', { cause })
    await close(error)
    if (error.code !== 'client_closed_request') yield encoder.encode(`data: ${JSON.stringify(errorBody(error))}\n\n`)
  }
}

const encoder = new TextEncoder()

/** The provider's own error event went to the caller as it came. */
const failureOf = ({ failed }: { failed: boolean }) =>
  failed ? new AppError('upstream_error', { cause: 'the provider reported an error in the stream' }) : undefined

/** Tells the ledger that the answer has begun, in case this process does not live to settle. */
function markStarted({ admission }: OpenCall, world: AiWorld): void {
  const failed = (error: unknown) =>
    world.log({ level: 'error', message: 'a start was not recorded', call_id: admission.call_id, ...causeOf(error) })
  world.waitUntil(world.start(admission.call_id).catch(failed))
}
