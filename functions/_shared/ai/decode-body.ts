/** Bodies that a provider compresses although it was asked not to. What is counted and limited further on is what comes out. */
import type { Transform } from 'node:stream'
import type { Source } from './ask-provider.ts'

type Bytes = Uint8Array<ArrayBuffer>
type Zlib = typeof import('node:zlib')

/** Whether the runtime leaves decoding to us; fetch decodes what it knows, and not all say so in the headers. */
type Runtime = 'leaves all' | 'may have decoded'

/** The body in clear. */
export async function inClear(source: Source, contentEncoding: string, runtime: Runtime): Promise<Source> {
  const coding = contentEncoding.trim().toLowerCase()
  if (coding === '' || coding === 'identity') return source
  const zlib = await import('node:zlib')
  return decoded(source, (start) => decoderFor(coding, start, zlib, runtime))
}

const isGzip = ([first, second]: Bytes) => first === 0x1f && second === 0x8b
/** RFC 1950. Neither JSON nor events begin so. */
const isZlib = ([first = 0, second = 0]: Bytes) => (first & 15) === 8 && ((first << 8) | second) % 31 === 0
const beginsAsText = ([first = 0]: Bytes) => /[\s{["<:a-z]/i.test(String.fromCharCode(first))

/** Undefined for what is not compressed, whatever the header says. */
function decoderFor(coding: string, start: Bytes, zlib: Zlib, runtime: Runtime): Transform | undefined {
  if (isGzip(start)) return zlib.createGunzip()
  if (coding === 'deflate' && isZlib(start)) return zlib.createInflate()
  if (runtime === 'may have decoded') return undefined
  if (coding === 'br') return zlib.createBrotliDecompress()
  // Some send it bare, without the header of zlib.
  return coding === 'deflate' && !beginsAsText(start) ? zlib.createInflateRaw() : undefined
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
