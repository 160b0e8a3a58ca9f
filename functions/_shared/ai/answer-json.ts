/** A whole answer at once: read, checked, settled, and then passed on as it came. */
import { AppError } from '../errors.ts'
import { BodyTooLarge } from '../http/read-body.ts'
import { type AnswerBody, gatherBody } from './answer-body.ts'
import type { Answer } from './call-provider.ts'
import type { OpenCall } from './open-call.ts'
import { hasError, type ProviderAnswer, readProviderAnswer, usageOf } from './provider-answer.ts'
import type { Endpoint } from './snapshot.ts'

/** Vectors and images are large; a worker has 256 MB for all its calls. */
const answerLimitBytes: Record<Endpoint, number> = {
  'chat.completions': 8_000_000,
  embeddings: 32_000_000,
  'images.generations': 32_000_000,
}
const keptLimitBytes = 1_000_000

type Whole = ReturnType<typeof gatherBody>

/** Up to the first bytes: a provider that sends headers and then nothing can still be asked again. */
export async function openJson(body: AnswerBody, endpoint: Endpoint): Promise<Whole> {
  const whole = gatherBody(body, answerLimitBytes[endpoint])
  if (!(await whole.hasBegun())) throw new AppError('upstream_error', { cause: 'the answer is empty' })
  return whole
}

const decoder = new TextDecoder()

/** Settled before it is sent, so that the caller sees the new balance and the cost at once. */
export async function answerJson({ signal, opening }: Answer<Whole>, call: OpenCall) {
  const { endpoint } = call.request
  const bytes = await readAnswer(opening)
  const text = decoder.decode(bytes)
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
  return { body: bytes, settlement }
}

const isWhole = ({ choices, data }: ProviderAnswer, endpoint: Endpoint) =>
  (endpoint === 'chat.completions' ? choices : data) !== undefined

async function readAnswer(whole: Whole): Promise<Uint8Array<ArrayBuffer>> {
  try {
    return await whole.whole()
  } catch (error) {
    if (error instanceof AppError) throw error
    throw new AppError('upstream_error', { cause: error instanceof BodyTooLarge ? 'the answer is too large' : error })
  }
}
