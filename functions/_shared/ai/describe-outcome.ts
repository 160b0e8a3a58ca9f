/** What a call has come to, and what is charged for it. */
import type { AppError } from '../errors.ts'
import { tokensEstimated } from './estimate-tokens.ts'
import type { Outcome, Usage } from './ledger-contract.ts'

export type Ending = {
  /** Undefined when all went well. */
  error: AppError | undefined
  /** As the provider reported it. */
  usage: Usage | null
  /** Bytes of text that the model said and that were delivered. */
  contentBytes: number
  /** Images that were made. */
  images: number
  /** All bytes that were delivered. */
  responseBytes: number
  /** The whole answer, when it is to be kept for the same idempotency key. */
  response?: string | null
}

/** An ending before the first byte went to the caller. */
export const nothingDelivered = (error: AppError): Ending => ({
  error,
  usage: null,
  contentBytes: 0,
  images: 0,
  responseBytes: 0,
})

type Described = Pick<
  Outcome,
  'result' | 'http_status' | 'error_code' | 'usage' | 'usage_source' | 'response_bytes' | 'response'
>

/**
 * What failed is free unless something of the answer was delivered. Hanging up is not: from the first byte on the caller pays
 * for what was reported, else for an estimate of the prompt and of what was delivered, at four bytes a token.
 */
export function describeOutcome(ending: Ending, promptTokens: number): Described {
  const { error, usage, contentBytes, images, responseBytes, response = null } = ending
  const hungUp = error?.code === 'client_closed_request'
  const isCharged = !error || (responseBytes > 0 && (hungUp || contentBytes > 0 || usage !== null))
  const estimated: Usage = {
    prompt_tokens: promptTokens,
    completion_tokens: tokensEstimated(contentBytes),
    cached_tokens: 0,
    reasoning_tokens: 0,
    images,
    cost_usd: null,
  }
  return {
    result: !error ? 'succeeded' : hungUp && isCharged ? 'cancelled' : 'failed',
    http_status: error?.status ?? 200,
    error_code: error?.code ?? null,
    usage: isCharged ? (usage ? { ...usage, images } : estimated) : null,
    usage_source: !isCharged ? 'none' : usage ? 'provider' : 'estimated',
    response_bytes: responseBytes,
    response,
  }
}
