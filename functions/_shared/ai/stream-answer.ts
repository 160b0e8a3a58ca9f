/**
 * A streamed answer: bytes pass through untouched while their usage is read. What comes is pushed on as far as the caller reads;
 * then the provider waits, and at most one piece does here.
 */
import { AppError, errorBody, toAppError } from '../errors.ts'
import { concatBytes } from '../http/read-body.ts'
import type { AnswerBody } from './answer-body.ts'
import { notWhatWasAsked } from './answer-json.ts'
import type { Answer } from './call-provider.ts'
import type { Settlement } from './ledger.ts'
import { createStreamObserver, hasData, isEvents, isPartial, type Passage, withCost } from './observe-stream.ts'
import { type OpenCall, usedBy } from './open-call.ts'
import type { KeySent } from './provider-refusal.ts'
import type { UsageWish } from './read-request.ts'
import { createEventGatherer } from './sse-events.ts'
import type { AiWorld } from './world.ts'

type Bytes = Uint8Array<ArrayBuffer>
type Controller = ReadableStreamDefaultController<Bytes>
type Events = ReturnType<typeof queueEvents>

/** The stream from its first event on. */
type StreamOpening = { first: Passage[]; observer: ReturnType<typeof createStreamObserver>; events: Events }

/** How long keep-alive comments are held back to see what the first real event is, and events without an answer, as one with a role. */
const openingMs = 5_000
const emptyMs = 1_000
const openingBytes = 1_000_000

type OpeningWorld = Pick<AiWorld, 'now' | 'within'>

/**
 * Up to the first event with an answer: something said, or a choice that ended. While nothing was sent, an error can still be a
 * status of its own, another try or another provider.
 */
export async function openStream(
  body: AnswerBody,
  wish: UsageWish,
  key: KeySent,
  world: OpeningWorld,
): Promise<StreamOpening> {
  const openedAt = world.now()
  const observer = createStreamObserver(wish, key)
  const events = queueEvents(body)
  const opening: StreamOpening = { first: [], observer, events }
  let hasEvents = false
  let size = 0
  for (;;) {
    const run = events.next() ?? (await nextRun(events, hasEvents, world))
    if (run === 'late') return opening
    if (!run) throw events.failure() ?? noAnswer('the stream ended before it began')
    if (!hasEvents && !isEvents(run)) throw await noStream(run, events, key)
    const passage = observer.observe(run)
    opening.first.push(passage)
    const { isAnswer, failure, failedFirst } = observer.observed
    if (failure && failedFirst) throw failure
    size += run.byteLength
    if (isAnswer || world.now() - openedAt >= openingMs) return opening
    if (passage.last) throw noAnswer('the stream has no answer in it')
    if (size >= openingBytes) return opening
    hasEvents ||= hasData(run)
  }
}

const noAnswer = (cause: string) => new AppError('upstream_error', { cause })

async function nextRun(events: Events, hasEvents: boolean, world: OpeningWorld): Promise<Bytes | undefined | 'late'> {
  if (!hasEvents) return events.more()
  return (await world.within(emptyMs, events.come())) ? events.next() : 'late'
}

const decoder = new TextDecoder()

/** An error, or a page or a JSON answer where events were asked for. */
async function noStream(begun: Bytes, events: Events, key: KeySent): Promise<AppError> {
  const runs = [begun]
  let size = begun.byteLength
  for (let run = await events.more(); run && size <= openingBytes; run = await events.more()) {
    runs.push(run)
    size += run.byteLength
  }
  return events.failure() ?? notWhatWasAsked(decoder.decode(concatBytes(runs, size)), key)
}

/** Runs of whole events, as they wait until somebody takes them; `tell` calls who waits for news. */
type Waiting = { runs: Bytes[]; isEnded: boolean; failure: AppError | undefined; tell: () => void }

/** What nobody has taken yet lets the provider wait. */
function gather(body: AnswerBody, waiting: Waiting): void {
  const gatherer = createEventGatherer()
  const end = (error?: AppError) => {
    if (waiting.isEnded) return
    const rest = error ? undefined : gatherer.rest()
    if (rest) waiting.runs.push(rest)
    waiting.failure = error
    waiting.isEnded = true
    waiting.tell()
  }
  const take = (chunk: Bytes) => {
    if (waiting.isEnded) return
    try {
      const run = gatherer.push(chunk)
      if (!run) return
      waiting.runs.push(run)
    } catch (cause) {
      end(toAppError(cause))
      body.cancel()
      return
    }
    waiting.tell()
    if (waiting.runs.length > 0) body.pause()
  }
  body.listen(take, end)
}

function queueEvents(body: AnswerBody) {
  const waiting: Waiting = { runs: [], isEnded: false, failure: undefined, tell: () => {} }
  gather(body, waiting)

  const next = (): Bytes | undefined => {
    const run = waiting.runs.shift()
    if (waiting.runs.length === 0) body.resume()
    return run
  }
  const come = async (): Promise<true> => {
    while (waiting.runs.length === 0 && !waiting.isEnded)
      await new Promise<void>((done) => {
        waiting.tell = done
      })
    return true
  }
  return {
    /** The oldest run that waits. */
    next,
    /** Waits until there is a run or the end, and takes nothing: who stops waiting has lost nothing. */
    come,
    /** Waits for a run; undefined at the end. */
    async more(): Promise<Bytes | undefined> {
      await come()
      return next()
    },
    /** Calls when there is a run or the end. */
    onNews(told: () => void): void {
      waiting.tell = told
    },
    isOver: () => waiting.isEnded && waiting.runs.length === 0,
    /** Why the stream broke off. */
    failure: () => waiting.failure,
  }
}

/**
 * Every way to end early aborts the signal, and that settles, also when the caller has stopped reading and nobody pulls any more. When
 * the caller hangs up (`cancel` or the request's signal, whichever the runtime has) and the provider works on, the rest is read, too.
 */
export function streamAnswer(answer: Answer<StreamOpening>, call: OpenCall, world: AiWorld): ReadableStream<Bytes> {
  const { body, signal, opening } = answer
  const { first, events } = opening
  const relay = createRelay(opening, call, world)
  const onAbort = () => void relay.close(toAppError(signal.reason))
  if (signal.aborted) onAbort()
  else signal.addEventListener('abort', onAbort, { once: true })

  let isWanted = false
  let isOver = false
  /** The last parts wait for the settlement. */
  const endWith = async (controller: Controller, ending: Promise<Bytes[]>) => {
    isOver = true
    const parts = await ending
    body.cancel()
    if (call.watch.isLeft()) return
    for (const part of parts) controller.enqueue(part)
    controller.close()
  }
  /** Nobody reads any more, and what is looked at is what it costs. */
  const readUnseen = () => {
    while (!isOver && !signal.aborted) {
      const passage = first.shift() ?? nextPassage(opening)
      if (!passage && !events.isOver()) return
      if (passage && !passage.last) continue
      isOver = true
      void relay.leave(passage?.last, passage ? undefined : events.failure()).finally(body.cancel)
    }
  }
  call.onLeft = readUnseen
  call.isFinished = () => opening.observer.observed.finished
  // Who left before there was anything to read hears of no news any more, when all has come.
  if (call.watch.isLeft()) readUnseen()
  /** Gives what there is as long as the caller waits for it: every read of theirs gets at least one part. */
  const flow = (controller: Controller) => {
    if (call.watch.isLeft()) return readUnseen()
    while (isWanted && !isOver) {
      if (signal.aborted) return endWith(controller, relay.fail(signal.reason))
      const passage = first.shift() ?? nextPassage(opening)
      if (!passage && !events.isOver()) return
      const parts = passage?.forward ?? []
      relay.deliver(parts)
      for (const part of parts) controller.enqueue(part)
      if (parts.length > 0) isWanted = false
      const failure = passage ? undefined : events.failure()
      if (failure) return endWith(controller, relay.fail(failure))
      if (!passage || passage.last) return endWith(controller, relay.finish(passage?.last))
    }
  }
  return new ReadableStream<Bytes>(
    {
      start: (controller) => events.onNews(() => void flow(controller)),
      pull(controller) {
        isWanted = true
        void flow(controller)
      },
      cancel() {
        call.watch.hangUp()
      },
    },
    { highWaterMark: 0 },
  )
}

function nextPassage({ events, observer }: StreamOpening): Passage | undefined {
  const run = events.next()
  return run && observer.observe(run)
}

/** What the caller gets, each part of which is taken into account before it goes. */
function createRelay(opening: StreamOpening, call: OpenCall, world: AiWorld) {
  const { observed, takeUsage } = opening.observer
  let responseBytes = 0
  const close = (error?: AppError) => {
    const seen = { ...observed.said, isPartial: isPartial(observed) }
    return call.close({ error, ...usedBy(call, observed.report, seen), images: 0, responseBytes })
  }

  const deliver = (parts: Bytes[]) => {
    if (call.firstTokenAt === undefined && parts.some(hasData)) call.firstTokenAt = world.now()
    if (responseBytes === 0 && parts.length > 0) world.marks.begin(call.admission.call_id)
    for (const part of parts) responseBytes += part.byteLength
  }
  const fail = async (cause: unknown): Promise<Bytes[]> => {
    const error = cause instanceof AppError ? cause : new AppError('upstream_error', { cause })
    await close(error)
    return error.code === 'client_closed_request' ? [] : [errorEvent(error)]
  }
  const lookBehind = async (last: Bytes | undefined) => {
    if (last && !observed.report && !observed.failure) await readOn(opening, world)
  }
  const finish = async (last: Bytes | undefined): Promise<Bytes[]> => {
    if (!last && !observed.failure && !observed.finished) return fail(brokeOff())
    await lookBehind(last)
    const usage = takeUsage()
    const ending = [usage, last].filter((part) => part !== undefined)
    // Settled before the last event goes out: who has read it sees the new balance, and cannot hang up before it.
    deliver(ending)
    // The provider's own error event went to the caller as it came.
    const settlement = await close(observed.failure)
    if (usage) ending[0] = told(usage, settlement)
    return ending
  }
  /** The end of an answer that nobody reads. */
  const leave = async (last: Bytes | undefined, brokenBy: AppError | undefined) => {
    await lookBehind(last)
    const broken = last || observed.finished ? undefined : brokeOff()
    await close(brokenBy ?? observed.failure ?? broken)
  }
  return { deliver, finish, fail, leave, close }
}

const brokeOff = () => noAnswer('the stream broke off')

const errorEvent = (error: AppError): Bytes => new TextEncoder().encode(`data: ${JSON.stringify(errorBody(error))}\n\n`)

const told = (usage: Bytes, settlement: Settlement | undefined): Bytes =>
  (typeof settlement?.cost_micros === 'number' && withCost(usage, settlement.cost_micros)) || usage

const lateMs = 500
const lateRuns = 8

/** Some report what was used after [DONE]: what comes within a moment is looked at. */
async function readOn({ events, observer }: StreamOpening, world: AiWorld): Promise<void> {
  let left = lateRuns
  const look = async () => {
    while (left > 0 && !observer.observed.report) {
      left -= 1
      const run = await events.more()
      if (!run) return
      observer.observe(run)
    }
  }
  await world.within(lateMs, look())
  left = 0
}
