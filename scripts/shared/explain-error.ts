/** What a person reads when a script ends early: a line that says what to do, or where an error came from that nobody foresaw. */

import { tlsProblem } from '../../functions/_shared/database-url.ts'
import { AppError } from '../../functions/_shared/errors.ts'
import { describeFailure } from '../../functions/_shared/failure.ts'
import { StackError } from '../../stack/config.ts'
import { PlatformError } from '../../stack/platform/config.ts'

/** Of sockets, of name servers, and of the driver. */
const unreachable =
  /^(ECONN(REFUSED|RESET)|ENOTFOUND|EAI_AGAIN|E(HOST|NET)UNREACH|ETIMEDOUT|CONNECT_TIMEOUT|CONNECTION_(CLOSED|DESTROYED|ENDED))$/

/** The states of Postgres that say the same whatever the script does. */
const states: [RegExp, (code: string) => string][] = [
  [unreachable, (code) => `The database cannot be reached (${code}). Does it run, and is DB_URL right?`],
  [/^(28...|3D000)$/, (code) => `The database refuses the connection (${code}). Is DB_URL right?`],
  [
    /^(3F000|42P01|42703|42883)$/,
    (code) => `The database lacks something of ours (${code}). Are all migrations applied?`,
  ],
  [/^(53300|57P0[123])$/, (code) => `The database takes no connections now (${code}). Try again in a moment.`],
]

/** Never what an error carries beside its words: addresses with passwords, headers, parameters. */
export function explainError(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  if (error instanceof StackError || error instanceof PlatformError) return error.message
  const tls = tlsProblem(error)
  if (tls) return `DB_URL: ${tls}.`
  const code = codeOf(error)
  if (code.startsWith('ERR_PARSE_ARGS_')) return `${error.message.split(/\.\s/)[0]}. See --help.`
  const [, explain] = states.find(([pattern]) => pattern.test(code)) ?? []
  if (explain) return explain(code)
  // Of a file: which one, and what is wrong with it.
  if ('syscall' in error && 'path' in error) return error.message
  if (error instanceof AppError)
    return error.message + (error.cause === undefined ? '' : ` (${describeFailure(error.cause)})`)
  const failure = describeFailure(error)
  if (failure.startsWith('Stripe: ')) return `${failure}: ${error.message}${adviceFor(failure)}`
  return error.stack ?? error.message
}

/** Of an error of ours, the code of what caused it. */
function codeOf(error: unknown): string {
  if (error instanceof AppError) return codeOf(error.cause)
  return error instanceof Error && 'code' in error ? String(error.code) : ''
}

function adviceFor(failure: string): string {
  if (failure.includes('StripeAuthenticationError')) return ' Is STRIPE_SECRET_KEY right?'
  if (failure.includes('StripePermissionError')) return ' Give the key that permission in the dashboard.'
  return ''
}
