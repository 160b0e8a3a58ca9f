/** Watches a stream on its way: what was said, what it costs, how it ended, and which event to leave out. */
import { type AppError, errorBody } from '../errors.ts'
import { type ProviderAnswer, parseJson, readProviderAnswer } from './provider-answer.ts'
import { type KeySent, refusalLimitBytes, refusalOf, withoutSecrets } from './provider-refusal.ts'
import type { UsageWish } from './read-request.ts'
import { laterReport, type Report, type Said } from './read-usage.ts'
import { addSaid, withoutUsage } from './scan-chunks.ts'
import { dataOf, splitEvents } from './sse-events.ts'

type Bytes = Uint8Array<ArrayBuffer>

type Observed = {
  /** The one that counts of those that came. */
  report: Report | null
  said: Said
  /** Bytes that had been said when the report came. */
  saidAtReport: number
  /** There is an answer: something was said, or a choice ended well. */
  isAnswer: boolean
  /** The provider said that it is finished, in whatever way. Decides about an error at the end, never about money. */
  finished: boolean
  /** What the provider reported as an error in the stream. */
  failure: AppError | undefined
  /** The error came before any answer. */
  failedFirst: boolean
}

export type Passage = {
  /** What goes to the caller now. */
  forward: Bytes[]
  /** [DONE]: the last there is, to be sent after the settlement. */
  last: Bytes | undefined
}

/** What is worth parsing: a usage or an error that is not null, a finish, the end. Hardly any event of a stream has one. */
const telling = /"(?:usage|error)"\s*(?::\s*[^n\s]|[,}])|"finish_reason"\s*:\s*"|\[DONE\]|^event: ?error/m
const isErrorEvent = /(?:^|[\r\n])event: ?error\s*(?:[\r\n]|$)/

/** A tenth of what the other costs, and of ASCII, which most events are, the same. What is no UTF-8 harms nobody: it is only looked at. */
const utf8 = new TextDecoder('utf-8', { ignoreBOM: true })
const latin1 = new TextDecoder('latin1')

/** One character per byte: the keys that are looked for are ASCII. */
function characterPerByte(events: Bytes): string {
  const text = utf8.decode(events)
  return text.length === events.byteLength ? text : latin1.decode(events)
}

/** Whether a run has a line of an event or a comment, as a page or a JSON answer has not. */
export const isEvents = (run: Bytes): boolean => /(?:^|[\r\n])(?:data|event|id|retry)?:|^\s*$/.test(utf8.decode(run))
export const hasData = (events: Bytes): boolean => /(?:^|[\r\n])data/.test(utf8.decode(events))

export function createStreamObserver(wish: UsageWish, key: KeySent) {
  const observed = nothingYet()
  const finishedChoices = new Set<number>()
  const held = holdUsage()
  let isDone = false

  /** Of what comes after [DONE] only a usage is of interest. */
  const observeAfterEnd = (event: Bytes) => {
    const chunk = readProviderAnswer(dataOf(event) ?? '')
    if (chunk?.report && noteReport(observed, chunk) && wish !== 'no') held.put(event)
  }

  const observeEvent = (event: Bytes, forward: Bytes[]) => {
    const { text, chunk, failure } = lookAt(event)
    const refusal = failure === undefined ? undefined : noteFailure(observed, failure, key)
    // What stands beside an error goes to the caller, too; the error's own words are nothing that the model said.
    if (!refusal) noteSaid(observed, text)
    else if (chunk) addUp(observed, chunk.said)
    const isUsage = chunk !== undefined && !refusal && isOnlyUsage(chunk, finishedChoices)
    const isNews = chunk === undefined || noteReport(observed, chunk)
    if (!isUsage) {
      held.release(forward)
      const keeps = wish === 'in a chunk' || (wish === 'in the last chunk' && Boolean(chunk?.report))
      const wanted = keeps ? event : withoutUsage(event, text)
      forward.push(refusal ? redacted(wanted, refusal, key) : wanted)
    } else if (isNews && wish !== 'no') {
      held.release(forward)
      if (observed.finished) held.put(event)
      else forward.push(event)
    }
    if (chunk) noteFinish(observed, chunk, finishedChoices)
  }

  /** Takes note of whole events that are about to be delivered; `events` is not to be used afterwards. */
  const observe = (events: Bytes): Passage => {
    const text = characterPerByte(events)
    const forward: Bytes[] = []
    if (!telling.test(text)) {
      if (isDone) return { forward, last: undefined }
      noteSaid(observed, text)
      held.release(forward)
      forward.push(wish === 'in a chunk' ? events : withoutUsage(events, text))
      return { forward, last: undefined }
    }
    let last: Bytes | undefined
    for (const event of splitEvents(events)) {
      if (isDone) observeAfterEnd(event)
      else if (dataOf(event)?.trim() === '[DONE]') {
        isDone = true
        observed.finished = true
        last = event
      } else observeEvent(event, forward)
    }
    return { forward, last }
  }

  return { observe, observed, takeUsage: held.take }
}

/** The usage chunk at the end waits for the settlement, which knows the cost. */
function holdUsage() {
  let held: Bytes | undefined
  /** Undefined when there is none. */
  const take = (): Bytes | undefined => {
    const taken = held
    held = undefined
    return taken
  }
  return {
    put(event: Bytes): void {
      held = event
    },
    take,
    /** What waited goes before what comes now. */
    release(forward: Bytes[]): void {
      const before = take()
      if (before) forward.push(before)
    },
  }
}

function lookAt(event: Bytes) {
  const text = characterPerByte(event)
  const data = dataOf(event) ?? ''
  const chunk = readProviderAnswer(data)
  const failure = chunk?.failure ?? (isErrorEvent.test(text) ? (parseJson(data) ?? data) : undefined)
  return { text, chunk, failure }
}

const nothingYet = (): Observed => ({
  report: null,
  said: { text: 0, media: 0 },
  saidAtReport: 0,
  isAnswer: false,
  finished: false,
  failure: undefined,
  failedFirst: false,
})

function noteSaid(observed: Observed, text: string): void {
  addSaid(text, observed.said)
  observed.isAnswer ||= observed.said.text > 0 || observed.said.media > 0
}

function addUp(observed: Observed, { text, media }: Said): void {
  observed.said.text += text
  observed.said.media += media
  observed.isAnswer ||= text > 0 || media > 0
}

function noteFinish(observed: Observed, { choices = [] }: ProviderAnswer, finishedChoices: Set<number>): void {
  for (const { index, finish_reason } of choices)
    if (finish_reason && finish_reason !== 'error') finishedChoices.add(index)
  observed.finished ||= finishedChoices.size > 0
  observed.isAnswer ||= finishedChoices.size > 0
}

/** Whether the chunk's report counts from now on: zeros after real numbers do not, and callers are not told them. */
function noteReport(observed: Observed, { report }: ProviderAnswer): boolean {
  if (!report) return true
  const before = observed.report
  observed.report = laterReport(before, report)
  if (observed.report === before) return false
  observed.saidAtReport = bytesIn(observed.said)
  return true
}

const bytesIn = ({ text, media }: Said) => text + media

/**
 * Whether the report is of a part: more was said after it, or it came before all that counts, as with who tells the prompt at once and
 * the rest at the end.
 */
export function isPartial({ report, said, saidAtReport, finished }: Observed): boolean {
  if (!report?.counts) return false
  if (bytesIn(said) > saidAtReport) return true
  return !finished && (bytesIn(said) === 0 || report.counts.completion_tokens === 0)
}

/** The first error counts. */
function noteFailure(observed: Observed, failure: unknown, key: KeySent): AppError {
  const refusal = refusalOf({ status: undefined, body: failure }, key)
  if (observed.failure === undefined) {
    observed.failure = refusal
    observed.failedFirst = !observed.isAnswer
  }
  return refusal
}

/** An error that the provider wrote goes to the caller as it came, but for keys; of one that is too long, what we understand of it. */
function redacted(event: Bytes, refusal: AppError, key: KeySent): Bytes {
  if (event.byteLength > refusalLimitBytes) return eventOf(errorBody(refusal))
  const text = utf8.decode(event)
  const clean = withoutSecrets(text, key)
  return clean === text ? event : new TextEncoder().encode(clean)
}

const eventOf = (data: unknown): Bytes => new TextEncoder().encode(`data: ${JSON.stringify(data)}\n\n`)

/**
 * The extra chunk that `stream_options.include_usage` adds. OpenRouter's carries a choice that repeats `finish_reason`; a
 * provider that reports usage in the chunk that says something new does not send an extra one.
 */
function isOnlyUsage(chunk: ProviderAnswer, finishedChoices: ReadonlySet<number>): boolean {
  if (!chunk.report || !chunk.choices || chunk.said.text + chunk.said.media > 0) return false
  return chunk.choices.every(
    ({ index, finish_reason }) => typeof finish_reason === 'string' && finishedChoices.has(index),
  )
}

/** The usage chunk with what the call cost, in dollars. Undefined when it is not what we took it for. */
export function withCost(event: Bytes, costMicros: number): Bytes | undefined {
  const data: unknown = JSON.parse(dataOf(event) ?? 'null')
  if (typeof data !== 'object' || data === null || !('usage' in data)) return undefined
  const usage = { ...(typeof data.usage === 'object' ? data.usage : {}), cost: costMicros / 1_000_000 }
  return eventOf({ ...data, usage })
}
