/** An admitted call from admission to settlement. It settles exactly once, however many ways it ends at the same time. */

import { causeOf } from '../failure.ts'
import type { AiRequest } from './ai-request.ts'
import { describeOutcome, type Ending } from './describe-outcome.ts'
import type { Admitted, Outcome, Route, Settlement } from './ledger-contract.ts'
import { reportAttempt } from './report-attempt.ts'
import { type Watch, watchCall } from './watch-call.ts'
import type { AiWorld, LogLine } from './world.ts'

export type OpenCall = {
  readonly request: AiRequest
  readonly admission: Admitted
  readonly requestId: string
  /** The answer is kept for the same idempotency key. */
  readonly keepsAnswer: boolean
  readonly watch: Watch
  /** How often a provider was asked. */
  attempts: number
  /** The route that was asked last; when `answered`, the one that answers. */
  route: Route | undefined
  answered: boolean
  firstTokenAt: number | undefined
  /** The first ending counts. Waits a moment for the settlement, which goes on in the background when that is not enough. */
  close(ending: Ending): Promise<Settlement | undefined>
}

type Opening = Pick<OpenCall, 'request' | 'admission' | 'requestId' | 'keepsAnswer'> & {
  startedAt: number
  caller: AbortSignal
  line: LogLine
}

const patienceMs = 1_500
const retryDelaysMs = [100, 500, 2_000, 5_000]

export function openCall({ startedAt, caller, line, ...opening }: Opening, world: AiWorld): OpenCall {
  const { request, admission } = opening
  const totalMs = Math.max(...admission.routes.map(({ provider }) => provider.total_timeout_ms))
  let closing: Promise<Settlement | undefined> | undefined

  const settle = (ending: Ending): Promise<Settlement | undefined> => {
    call.watch.end()
    // The end of the call as a whole, a hang-up or a reader who is too slow, says nothing about the provider.
    if (call.answered && call.route && !call.watch.signal.aborted) reportAttempt(call.route, ending.error, world)
    const outcome: Outcome = {
      ...describeOutcome(ending, request.promptTokensEstimated),
      duration_ms: Math.round(world.now() - startedAt),
      first_token_ms: call.firstTokenAt === undefined ? null : Math.round(call.firstTokenAt - startedAt),
      attempts: call.attempts,
      model: call.answered ? (call.route?.model ?? null) : null,
    }
    const { response, model, ...told } = outcome
    const used = { model_used: model, provider: call.route?.provider.id, is_kept: response !== null }
    world.log({ ...line, call_id: admission.call_id, ...used, ...told, ...causeOf(ending.error) })
    const settled = settleWithRetries(admission.call_id, outcome, world)
    world.waitUntil(settled)
    return world.within(patienceMs, settled)
  }
  const close = (ending: Ending) => {
    closing ??= settle(ending)
    return closing
  }
  const call: OpenCall = {
    ...opening,
    watch: watchCall(caller, totalMs),
    attempts: 0,
    route: undefined,
    answered: false,
    firstTokenAt: undefined,
    close,
  }
  return call
}

/** Never rejects. What could not be settled here is settled by the sweeper, from the mark that `start` left. */
async function settleWithRetries(callId: string, outcome: Outcome, world: AiWorld): Promise<Settlement | undefined> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await world.settle(callId, outcome)
    } catch (error) {
      const delayMs = retryDelaysMs[attempt]
      const message = delayMs === undefined ? 'a call is left to the sweeper' : 'a settlement failed and is tried again'
      world.log({ level: 'error', message, call_id: callId, ...causeOf(error) })
      if (delayMs === undefined) return undefined
      await world.sleep(delayMs)
    }
  }
}
