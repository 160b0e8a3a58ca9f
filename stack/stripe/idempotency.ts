/** Idempotency keys: the same request again gets the first one's answer, another request under the same key is refused. */
import { errorBody, Refusal } from './refusals.ts'
import type { Answer } from './routes.ts'

const kept = 50_000

/** Answers that say the request was not understood are not kept: nothing was begun. */
export function createMemory() {
  const seen = new Map<string, { digest: string; answer: Answer | undefined }>()
  return async (key: string, digest: string, run: () => Promise<Answer>): Promise<Answer> => {
    const known = seen.get(key)
    if (known && known.digest !== digest)
      throw new Refusal(400, `The idempotency key ${key} was used for another request before.`, {
        type: 'idempotency_error',
      })
    if (known?.answer) return { ...known.answer, replayed: true }
    if (known)
      throw new Refusal(409, `A request with the idempotency key ${key} is still running.`, {
        type: 'idempotency_error',
        code: 'idempotency_key_in_use',
      })
    const entry: { digest: string; answer: Answer | undefined } = { digest, answer: undefined }
    seen.set(key, entry)
    if (seen.size > kept) for (const oldest of [...seen.keys()].slice(0, kept / 2)) seen.delete(oldest)
    try {
      entry.answer = await run()
      return entry.answer
    } catch (error) {
      if (error instanceof Refusal && error.status === 402)
        entry.answer = { status: 402, text: JSON.stringify(errorBody(error)) }
      else seen.delete(key)
      throw error
    }
  }
}
