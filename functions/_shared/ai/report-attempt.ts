/** What the breaker learns: askings of a provider that failed by its own fault, and the first that went well after it. */
import type { AppError } from '../errors.ts'
import type { Route } from './ledger-contract.ts'
import { causeOf } from './log-line.ts'
import type { AiWorld } from './world.ts'

const failingKept = 1_000

/** Timeouts, 5xx, broken connections and errors in the stream. Not 4xx, 429 included, and not a caller who hangs up. */
export const isProvidersFault = ({ code, details }: AppError): boolean =>
  (code === 'upstream_error' || code === 'upstream_timeout') && details.shouldRetry !== false

/** In the background. A success is news only after a failure: the hot path must not write a row for every call. */
export function reportAttempt(route: Route, error: AppError | undefined, world: AiWorld): void {
  const name = `${route.provider.id} ${route.model}`
  if (error ? !isProvidersFault(error) : !world.failing.has(name) && !route.probe) return
  world.failing.delete(name)
  if (error) {
    const [oldest] = world.failing
    if (world.failing.size >= failingKept && oldest !== undefined) world.failing.delete(oldest)
    world.failing.add(name)
  }
  const report = { provider: route.provider.id, model: route.model, ok: !error, error_code: error?.code ?? null }
  const failed = (cause: unknown) =>
    world.log({ level: 'error', message: 'the breaker was not told', provider: report.provider, ...causeOf(cause) })
  world.waitUntil(world.reportAttempts([report]).catch(failed))
}
