/** An admitted call from admission to settlement. It settles exactly once, however many ways it ends at the same time. */
import { describeOutcome, type Ending } from './describe-outcome.ts'
import type { Admitted, Outcome, Settlement } from './ledger-contract.ts'
import { causeOf } from './log-line.ts'
import type { ChatRequest } from './parse-chat-request.ts'
import { type Watch, watchCall } from './watch-call.ts'
import type { AiWorld, LogLine } from './world.ts'

export type OpenCall = {
  readonly chat: ChatRequest
  readonly admission: Admitted
  readonly requestId: string
  readonly watch: Watch
  /** How often the provider was asked. */
  attempts: number
  firstTokenAt: number | undefined
  /** The first ending counts. Waits a moment for the settlement, which goes on in the background when that is not enough. */
  close(ending: Ending): Promise<Settlement | undefined>
}

type Opening = Pick<OpenCall, 'chat' | 'admission' | 'requestId'> & {
  startedAt: number
  promptBytes: number
  caller: AbortSignal
  line: LogLine
}

const patienceMs = 1_500
const retryDelaysMs = [100, 500, 2_000, 5_000]

export function openCall(opening: Opening, world: AiWorld): OpenCall {
  const { chat, admission, requestId, startedAt, promptBytes, line } = opening
  const watch = watchCall(opening.caller, admission.provider.total_timeout_ms)
  let closing: Promise<Settlement | undefined> | undefined

  const settle = (ending: Ending): Promise<Settlement | undefined> => {
    watch.end()
    const outcome: Outcome = {
      ...describeOutcome(ending, promptBytes),
      duration_ms: Math.round(world.now() - startedAt),
      first_token_ms: call.firstTokenAt === undefined ? null : Math.round(call.firstTokenAt - startedAt),
      attempts: call.attempts,
    }
    world.log({
      ...line,
      call_id: admission.call_id,
      provider: admission.provider.id,
      ...outcome,
      ...causeOf(ending.error),
    })
    const settled = settleWithRetries(admission.call_id, outcome, world)
    world.waitUntil(settled)
    return Promise.race([settled, world.sleep(patienceMs).then(() => undefined)])
  }
  const close = (ending: Ending) => {
    closing ??= settle(ending)
    return closing
  }
  const call: OpenCall = { chat, admission, requestId, watch, attempts: 0, firstTokenAt: undefined, close }
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
