/**
 * The SQL functions behind an AI call: what goes there, what comes back, and the way. The decisions are theirs; this only carries
 * them, many at a time when there are many. Answers are parsed: a surprise is a failure.
 */
import { createBatches, isOnesFault } from '../batch-calls.ts'
import { answer, callSql, type Database, nothing } from '../db.ts'
import { AppError } from '../errors.ts'
import {
  type Check,
  type Fields,
  type Form,
  formOf,
  hasFields,
  isFields,
  isListOf,
  isMissing,
  isMissingOr,
  isNullOr,
  isNumber,
  isText,
  type Missing,
} from '../forms.ts'
import { remember } from '../remember.ts'
import { type Field, rowsLiteral } from '../rows-literal.ts'
import { keepSnapshot } from './keep-snapshot.ts'
import { type Planned, type PlannedRoute, planCall, type Wish } from './plan-call.ts'

/** Whose call it is: a verified token's user, or whoever owns the key with this SHA-256, called from this address. */
export type LedgerCaller = (
  | { user_id: string; session_id: string }
  | { api_key_hash: string; signature: RequestSignature | null }
) & { ip: string | null }

/** The headers of a signed request, by the scheme of Standard Webhooks, and its body as base64. The secret is in the database. */
export type RequestSignature = { id: string; timestamp: string; signatures: string[]; content: string }

export type AdmissionRequest = LedgerCaller &
  Wish & {
    request_id: string
    stream: boolean
    request_bytes: number
    user_agent: string | null
    /** With the SHA-256 of the body as hex; both null without a key. */
    idempotency_key: string | null
    body_hash: string | null
  }

export type Limit = {
  meter: string
  period: string
  amount?: number | Missing
  used?: number | Missing
  held?: number | Missing
  remaining?: number | Missing
  resets_at?: string | Missing
}

const isLimit: Check<Limit> = hasFields({
  meter: isText,
  period: isText,
  amount: isMissingOr(isNumber),
  used: isMissingOr(isNumber),
  held: isMissingOr(isNumber),
  remaining: isMissingOr(isNumber),
  resets_at: isMissingOr(isText),
})

/** A way to answer the call, with the caller's own key when the call asked for it. Never logged. */
export type Route = PlannedRoute & { api_key?: string }

export type Admitted = {
  admitted: true
  call_id: string
  user_id: string
  /** The hold covers the dearest of them, so the gateway may take any, in this order. */
  routes: Route[]
  credits_remaining: number
  limits: Limit[]
  /** Who pays for an answer that did not come in time. */
  timeouts_charge: 'caller' | 'project'
}

type RefusalDetails = {
  param?: string | Missing
  retry_after_s?: number | Missing
  resets_at?: string | Missing
  limit?: Limit | Missing
  /** With the code `other_plan`: the number of the plan that counts for the caller. */
  plan?: number | Missing
}

export type Refused = {
  admitted: false
  code: string
  message?: string | Missing
  /** The finished answer to the same idempotency key, with the code `idempotency_replay`. */
  replay?: { body: string; content_type: string; model: string } | Missing
  details?: RefusalDetails | Missing
  call_id?: string | Missing
}

const isRefusal = hasFields({
  code: isText,
  message: isMissingOr(isText),
  replay: isMissingOr(hasFields({ body: isText, content_type: isText, model: isText })),
  details: isMissingOr(
    hasFields({
      param: isMissingOr(isText),
      retry_after_s: isMissingOr(isNumber),
      resets_at: isMissingOr(isText),
      plan: isMissingOr(isNumber),
    }),
  ),
})
export type Admission = Admitted | Refused

export type Usage = {
  prompt_tokens: number
  completion_tokens: number
  /** Read from a cache; as the next three inside `prompt_tokens`, each token in one of them at most. */
  cached_tokens: number
  /** Written into a cache that lasts five minutes. */
  cache_write_tokens: number
  /** Written into a cache that lasts an hour. */
  cache_write_1h_tokens: number
  audio_input_tokens: number
  /** Inside `completion_tokens`, as those of audio, each token in one of them at most. */
  reasoning_tokens: number
  audio_output_tokens: number
  /** Images that were made. */
  images: number
  /** Uses of the provider's tools, such as searches. */
  searches: number
  /** What the provider says it costs. */
  cost_usd: number | null
}

export const nothingUsed: Usage = {
  prompt_tokens: 0,
  completion_tokens: 0,
  cached_tokens: 0,
  cache_write_tokens: 0,
  cache_write_1h_tokens: 0,
  audio_input_tokens: 0,
  reasoning_tokens: 0,
  audio_output_tokens: 0,
  images: 0,
  searches: 0,
  cost_usd: null,
}

export type Outcome = {
  result: 'succeeded' | 'failed' | 'cancelled'
  http_status: number
  error_code: string | null
  usage: Usage | null
  /** `project`: by estimate, and the caller is charged for none of it. */
  usage_source: 'provider' | 'estimated' | 'project' | 'none'
  /** Why what the provider reported was not believed; null when it was, or when it reported nothing. */
  implausible: string | null
  /** By estimate, what was worked in vain before an answer came: the project's loss, whatever the answer costs, within the hold. */
  late: { prompt_tokens: number; completion_tokens: number } | null
  response_bytes: number
  duration_ms: number
  first_token_ms: number | null
  attempts: number
  /** The model of the route that answered, or worked in vain; null when none did. Its price is charged. */
  model: string | null
  /** A whole answer to a call with an idempotency key, kept for 24 h; null for streams and without a key. */
  response: string | null
}

export type Settlement = {
  settled: boolean
  cost_micros?: number
  credits_charged?: number
  credits_remaining?: number
}

type ListedModel = { id: string; owned_by: string; created: number; kind?: string | Missing }
type ModelList =
  | { allowed: true; user_id: string; models: ListedModel[] }
  | { allowed: false; code: string; message?: string | Missing }

const isListed: Check<ListedModel> = hasFields({
  id: isText,
  owned_by: isText,
  created: isNumber,
  kind: isMissingOr(isText),
})
const areModels = hasFields({ user_id: isText, models: isListOf(isListed) })
const isNoList = hasFields({ code: isText, message: isMissingOr(isText) })
const isModelList: Check<ModelList> = (given): given is ModelList =>
  isFields(given) && (given.allowed === true ? areModels(given) : given.allowed === false && isNoList(given))

/** A limit or a time that makes no sense is a missing one. */
export type AnonymousVerdict = { allowed: boolean; limit?: Limit | Missing; retry_after_s?: number | Missing }
const anonymousVerdict: Form<AnonymousVerdict> = {
  parse(given) {
    if (!isFields(given) || typeof given.allowed !== 'boolean') throw notUnderstood('a verdict without its word')
    const { allowed, limit, retry_after_s } = given
    return {
      allowed,
      limit: isLimit(limit) ? limit : null,
      retry_after_s: isNumber(retry_after_s) ? retry_after_s : null,
    }
  },
}

/** What the breaker is told: one asking of a provider that failed in a way that counts, or that went well. */
export type AttemptReport = {
  provider: string
  model: string
  /** Whose call it was: a breaker needs failures of several accounts. */
  user_id: string
  ok: boolean
  error_code: string | null
}

/**
 * While one statement commits, the next one gathers: with four, each carries half as many calls and costs nearly as much. Rarer
 * questions find the pool's other connections free.
 */
const batchesInFlight = 2
/** Answers that are kept have up to 1 MB each, and a statement is in memory several times. */
const answersInBatch = 4
/** A call is worked out anew when the configuration changed, when its caller's plan is another, and when a breaker's probe is taken. */
const triesPerCall = 8
const plansKept = 10_000

/** An answer that we do not understand is no permission, and neither is none. */
const asLedger = { otherwise: 'accounting_unavailable', deadlineMs: 8_000 } as const
/** Fields are looked at where they are used: a schema would look at all of every row. */
const rows = formOf((given): given is Row[] => Array.isArray(given))

export type Ledger = ReturnType<typeof createLedger>

type Asking = { request: AdmissionRequest; planned: Planned; version: number }
type Ended = { call: Pick<Admitted, 'call_id' | 'user_id' | 'routes'>; outcome: Outcome }
type Item = { asks: Asking; ends?: never } | { ends: Ended; asks?: never }
type Row = Fields

/** @param now Unix milliseconds, by which open breakers are judged. */
export function createLedger(sql: Database, now: () => number = Date.now) {
  const inBatches = createBatches(batchesInFlight)
  const snapshots = keepSnapshot(() => askSnapshot(sql))
  const step = (items: Item[]) => takeStep(sql, items)
  /** Callers whose plan is not the one that most have. */
  const plans = new Map<string, number>()

  const send = inBatches(step, isOnesFault)
  const sendWithAnswer = inBatches(step, isOnesFault, answersInBatch)

  /** What a row does not allow is refused only when the newest does not either. */
  const planByNewest = async (request: AdmissionRequest, how: Parameters<typeof planCall>[2]) => {
    const known = await snapshots.current()
    try {
      return { known, planned: planCall(known, request, how) }
    } catch (refusal) {
      const newest = await snapshots.renewed()
      if (newest === known) throw refusal
      return { known: newest, planned: planCall(newest, request, how) }
    }
  }

  const admit = async (request: AdmissionRequest): Promise<Admission> => {
    const caller = 'user_id' in request ? request.user_id : request.api_key_hash
    let mayProbe = true
    for (let tries = 0; tries < triesPerCall; tries += 1) {
      const how = { plan: plans.get(caller), nowS: now() / 1000, mayProbe }
      const { known, planned } = await planByNewest(request, how)
      const row = await send({ asks: { request, planned, version: known.version } })
      if (row.refusal === null) return admitted(row, planned)
      const refusal = refusedOf(row)
      if (refusal.code === 'other_version') snapshots.forget(known.version)
      else if (refusal.code === 'other_plan') remember(plans, plansKept, caller, refusal.details?.plan ?? 0)
      else if (refusal.code === 'probe_taken') mayProbe = false
      else return refusal
    }
    throw new AppError('accounting_unavailable', { cause: 'what admission depends on kept changing' })
  }

  return {
    admit,

    /** Begins to fetch what the first call needs. */
    prepare: (): void => snapshots.begin(),

    settle: async (call: Ended['call'], outcome: Outcome): Promise<Settlement> => {
      const row = await (outcome.response === null ? send : sendWithAnswer)({ ends: { call, outcome } })
      if (row.settles !== true) throw notUnderstood('no answer to a settlement')
      if (row.call_id === null) return { settled: false }
      return {
        settled: true,
        cost_micros: integer(row.cost_micros),
        credits_charged: integer(row.credits_charged),
        credits_remaining: integer(row.credits_remaining),
      }
    },

    /** Those of the models that take pictures, sounds or files. */
    takingMedia: async (ids: string[]): Promise<Set<string>> => {
      const { models } = await snapshots.current()
      return new Set(ids.filter((id) => Object.keys(models.get(id)?.media ?? {}).length > 0))
    },

    ...questionsTo(sql),
  }
}

async function askSnapshot(sql: Database) {
  const asked = callSql(
    sql`select private.ai_snapshot() as answer`,
    answer<unknown>({ parse: (given) => given }),
    asLedger,
  )
  const [told, { snapshot }] = await Promise.all([asked, import('./snapshot.ts')])
  const { data, error } = snapshot.safeParse(told)
  if (error) throw notUnderstood(error)
  return data
}

/** What has ended and what asks leave together: one statement, one commit. */
async function takeStep(sql: Database, items: Item[]): Promise<Row[]> {
  const version = items.reduce((newest, { asks }) => Math.max(newest, asks?.version ?? 0), 0)
  const ended = items.filter(({ ends }) => ends)
  const asking = items.filter(({ asks }) => asks?.version === version)
  const outcomes = rowsLiteral(ended.map(({ ends }) => (ends ? outcomeFields(ends) : [])))
  const requests = rowsLiteral(asking.map(({ asks }) => (asks ? requestFields(asks) : [])))
  const answers = await callSql(
    sql`select * from private.ai_step(${outcomes}::private.ai_outcome[], ${requests}::private.ai_request[], ${String(version)}::bigint)`,
    rows,
    asLedger,
  )
  const found = new Map<Item | undefined, Row>()
  for (const row of answers) found.set((row.settles ? ended : asking)[Number(row.position) - 1], row)
  // Of an older snapshot than another call in this step.
  return items.map((item) => found.get(item) ?? (item.asks && item.asks.version !== version ? otherVersion : {}))
}

/** What is asked seldom, or waits for nobody else: a statement each. */
const questionsTo = (sql: Database) => ({
  /** Marks calls whose callers have begun to get their answers. */
  start: async (callIds: string[]) => {
    await callSql(sql`select private.start_ai_calls(${`{${callIds.join()}}`}::uuid[])`, nothing, asLedger)
  },

  listModels: (caller: LedgerCaller) =>
    callSql(sql`select private.list_ai_models(${sql.json(caller)}) as answer`, answer(formOf(isModelList)), asLedger),

  reportAttempts: async (reports: AttemptReport[]) => {
    await callSql(sql`select private.report_ai_attempts(${sql.json(reports)})`, nothing, asLedger)
  },

  /** Something of a provider that somebody here has to mend. */
  reportAlarm: async (provider: string, event: string) => {
    await callSql(sql`select private.report_provider_alarm(${provider}, ${event})`, nothing, asLedger)
  },

  countAnonymous: (ip: string, route: string) =>
    callSql(
      sql`select private.count_anonymous_request(${ip}::inet, ${route}) as answer`,
      answer(anonymousVerdict),
      asLedger,
    ),

  reportSignatureFailure: async (keyHash: string, ip: string | null) => {
    await callSql(
      sql`select private.report_signature_failure(decode(${keyHash}, 'hex'), ${ip}::inet)`,
      nothing,
      asLedger,
    )
  },

  /** Null when the Vault has no secret of this name. */
  providerSecret: (name: string) =>
    callSql(sql`select private.provider_secret(${name}) as answer`, answer(formOf(isNullOr(isText))), asLedger),
})

const otherVersion: Row = { call_id: null, refusal: { code: 'other_version' } }

const notUnderstood = (cause: unknown) => new AppError('accounting_unavailable', { cause })

/** A bigint as postgres.js gives it. */
function integer(value: unknown): number {
  const number = typeof value === 'string' || typeof value === 'number' ? Number(value) : Number.NaN
  if (!Number.isSafeInteger(number)) throw notUnderstood('a number of the ledger is none')
  return number
}

function refusedOf({ refusal, call_id }: Row): Refused {
  if (!isRefusal(refusal)) throw notUnderstood('a refusal that is not understood')
  const { code, message, replay, details } = refusal
  const limit = details && 'limit' in details && isLimit(details.limit) ? details.limit : null
  return {
    admitted: false,
    ...{ code, message, replay, details: isMissing(details) ? {} : { ...details, limit } },
    call_id: typeof call_id === 'string' ? call_id : null,
  }
}

function admitted(row: Row, { routes, timeoutsCharge }: Planned): Admitted {
  const { call_id, user_id, provider_key } = row
  if (typeof call_id !== 'string' || typeof user_id !== 'string') throw notUnderstood('an admission without its call')
  const own = typeof provider_key === 'string' ? provider_key : undefined
  return {
    admitted: true,
    timeouts_charge: timeoutsCharge,
    call_id,
    user_id,
    // The caller's own key is one provider's; at another somebody else would pay.
    routes: own
      ? routes.filter(({ provider }) => provider === routes[0]?.provider).map((way) => ({ ...way, api_key: own }))
      : routes,
    // What is committed is told: no number here may make it a failure.
    credits_remaining: Number(row.credits_remaining),
    limits: [
      limitOf('ai_requests', 'minute', row.requests_amount, row.requests_remaining, row.requests_reset_at),
      limitOf('ai_calls', 'day', row.calls_amount, row.calls_remaining, row.calls_reset_at),
      limitOf('ai_tokens', 'month', row.tokens_amount, row.tokens_remaining, row.tokens_reset_at),
    ].filter((one) => one !== undefined),
  }
}

const noLimit = '9223372036854775807'

function limitOf(
  meter: string,
  period: string,
  amount: unknown,
  remaining: unknown,
  resetAt: unknown,
): Limit | undefined {
  if (amount === noLimit) return undefined
  return {
    meter,
    period,
    // A limit may be larger than what is exact here, and is told all the same.
    amount: Number(amount),
    remaining: Number(remaining),
    resets_at: new Date(integer(resetAt) * 1000).toISOString(),
  }
}

/** As the fields of private.ai_request. */
function requestFields({ request, planned }: Asking): Field[] {
  const isKey = 'api_key_hash' in request
  const signature = isKey ? request.signature : null
  return [
    request.request_id,
    isKey ? null : request.user_id,
    isKey ? null : request.session_id,
    isKey ? `\\x${request.api_key_hash}` : null,
    request.ip,
    signature && JSON.stringify(signature),
    request.endpoint,
    request.model,
    planned.priceRefs.length > 0 ? `{${planned.priceRefs.join()}}` : null,
    planned.plans,
    planned.probes,
    planned.promptTokens,
    planned.outputTokens,
    planned.credits,
    planned.micros,
    planned.lastsMs,
    request.stream,
    request.request_bytes,
    request.idempotency_key,
    request.body_hash,
    request.credential_id,
  ]
}

/**
 * No call has more: of tokens (a hundred million), of images, searches and dollars. Larger numbers would not fit where they are added
 * up, and no settlement may fail because of what a provider says. private.ai_cost_micros relies on them, and SQL sees to them again.
 */
const most = { tokens: 100_000_000, things: 10_000, usd: 1_000_000, int32: 2 ** 31 - 1 }

/** A whole number from nothing on: what is less is none, a part counts as a whole one, and what is no number is none. */
const bounded = (value: number, limit: number): number => (value > 0 ? Math.min(Math.ceil(value), limit) : 0)
/** Most calls have none of these, and an empty field is the shortest. */
const rare = (value: number | undefined, limit: number): number | null => bounded(value ?? 0, limit) || null

/** As the fields of private.ai_outcome. */
function outcomeFields({ call, outcome }: Ended): Field[] {
  const { usage, response } = outcome
  const cost = usage?.cost_usd ?? null
  return [
    call.call_id,
    call.user_id,
    outcome.result,
    outcome.http_status,
    outcome.error_code,
    usage && bounded(usage.prompt_tokens, most.tokens),
    usage && bounded(usage.completion_tokens, most.tokens),
    usage && bounded(usage.cached_tokens, most.tokens),
    rare(usage?.cache_write_tokens, most.tokens),
    rare(usage?.cache_write_1h_tokens, most.tokens),
    rare(usage?.audio_input_tokens, most.tokens),
    usage && bounded(usage.reasoning_tokens, most.tokens),
    rare(usage?.audio_output_tokens, most.tokens),
    usage && bounded(usage.images, most.things),
    rare(usage?.searches, most.things),
    cost !== null && cost >= 0 && cost <= most.usd ? cost : null,
    outcome.usage_source,
    outcome.implausible ?? (usage && isOutOfBounds(usage) ? 'a number that no call has' : null),
    bounded(outcome.response_bytes, Number.MAX_SAFE_INTEGER),
    bounded(outcome.duration_ms, most.int32),
    outcome.first_token_ms === null ? null : bounded(outcome.first_token_ms, most.int32),
    outcome.attempts,
    priceRefOf(call, outcome),
    // PostgreSQL keeps no zero byte in a text.
    response?.includes('\0') ? null : response,
    rare(outcome.late?.prompt_tokens, most.tokens),
    rare(outcome.late?.completion_tokens, most.tokens),
  ]
}

function isOutOfBounds({ cost_usd, images, searches, ...tokens }: Usage): boolean {
  const isAmount = (value: number, limit: number) => Number.isInteger(value) && value >= 0 && value <= limit
  return !(
    Object.values(tokens).every((value) => isAmount(value, most.tokens)) &&
    isAmount(images, most.things) &&
    isAmount(searches, most.things) &&
    (cost_usd === null || (cost_usd >= 0 && cost_usd <= most.usd))
  )
}

/** The price of the route that answered, for prompts as large as this one was. */
function priceRefOf({ routes }: Ended['call'], { model, usage }: Outcome): number | undefined {
  const route = routes.find((one) => one.model === model)
  const step = route?.steps.findLast((one) => (usage?.prompt_tokens ?? 0) > one.above_prompt_tokens)
  return step?.price_ref ?? route?.price_ref
}
