/** Server-sent events as bytes. Chunks may be cut anywhere: inside a character, inside CRLF, inside a field name. */
import { concatBytes } from '../http/read-body.ts'
import { tooMuch } from './answer-body.ts'

type Bytes = Uint8Array<ArrayBuffer>

const lineFeed = 10
const carriageReturn = 13

/** Images inside events are large; what is larger than this is no event. */
const eventLimitBytes = 8_000_000

/**
 * Gathers chunks until events are whole. Nothing is lost: all that comes out and the rest, joined, are what was pushed. A chunk
 * that ends with an event, as nearly all do, comes out as it is, without a copy.
 */
export function createEventGatherer(limitBytes = eventLimitBytes) {
  let endsEvent = createBlankLineFinder()
  let held: Bytes[] = []
  let heldBytes = 0

  const hold = (part: Bytes) => {
    heldBytes += part.byteLength
    if (heldBytes > limitBytes) throw tooMuch('an event is too large')
    held.push(part)
  }
  const release = (): Bytes => {
    const [only, ...more] = held
    const bytes = only && more.length === 0 ? only : concatBytes(held, heldBytes)
    held = []
    heldBytes = 0
    return bytes
  }

  /** The last place in the chunk where an event ends; -1 without one. */
  const lastEnd = (chunk: Bytes): number => {
    const size = chunk.byteLength
    if (size > 1 && chunk[size - 1] === lineFeed && chunk[size - 2] === lineFeed) {
      // The usual case needs no look at the other bytes: whatever they are, two line feeds end an event.
      endsEvent = createBlankLineFinder()
      return size
    }
    let end = -1
    for (let at = 0; at < size; at += 1) end = endsEvent(chunk[at] ?? 0, at) ?? end
    return end
  }

  return {
    /** The events that are whole now, one after the other; undefined when none is. */
    push(chunk: Bytes): Bytes | undefined {
      const end = lastEnd(chunk)
      if (end < 0) {
        hold(chunk)
        return undefined
      }
      if (end > 0) held.push(chunk.subarray(0, end))
      heldBytes += end
      const events = release()
      if (end < chunk.byteLength) hold(chunk.subarray(end))
      return events
    },

    /** What is left at the end of the stream: an event without its blank line, or nothing. */
    rest(): Bytes | undefined {
      return heldBytes > 0 ? release() : undefined
    },
  }
}

/** The single events in a run of whole ones. */
export function splitEvents(run: Bytes): Bytes[] {
  const endsEvent = createBlankLineFinder()
  const events: Bytes[] = []
  let start = 0
  for (let at = 0; at < run.byteLength; at += 1) {
    const end = endsEvent(run[at] ?? 0, at)
    if (end === undefined) continue
    events.push(run.subarray(start, end))
    start = end
  }
  if (start < run.byteLength) events.push(run.subarray(start))
  return events
}

/**
 * Lines end with LF, CRLF or CR; an event ends with an empty line. After a CR, only the next byte tells where that is. Answers
 * the place where an event ended: behind this byte, or just before it.
 */
function createBlankLineFinder() {
  let lineIsEmpty = true
  let afterReturn = false
  let afterBlankReturn = false

  return (byte: number, at: number): number | undefined => {
    if (byte > carriageReturn && !afterReturn) {
      lineIsEmpty = false
      return undefined
    }
    if (byte === lineFeed && afterReturn) {
      const ends = afterBlankReturn
      afterReturn = false
      afterBlankReturn = false
      return ends ? at + 1 : undefined
    }
    const before = afterBlankReturn
    afterReturn = byte === carriageReturn
    const blank = lineIsEmpty && (byte === lineFeed || afterReturn)
    lineIsEmpty = byte === lineFeed || afterReturn
    afterBlankReturn = blank && afterReturn
    if (before) return at // This byte is no line feed, so it cannot end an event by itself.
    return blank && !afterReturn ? at + 1 : undefined
  }
}

/** The joined data lines of an event; undefined when there are none, as in a comment. */
export function dataOf(event: Bytes): string | undefined {
  const lines = new TextDecoder().decode(event).split(/\r\n|\n|\r/)
  const data = lines
    .filter((line) => line === 'data' || line.startsWith('data:'))
    .map((line) => line.slice(5).replace(/^ /, ''))
  return data.length > 0 ? data.join('\n') : undefined
}
