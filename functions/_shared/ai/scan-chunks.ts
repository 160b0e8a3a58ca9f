/** What is done with the chunks of a stream without parsing them: hardly any has to be. */
import { isMedia } from './provider-answer.ts'
import type { Said } from './read-usage.ts'

type Bytes = Uint8Array<ArrayBuffer>

const quote = '"'
const space = 32
const colon = 58

/**
 * How much a model has said in a run of events, without parsing them: the ground of an estimate, not of a bill by itself. It is
 * the bytes of all string values inside `delta` objects but the role: text, reasoning, refusal, names and arguments of tools.
 * `events` is one character per byte. Escapes count as they are written, so the number is never too small.
 */
export function addSaid(events: string, said: Said): void {
  const before = said.text + said.media
  let at = events.indexOf('"delta"')
  while (at >= 0) at = events.indexOf('"delta"', addStrings(events, at + '"delta"'.length, said))
  // Some send one that is empty beside it; whoever uses both says the same in both.
  if (said.text + said.media > before) said.isInDeltas = true
  else if (!said.isInDeltas && events.includes('"choices"')) addOtherwiseSaid(events, said)
}

const otherwise = /"(message|text)"\s*:\s*(?=["{])/g

/** Some stream a `message` or a `text` in a choice. The `message` of an error is no object. */
function addOtherwiseSaid(events: string, said: Said): void {
  otherwise.lastIndex = 0
  for (let found = otherwise.exec(events); found; found = otherwise.exec(events)) {
    const at = otherwise.lastIndex
    const isObject = events[at] === '{'
    if (found[1] === 'message' && isObject) otherwise.lastIndex = addStrings(events, at, said)
    if (found[1] === 'text' && !isObject) {
      const end = endOfString(events, at + 1)
      said.text += end - at - 1
      otherwise.lastIndex = end
    }
  }
}

/** Walks one object, from the colon before it or from its brace, to its closing brace, and answers where that is. */
function addStrings(text: string, from: number, said: Said): number {
  let depth = 0
  let name = ''
  for (let at = from; at < text.length; at += 1) {
    const character = text[at]
    if (character === '{') depth += 1
    if (character === '}') depth -= 1
    if (character === '}' && depth <= 0) return at
    if (character !== quote) continue
    if (depth === 0) return at // `"delta": null`, and this is the next field.
    const end = endOfString(text, at + 1)
    const bytes = end - at - 1
    let after = end + 1
    while (text.charCodeAt(after) <= space) after += 1
    if (text.charCodeAt(after) === colon) name = bytes < 16 ? text.slice(at + 1, end) : ''
    else if (isMedia(name, bytes)) said.media += bytes
    else if (name !== 'role') said.text += bytes
    at = end
  }
  return text.length
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

type Cut = { from: number; to: number }

/**
 * Takes `usage` out of the chunks of callers who did not ask for it. The gateway always asks, so providers send it to all, some as
 * null in every chunk, and there are clients that take no null. All other bytes stay as they came, but move up: `events` is ours,
 * and is not kept. They are whole; `text` is the same with one character per byte.
 */
export function withoutUsage(events: Bytes, text: string): Bytes {
  const at = text.indexOf(usageName)
  if (at < 0) return events
  const only = plainFieldAt(text, at)
  if (!only || text.includes(usageName, only.to)) return withoutCuts(events, allCuts(text, at))
  events.copyWithin(only.from, only.to)
  return events.subarray(0, events.byteLength - only.to + only.from)
}

/** In their order. Goes once over the text, and once more over those of its events that are walked. */
function allCuts(text: string, first: number): Cut[] {
  const all: Cut[] = []
  const eventAt = createEventFinder(text)
  for (let at = first; at >= 0; at = text.indexOf(usageName, at)) {
    const plain = plainFieldAt(text, at)
    if (plain) {
      all.push(plain)
      at = plain.to
      continue
    }
    const event = eventAt(at)
    // A walk begins with the event, and finds again what was found in it already.
    while ((all.at(-1)?.from ?? -1) >= event.from) all.pop()
    for (const { from, to } of cutsIn(text.slice(event.from, event.to)))
      all.push({ from: event.from + from, to: event.from + to })
    at = Math.max(event.to, at + 1)
  }
  return all
}

/** Two ends of lines, however lines end. */
const blankLine = /(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)/g

/** Where the event around a place is; the places come in their order. */
function createEventFinder(text: string): (at: number) => Cut {
  const event = { from: 0, to: 0 }
  return (at) => {
    while (event.to <= at) {
      event.from = event.to
      blankLine.lastIndex = event.from
      event.to = blankLine.test(text) ? blankLine.lastIndex : text.length
    }
    return event
  }
}

/** What stands between a cut and the next one moves up by all that was cut before it. */
function withoutCuts(events: Bytes, cuts: readonly Cut[]): Bytes {
  let moved = 0
  for (const [index, { from, to }] of cuts.entries()) {
    events.copyWithin(from - moved, to, cuts[index + 1]?.from ?? events.byteLength)
    moved += to - from
  }
  return events.subarray(0, events.byteLength - moved)
}

/** Without its first quote, since quotes are everywhere. */
const usageName = 'usage"'
const usageNull = 'usage":null'
const eventStart = 'data: '
const dataName = 'data:'
const lineFeed = 10
const comma = 44

/**
 * The usual cases need no walk: a null behind which the next brace ends the event, or before which the last one begins it, is a
 * field of the chunk itself.
 */
function plainFieldAt(text: string, at: number): Cut | undefined {
  const end = at + usageNull.length
  if (!text.startsWith(usageNull, at) || !text.startsWith(',"', at - 2)) return undefined
  const isPlain = text.charCodeAt(end) === comma ? beginsEvent(text, at) || endsEvent(text, end) : endsEvent(text, end)
  return isPlain ? { from: at - 2, to: end } : undefined
}

/** Fields beside the usage that are longer are not the usual case; a look at all of them from each usage would take too long. */
const besideBytes = 500

function endsEvent(text: string, end: number): boolean {
  const close = end + text.slice(end, end + besideBytes).indexOf('}')
  return close >= end && text.charCodeAt(close + 1) === lineFeed && text.charCodeAt(close + 2) === lineFeed
}

function beginsEvent(text: string, at: number): boolean {
  const from = Math.max(0, at - besideBytes)
  const start = from + text.slice(from, at).lastIndexOf('{') - eventStart.length
  return text.startsWith(eventStart, start) && (start === 0 || text.charCodeAt(start - 1) === lineFeed)
}

/** Walks the JSON of one event, for fields of the chunk itself and of its choices; what stands between strings and brackets is passed over. */
function cutsIn(event: string): Cut[] {
  const cuts: Cut[] = []
  const open: string[] = []
  let isInChoices = false
  for (let at = 0; at < event.length; at += 1) {
    const character = event[at]
    if (character === '{' || character === '[') open.push(character)
    else if (character === '}' || character === ']') {
      // Brackets that do not match are no JSON, and what is behind them is not looked at.
      if (open.pop() !== (character === '}' ? '{' : '[') || open.length === 0) return cuts
    } else if (character === '"') {
      const end = endOfString(event, at + 1)
      const isOfChunk = open.length === 1 && open[0] === '{'
      if (isOfChunk) isInChoices = event.startsWith('choices"', at + 1)
      const isPlace = isOfChunk || (isInChoices && open.length === 3 && open.join('') === '{[{')
      const isUsage = isPlace && event.startsWith(usageName, at + 1)
      const cut = isUsage ? fieldAt(event, at, end + 1) : undefined
      if (cut) putCut(cuts, cut, event)
      at = cut ? cut.to - 1 : end
    }
  }
  return cuts
}

/** Where the comma before a field went with the field before it, the comma before that one goes, too. */
function putCut(cuts: Cut[], { from, to }: Cut, event: string): void {
  let start = from
  for (let last = cuts.at(-1); last && start < last.to; last = cuts.at(-1)) {
    start = commaBefore(event, last.from)
    cuts.pop()
  }
  cuts.push({ from: start, to })
}

/** A null or an object with its name and one of the commas beside it; undefined for anything else. */
function fieldAt(text: string, name: number, afterName: number): Cut | undefined {
  const colon = pastSpace(text, afterName)
  if (text[colon] !== ':') return undefined
  const value = pastSpace(text, colon + 1)
  const end = text.startsWith('null', value) ? value + 'null'.length : text[value] === '{' ? pastObject(text, value) : 0
  if (end === 0) return undefined
  const next = pastSpace(text, end)
  if (text[next] === ',') return { from: name, to: next + 1 }
  return { from: commaBefore(text, name), to: end }
}

/** An event may have a data line for each line of its JSON, so that there is more than space between a comma and a name. */
function commaBefore(text: string, name: number): number {
  let at = name
  for (;;) {
    if (text.charCodeAt(at - 1) <= space) at -= 1
    else if (at >= dataName.length && text.startsWith(dataName, at - dataName.length)) at -= dataName.length
    else return text[at - 1] === ',' ? at - 1 : name
  }
}

function pastSpace(text: string, from: number): number {
  let at = from
  while (text.charCodeAt(at) <= 32) at += 1
  return at
}

function pastObject(text: string, from: number): number {
  let depth = 0
  for (let at = from; at < text.length; at += 1) {
    const character = text[at]
    if (character === '"') at = endOfString(text, at + 1)
    else if (character === '{') depth += 1
    else if (character === '}') depth -= 1
    if (depth === 0) return at + 1
  }
  return 0
}
