/** One abort signal and one timer for everything that can end a call early: the caller hangs up, or the provider is too slow. */
import { AppError } from '../errors.ts'

export type Watch = ReturnType<typeof watchCall>

const tooLate = (cause: string) => new AppError('upstream_timeout', { cause })

/**
 * `totalMs` runs even while nobody reads: a caller who stops reading must not keep the provider's connection for ever.
 * Deadlines are numbers and the timer looks at them: a stream of thousands of chunks sets a few timers, not thousands.
 */
export function watchCall(caller: AbortSignal, totalMs: number) {
  const ended = new AbortController()
  const endsAt = performance.now() + totalMs
  let attempt: AbortController | undefined
  let isOver = false
  let byteDueAt = Number.POSITIVE_INFINITY
  let timer: ReturnType<typeof setTimeout> | undefined
  let firesAt = Number.POSITIVE_INFINITY

  const end = (reason: AppError) => {
    isOver = true
    clearTimeout(timer)
    ended.abort(reason)
    attempt?.abort(reason)
  }
  const arm = () => {
    clearTimeout(timer)
    if (isOver) return
    firesAt = Math.min(endsAt, byteDueAt)
    timer = setTimeout(check, Math.max(0, firesAt - performance.now()))
  }
  const check = () => {
    const now = performance.now()
    if (now >= endsAt) return end(tooLate(`not finished after ${totalMs} ms`))
    if (now >= byteDueAt) {
      byteDueAt = Number.POSITIVE_INFINITY
      attempt?.abort(tooLate('the provider was silent for too long'))
    }
    arm()
  }
  const hangUp = () => end(new AppError('client_closed_request'))
  if (caller.aborted) hangUp()
  else caller.addEventListener('abort', hangUp, { once: true })
  arm()

  return {
    /** Aborted when the call is over as a whole, with the reason. */
    signal: ended.signal,
    hangUp,

    /** A signal for one asking of a provider, which also ends with the call. The asking before is over. */
    beginAttempt(): AbortSignal {
      attempt?.abort(tooLate('given up'))
      attempt = new AbortController()
      if (ended.signal.aborted) attempt.abort(ended.signal.reason)
      return attempt.signal
    },
    /** From now on the provider has so long to send something; else the attempt is aborted. */
    expectByte(withinMs: number): void {
      byteDueAt = performance.now() + withinMs
      if (byteDueAt < firesAt) arm()
    },
    /** Nothing is awaited from the provider: it came, or the caller is slow to read. */
    expectNothing(): void {
      byteDueAt = Number.POSITIVE_INFINITY
    },
    end(): void {
      isOver = true
      clearTimeout(timer)
      caller.removeEventListener('abort', hangUp)
    },
  }
}

/** Waits for work that may not listen to the signal. */
export async function untilAborted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  let stop = () => {}
  try {
    return await new Promise<T>((resolve, reject) => {
      stop = () => reject(signal.reason)
      signal.addEventListener('abort', stop, { once: true })
      work.then(resolve, reject)
      if (signal.aborted) stop()
    })
  } finally {
    signal.removeEventListener('abort', stop)
  }
}
