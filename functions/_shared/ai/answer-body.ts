/** The bytes of a provider's answer, pushed as they come. Whatever ends them early is an error of ours. */
import { AppError } from '../errors.ts'
import { describeTransport } from '../failure.ts'
import { BodyTooLarge, concatBytes } from '../http/read-body.ts'
import type { Source } from './decode-body.ts'
import type { Watch } from './watch-call.ts'

type Bytes = Uint8Array<ArrayBuffer>

export type AnswerBody = {
  /** Once. `take` is told every chunk, `end` once that no more will come, with the reason when the body broke off. */
  listen(take: (chunk: Bytes) => void, end: (error?: AppError) => void): void
  /** The provider waits, and so do its deadlines. A little may still come. */
  pause(): void
  resume(): void
  cancel(): void
}

type Patience = { firstMs: number; idleMs: number }

/** Each chunk must come within `idleMs`, the first one within `firstMs`. The end of the signal is the end of the body. */
export function openBody(source: Source, watch: Watch, signal: AbortSignal, { firstMs, idleMs }: Patience): AnswerBody {
  let isOver = false
  let isPaused = false
  let tellEnd = (_error?: AppError) => {}

  const finish = (error?: AppError) => {
    if (isOver) return
    isOver = true
    watch.expectNothing()
    signal.removeEventListener('abort', stop)
    tellEnd(error)
  }
  const stop = () => {
    source.cancel()
    finish(signal.reason)
  }
  if (signal.aborted) stop()
  else signal.addEventListener('abort', stop, { once: true })

  return {
    listen(take, end) {
      if (isOver) return end(signal.reason)
      tellEnd = end
      watch.expectByte(firstMs)
      source.listen(
        (chunk) => {
          if (isOver) return
          if (!isPaused) watch.noteByte(idleMs)
          take(chunk)
        },
        (cause) =>
          finish(cause === undefined ? undefined : new AppError('upstream_error', { cause: describeTransport(cause) })),
      )
    },
    pause() {
      if (isPaused || isOver) return
      isPaused = true
      watch.expectNothing()
      source.pause()
    },
    resume() {
      if (!isPaused || isOver) return
      isPaused = false
      watch.expectByte(idleMs)
      source.resume()
    },
    cancel() {
      if (!isOver) source.cancel()
      finish()
    },
  }
}

/** Another asking would be answered the same, and this one is paid: it is the caller who asked for so much. */
export const tooMuch = (cause: string) =>
  new AppError('upstream_error', {
    message: 'The AI provider’s answer is larger than what is passed on. Ask for less at once.',
    shouldRetry: false,
    isTooMuch: true,
    cause,
  })

/** Gathers a body in memory, up to so many bytes. */
export function gatherBody(body: AnswerBody, limitBytes: number) {
  const chunks: Bytes[] = []
  let size = 0
  let ended: { error: unknown } | undefined
  const { promise: isOver, resolve: tellOver } = Promise.withResolvers<void>()

  const end = (error?: unknown) => {
    ended ??= { error }
    tellOver()
  }
  body.listen((chunk) => {
    chunks.push(chunk)
    size += chunk.byteLength
    if (size <= limitBytes) return
    end(new BodyTooLarge())
    body.cancel()
  }, end)

  return {
    /** Throws BodyTooLarge, or why the body broke off. */
    async whole(): Promise<Bytes> {
      await isOver
      if (ended?.error !== undefined) throw ended.error
      const [only] = chunks
      return only && chunks.length === 1 ? only : concatBytes(chunks, size)
    },
  }
}
