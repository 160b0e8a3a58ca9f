/** Bodies that a provider compresses although it was asked not to. What is counted and limited further on is what comes out. */
import type { Transform } from 'node:stream'
import { concatBytes } from '../http/read-body.ts'

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
  /^\s*(?:[{[]\s*["{[\]}]|<[!a-z]|(?:data|event|id|retry)?:)/i.test(latin1.decode(start.subarray(0, startBytes)))
const latin1 = new TextDecoder('latin1')
const startBytes = 64

/** The first piece may be a single byte: whether it is compressed shows in two, whether it is a text soon. */
const isTooShort = (start: Bytes) =>
  start.byteLength < 2 ||
  (start.byteLength < startBytes && /^\s*(?:[{[]\s*|<|[a-z]{1,5})?$/i.test(latin1.decode(start)))

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
  let start: Bytes | undefined
  return {
    listen(take, end) {
      let isOver = false
      const finish = (cause?: unknown) => {
        if (!isOver) end(cause)
        isOver = true
      }
      const open = (begun: Bytes) => {
        isOpen = true
        start = undefined
        decoder = makeDecoder(begun)
        decoder?.on('data', take).on('end', () => finish())
        decoder?.on('drain', () => source.resume())
        decoder?.on('error', (cause) => {
          source.cancel()
          finish(cause)
        })
      }
      const pass = (bytes: Bytes) => {
        if (!isOpen) open(bytes)
        if (!decoder) take(bytes)
        else if (!decoder.write(bytes)) source.pause()
      }
      source.listen(
        (bytes) => {
          if (isOpen) return pass(bytes)
          start = start ? concatBytes([start, bytes], start.byteLength + bytes.byteLength) : bytes
          if (!isTooShort(start)) pass(start)
        },
        (cause) => {
          if (start && start.byteLength > 0) pass(start)
          if (decoder && cause === undefined) decoder.end()
          else finish(cause)
        },
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
