/**
 * What a provider's error means, sorted by what it says and not by its status alone: the same words come as 400, 403, 500, and in
 * a body behind 200. What is about the caller's request is told to the caller, in the provider's words; what is about our key, our
 * account there or our table is told to the operator; the rest is the provider's own trouble.
 */
import { AppError, isErrorCode } from '../errors.ts'
import { type Fields, isFields } from '../forms.ts'
import type { Reply } from './ask-provider.ts'
import { parseJson } from './provider-answer.ts'

/** The key that was sent with the question, so that it is never told, and whose it is. */
export type KeySent = {
  secret: string | undefined
  isCallers: boolean
  /** The body that was sent, so that a quote of it is known as one; undefined once it was let go. */
  body?: string | undefined
}

/** A provider's words, from whichever place they stand in. */
type Said = { code: string; type: string; message: string; param: string | undefined; status: number | undefined }

const isText = (value: unknown): value is string => typeof value === 'string' && value.trim() !== ''
const firstText = (...values: unknown[]): string => values.find(isText) ?? ''

/** The shapes of OpenAI, vLLM (`object: "error"`), FastAPI (`detail`), Google (a list, `status`) and OpenRouter (`metadata`). */
function readSaid(body: unknown): Said {
  const whole = Array.isArray(body) ? body[0] : body
  if (!isFields(whole)) return { code: '', type: '', message: firstText(whole), param: undefined, status: undefined }
  const inner = isFields(whole.error) ? whole.error : whole
  const metadata = isFields(inner.metadata) ? inner.metadata : {}
  const statuses = [inner.code, inner.status, inner.status_code, whole.code, whole.status, whole.statusCode]
  return {
    code: firstText(inner.code, whole.code, metadata.error_type, reasonIn(inner.details)),
    type: firstText(inner.type, inner.status, whole.type === 'error' ? '' : whole.type),
    message: messageIn(whole, inner, metadata),
    param: firstText(inner.param, fieldIn(inner.detail ?? whole.detail)) || undefined,
    status: statuses.map(toStatus).find((status) => status !== undefined),
  }
}

/** Google's name for what is wrong beside a number as its code. */
const reasonIn = (details: unknown): unknown =>
  Array.isArray(details)
    ? details
        .slice(0, mostListed)
        .filter(isFields)
        .find(({ reason }) => isText(reason))?.reason
    : undefined

/** 400, "400", and FastChat's 40303. */
function toStatus(code: unknown): number | undefined {
  const number = typeof code === 'string' && code.length <= 5 && /^\d{3,5}$/.test(code) ? Number(code) : code
  if (typeof number !== 'number' || !Number.isInteger(number)) return undefined
  const status = number >= 40_000 && number < 60_000 ? Math.floor(number / 100) : number
  return status >= 400 && status <= 599 ? status : undefined
}

/** Of reasons and details; each reason is looked for in the message. */
const mostListed = 20

function messageIn(whole: Fields, inner: Fields, metadata: Fields): string {
  const said = firstText(inner.message, whole.error, whole.message, whole.detail, inner.detail, inner.msg, whole.msg)
  const details = [whole.detail, inner.detail, whole.errors].find(Array.isArray) ?? []
  const listed = details
    .slice(0, mostListed)
    .map((one) => firstText(one, isFields(one) && firstText(one.msg, one.message)))
    .filter(isText)
  // OpenRouter's own words are only that there was an error; those of who it asked are in `raw`.
  const isNoWord = said.trim().toLowerCase() === 'provider returned error'
  const raw = isNoWord && isText(metadata.raw) ? rawMessage(metadata.raw) : ''
  const reasons = Array.isArray(metadata.reasons)
    ? metadata.reasons
        .slice(0, mostListed)
        .filter(isText)
        .filter((one) => !said.includes(one))
    : []
  const message = raw || said || listed.join('; ')
  return reasons.length > 0 ? `${message} (${reasons.join(', ')})` : message
}

function rawMessage(raw: string): string {
  const body = parseJson(raw)
  return isFields(body) || Array.isArray(body) ? readSaid(body).message : raw
}

/** FastAPI names the field as a path of names and places, from `body` on. */
function fieldIn(detail: unknown): string {
  const [first] = Array.isArray(detail) ? detail : []
  if (!isFields(first) || !Array.isArray(first.loc)) return ''
  const steps = first.loc.slice(0, mostListed).filter((step) => isText(step) || Number.isInteger(step))
  return steps.filter((step) => step !== 'body').join('.')
}

const flagged =
  /content[_ -]?(?:filter|policy|management)|moderation|\bflagged\b|safety (?:system|check|filter|policy)|prohibited[_ ]content|data_inspection_failed|inappropriate content|usage polic/i
const tooLong =
  /context[_ -]?(?:length|window|size|overflow)|maximum (?:context|prompt|input|number of tokens)|(?:prompt|input|request|messages?) (?:is |are |was )?too (?:long|large)|too many (?:input |prompt )?tokens|token (?:limit|count) (?:was |is )?exceed|exceed\w{0,10} (?:the )?(?:model'?s? )?(?:maximum|max(?:imum)? |token|context)|string_above_max_length|reduce the length/i
/** @internal For tests, which have callers say them. */
export const keyWords =
  /(?:invalid|incorrect|wrong|missing|expired|revoked|disabled|unknown|no)[_ -](?:x[_ -])?(?:api|auth)[\w -]{0,20}(?:key|token|credential)|api[_ -]?key[\w :'"-]{0,40}(?:invalid|incorrect|expired|revoked|not valid|not found|missing|disabled|denied|required)|api_key_invalid|invalid_api_key|authentication|unauthenticated|unauthorized|no auth credentials|user not found|account[\w -]{0,30}(?:deactivated|disabled|suspended|not active)|permission[_ ]denied/i
/** @internal For tests. */
export const moneyWords =
  /insufficient[_ ](?:quota|credits?|balance|funds)|exceeded your current quota|billing|payment required|out of credits|credit balance|requires more credits|arrears/i
const busyWords = /rate[_ -]?limit|too many requests|resource_exhausted|\bthrottl/i
const timeoutName = /^(?:deadline_exceeded|(?:request_|gateway_|upstream_|provider_)?time_?out(?:_error)?)$/i
const requestType =
  /^(?:invalid_request(?:_error)?|bad_?request(?:_?error)?|invalid_argument|validation_?error|invalid_prompt)$/i

type Kind = 'request' | 'key' | 'money' | 'setup' | 'busy' | 'timeout' | 'provider'

/** What a refusal means stands in its first words; a provider may quote a whole request behind them. */
const readCharacters = 4_000
const nameCharacters = 200

/**
 * Statuses of a provider, or of who stands before it, that had the whole request, worked, and gave up: Gateway Timeout, Cloudflare's 524, and
 * 408, since a body goes out at once. Not 502 and 503, nor Cloudflare's 522, by which nobody was reached who could have worked.
 */
const workedInVain = new Set([408, 504, 524])

/** The words first; where they say nothing, the status. */
function kindOf(status: number | undefined, said: Said, body: string | undefined): Kind {
  const code = said.code.slice(0, nameCharacters)
  const type = said.type.slice(0, nameCharacters)
  const message = said.message.slice(0, readCharacters)
  const names = `${code} ${type}`
  const words = `${names} ${message}`
  const isProviders = status === undefined || status >= 500
  const start = isProviders ? '' : startOf(message, isRequestsFault(status))
  if (status !== 429 && says(keyWords, names, start, body)) return 'key'
  if (says(moneyWords, names, start, body)) return 'money'
  if (status === 429 || busyWords.test(names)) return 'busy'
  const isLate = status === undefined ? false : workedInVain.has(status)
  if (isLate || (isProviders && (timeoutName.test(code) || timeoutName.test(type)))) return 'timeout'
  if (tooLong.test(words) || flagged.test(words)) return 'request'
  if (status === undefined)
    return busyWords.test(words) ? 'busy' : requestType.test(type || code) ? 'request' : 'provider'
  if (status === 401 || status === 403) return 'key'
  if (status === 402) return 'money'
  if (isRequestsFault(status)) return 'request'
  return status < 500 ? 'setup' : 'provider'
}

const isRequestsFault = (status: number) => status === 400 || status === 413 || status === 422

/** What is wrong stands at the beginning. Where the request is at fault a message quotes it soon, and often in quotation marks. */
function startOf(message: string, isRequests: boolean): string {
  if (!isRequests) return message.slice(0, 200)
  const start = message.slice(0, 60)
  const quoteAt = start.search(/["`“”„«»‘]|(?<![a-z])'/i)
  return quoteAt < 0 ? start : start.slice(0, quoteAt)
}

/** Names are the provider's own; words of a message are so where the request that it answers is at hand and has not said them. */
const says = (words: RegExp, names: string, start: string, body: string | undefined): boolean =>
  words.test(names) ||
  (body !== undefined && [...start.matchAll(new RegExp(words, 'gi'))].some(([found]) => !isQuoted(found, body)))

/** What may stand between two words of a request, whose line ends and such are escaped in its JSON. */
const betweenWords = '(?:\\\\(?:u[0-9a-f]{4}|[a-z])|[^a-z0-9]){0,8}'

/** Whether two words that stand together here do so in the request, too: a message may quote a part, and go on in words of its own. */
function isQuoted(found: string, body: string): boolean {
  const words = found.match(/api(?=key)|[a-z0-9]+/gi) ?? []
  const pairs = words.slice(1).map((word, at) => `${words[at]}${betweenWords}${word}`)
  return (pairs.length > 0 ? pairs : words).some((part) => new RegExp(part, 'i').test(body))
}

const mostCharacters = 2_000

/**
 * Keys in the forms that providers give them, and what follows the words for one. None looks twice at the same text, or only at a
 * hundred characters of it, since a text may be made to be looked at for long.
 */
const secretForms = [
  /\bsk[-_][\w.*-]{6,}/g,
  /\b(?:pk|rk|gsk|xai|pplx|fw|hf|nvapi|ghp|key|tgp|org|proj|acct|user)[-_](?=[\w.*-]{0,99}[\d*])[\w.*-]{8,}/g,
  /\bAIza[\w-]{20,}/g,
  /\beyJ[\w-]{8,}(?:\.[\w-]+){0,2}/g,
  /\b(bearer)\s+[\w.~+/=*-]{6,}/gi,
  /((?:api[_ -]?key|token|secret|password|authorization)["']?\s*[:=]\s*["']?)[^\s"',;}]{6,}/gi,
  /([?&](?:key|token|api_key|access_token)=)[^\s&"']+/gi,
]

/** A text of a provider without keys, ours and others. */
export function withoutSecrets(text: string, { secret }: KeySent): string {
  const known = secret !== undefined && secret.length >= 6 ? text.replaceAll(secret, '[redacted]') : text
  return secretForms.reduce(
    (left, form) =>
      left.replace(form, (_found, kept: unknown) => `${typeof kept === 'string' ? `${kept} ` : ''}[redacted]`),
    known,
  )
}

/** A provider's text as it is passed on: without keys and control characters, at most so long, and no character half. */
const clean = (text: string, key: KeySent) =>
  [...withoutSecrets(text.slice(0, 4 * mostCharacters), key)]
    .slice(0, mostCharacters)
    .join('')
    .replace(/\p{Cc}/gu, ' ')
    .trim()

/** What the caller is told of it: the provider's code where it is none of ours, which mean other things. */
function toldToCaller(status: number | undefined, said: Said, key: KeySent): AppError {
  const words = clean(said.message, key)
  const isName = (name: string) => name.length <= 100 && /^[a-z][\w.:-]*$/i.test(name) && !isErrorCode(name)
  return new AppError(status === 413 && !said.code ? 'request_too_large' : 'invalid_request_error', {
    message: words || 'The AI provider refuses this request.',
    param: said.param === undefined ? undefined : clean(said.param, key).slice(0, 200),
    providerCode: [said.code, said.type].find((name) => isName(name) && withoutSecrets(name, key) === name),
  })
}

type Answered = {
  /** Undefined behind a 200: then the body says it, if anything does. */
  status: number | undefined
  body: unknown
  retryAfterS?: number | undefined
}

/** The error that a provider's refusal is for our caller, for the breaker and for the operator. */
export function refusalOf({ status: answered, body, retryAfterS }: Answered, key: KeySent): AppError {
  const said = readSaid(body)
  const status = answered ?? said.status
  const cause =
    answered === undefined
      ? `the provider answered 200 with an error${status ? ` ${status}` : ''}`
      : `the provider answered ${answered}`
  const kind = kindOf(status, said, key.body)
  switch (kind) {
    case 'request':
      return toldToCaller(status, said, key)
    case 'key':
    case 'money':
      return refusedAccount(kind, said, key, cause)
    case 'busy':
      return new AppError('rate_limit_exceeded', { message: 'The AI provider is busy.', retryAfterS, cause })
    case 'timeout':
      return new AppError('upstream_timeout', { retryAfterS, hasWorked: true, cause })
    case 'setup':
      // The same request fails the same way until somebody here acts.
      return new AppError('upstream_error', { shouldRetry: false, cause })
    case 'provider':
      return new AppError('upstream_error', { retryAfterS, cause })
  }
}

/** The caller's own key is the caller's matter; ours is the operator's, and the caller learns nothing of it. */
function refusedAccount(kind: Kind, said: Said, key: KeySent, cause: string): AppError {
  const words = clean(said.message, key)
  if (key.isCallers)
    return new AppError('invalid_request_error', {
      message: `The AI provider refuses your own key: ${words || cause}`.slice(0, mostCharacters),
      param: 'credential',
    })
  const [event, what] =
    kind === 'money'
      ? (['provider_refuses_account', 'says that our account has no money'] as const)
      : (['provider_refuses_key', 'refuses our key'] as const)
  return new AppError('upstream_error', {
    shouldRetry: false,
    cause: `the provider ${what}: ${cause}`,
    alarm: { event, said: words.slice(0, 500) },
  })
}

/** What is longer is no reason. */
export const refusalLimitBytes = 64_000
const decoder = new TextDecoder()

/** Of an answer whose status is no 2xx. */
export function readRefusal(
  { status, header }: Pick<Reply, 'status' | 'header'>,
  bytes: Uint8Array | undefined,
  key: KeySent,
): AppError {
  const text = decoder.decode(bytes)
  // A page for people is no reason.
  const body = parseJson(text) ?? (/^\s*</.test(text) ? undefined : text)
  return refusalOf({ status, body, retryAfterS: parseRetryAfter(header) }, key)
}

/** Seconds or an HTTP date, which is compared with the provider's own Date, so that no clock of ours is needed. */
function parseRetryAfter(header: Reply['header']): number | undefined {
  const value = header('retry-after') ?? ''
  if (/^\d{1,6}$/.test(value)) return Number(value)
  const seconds = Math.ceil((Date.parse(value) - Date.parse(header('date') ?? '')) / 1000)
  return Number.isNaN(seconds) ? undefined : Math.max(1, seconds)
}
