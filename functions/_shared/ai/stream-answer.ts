/** A streamed answer: bytes pass through untouched while their usage is read. Pulled, never pushed: nothing piles up here. */
import { AppError, errorBody, toAppError } from '../errors.ts'
import { causeOf } from '../failure.ts'
import type { AnswerBody } from './answer-body.ts'
import type { Answer } from './call-provider.ts'
import type { Settlement } from './ledger.ts'
import { createStreamObserver, hasData, type Observed, type Passage, withCost } from './observe-stream.ts'
import type { OpenCall } from './open-call.ts'
import { createEventGatherer } from './sse-events.ts'
import type { AiWorld } from './world.ts'

type Bytes = Uint8Array<ArrayBuffer>

/** The stream from its first event on. `next` is undefined when the provider has nothing more to say. */
type StreamOpening = {
  first: Passage[]
  observer: ReturnType<typeof createStreamObserver>
  next(): Promise<Passage | undefined>
}

/** How long keep-alive comments are held back to see what the first real event is. */
const openingMs = 5_000

/** Up to the first event that is no comment. While nothing was sent, an error can still be a status of its own. */
export async function openStream(body: AnswerBody, wantsUsage: boolean, now: () => number): Promise<StreamOpening> {
  const openedAt = now()
  const observer = createStreamObserver(wantsUsage)
  const nextEvents = gather(body)
  const next = async () => {
    const events = await nextEvents()
    return events && observer.observe(events)
  }
  const first: Passage[] = []
  for (;;) {
    const events = await nextEvents()
    if (!events) throw new AppError('upstream_error', { cause: 'the stream ended before it began' })
    first.push(observer.observe(events))
    const { failed, contentBytes } = observer.observed
    if (failed && contentBytes === 0) throw new AppError('upstream_error', { cause: 'the stream began with an error' })
    if (hasData(events) || now() - openedAt >= openingMs) return { first, observer, next }
  }
}

function gather(body: AnswerBody): () => Promise<Bytes | undefined> {
  const gatherer = createEventGatherer()
  return async () => {
    for (;;) {
      const chunk = await body.read()
      if (!chunk) return gatherer.rest()
      const events = gatherer.push(chunk)
      if (events) return events
    }
  }
}

/**
 * Every way to end early aborts the signal, and that settles: it runs when the caller hangs up (`cancel` or the request's
 * signal, whichever the runtime has), and also when the caller has stopped reading and nobody pulls any more.
 */
export function streamAnswer(
  { body, signal, opening }: Answer<StreamOpening>,
  call: OpenCall,
  world: AiWorld,
): Response {
  const relay = createRelay(opening, call, world)
  const onAbort = () => void relay.close(toAppError(signal.reason))
  if (signal.aborted) onAbort()
  else signal.addEventListener('abort', onAbort, { once: true })

  const stream = new ReadableStream<Bytes>(
    {
      async pull(controller) {
        const { parts, ended } = await relay.next()
        for (const part of parts) controller.enqueue(part)
        if (!ended) return
        body.cancel()
        controller.close()
      },
      cancel: call.watch.hangUp,
    },
    { highWaterMark: 0 },
  )
  const headers = {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-cache',
    'x-accel-buffering': 'no',
  }
  return new Response(stream, { headers })
}

/** The stream in the parts that the caller gets, each of which is taken into account before it goes. */
function createRelay(opening: StreamOpening, call: OpenCall, world: AiWorld) {
  const { observed, takeUsage } = opening.observer
  let responseBytes = 0
  const close = (error?: AppError) => call.close({ error, ...observed, images: 0, responseBytes })
  const deliver = (parts: Bytes[], ended: boolean) => {
    if (responseBytes === 0 && parts.length > 0) markStarted(call, world)
    for (const part of parts) responseBytes += part.byteLength
    return { parts, ended }
  }
  const deliverLast = async (parts: Bytes[], last: Bytes | undefined) => {
    const usage = takeUsage()
    const ending = [usage, last].filter((part) => part !== undefined)
    // Settled before the last event goes out: who has read it sees the new balance, and cannot hang up before it.
    deliver([...parts, ...ending], true)
    const settlement = await close(failureOf(observed))
    if (usage) ending[0] = told(usage, settlement)
    return { parts: [...parts, ...ending], ended: true }
  }
  const nextParts = async () => {
    for (;;) {
      const passage = opening.first.shift() ?? (await opening.next())
      if (!passage) {
        if (!observed.failed && !observed.finished)
          throw new AppError('upstream_error', { cause: 'the stream broke off' })
        return deliverLast([], undefined)
      }
      if (call.firstTokenAt === undefined && passage.forward.some(hasData)) call.firstTokenAt = world.now()
      if (passage.last) return deliverLast(passage.forward, passage.last)
      if (passage.forward.length > 0) return deliver(passage.forward, false)
    }
  }
  const next = async () => {
    try {
      return await nextParts()
    } catch (cause) {
      const error = cause instanceof AppError ? cause : new AppError('upstream_error', { cause })
      await close(error)
      return { parts: error.code === 'client_closed_request' ? [] : [errorEvent(error)], ended: true }
    }
  }
  return { next, close }
}

const errorEvent = (error: AppError): Bytes => new TextEncoder().encode(`data: ${JSON.stringify(errorBody(error))}\n\n`)

const told = (usage: Bytes, settlement: Settlement | undefined): Bytes =>
  (typeof settlement?.cost_micros === 'number' && withCost(usage, settlement.cost_micros)) || usage

/** The provider's own error event went to the caller as it came. */
const failureOf = ({ failed }: Observed) =>
  failed ? new AppError('upstream_error', { cause: 'the provider reported an error in the stream' }) : undefined

/** Tells the ledger that the answer has begun, in case this process does not live to settle. */
function markStarted({ admission }: OpenCall, world: AiWorld): void {
  const failed = (error: unknown) =>
    world.log({ level: 'error', message: 'a start was not recorded', call_id: admission.call_id, ...causeOf(error) })
  world.waitUntil(world.ledger.start(admission.call_id).catch(failed))
}
