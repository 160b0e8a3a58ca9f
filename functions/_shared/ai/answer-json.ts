/** A whole answer at once: read, checked, settled, and then passed on as it came. */
import { AppError } from '../errors.ts'
import { BodyTooLarge } from '../http/read-body.ts'
import { type AnswerBody, readWhole } from './answer-body.ts'
import type { Answer } from './call-provider.ts'
import type { Endpoint, Settlement } from './ledger.ts'
import type { OpenCall } from './open-call.ts'
import { hasError, type ProviderAnswer, readProviderAnswer, usageOf } from './provider-answer.ts'

/** Vectors and images are large; a worker has 256 MB for all its calls. */
const answerLimitBytes: Record<Endpoint, number> = {
  'chat.completions': 8_000_000,
  embeddings: 32_000_000,
  'images.generations': 32_000_000,
}
const keptLimitBytes = 1_000_000

/** Up to the first bytes: a provider that sends headers and then nothing can still be asked again. */
export async function openJson(body: AnswerBody): Promise<void> {
  const first = await body.read()
  if (!first) throw new AppError('upstream_error', { cause: 'the answer is empty' })
  body.unread(first)
}

/** Settled before it is sent, so that the caller sees the new balance and the cost at once. */
export async function answerJson(
  { body, signal }: Answer<void>,
  call: OpenCall,
  onSettled: (settlement: Settlement) => void,
): Promise<Response> {
  const { endpoint } = call.request
  const bytes = await readAnswer(body, answerLimitBytes[endpoint])
  const text = new TextDecoder().decode(bytes)
  const answer = readProviderAnswer(text)
  if (!answer || hasError(answer) || !isWhole(answer, endpoint))
    throw new AppError('upstream_error', { cause: 'the answer is not what was asked for' })
  signal.throwIfAborted()
  const settlement = await call.close({
    error: undefined,
    usage: usageOf(answer),
    contentBytes: answer.contentBytes,
    images: endpoint === 'images.generations' ? (answer.data ?? []).length : 0,
    responseBytes: bytes.byteLength,
    response: call.keepsAnswer && bytes.byteLength <= keptLimitBytes ? text : null,
  })
  if (settlement) onSettled(settlement)
  return new Response(bytes, { headers: { 'content-type': 'application/json' } })
}

const isWhole = ({ choices, data }: ProviderAnswer, endpoint: Endpoint) =>
  (endpoint === 'chat.completions' ? choices : data) !== undefined

async function readAnswer(body: AnswerBody, limitBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  try {
    return await readWhole(body, limitBytes)
  } catch (error) {
    if (error instanceof AppError) throw error
    throw new AppError('upstream_error', { cause: error instanceof BodyTooLarge ? 'the answer is too large' : error })
  }
}
