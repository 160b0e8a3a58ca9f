/** The bytes of a provider's answer, chunk by chunk. Whatever ends them early is an error of ours. */
import { AppError } from '../errors.ts'
import { describeTransport } from '../failure.ts'
import { BodyTooLarge, concatBytes } from '../http/read-body.ts'
import type { Watch } from './watch-call.ts'

export type AnswerBody = {
  /** The next chunk; undefined at the end. */
  read(): Promise<Uint8Array<ArrayBuffer> | undefined>
  /** Puts a chunk back, so that it is the next to be read. */
  unread(chunk: Uint8Array<ArrayBuffer>): void
  cancel(): void
}

/** Events of a stream are a few hundred bytes; buffers grow while they come back full. */
const smallPieceBytes = 8_192
const largestPieceBytes = 65_536

type Read = () => Promise<{ done: boolean; value: Uint8Array<ArrayBuffer> | undefined }>

/**
 * Reads into buffers that fit. The runtime's own are of 64 KiB for every chunk, however small, and the pressure of so much
 * memory outside of the heap makes V8 collect garbage all the time: half of what a call costs.
 */
function readerOf({ body, headers }: Response): { read: Read; cancel(): Promise<void> } | undefined {
  if (!body) return undefined
  const announced = Number(headers.get('content-length') ?? 0)
  let size = Math.min(announced > 0 ? announced + 1 : smallPieceBytes, largestPieceBytes)
  let reader: ReadableStreamBYOBReader
  try {
    reader = body.getReader({ mode: 'byob' })
  } catch {
    // Some streams have chunks of their own, such as those of tests.
    return body.getReader()
  }
  const read: Read = async () => {
    const result = await reader.read(new Uint8Array(size))
    if (result.value?.byteLength === size) size = Math.min(2 * size, largestPieceBytes)
    return result
  }
  return { read, cancel: () => reader.cancel() }
}

/** Each chunk must come within `idleMs`, the first one within `firstMs`. */
export function openBody(
  response: Response,
  watch: Watch,
  signal: AbortSignal,
  { firstMs, idleMs }: { firstMs: number; idleMs: number },
): AnswerBody {
  const reader = readerOf(response)
  const unread: Uint8Array<ArrayBuffer>[] = []
  let waitMs = firstMs
  // A cancelled reader answers at once, also when what it reads from does not listen to the signal.
  const cancel = () => void reader?.cancel().catch(() => {})
  if (signal.aborted) cancel()
  else signal.addEventListener('abort', cancel, { once: true })

  const read = async () => {
    const kept = unread.shift()
    if (kept || !reader) return kept
    watch.expectByte(waitMs)
    try {
      const { done, value } = await reader.read()
      signal.throwIfAborted()
      waitMs = idleMs
      return done ? undefined : value
    } catch (cause) {
      throw signal.aborted ? signal.reason : new AppError('upstream_error', { cause: describeTransport(cause) })
    } finally {
      watch.expectNothing()
    }
  }
  return { read, unread: (chunk) => void unread.push(chunk), cancel }
}

export async function readWhole(body: AnswerBody, limitBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array[] = []
  let size = 0
  for (;;) {
    const chunk = await body.read()
    if (!chunk) return concatBytes(chunks, size)
    size += chunk.byteLength
    if (size > limitBytes) {
      body.cancel()
      throw new BodyTooLarge()
    }
    chunks.push(chunk)
  }
}
