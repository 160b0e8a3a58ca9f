/** The bytes of a provider's answer, chunk by chunk. Whatever ends them early is an error of ours. */
import { AppError } from '../errors.ts'
import { BodyTooLarge, concatBytes } from '../http/read-body.ts'
import type { Watch } from './watch-call.ts'

export type AnswerBody = {
  /** The next chunk; undefined at the end. */
  read(): Promise<Uint8Array<ArrayBuffer> | undefined>
  /** Puts a chunk back, so that it is the next to be read. */
  unread(chunk: Uint8Array<ArrayBuffer>): void
  cancel(): void
}

/** Each chunk must come within `idleMs`, the first one within `firstMs`. */
export function openBody(
  response: Response,
  watch: Watch,
  signal: AbortSignal,
  { firstMs, idleMs }: { firstMs: number; idleMs: number },
): AnswerBody {
  const reader = response.body?.getReader()
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
      const { value } = await reader.read()
      signal.throwIfAborted()
      waitMs = idleMs
      return value
    } catch (cause) {
      throw signal.aborted ? signal.reason : new AppError('upstream_error', { cause })
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
