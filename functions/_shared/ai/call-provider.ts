/**
 * The provider's answer up to its first byte: tried again, then asked for along the next route. Until that byte nothing has
 * been delivered, so nothing can be said twice. Ours and no library: retries here depend on the status, Retry-After, the
 * caller's signal and the route at once, which the general ones (p-retry, cockatiel) leave to callbacks of this size.
 */
import { AppError, toAppError } from '../errors.ts'
import { describeTransport } from '../failure.ts'
import { type AnswerBody, gatherBody, openBody } from './answer-body.ts'
import type { ProviderRequest } from './ask-provider.ts'
import { writeJson } from './estimate-tokens.ts'
import type { Route } from './ledger.ts'
import { isProvidersFault, type OpenCall, reportAttempt } from './open-call.ts'
import { type KeySent, readRefusal, refusalLimitBytes } from './provider-refusal.ts'
import type { Endpoint } from './snapshot.ts'
import { untilAborted } from './watch-call.ts'
import type { AiWorld } from './world.ts'

const triesPerRoute = 3
const firstDelayMs = 250
const longestWaitS = 10

/** An answer with status 2xx that has begun. */
export type Answer<Opening> = { body: AnswerBody; signal: AbortSignal; opening: Opening }
/** Reads so much of a body as must be seen before it counts as an answer; throws when it is none. */
export type Open<Opening> = (body: AnswerBody, key: KeySent) => Promise<Opening>

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
    if (isOver(call) || !(isTransient(failure) || failure.code === 'provider_not_configured')) break
  }
  throw failure ?? new AppError('internal', { cause: 'no route' })
}

/** Nobody waits for an answer any more. */
const isOver = ({ watch }: OpenCall) => watch.signal.aborted || watch.isLeft()

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
    reportAttempt(route, call.admission.user_id, error, world)
    if (isOver(call)) return error
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
  const { retryAfterS: askedS = 0, hasWorked } = error.details
  // Who has worked to its own deadline would do so again, and be paid again; another provider may be faster.
  if (!isTransient(error) || hasWorked || askedS > longestWaitS) return undefined
  const backoffMs = firstDelayMs * 2 ** (tries - 1)
  return Math.round(Math.max(askedS * 1000, backoffMs / 2) + (chance * backoffMs) / 2)
}

async function ask<Opening>(
  route: Route,
  call: OpenCall,
  open: Open<Opening>,
  world: AiWorld,
): Promise<Answer<Opening>> {
  const secret = await keyFor(route, world)
  const request = providerRequest(route, call, secret)
  const key: KeySent = { secret, isCallers: route.api_key !== undefined, body: request.body }
  call.watch.signal.throwIfAborted()
  call.attempts += 1
  call.askedAt = world.ticks()
  const signal = call.watch.beginAttempt()
  try {
    return await begin({ request, key, signal, route, open }, call, world)
  } catch (cause) {
    // Whoever hung up was waiting for this provider; one that was too slow has worked all the same.
    if (signal.aborted && toAppError(signal.reason).code === 'client_closed_request') throw cause
    const ms = world.ticks() - call.askedAt
    if (signal.aborted || toAppError(cause).details.hasWorked)
      call.late = { attempts: call.late.attempts + 1, ms: call.late.ms + ms, route }
    call.askedAt = undefined
    throw cause
  }
}

type Asked<Opening> = {
  request: ProviderRequest
  key: KeySent
  signal: AbortSignal
  route: Route
  open: Open<Opening>
}

async function begin<Opening>(
  { request, key, signal, route, open }: Asked<Opening>,
  call: OpenCall,
  world: AiWorld,
): Promise<Answer<Opening>> {
  const { connect_timeout_ms, first_byte_timeout_ms, idle_timeout_ms } = route.provider
  // Neither way tells when the connection stands, so the two timeouts run as one.
  call.watch.expectByte(connect_timeout_ms + first_byte_timeout_ms)
  const reply = await untilAborted(signal, world.ask(request, signal)).catch((cause) => {
    if (signal.aborted) throw signal.reason
    throw new AppError('upstream_error', { cause: describeTransport(cause, request.url) })
  })
  const body = openBody(reply.body, call.watch, signal, { firstMs: first_byte_timeout_ms, idleMs: idle_timeout_ms })
  if (reply.status < 200 || reply.status > 299) {
    const words = gatherBody(body, refusalLimitBytes).whole()
    throw readRefusal(reply, await words.catch(() => undefined), key)
  }
  try {
    return { body, signal, opening: await open(body, key) }
  } catch (cause) {
    body.cancel()
    throw cause
  } finally {
    // It may be large, and a stream long: what goes wrong in its middle is told by names.
    key.body = undefined
  }
}

const paths: Record<Endpoint, string> = {
  'chat.completions': '/chat/completions',
  embeddings: '/embeddings',
  'images.generations': '/images/generations',
}

async function keyFor({ api_key, provider }: Route, world: AiWorld): Promise<string | undefined> {
  if (api_key !== undefined || provider.api_key_secret === null) return api_key
  const key = await world.providerKey(provider.api_key_secret)
  if (!key) throw new AppError('provider_not_configured', { cause: `${provider.api_key_secret} is not set` })
  return key
}

function providerRequest(
  route: Route,
  { request, requestId }: Pick<OpenCall, 'request' | 'requestId'>,
  secret: string | undefined,
): ProviderRequest {
  const headers: Record<string, string> = {
    'content-type': 'application/json',
    accept: request.stream ? 'text/event-stream' : 'application/json',
    // Compression holds events back.
    'accept-encoding': 'identity',
    'x-request-id': requestId,
  }
  if (secret !== undefined) headers.authorization = `Bearer ${secret}`
  return {
    url: route.provider.base_url.replace(/\/+$/, '') + paths[request.endpoint],
    headers,
    body: writeJson(request.bodyFor(route)),
  }
}
