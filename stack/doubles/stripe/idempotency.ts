/** Idempotency keys: the same request again gets the first one's answer, another request under the same key is refused. */
import { errorBody, Refusal } from './refusals.ts'
import type { Answer } from './routes.ts'
import type { State } from './state.ts'

const kept = 50_000

/** Keeps the answer of whatever began to run, refusals and failures too, as Stripe does for a day. */
export async function once(state: State, key: string, digest: string, run: () => Promise<Answer>): Promise<Answer> {
  const { answers } = state
  const known = answers.get(key)
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
  answers.set(key, entry)
  if (answers.size > kept) for (const oldest of [...answers.keys()].slice(0, kept / 2)) answers.delete(oldest)
  try {
    entry.answer = await run()
  } catch (error) {
    if (!(error instanceof Refusal)) {
      answers.delete(key)
      throw error
    }
    entry.answer = { status: error.status, text: JSON.stringify(errorBody(error)) }
  }
  return entry.answer
}
