/** What the breaker learns: askings of a provider that failed by its own fault, and that it is well. */
import type { AppError } from '../errors.ts'
import { causeOf } from '../failure.ts'
import type { Route } from './ledger-contract.ts'
import type { AiWorld } from './world.ts'

const modelsKept = 1_000
/** A half-open breaker waits for word from its one probe. Calls pause while it is open, so a probe is never within this. */
const quietMs = 10_000

/** Timeouts, 5xx, broken connections and errors in the stream. Not 4xx, 429 included, and not a caller who hangs up. */
export const isProvidersFault = ({ code, details }: AppError): boolean =>
  (code === 'upstream_error' || code === 'upstream_timeout') && details.shouldRetry !== false

/** In the background. Every failure is news, a success after one, too; else one in ten seconds: no statement for each call. */
export function reportAttempt(route: Route, error: AppError | undefined, world: AiWorld): void {
  const name = `${route.provider.id} ${route.model}`
  const lastWell = world.lastWell.get(name) ?? Number.NEGATIVE_INFINITY
  if (error ? !isProvidersFault(error) : world.now() - lastWell < quietMs) return
  world.lastWell.delete(name)
  if (!error) {
    const [oldest] = world.lastWell.keys()
    if (world.lastWell.size >= modelsKept && oldest !== undefined) world.lastWell.delete(oldest)
    world.lastWell.set(name, world.now())
  }
  const report = { provider: route.provider.id, model: route.model, ok: !error, error_code: error?.code ?? null }
  const failed = (cause: unknown) =>
    world.log({ level: 'error', message: 'the breaker was not told', provider: report.provider, ...causeOf(cause) })
  world.waitUntil(world.reportAttempts([report]).catch(failed))
}
