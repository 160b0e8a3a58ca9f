/** What a log may say about an error. */
import { toAppError } from '../errors.ts'

/**
 * The cause of an error of ours, 5xx. Never the cause of a caller's error: the message of a JSON parser quotes its input, and
 * prompts are not logged.
 */
export function causeOf(error: unknown): { cause?: string } {
  if (error === undefined) return {}
  const { status, details } = toAppError(error)
  if (status < 500 || details.cause === undefined) return {}
  return { cause: describe(details.cause) }
}

function describe(cause: unknown): string {
  if (!(cause instanceof Error)) return String(cause)
  const inner = cause.cause === undefined ? '' : ` (${describe(cause.cause)})`
  return `${cause.name}: ${cause.message}${inner}`.slice(0, 500)
}
