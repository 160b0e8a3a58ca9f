/** A whole answer at once: read, judged, settled, and then passed on as it came. */
import { AppError } from '../errors.ts'
import { BodyTooLarge } from '../http/read-body.ts'
import { type AnswerBody, gatherBody, tooMuch } from './answer-body.ts'
import type { Answer } from './call-provider.ts'
import { type OpenCall, usedBy } from './open-call.ts'
import { imagesIn, isAnswer, type ProviderAnswer, parseJson, readProviderAnswer } from './provider-answer.ts'
import { type KeySent, refusalOf } from './provider-refusal.ts'
import type { Endpoint } from './snapshot.ts'
import { dataOf, splitEvents } from './sse-events.ts'

/** Vectors and images are large; a worker has 256 MB for all its calls. */
const answerLimitBytes: Record<Endpoint, number> = {
  'chat.completions': 8_000_000,
  embeddings: 32_000_000,
  'images.generations': 32_000_000,
}
const keptLimitBytes = 1_000_000

type Whole = { bytes: Uint8Array<ArrayBuffer>; text: string; answer: ProviderAnswer }

const decoder = new TextDecoder()

/** All of it: before it is read nobody knows whether it is an answer, and until then another try or provider may give one. */
export async function openJson(body: AnswerBody, endpoint: Endpoint, key: KeySent): Promise<Whole> {
  const bytes = await readWhole(body, answerLimitBytes[endpoint])
  if (bytes.byteLength === 0) throw new AppError('upstream_error', { cause: 'the answer is empty' })
  const text = decoder.decode(bytes)
  const answer = readProviderAnswer(text)
  if (answer && !answer.failure && isAnswer(answer, endpoint)) return { bytes, text, answer }
  throw notWhatWasAsked(text, key, answer)
}

async function readWhole(body: AnswerBody, limitBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  try {
    return await gatherBody(body, limitBytes).whole()
  } catch (error) {
    if (error instanceof AppError) throw error
    if (error instanceof BodyTooLarge) throw tooMuch('the answer is too large')
    throw new AppError('upstream_error', { cause: error })
  }
}

/**
 * What a body behind 200 is that is no answer: an error of the caller's or of the provider's, or what was not asked for, JSON for a
 * stream or a stream for JSON. That was worked out and is paid, so nobody is asked for it again.
 */
export function notWhatWasAsked(text: string, key: KeySent, answer = readProviderAnswer(text)): AppError {
  if (answer && (answer.failure || !answer.choices?.length))
    return refusalOf({ status: undefined, body: answer.failure ?? parseJson(text) }, key)
  if (answer) return otherForm('JSON for a stream')
  if (!/^(?:data|event|id|retry)?:/.test(text)) return new AppError('upstream_error', { cause: 'the answer is none' })
  const chunks = splitEvents(new TextEncoder().encode(text.slice(0, openingBytes))).map((event) => dataOf(event) ?? '')
  const failure = chunks.map((data) => readProviderAnswer(data)?.failure).find((found) => found !== undefined)
  return failure ? refusalOf({ status: undefined, body: failure }, key) : otherForm('a stream for JSON')
}

const openingBytes = 64_000

const otherForm = (what: string) =>
  new AppError('upstream_error', {
    message: `The AI provider answered with ${what}.`,
    shouldRetry: false,
    cause: `the provider answered with ${what}`,
  })

/** Settled before it is sent, so that the caller sees the new balance and the cost at once. */
export async function answerJson({ signal, opening }: Answer<Whole>, call: OpenCall) {
  const { bytes, text, answer } = opening
  const { endpoint, images } = call.request
  signal.throwIfAborted()
  // More than were asked for were held by nobody.
  const made = endpoint === 'images.generations' ? Math.min(imagesIn(answer.data ?? []), images) : 0
  const settlement = await call.closeBefore({
    error: undefined,
    ...usedBy(call, answer.report, { ...answer.said, images: made }),
    images: made,
    responseBytes: bytes.byteLength,
    response: call.keepsAnswer && bytes.byteLength <= keptLimitBytes ? text : null,
  })
  return { body: bytes, settlement }
}
