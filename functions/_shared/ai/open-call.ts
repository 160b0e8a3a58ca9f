/**
 * An admitted call from admission to settlement. It settles exactly once, however many ways it ends at the same time; here stands
 * what an ending is charged, too, and what the breaker learns of it.
 */
import { type Alarm, AppError } from '../errors.ts'
import { causeOf } from '../failure.ts'
import { remember } from '../remember.ts'
import { bytesPerToken, tokensEstimated } from './estimate-tokens.ts'
import {
  type Admitted,
  type AttemptReport,
  nothingUsed,
  type Outcome,
  type Route,
  type Settlement,
  type Usage,
} from './ledger.ts'
import type { AiRequest } from './read-request.ts'
import { type Bounds, judgeReport, type Report, type Seen } from './read-usage.ts'
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
  /** Since when, in ticks, the provider works that is being asked now, or answers; undefined while none does. */
  askedAt: number | undefined
  /** Askings whose answer did not come in time, how long these providers have worked, and the last of them. */
  late: { attempts: number; ms: number; route: Route | undefined }
  /** The route that was asked last; when `answered`, the one that answers. */
  route: Route | undefined
  answered: boolean
  firstTokenAt: number | undefined
  /** Called when the caller has gone: what has come is read without them. */
  onLeft(): void
  /** The provider has said all; at most its usage is still to come. */
  isFinished(): boolean
  /** The first ending counts. Waits a moment for the settlement, which goes on in the background when that is not enough. */
  close(ending: Ending): Promise<Settlement | undefined>
  /** A whole answer: waits until it is settled; when the ledger is away for long, the call is closed as not delivered, and throws. */
  closeBefore(ending: Ending): Promise<Settlement>
}

type Opening = Pick<OpenCall, 'request' | 'admission' | 'requestId' | 'keepsAnswer'> & {
  startedAt: number
  callerSignal: AbortSignal
  line: LogLine
}

const patienceMs = 1_500
/** Longer than a statement to the ledger may take, so that it is known what came of it. */
const wholePatienceMs = 10_000
const retryDelaysMs = [100, 500, 2_000, 5_000]

export function openCall({ startedAt, callerSignal, line, ...opening }: Opening, world: AiWorld): OpenCall {
  const totalMs = Math.max(...opening.admission.routes.map(({ provider }) => provider.total_timeout_ms))
  /** A provider that does not stop when it is left works to the end, and says there what that costs. */
  const readsOn = () => {
    if (call.askedAt === undefined) return false
    // What has come already may say what it costs.
    call.onLeft()
    if (call.route?.provider.stops_when_left && !call.isFinished()) return false
    world.waitUntil(closing.isBegun)
    return true
  }
  const call: OpenCall = {
    ...opening,
    watch: watchCall(callerSignal, { totalMs, readsOn }, world.wheel),
    attempts: 0,
    askedAt: undefined,
    late: { attempts: 0, ms: 0, route: undefined },
    route: undefined,
    answered: false,
    firstTokenAt: undefined,
    onLeft: () => {},
    isFinished: () => false,
    close: (ending) => world.within(patienceMs, closing.begin(ending)),
    closeBefore: (ending) => closing.waitFor(ending),
  }
  const closing = createClosing(call, { startedAt, callerSignal, line }, world)
  return call
}

/** How a call ends, once: the first ending is described, logged and settled. */
function createClosing(
  call: OpenCall,
  { startedAt, callerSignal, line }: Pick<Opening, 'startedAt' | 'callerSignal' | 'line'>,
  world: AiWorld,
) {
  const { call_id, user_id } = call.admission
  const begun = Promise.withResolvers<void>()
  let closing: Promise<Settlement | undefined> | undefined
  let outcome: Outcome
  let isAwaited = false

  const settle = (ending: Ending): Promise<Settlement | undefined> => {
    call.watch.end()
    world.marks.end(call_id)
    // The end of the call as a whole, a hang-up or a reader who is too slow, says nothing about the provider.
    const isOver = call.watch.signal.aborted || call.watch.isLeft()
    if (call.answered && call.route && !isOver) reportAttempt(call.route, user_id, ending.error, world)
    outcome = {
      ...describeOutcome(ending, call, world.ticks()),
      duration_ms: Math.round(world.now() - startedAt),
      first_token_ms: call.firstTokenAt === undefined ? null : Math.round(call.firstTokenAt - startedAt),
      attempts: call.attempts,
    }
    const { response, model, ...told } = outcome
    const used = { model_used: model, provider: call.route?.provider.id, is_kept: response !== null }
    world.log({ ...line, call_id, ...used, ...told, ...causeOf(ending.error) })
    // Who is seen to leave while a whole answer waits for another try has not got it.
    const newest = () => (isAwaited && callerSignal.aborted ? leftMeanwhile(outcome) : outcome)
    const settled = settleWithRetries(call.admission, newest, world)
    world.waitUntil(settled)
    begun.resolve()
    return settled
  }
  const begin = (ending: Ending): Promise<Settlement | undefined> => {
    closing ??= settle(ending)
    return closing
  }
  const waitFor = async (ending: Ending): Promise<Settlement> => {
    isAwaited = true
    const settlement = await world.within(wholePatienceMs, begin(ending))
    if (settlement) return settlement
    const error = new AppError('accounting_unavailable', { cause: 'the answer could not be settled' })
    // Whoever left has not waited for it.
    if (!call.watch.isLeft() && !callerSignal.aborted) outcome = { ...outcome, ...undelivered(error) }
    world.log({ ...line, level: 'error', message: 'an answer was not delivered', call_id, ...causeOf(error) })
    throw error
  }
  return { isBegun: begun.promise, begin, waitFor }
}

/** Never rejects. What could not be settled here is settled by the sweeper, from the mark that `start` left. */
async function settleWithRetries(
  call: Admitted,
  outcome: () => Outcome,
  world: AiWorld,
): Promise<Settlement | undefined> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await world.ledger.settle(call, outcome())
    } catch (error) {
      const delayMs = retryDelaysMs[attempt]
      const message = delayMs === undefined ? 'a call is left to the sweeper' : 'a settlement failed and is tried again'
      world.log({ level: 'error', message, call_id: call.call_id, ...causeOf(error) })
      if (delayMs === undefined) return undefined
      await world.sleep(delayMs)
    }
  }
}

export type Ending = {
  /** Undefined when all went well. */
  error: AppError | undefined
  /** As the provider reported it. */
  usage: Usage | null
  /** The report is older than some of the answer: the estimate counts where it is more. */
  isPartial?: boolean
  /** Why a report of the provider was not believed: then `usage` is null. */
  implausible?: string | null
  /** Bytes of text that the model said and that were delivered. */
  contentBytes: number
  /** Images that were made. */
  images: number
  /** All bytes that were delivered. */
  responseBytes: number
  /** The whole answer, when it is to be kept for the same idempotency key. */
  response?: string | null
}

/** An ending before the first byte went to the caller. */
export const nothingDelivered = (error: AppError): Ending => ({
  error,
  usage: null,
  contentBytes: 0,
  images: 0,
  responseBytes: 0,
})

function boundsOf({ request, route }: Pick<OpenCall, 'request' | 'route'>): Bounds {
  const most = outputAtMost(request, route)
  return {
    promptTokens: route?.context_tokens ?? 0,
    completionTokens: most > 0 ? most : null,
    searches: request.asks.searches ?? 0,
    sureSearches: request.asks.sureSearches ?? 0,
  }
}

/** Tokens of all choices, or of all images; 0 where what is made is not paid by them. */
function outputAtMost({ endpoint, choices, images }: AiRequest, route: Route | undefined): number {
  if (endpoint === 'embeddings') return 0
  return (endpoint === 'images.generations' ? images : choices) * (route?.max_output_tokens ?? 0)
}

/** What a provider reported, as far as it can be true of what was seen, and what an estimate goes by. */
export function usedBy(
  call: Pick<OpenCall, 'request' | 'route'>,
  report: Report | null,
  said: Seen,
): Pick<Ending, 'usage' | 'implausible' | 'contentBytes' | 'isPartial'> {
  const bounds = boundsOf(call)
  // As base64, pictures and sound are far more bytes than tokens.
  const media = Math.min(said.media, bytesPerToken * (bounds.completionTokens ?? 0))
  return { ...judgeReport(report, said, bounds), contentBytes: said.text + media, isPartial: said.isPartial ?? false }
}

const undelivered = (error: AppError) => ({
  result: 'failed' as const,
  http_status: error.status,
  error_code: error.code,
  usage: null,
  usage_source: 'none' as const,
  implausible: null,
  response_bytes: 0,
  response: null,
})

/** Of an answer that nobody got: it is charged all the same. */
const leftMeanwhile = (outcome: Outcome): Outcome => {
  if (outcome.result !== 'succeeded') return outcome
  const { status, code } = new AppError('client_closed_request')
  return { ...outcome, result: 'cancelled', http_status: status, error_code: code }
}

type Described = Omit<Outcome, 'duration_ms' | 'first_token_ms' | 'attempts'>

/**
 * What failed is free unless something of the answer was delivered, or a provider worked for it. Hanging up is not free: the caller
 * pays for what was reported, else for an estimate, from the moment on at which the provider was asked. Askings whose answer did not
 * come in time are estimated as well, and `ai.timeouts_charge` says whose they are; once a later one was answered, the project's.
 */
function describeOutcome(ending: Ending, call: OpenCall, ticks: number): Described {
  const { usage, contentBytes, images, responseBytes, response = null, implausible = null } = ending
  const isLeft = call.watch.isLeft()
  const error = !ending.error && isLeft ? new AppError('client_closed_request') : ending.error
  const isLate = error?.code === 'upstream_timeout'
  const hungUp = error?.code === 'client_closed_request' || (isLate && isLeft)
  const isDelivered = responseBytes > 0 && (contentBytes > 0 || (usage !== null && !ending.isPartial))
  const isAsking = call.askedAt !== undefined && (hungUp || isLate)
  const isTooMuch = error?.details.isTooMuch === true
  const isLateAlone = call.late.attempts > 0 && !call.answered
  const hasWorked = error !== undefined && (isAsking || isTooMuch || isLateAlone)
  const isCharged = !error || isDelivered || (hungUp && responseBytes > 0) || hasWorked
  // Not what a caller asked too much for: whoever does it on purpose must not use up the cap.
  const isProviders = hasWorked && !hungUp && !isDelivered && !isTooMuch
  const isProjects = isProviders && call.admission.timeouts_charge === 'project'
  // Of an answer that is too large to be read nobody knows how large it is.
  const seen = isTooMuch ? { ...ending, contentBytes: Number.POSITIVE_INFINITY } : ending
  // Whoever is asked or answers now; else the last that was too slow, and not one that never worked.
  const worker = call.answered || call.askedAt !== undefined || isTooMuch ? call.route : (call.late.route ?? call.route)
  const reported = usage && { ...usage, images }
  const estimate = () => estimateUsage(seen, call, worker, hasWorked ? ticks : undefined)
  const used = reported && !ending.isPartial ? reported : atLeast(reported, estimate())
  return {
    result: !error ? 'succeeded' : hungUp && isCharged ? 'cancelled' : 'failed',
    http_status: error?.status ?? 200,
    error_code: error?.code ?? null,
    usage: isCharged ? used : null,
    usage_source: !isCharged ? 'none' : isProjects ? 'project' : used === reported ? 'provider' : 'estimated',
    implausible,
    late: call.late.attempts > 0 && call.answered ? estimateLate(call) : null,
    model: isCharged && (call.answered || hasWorked) ? (worker?.model ?? null) : null,
    response_bytes: responseBytes,
    response,
  }
}

/** Of a report of a part: a prompt is in it whole or not at all, and what the part cost says nothing of the whole. */
function atLeast(reported: Usage | null, estimated: Usage): Usage {
  if (!reported) return estimated
  const prompt_tokens = reported.prompt_tokens || estimated.prompt_tokens
  const completion_tokens = Math.max(reported.completion_tokens, estimated.completion_tokens)
  const isSame = prompt_tokens === reported.prompt_tokens && completion_tokens === reported.completion_tokens
  return isSame ? reported : { ...reported, prompt_tokens, completion_tokens, cost_usd: null }
}

/**
 * Of what nobody reported: the prompt, as often as it was worked on, and the text that was seen, at four bytes a token. For a provider
 * that has worked (`ticks` is set) also what nobody may have seen, such as hidden reasoning: as much as the model writes in that time, and
 * all images that were asked for. Never more than the route was held for.
 */
function estimateUsage(
  { contentBytes, images }: Ending,
  { request, late: before, answered, askedAt }: OpenCall,
  route: Route | undefined,
  ticks: number | undefined,
): Usage {
  const hasWorked = ticks !== undefined
  const late = answered ? { attempts: 0, ms: 0 } : before
  const workedMs = hasWorked ? late.ms + (askedAt === undefined ? 0 : ticks - askedAt) : 0
  const written = Math.ceil((workedMs / 1000) * (route?.tokens_per_second ?? 0))
  const askings = Math.max(1, hasWorked ? late.attempts + (askedAt === undefined ? 0 : 1) : 1)
  const made = hasWorked ? request.images : images
  // A picture has as many tokens as are held for it, whatever the time: it comes whole.
  const ofImages = made * (route?.max_output_tokens ?? 0)
  return {
    ...nothingUsed,
    prompt_tokens: promptEstimated(request, route, askings),
    completion_tokens: Math.min(
      Math.max(tokensEstimated(contentBytes), written, ofImages),
      outputAtMost(request, route),
    ),
    images: made,
    searches: (hasWorked ? request.asks.searches : request.asks.sureSearches) ?? 0,
  }
}

function promptEstimated(request: AiRequest, route: Route | undefined, askings: number): number {
  const prompt = request.promptTokensEstimated + (route?.media_tokens ?? 0)
  return Math.min(prompt * askings, route?.prompt_tokens_max ?? prompt)
}

/** What was worked on in vain before another asking was answered; SQL takes no more of it than the answer has left of the hold. */
function estimateLate({ request, late }: OpenCall): Outcome['late'] {
  const written = Math.ceil((late.ms / 1000) * (late.route?.tokens_per_second ?? 0))
  return {
    prompt_tokens: promptEstimated(request, late.route, late.attempts),
    completion_tokens: Math.min(written, outputAtMost(request, late.route)),
  }
}

const modelsKept = 1_000
/** A half-open breaker waits for word from its one probe. Calls pause while it is open, so a probe is never within this. */
const quietMs = 10_000

/** Timeouts, 5xx, broken connections and errors in the stream. Not 4xx, 429 included, and not a caller who hangs up. */
export const isProvidersFault = ({ code, details }: AppError): boolean =>
  (code === 'upstream_error' || code === 'upstream_timeout') && details.shouldRetry !== false

/**
 * In the background. A caller's own key says nothing about ours. Every failure is news, a success after one, too; else one in ten
 * seconds: no statement for each call.
 */
export function reportAttempt(route: Route, userId: string, error: AppError | undefined, world: AiWorld): void {
  if (route.api_key !== undefined) return
  if (error?.details.alarm) tellOperator(route.provider.id, error.details.alarm, world)
  const name = `${route.provider.id} ${route.model}`
  const lastWell = world.lastWell.get(name) ?? Number.NEGATIVE_INFINITY
  if (error ? !isProvidersFault(error) : world.now() - lastWell < quietMs) return
  world.lastWell.delete(name)
  if (!error) remember(world.lastWell, modelsKept, name, world.now())
  const report: AttemptReport = {
    provider: route.provider.id,
    model: route.model,
    user_id: userId,
    ok: !error,
    error_code: error?.code ?? null,
  }
  const failed = (cause: unknown) =>
    world.log({ level: 'error', message: 'the breaker was not told', provider: report.provider, ...causeOf(cause) })
  world.waitUntil(world.ledger.reportAttempts([report]).catch(failed))
}

const alarmQuietMs = 60_000
const alarmsKept = 1_000

/** What somebody here has to mend, once a minute: a line of the log, and a security event in the background. */
function tellOperator(provider: string, { event, said }: Alarm, world: AiWorld): void {
  const name = `${provider} ${event}`
  if (world.now() - (world.lastAlarm.get(name) ?? Number.NEGATIVE_INFINITY) < alarmQuietMs) return
  remember(world.lastAlarm, alarmsKept, name, world.now())
  world.log({ level: 'error', message: event, provider, said })
  const failed = (cause: unknown) =>
    world.log({ level: 'error', message: 'an alarm was not told', provider, ...causeOf(cause) })
  world.waitUntil(world.ledger.reportAlarm(provider, event).catch(failed))
}
