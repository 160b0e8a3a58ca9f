/** One abort signal for everything that can end a call early, the caller who hangs up or a slow provider, and one timer for all calls. */
import { AppError } from '../errors.ts'
import { causeOf } from '../failure.ts'
import type { Wheel } from '../wheel.ts'
import type { within } from '../within.ts'

export type Watch = ReturnType<typeof watchCall>

const tooLate = (cause: string) => new AppError('upstream_timeout', { cause })

type WatchOptions = {
  totalMs: number
  /** Asked once, when the caller has gone: whether the provider, who works on, is listened to until it is done. */
  readsOn(): boolean
}

/**
 * `totalMs` runs even while nobody reads: a caller who stops reading must not keep the provider's connection for ever.
 * Deadlines are numbers that the wheel looks at: neither a call nor a chunk of a stream sets a timer.
 */
export function watchCall(caller: AbortSignal, { totalMs, readsOn }: WatchOptions, wheel: Wheel) {
  const ended = new AbortController()
  const endsAt = performance.now() + totalMs
  let attempt: AbortController | undefined
  let byteDueAt = Number.POSITIVE_INFINITY
  /** Since the last look a byte came, and the next one has so long. */
  let nextByteMs: number | undefined

  const stop = () => {
    leaveWheel()
    caller.removeEventListener('abort', hangUp)
  }
  const end = (reason: AppError) => {
    stop()
    ended.abort(reason)
    attempt?.abort(reason)
  }
  const look = (now: number) => {
    if (now >= endsAt) return end(tooLate(`not finished after ${totalMs} ms`))
    if (nextByteMs !== undefined) {
      byteDueAt = now + nextByteMs
      nextByteMs = undefined
    } else if (now >= byteDueAt) {
      byteDueAt = Number.POSITIVE_INFINITY
      attempt?.abort(tooLate('the provider was silent for too long'))
    }
  }
  let isLeft = false
  const hangUp = () => {
    if (isLeft || ended.signal.aborted) return
    isLeft = true
    if (!readsOn()) end(new AppError('client_closed_request'))
  }
  const leaveWheel = wheel(look)
  // Who is gone already has nobody working for them.
  if (caller.aborted) {
    isLeft = true
    end(new AppError('client_closed_request'))
  } else caller.addEventListener('abort', hangUp, { once: true })

  return {
    /** Aborted when the call is over as a whole, with the reason. */
    signal: ended.signal,
    hangUp,
    /** The caller has gone: what still comes is listened to for what it costs. */
    isLeft: () => isLeft,

    /** A signal for one asking of a provider, which also ends with the call. The asking before is over. */
    beginAttempt(): AbortSignal {
      attempt?.abort(tooLate('given up'))
      attempt = new AbortController()
      if (ended.signal.aborted) attempt.abort(ended.signal.reason)
      return attempt.signal
    },
    /** From now on the provider has so long to send something; else the attempt is aborted. */
    expectByte(withinMs: number): void {
      nextByteMs = undefined
      byteDueAt = performance.now() + withinMs
    },
    /** Something came, and the next must come within so long. No look at the clock, since this is said of every chunk. */
    noteByte(withinMs: number): void {
      nextByteMs = withinMs
    },
    /** Nothing is awaited from the provider: all came, or the caller is slow to read. */
    expectNothing(): void {
      nextByteMs = undefined
      byteDueAt = Number.POSITIVE_INFINITY
    },
    end: stop,
  }
}

/** As within.ts, with no timer of its own: up to a quarter of a second longer. */
export const createPatience =
  (wheel: Wheel): typeof within =>
  (ms, work) =>
    new Promise((resolve, reject) => {
      const until = performance.now() + ms
      const leaveWheel = wheel((now) => {
        if (now < until) return
        leaveWheel()
        resolve(undefined)
      })
      work.then(resolve, reject).finally(leaveWheel)
    })

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

/** From then on a process that dies leaves word that the answer had begun. */
const markedAfterMs = 1_000

type MarkWorld = {
  wheel: Wheel
  start(callIds: string[]): Promise<unknown>
  waitUntil(work: Promise<unknown>): void
  log(line: Record<string, unknown>): void
}

/**
 * Tells the ledger of streams that have run for a second, all that have at once, in case this process does not live to settle
 * them. Shorter ones cost no statement; docs/decisions.md says who pays when the process dies in that second.
 */
export function createMarks({ start, wheel, waitUntil, log }: MarkWorld) {
  /** When they began, oldest first. */
  const young = new Map<string, number>()
  let leaveWheel: (() => void) | undefined
  const failed = (error: unknown) => log({ level: 'error', message: 'starts were not recorded', ...causeOf(error) })

  const look = (now: number) => {
    const due: string[] = []
    for (const [callId, begunAt] of young) {
      if (now - begunAt < markedAfterMs) break
      due.push(callId)
      young.delete(callId)
    }
    if (due.length > 0) waitUntil(start(due).catch(failed))
    if (young.size > 0) return
    leaveWheel?.()
    leaveWheel = undefined
  }
  return {
    begin(callId: string): void {
      young.set(callId, performance.now())
      leaveWheel ??= wheel(look)
    },
    end: (callId: string): void => void young.delete(callId),
  }
}
