/**
 * The provider's answer up to its first byte: tried again, then asked for along the next route. Until that byte nothing has
 * been delivered, so nothing can be said twice. Ours and no library: retries here depend on the status, Retry-After, the
 * caller's signal and the route at once, which the general ones (p-retry, cockatiel) leave to callbacks of this size.
 */
import { AppError, toAppError } from '../errors.ts'
import { type AnswerBody, openBody } from './answer-body.ts'
import type { Route } from './ledger-contract.ts'
import type { OpenCall } from './open-call.ts'
import { providerRefusal } from './provider-refusal.ts'
import { providerRequest } from './provider-request.ts'
import { isProvidersFault, reportAttempt } from './report-attempt.ts'
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

/** Exponential, of which half is chance, and never sooner than the provider asks for; undefined: not worth the wait. */
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
  const { url, init } = await providerRequest(route, call, world)
  call.attempts += 1
  const signal = call.watch.beginAttempt()
  // fetch does not tell when the connection stands, so the two timeouts run as one.
  call.watch.expectByte(connect_timeout_ms + first_byte_timeout_ms)
  const fetched = untilAborted(signal, world.fetch(url, { ...init, signal }))
  const response = await fetched.catch((cause) => {
    throw signal.aborted ? signal.reason : new AppError('upstream_error', { cause })
  })
  const body = openBody(response, call.watch, signal, { firstMs: first_byte_timeout_ms, idleMs: idle_timeout_ms })
  if (!response.ok) throw await providerRefusal(response, body)
  try {
    return { body, signal, opening: await open(body) }
  } catch (cause) {
    body.cancel()
    throw cause
  }
}
