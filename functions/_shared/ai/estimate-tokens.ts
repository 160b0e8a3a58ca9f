/**
 * Tokens without a tokenizer: an Edge Function has 2 s of CPU. Bytes / 4 is the estimate that is charged when a provider reports no
 * usage; what is held before the call is in prompt-size.ts.
 */
import { AppError } from '../errors.ts'

const encoder = new TextEncoder()
/** Written over each time: what is only counted needs no memory of its own. */
const scratch = new Uint8Array(16_384)
export function byteLength(text: string): number {
  const { read, written } = encoder.encodeInto(text, scratch)
  return read === text.length ? written : encoder.encode(text).byteLength
}

/** A megabyte of brackets parses, but is too deep to be written again. */
export function writeJson(body: Record<string, unknown>): string {
  try {
    return JSON.stringify(body)
  } catch (cause) {
    throw new AppError('invalid_request_error', { message: 'The body is nested too deeply.', cause })
  }
}

export const bytesPerToken = 4
export const tokensEstimated = (bytes: number): number => Math.ceil(bytes / bytesPerToken)
