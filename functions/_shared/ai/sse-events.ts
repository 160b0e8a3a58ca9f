/** Server-sent events as bytes. Chunks may be cut anywhere: inside a character, inside CRLF, inside a field name. */
import { AppError } from '../errors.ts'
import { concatBytes } from '../http/read-body.ts'

const lineFeed = 10
const carriageReturn = 13

/** Images inside events are large; what is larger than this is no event. */
const eventLimitBytes = 8_000_000

export type SseEvent = {
  /** The event with its blank line, exactly as it came. */
  bytes: Uint8Array<ArrayBuffer>
  /** The joined data lines; undefined when there are none, as in a comment. */
  data: string | undefined
}

/** Gathers chunks and gives back whole events. Nothing is lost: all events and the rest, joined, are what was pushed. */
export function createEventSplitter(limitBytes = eventLimitBytes) {
  const endsEvent = createBlankLineFinder()
  let held: Uint8Array[] = []
  let heldBytes = 0

  const hold = (part: Uint8Array) => {
    heldBytes += part.byteLength
    if (heldBytes > limitBytes) throw new AppError('upstream_error', { cause: 'an event is too large' })
    held.push(part)
  }
  const release = (): SseEvent => {
    const bytes = concatBytes(held, heldBytes)
    held = []
    heldBytes = 0
    return { bytes, data: dataOf(bytes) }
  }

  return {
    push(chunk: Uint8Array): SseEvent[] {
      const events: SseEvent[] = []
      let start = 0
      for (let at = 0; at < chunk.byteLength; at += 1) {
        const where = endsEvent(chunk[at] ?? 0)
        if (where === 'no') continue
        const end = where === 'before' ? at : at + 1
        hold(chunk.subarray(start, end))
        events.push(release())
        start = end
      }
      if (start < chunk.byteLength) hold(chunk.subarray(start))
      return events
    },

    /** What is left at the end of the stream: an event without its blank line, or nothing. */
    rest(): SseEvent | undefined {
      return heldBytes > 0 ? release() : undefined
    },
  }
}

/** Lines end with LF, CRLF or CR; an event ends with an empty line. After a CR, only the next byte tells where that is. */
function createBlankLineFinder() {
  let lineIsEmpty = true
  let afterReturn = false
  let afterBlankReturn = false

  return (byte: number): 'no' | 'before' | 'after' => {
    if (byte === lineFeed && afterReturn) {
      const ends = afterBlankReturn
      afterReturn = false
      afterBlankReturn = false
      return ends ? 'after' : 'no'
    }
    const before = afterBlankReturn
    afterReturn = byte === carriageReturn
    const blank = lineIsEmpty && (byte === lineFeed || afterReturn)
    lineIsEmpty = byte === lineFeed || afterReturn
    afterBlankReturn = blank && afterReturn
    if (before) return 'before' // This byte is no line feed, so it cannot end an event by itself.
    return blank && !afterReturn ? 'after' : 'no'
  }
}

function dataOf(bytes: Uint8Array): string | undefined {
  const lines = new TextDecoder().decode(bytes).split(/\r\n|\n|\r/)
  const data = lines
    .filter((line) => line === 'data' || line.startsWith('data:'))
    .map((line) => line.slice(5).replace(/^ /, ''))
  return data.length > 0 ? data.join('\n') : undefined
}

/** The events of a body, pulled one by one: no more is read than is asked for. `read` bounds the wait for each chunk. */
export async function* readEvents(
  body: ReadableStream<Uint8Array>,
  read: <T>(work: Promise<T>) => Promise<T>,
): AsyncGenerator<SseEvent> {
  const reader = body.getReader()
  const splitter = createEventSplitter()
  try {
    for (;;) {
      const { done, value } = await read(reader.read())
      if (done) break
      yield* splitter.push(value)
    }
    const rest = splitter.rest()
    if (rest) yield rest
  } finally {
    reader.cancel().catch(() => {})
  }
}
