/** A whole answer at once: read, checked, settled, and then passed on as it came. */
import { AppError } from '../errors.ts'
import { BodyTooLarge, readBody } from '../http/read-body.ts'
import type { Settlement } from './ledger-contract.ts'
import type { OpenCall } from './open-call.ts'
import { hasError, readProviderAnswer, usageOf } from './provider-answer.ts'

const answerLimitBytes = 8_000_000

/** Settled before it is sent, so that the caller sees the new balance at once. */
export async function answerJson(
  upstream: Response,
  call: OpenCall,
  onSettled: (settlement: Settlement) => void,
): Promise<Response> {
  const bytes = await readAnswer(upstream, call)
  const answer = readProviderAnswer(new TextDecoder().decode(bytes))
  if (!answer?.choices || hasError(answer))
    throw new AppError('upstream_error', { cause: 'the answer is not a chat completion' })
  call.watch.signal.throwIfAborted()
  const { contentBytes } = answer
  const settlement = await call.close({
    error: undefined,
    usage: usageOf(answer),
    contentBytes,
    responseBytes: bytes.byteLength,
  })
  if (settlement) onSettled(settlement)
  return new Response(bytes, { headers: { 'content-type': 'application/json' } })
}

async function readAnswer(upstream: Response, call: OpenCall): Promise<Uint8Array<ArrayBuffer>> {
  try {
    return await readBody(upstream, answerLimitBytes, (work) =>
      call.watch.within(call.admission.provider.idle_timeout_ms, work),
    )
  } catch (error) {
    if (error instanceof AppError) throw error
    throw new AppError('upstream_error', { cause: error instanceof BodyTooLarge ? 'the answer is too large' : error })
  }
}
