/** Bodies that a provider compresses although it was asked not to. What is counted and limited further on is what comes out. */
import type { Transform } from 'node:stream'

type Bytes = Uint8Array<ArrayBuffer>
type Zlib = typeof import('node:zlib')

/** Pushes what comes, and is held back with `pause`: then at most what the runtime has read already is still told. */
export type Source = {
  /** Once. `take` may keep the bytes; `end` is told once, with a cause when the body broke off. */
  listen(take: (bytes: Bytes) => void, end: (cause?: unknown) => void): void
  pause(): void
  resume(): void
  cancel(): void
}

/**
 * The body in clear. The header is not enough to go by: node:http decodes nothing, Deno's fetch nothing but what it asked for itself,
 * and that of Node everything, and leaves the header.
 */
export async function inClear(source: Source, contentEncoding: string): Promise<Source> {
  const coding = contentEncoding.trim().toLowerCase()
  if (coding === '' || coding === 'identity') return source
  const zlib = await import('node:zlib')
  return decoded(source, (start) => decoderFor(coding, start, zlib))
}

const isGzip = ([first, second]: Bytes) => first === 0x1f && second === 0x8b
/** RFC 1950; without it, deflate is bare. */
const isZlib = ([first = 0, second = 0]: Bytes) => (first & 15) === 8 && ((first << 8) | second) % 31 === 0
/** JSON, events or a page. */
const isText = (start: Bytes) =>
  /^\s*(?:[{[]\s*["{[\]}]|<[!a-z]|(?:data|event|id|retry)?:)/i.test(latin1.decode(start.subarray(0, 64)))
const latin1 = new TextDecoder('latin1')

/** Undefined for what is not compressed, whatever the header says. */
function decoderFor(coding: string, start: Bytes, zlib: Zlib): Transform | undefined {
  if (isGzip(start)) return zlib.createGunzip()
  if (isText(start)) return undefined
  if (coding === 'br') return zlib.createBrotliDecompress()
  if (coding !== 'deflate') return undefined
  return isZlib(start) ? zlib.createInflate() : zlib.createInflateRaw()
}

/** What was pushed comes out decoded; who holds it back holds the provider back. */
function decoded(source: Source, makeDecoder: (start: Bytes) => Transform | undefined): Source {
  let decoder: Transform | undefined
  let isOpen = false
  return {
    listen(take, end) {
      let isOver = false
      const finish = (cause?: unknown) => {
        if (!isOver) end(cause)
        isOver = true
      }
      const open = (start: Bytes) => {
        isOpen = true
        decoder = makeDecoder(start)
        decoder?.on('data', take).on('end', () => finish())
        decoder?.on('drain', () => source.resume())
        decoder?.on('error', (cause) => {
          source.cancel()
          finish(cause)
        })
      }
      source.listen(
        (bytes) => {
          if (!isOpen) open(bytes)
          if (!decoder) take(bytes)
          else if (!decoder.write(bytes)) source.pause()
        },
        (cause) => (decoder && cause === undefined ? void decoder.end() : finish(cause)),
      )
    },
    pause: () => (decoder ? void decoder.pause() : source.pause()),
    resume() {
      decoder?.resume()
      source.resume()
    },
    cancel() {
      source.cancel()
      decoder?.destroy()
    },
  }
}
