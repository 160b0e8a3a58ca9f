/**
 * Why something failed, for logs, inboxes and people at a terminal. Names and codes only: a message of Postgres, of Stripe or of
 * a JSON parser may quote an address, a prompt or a value. A text is ours, and is said as it is.
 */
import { AppError, toAppError } from './errors.ts'
import { type Fields, isFields, isListOf } from './forms.ts'

/** At most 500 characters, on one line. */
export function describeFailure(error: unknown): string {
  return describe(error, 0).slice(0, 500)
}

/** A cause may lead back to its error. */
const deepest = 5

function describe(error: unknown, depth: number): string {
  if (depth > deepest) return 'and so on'
  if (typeof error === 'string') return error
  if (error instanceof AppError) {
    const { cause } = error.details
    if (cause === undefined) return error.code
    return error.code === 'internal' ? describe(cause, depth + 1) : `${error.code}: ${describe(cause, depth + 1)}`
  }
  if (isFields(error)) {
    const { name, type, issues } = error
    if (name === 'ZodError' && isIssues(issues))
      return `the answer has another form: ${issues.map(({ path, code }) => `${[path].flat().join('.')} ${code}`).join(', ')}`
    if (typeof type === 'string' && type.startsWith('Stripe'))
      return namesIn('Stripe:', error, ['type', 'code', 'param', 'statusCode', 'requestId'])
    if (name === 'PostgresError') return namesIn('Postgres:', error, ['code', 'constraint_name', 'routine'])
  }
  const code = error instanceof Error && 'code' in error ? ` ${String(error.code)}` : ''
  const inner = error instanceof Error && error.cause !== undefined ? ` (${describe(error.cause, depth + 1)})` : ''
  return (error instanceof Error ? error.name : typeof error) + code + inner
}

const isIssues = isListOf(isFields)

/** Names, codes and ids, as far as they are there. */
const namesIn = (whose: string, error: Fields, names: string[]): string =>
  [whose, ...names.map((name) => error[name])]
    .filter((part) => part !== '' && (typeof part === 'string' || typeof part === 'number'))
    .join(' ')

/** For a log line: the cause of an error of ours, 5xx. What a caller did wrong has no cause that we would tell. */
export function causeOf(error: unknown): { cause?: string } {
  if (error === undefined) return {}
  const { status, details } = toAppError(error)
  return status < 500 || details.cause === undefined ? {} : { cause: describeFailure(details.cause) }
}

/** Words of Deno (hyper, rustls, the system) and codes of Node; the first that fits says what happened. */
const onTheWire: [RegExp, string][] = [
  [/certificate[: ]+(?:has )?expired|CERT_HAS_EXPIRED/i, 'its certificate has expired'],
  [/not ?valid ?for ?name|CERT_ALTNAME/i, 'its certificate is for another name'],
  [/certificate|CERT\b|CERT_/i, 'its certificate is not trusted'],
  [/connection refused|ECONNREFUSED/i, 'the connection was refused'],
  [/dns error|failed to lookup|ENOTFOUND|EAI_AGAIN/i, 'the name was not found'],
  [/unreachable|no route to host|EHOSTUNREACH|ENETUNREACH/i, 'no way leads there'],
  [/timed out|timeout/i, 'the connection timed out'],
  [/tls|ssl|InvalidContentType/i, 'no TLS connection came about'],
  [/HTTP version|UND_ERR_INVALID|HPE_/, 'what answers does not speak HTTP'],
  [/reset|broken pipe|closed|incomplete|reading a body|ECONNRESET|EPIPE/i, 'the connection was closed'],
]

/**
 * Why fetch failed, or the reading of a body, in words of ours: the runtime's own text has the whole URL in it, and that may hold
 * a key. Of `url` the host is told. What is not known here gets its names and codes.
 */
export function describeTransport(error: unknown, url?: string): string {
  const said = wordsOf(error).replace(/\S+:\/\/\S+/g, '')
  const [, what = describeFailure(error)] = onTheWire.find(([words]) => words.test(said)) ?? []
  return url === undefined ? what : `${new URL(url).host}: ${what}`
}

const wordsOf = (error: unknown): string =>
  error instanceof Error ? `${'code' in error ? error.code : ''} ${error.message} ${wordsOf(error.cause)}` : ''
