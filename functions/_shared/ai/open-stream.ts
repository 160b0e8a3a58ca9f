/** A stream up to its first event: what it is shows there, and until then the provider can be asked again. */
import { AppError } from '../errors.ts'
import type { AnswerBody } from './answer-body.ts'
import { createStreamObserver, hasData, type Passage } from './observe-stream.ts'
import { createEventGatherer } from './sse-events.ts'

/** The stream from its first event on. `next` is undefined when the provider has nothing more to say. */
export type StreamOpening = {
  first: Passage[]
  observer: ReturnType<typeof createStreamObserver>
  next(): Promise<Passage | undefined>
}

/** How long keep-alive comments are held back to see what the first real event is. */
const openingMs = 5_000

/** Up to the first event that is no comment. While nothing was sent, an error can still be a status of its own. */
export async function openStream(body: AnswerBody, wantsUsage: boolean, now: () => number): Promise<StreamOpening> {
  const openedAt = now()
  const observer = createStreamObserver(wantsUsage)
  const nextEvents = gather(body)
  const next = async () => {
    const events = await nextEvents()
    return events && observer.observe(events)
  }
  const first: Passage[] = []
  for (;;) {
    const events = await nextEvents()
    if (!events) throw new AppError('upstream_error', { cause: 'the stream ended before it began' })
    first.push(observer.observe(events))
    const { failed, contentBytes } = observer.observed
    if (failed && contentBytes === 0) throw new AppError('upstream_error', { cause: 'the stream began with an error' })
    if (hasData(events) || now() - openedAt >= openingMs) return { first, observer, next }
  }
}

function gather(body: AnswerBody): () => Promise<Uint8Array<ArrayBuffer> | undefined> {
  const gatherer = createEventGatherer()
  return async () => {
    for (;;) {
      const chunk = await body.read()
      if (!chunk) return gatherer.rest()
      const events = gatherer.push(chunk)
      if (events) return events
    }
  }
}
