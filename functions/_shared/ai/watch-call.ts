/** One abort signal for everything that can end a call early: the caller hangs up, or the provider is too slow. */
import { AppError } from '../errors.ts'

export type Watch = ReturnType<typeof watchCall>

/** `totalMs` runs even while nobody reads: a caller who stops reading must not keep the provider's connection for ever. */
export function watchCall(caller: AbortSignal, totalMs: number) {
  const ended = new AbortController()
  const hangUp = () => ended.abort(new AppError('client_closed_request'))
  const tooLate = (cause: string) => ended.abort(new AppError('upstream_timeout', { cause }))
  const total = setTimeout(tooLate, totalMs, `not finished after ${totalMs} ms`)
  if (caller.aborted) hangUp()
  else caller.addEventListener('abort', hangUp, { once: true })

  /** Waits for `work`, at most so long. Rejects with the signal's reason, also when `work` does not listen to the signal. */
  const within = async <T>(ms: number, work: Promise<T>): Promise<T> => {
    const timer = setTimeout(tooLate, ms, `no byte for ${ms} ms`)
    const { signal } = ended
    let stop = () => {}
    try {
      // Not Promise.race with one long-lived promise: that would keep a reaction for every chunk until the call ends.
      return await new Promise<T>((resolve, reject) => {
        stop = () => reject(signal.reason)
        signal.addEventListener('abort', stop, { once: true })
        work.then(resolve, reject)
        if (signal.aborted) stop()
      })
    } catch (error) {
      throw signal.aborted ? signal.reason : error
    } finally {
      clearTimeout(timer)
      signal.removeEventListener('abort', stop)
    }
  }

  const end = () => {
    clearTimeout(total)
    caller.removeEventListener('abort', hangUp)
  }
  return { signal: ended.signal, within, hangUp, end }
}
