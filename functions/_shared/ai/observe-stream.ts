/** Watches a stream on its way: what was said, what it costs, how it ended, and which event to leave out. */
import type { Usage } from './ledger.ts'
import { hasError, type ProviderAnswer, readProviderAnswer, usageOf } from './provider-answer.ts'
import { dataOf, splitEvents } from './sse-events.ts'

type Bytes = Uint8Array<ArrayBuffer>

export type Observed = {
  /** The latest that was reported. Reports are totals, so they replace each other. */
  usage: Usage | null
  contentBytes: number
  /** The provider said that it is finished, in whatever way. Decides about an error at the end, never about money. */
  finished: boolean
  /** The provider reported an error in the stream. */
  failed: boolean
}

export type Passage = {
  /** What goes to the caller now. */
  forward: Bytes[]
  /** [DONE] with what follows it: the last there is, to be sent after the settlement. */
  last: Bytes | undefined
}

/** What is worth parsing: a usage or an error that is not null, a finish, the end. Hardly any event of a stream has one. */
const telling = /"(?:usage|error)"\s*:\s*[^n\s]|"finish_reason"\s*:\s*"|\[DONE\]/

/** A tenth of what the other costs, and of ASCII, which most events are, the same. What is no UTF-8 harms nobody: it is only looked at. */
const utf8 = new TextDecoder('utf-8', { ignoreBOM: true })
const latin1 = new TextDecoder('latin1')

/** One character per byte: the keys that are looked for are ASCII. */
function textOf(events: Bytes): string {
  const text = utf8.decode(events)
  return text.length === events.byteLength ? text : latin1.decode(events)
}

export const hasData = (events: Bytes): boolean => /(?:^|[\r\n])data/.test(utf8.decode(events))

export function createStreamObserver(callerWantsUsage: boolean) {
  const observed: Observed = { usage: null, contentBytes: 0, finished: false, failed: false }
  const finishedChoices = new Set<number>()
  let heldUsage: Bytes | undefined

  /** The usage chunk at the end waits for the settlement, which knows the cost. Undefined when there is none. */
  const takeUsage = (): Bytes | undefined => {
    const taken = heldUsage
    heldUsage = undefined
    return taken
  }

  const note = (chunk: ProviderAnswer) => {
    if (hasError(chunk)) observed.failed = true
    observed.usage = usageOf(chunk) ?? observed.usage
    for (const { index, finish_reason } of chunk.choices ?? []) if (finish_reason) finishedChoices.add(index)
    observed.finished ||= finishedChoices.size > 0
  }

  const observeEvent = (event: Bytes, forward: Bytes[]) => {
    const chunk = readProviderAnswer(dataOf(event) ?? '')
    const before = takeUsage()
    if (before) forward.push(before)
    if (!chunk || !isOnlyUsage(chunk, finishedChoices)) forward.push(event)
    else if (callerWantsUsage && observed.finished) heldUsage = event
    else if (callerWantsUsage) forward.push(event)
    if (chunk) note(chunk)
  }

  /** Takes note of whole events that are about to be delivered. */
  const observe = (events: Bytes): Passage => {
    const text = textOf(events)
    observed.contentBytes += saidBytes(text)
    const forward: Bytes[] = []
    if (!telling.test(text)) {
      const before = takeUsage()
      return { forward: before ? [before, events] : [events], last: undefined }
    }
    for (const event of splitEvents(events)) {
      if (dataOf(event)?.trim() === '[DONE]') {
        observed.finished = true
        return { forward, last: event }
      }
      observeEvent(event, forward)
    }
    return { forward, last: undefined }
  }

  return { observe, observed, takeUsage }
}

/**
 * The extra chunk that `stream_options.include_usage` adds. OpenRouter's carries a choice that repeats `finish_reason`; a
 * provider that reports usage in the chunk that says something new does not send an extra one.
 */
function isOnlyUsage(chunk: ProviderAnswer, finishedChoices: ReadonlySet<number>): boolean {
  if (!chunk.usage || !chunk.choices || chunk.contentBytes > 0) return false
  return chunk.choices.every(
    ({ index, finish_reason }) => typeof finish_reason === 'string' && finishedChoices.has(index),
  )
}

/** The usage chunk with what the call cost, in dollars. Undefined when it is not what we took it for. */
export function withCost(event: Bytes, costMicros: number): Bytes | undefined {
  const data: unknown = JSON.parse(dataOf(event) ?? 'null')
  if (typeof data !== 'object' || data === null || !('usage' in data)) return undefined
  const usage = { ...(typeof data.usage === 'object' ? data.usage : {}), cost: costMicros / 1_000_000 }
  return new TextEncoder().encode(`data: ${JSON.stringify({ ...data, usage })}\n\n`)
}

const quote = '"'
const space = 32
const colon = 58

/**
 * How much a model has said in a run of events, without parsing them: the ground of an estimate, not of a bill by itself. It is
 * the bytes of all string values inside `delta` objects but the role: text, reasoning, refusal, names and arguments of tools.
 * `events` is one character per byte. Escapes count as they are written, so the number is never too small.
 */
function saidBytes(events: string): number {
  let bytes = 0
  let at = events.indexOf('"delta"')
  while (at >= 0) {
    const delta = stringsIn(events, at + '"delta"'.length)
    bytes += delta.bytes
    at = events.indexOf('"delta"', delta.end)
  }
  return bytes
}

/** Walks one object from the colon before it to its closing brace; what stands between its strings does not matter. */
function stringsIn(text: string, from: number): { bytes: number; end: number } {
  let bytes = 0
  let depth = 0
  let isRole = false
  for (let at = from; at < text.length; at += 1) {
    const character = text[at]
    if (character === '{') depth += 1
    if (character === '}') depth -= 1
    if (character === '}' && depth <= 0) return { bytes, end: at }
    if (character !== quote) continue
    if (depth === 0) return { bytes, end: at } // `"delta": null`, and this is the next field.
    const end = endOfString(text, at + 1)
    let after = end + 1
    while (text.charCodeAt(after) <= space) after += 1
    if (text.charCodeAt(after) === colon) isRole = end - at === '"role'.length && text.startsWith('role', at + 1)
    else if (!isRole) bytes += end - at - 1
    at = end
  }
  return { bytes, end: text.length }
}

function endOfString(text: string, from: number): number {
  let end = text.indexOf(quote, from)
  while (end >= 0) {
    let slashes = 0
    while (text[end - 1 - slashes] === '\\') slashes += 1
    if (slashes % 2 === 0) return end
    end = text.indexOf(quote, end + 1)
  }
  return text.length
}
