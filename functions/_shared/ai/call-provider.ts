/**
 * The provider's answer up to its first byte: tried again, then asked for along the next route. Until that byte nothing has
 * been delivered, so nothing can be said twice. Ours and no library: retries here depend on the status, Retry-After, the
 * caller's signal and the route at once, which the general ones (p-retry, cockatiel) leave to callbacks of this size.
 */
import { AppError, toAppError } from '../errors.ts'
import { describeTransport } from '../failure.ts'
import { hasFields, isText } from '../forms.ts'
import { type AnswerBody, gatherBody, openBody } from './answer-body.ts'
import type { ProviderRequest, Reply } from './ask-provider.ts'
import { writeJson } from './estimate-tokens.ts'
import type { Route } from './ledger.ts'
import { isProvidersFault, type OpenCall, reportAttempt } from './open-call.ts'
import type { Endpoint } from './snapshot.ts'
import { untilAborted } from './watch-call.ts'
import type { AiWorld } from './world.ts'

const triesPerRoute = 3
const firstDelayMs = 250
const longestWaitS = 10

/** An answer with status 2xx that has begun. */
export type Answer<Opening> = { body: AnswerBody; signal: AbortSignal; opening: Opening }
/** Reads so much of a body as must be seen before the answer counts as begun; throws when it is no answer. */
export type Open<Opening> = (body: AnswerBody) => Promise<Opening>

export async function callProvider<Opening>(
  call: OpenCall,
  open: Open<Opening>,
  world: AiWorld,
): Promise<Answer<Opening>> {
  let failure: AppError | undefined
  for (const route of call.admission.routes) {
    call.route = route
    const result = await tryRoute(route, call, open, world)
    if (!(result instanceof AppError)) {
      call.answered = true
      return result
    }
    failure = result
    if (call.watch.signal.aborted || !(isTransient(failure) || failure.code === 'provider_not_configured')) break
  }
  throw failure ?? new AppError('internal', { cause: 'no route' })
}

/** Whether another try, or another provider, may do better. A refusal of the request itself is none of these. */
const isTransient = (error: AppError) => isProvidersFault(error) || error.code === 'rate_limit_exceeded'

async function tryRoute<Opening>(
  route: Route,
  call: OpenCall,
  open: Open<Opening>,
  world: AiWorld,
): Promise<Answer<Opening> | AppError> {
  const { signal } = call.watch
  for (let tries = 1; ; tries += 1) {
    const error = await ask(route, call, open, world).catch(toAppError)
    if (!(error instanceof AppError)) return error
    if (signal.aborted) return toAppError(signal.reason)
    reportAttempt(route, error, world)
    const waitMs = delayMs(error, tries, world.random())
    if (tries >= triesPerRoute || waitMs === undefined) return error
    const hungUp = await untilAborted(signal, world.sleep(waitMs)).catch(toAppError)
    if (hungUp) return hungUp
  }
}

/**
 * Exponential, of which half is chance, and never sooner than the provider asks for; undefined: not worth the wait.
 * @internal For tests: each delay by itself, since chance has a part in it.
 */
export function delayMs(error: AppError, tries: number, chance: number): number | undefined {
  const askedS = error.details.retryAfterS ?? 0
  if (!isTransient(error) || askedS > longestWaitS) return undefined
  const backoffMs = firstDelayMs * 2 ** (tries - 1)
  return Math.round(Math.max(askedS * 1000, backoffMs / 2) + (chance * backoffMs) / 2)
}

async function ask<Opening>(
  route: Route,
  call: OpenCall,
  open: Open<Opening>,
  world: AiWorld,
): Promise<Answer<Opening>> {
  const { connect_timeout_ms, first_byte_timeout_ms, idle_timeout_ms } = route.provider
  const request = await providerRequest(route, call, world)
  call.attempts += 1
  const signal = call.watch.beginAttempt()
  // Neither way tells when the connection stands, so the two timeouts run as one.
  call.watch.expectByte(connect_timeout_ms + first_byte_timeout_ms)
  const reply = await untilAborted(signal, world.ask(request, signal)).catch((cause) => {
    if (signal.aborted) throw signal.reason
    throw new AppError('upstream_error', { cause: describeTransport(cause, request.url) })
  })
  const body = openBody(reply.body, call.watch, signal, { firstMs: first_byte_timeout_ms, idleMs: idle_timeout_ms })
  if (reply.status < 200 || reply.status > 299) throw await providerRefusal(reply, body)
  try {
    return { body, signal, opening: await open(body) }
  } catch (cause) {
    body.cancel()
    throw cause
  }
}

const paths: Record<Endpoint, string> = {
  'chat.completions': '/chat/completions',
  embeddings: '/embeddings',
  'images.generations': '/images/generations',
}

async function providerRequest(
  route: Route,
  { request, requestId }: Pick<OpenCall, 'request' | 'requestId'>,
  world: AiWorld,
): Promise<ProviderRequest> {
  const { base_url, api_key_secret } = route.provider
  const headers: Record<string, string> = {
    'content-type': 'application/json',
    accept: request.stream ? 'text/event-stream' : 'application/json',
    // Compression holds events back.
    'accept-encoding': 'identity',
    'x-request-id': requestId,
  }
  if (route.api_key !== undefined) {
    headers.authorization = `Bearer ${route.api_key}`
  } else if (api_key_secret !== null) {
    const key = await world.providerKey(api_key_secret)
    if (!key) throw new AppError('provider_not_configured', { cause: `${api_key_secret} is not set` })
    headers.authorization = `Bearer ${key}`
  }
  return {
    url: base_url.replace(/\/+$/, '') + paths[request.endpoint],
    headers,
    body: writeJson(request.bodyFor(route)),
  }
}

const refusalLimitBytes = 64_000

const hasMessage = hasFields({ error: hasFields({ message: isText }) })
const hasParam = hasFields({ error: hasFields({ param: isText }) })

/**
 * What a provider's refusal means for our caller. 400 and 422 are about the caller's body and are told to the caller. 401, 403,
 * 402 and 404 are about our key, our account and our table: the caller learns nothing and the log says it. 429 stays a 429,
 * because the client's way to deal with it, wait and try again, is right, although it is not the caller's own limit.
 */
async function providerRefusal({ status, header }: Reply, body: AnswerBody): Promise<AppError> {
  const cause = `the provider answered ${status}`
  const isCallersFault = status === 400 || status === 413 || status === 422
  if (isCallersFault) {
    const said = messageOf(
      await gatherBody(body, refusalLimitBytes)
        .whole()
        .catch(() => undefined),
    )
    const code = status === 413 ? 'request_too_large' : 'invalid_request_error'
    return new AppError(code, {
      message: said?.message ?? 'The AI provider refuses this request.',
      param: said?.param,
    })
  }
  body.cancel()
  const retryAfterS = parseRetryAfter(header)
  if (status === 429)
    return new AppError('rate_limit_exceeded', { message: 'The AI provider is busy.', retryAfterS, cause })
  if (status === 408 || status === 504) return new AppError('upstream_timeout', { retryAfterS, cause })
  // The same request fails the same way until somebody here acts.
  if (status < 500) return new AppError('upstream_error', { shouldRetry: false, cause })
  return new AppError('upstream_error', { retryAfterS, cause })
}

function messageOf(body: Uint8Array | undefined) {
  try {
    const said: unknown = JSON.parse(new TextDecoder().decode(body))
    if (!hasMessage(said) || said.error.message.length > 2_000) return undefined
    const param = hasParam(said) && said.error.param.length <= 200 ? said.error.param : undefined
    return { message: said.error.message, param }
  } catch {
    return undefined
  }
}

/** Seconds or an HTTP date, which is compared with the provider's own Date, so that no clock of ours is needed. */
function parseRetryAfter(header: Reply['header']): number | undefined {
  const value = header('retry-after') ?? ''
  if (/^\d{1,6}$/.test(value)) return Number(value)
  const seconds = Math.ceil((Date.parse(value) - Date.parse(header('date') ?? '')) / 1000)
  return Number.isNaN(seconds) ? undefined : Math.max(1, seconds)
}
