/**
 * The SQL functions behind an AI call: what goes there, what comes back, and the way. The decisions are theirs; this only carries
 * them, many at a time when there are many. Answers are parsed: a surprise is a failure.
 */
import { z } from 'zod'
import { createBatches, isOnesFault } from '../batch-calls.ts'
import { answer, callSql, type Database, nothing } from '../db.ts'
import { AppError } from '../errors.ts'

/** Whose call it is: a verified token's user, or whoever owns the key with this SHA-256, called from this address. */
export type LedgerCaller = (
  | { user_id: string; session_id: string }
  | { api_key_hash: string; signature: RequestSignature | null }
) & { ip: string | null }

/** The headers of a signed request, by the scheme of Standard Webhooks, and its body as base64. The secret is in the database. */
export type RequestSignature = { id: string; timestamp: string; signatures: string[]; content: string }

export type Endpoint = 'chat.completions' | 'embeddings' | 'images.generations'

export type AdmissionRequest = LedgerCaller & {
  request_id: string
  endpoint: Endpoint
  model: string
  prompt_tokens_max: number
  /** The caller's own limit per choice; null without one. */
  max_output_tokens: number | null
  choices: number
  /** Images asked for; 0 for other endpoints. */
  images: number
  stream: boolean
  request_bytes: number
  user_agent: string | null
  /** With the SHA-256 of the body as hex; both null without a key. */
  idempotency_key: string | null
  body_hash: string | null
  /** The caller's own key of the provider, from the credential vault; null: ours. */
  credential_id: string | null
}

const limit = z.object({
  meter: z.string(),
  period: z.string(),
  amount: z.number().nullish(),
  used: z.number().nullish(),
  held: z.number().nullish(),
  remaining: z.number().nullish(),
  resets_at: z.string().nullish(),
})

const provider = z.object({
  id: z.string(),
  base_url: z.url({ protocol: /^https?$/ }),
  api_key_secret: z.string().nullable(),
  connect_timeout_ms: z.number().positive(),
  first_byte_timeout_ms: z.number().positive(),
  idle_timeout_ms: z.number().positive(),
  total_timeout_ms: z.number().positive(),
})

/** One way to answer the call. The hold covers the dearest of them, so the gateway may take any, in this order. */
const route = z.object({
  model: z.string().min(1),
  upstream_model: z.string().min(1),
  /** Per choice: what may be forwarded, because no more was held. */
  max_output_tokens: z.int().nonnegative(),
  provider,
  /** The caller's own key, when the call asked for it. Never logged. */
  api_key: z.string().min(1).optional(),
})

const admitted = z.object({
  admitted: z.literal(true),
  call_id: z.guid(),
  routes: z.array(route).min(1),
  credits_remaining: z.number().nullish(),
  limits: z.array(limit).nullish(),
})

const refused = z.object({
  admitted: z.literal(false),
  call_id: z.guid().nullish(),
  code: z.string(),
  message: z.string().nullish(),
  /** The finished answer to the same idempotency key, with the code `idempotency_replay`. */
  replay: z.object({ body: z.string(), content_type: z.string(), model: z.string() }).nullish(),
  details: z
    .object({
      param: z.string().nullish(),
      retry_after_s: z.number().nullish(),
      resets_at: z.string().nullish(),
      limit: limit.nullish().catch(null),
    })
    .nullish(),
})

const admission = z.discriminatedUnion('admitted', [admitted, refused])

export type Usage = {
  prompt_tokens: number
  completion_tokens: number
  /** Inside `prompt_tokens`. */
  cached_tokens: number
  /** Inside `completion_tokens`. */
  reasoning_tokens: number
  /** Images that were made. */
  images: number
  /** What the provider says it costs. */
  cost_usd: number | null
}

export type Outcome = {
  result: 'succeeded' | 'failed' | 'cancelled'
  http_status: number
  error_code: string | null
  usage: Usage | null
  usage_source: 'provider' | 'estimated' | 'none'
  response_bytes: number
  duration_ms: number
  first_token_ms: number | null
  attempts: number
  /** The model of the route that answered; null when none did. Its price is charged. */
  model: string | null
  /** A whole answer to a call with an idempotency key, kept for 24 h; null for streams and without a key. */
  response: string | null
}

const settlement = z.object({
  settled: z.boolean(),
  cost_micros: z.number().nullish(),
  credits_charged: z.number().nullish(),
  credits_remaining: z.number().nullish(),
})

const model = z.object({ id: z.string(), owned_by: z.string(), created: z.number(), kind: z.string().nullish() })

const modelList = z.discriminatedUnion('allowed', [
  z.object({ allowed: z.literal(true), models: z.array(model) }),
  z.object({ allowed: z.literal(false), code: z.string(), message: z.string().nullish() }),
])

const anonymousVerdict = z.object({
  allowed: z.boolean(),
  limit: limit.nullish().catch(null),
  retry_after_s: z.number().nullish().catch(null),
})

/** What the breaker is told: one asking of a provider that failed in a way that counts, or that went well. */
export type AttemptReport = { provider: string; model: string; ok: boolean; error_code: string | null }

export type Limit = z.infer<typeof limit>
export type Route = z.infer<typeof route>
export type Admitted = z.infer<typeof admitted>
export type Admission = z.infer<typeof admission>
export type Settlement = z.infer<typeof settlement>
export type AnonymousVerdict = z.infer<typeof anonymousVerdict>

/**
 * While one statement commits, the next one gathers: with four, each carries half as many calls and costs nearly as much. Rarer
 * questions find the pool's other connections free.
 */
const batchesInFlight = 2
/** Answers that are kept have up to 1 MB each, and a statement is in memory several times. */
const answersInBatch = 4

/** An answer that we do not understand is no permission, and neither is none. */
const asLedger = { otherwise: 'accounting_unavailable', deadlineMs: 8_000 } as const
const list = answer(z.array(z.unknown()))

export type Ledger = ReturnType<typeof createLedger>

/** Parameters are JSON, because postgres.js 3.4.9 sends a null inside an array as the text "NULL". */
export function createLedger(sql: Database) {
  const inBatches = createBatches(batchesInFlight)

  const admitted = inBatches(
    async (requests: AdmissionRequest[]) =>
      callSql(sql`select private.admit_ai_calls(${sql.json(requests)}) as answer`, list, asLedger),
    isOnesFault,
  )
  const started = inBatches(async (ids: string[]) => {
    const uuids = sql`array(select id::uuid from jsonb_array_elements_text(${sql.json(ids)}) as id)`
    await callSql(sql`select private.start_ai_calls(${uuids})`, nothing, asLedger)
    return ids
  }, isOnesFault)
  const settle = async (settlements: { call_id: string; outcome: Outcome }[]) =>
    callSql(sql`select private.settle_ai_calls(${sql.json(settlements)}) as answer`, list, asLedger)
  const settled = inBatches(settle, isOnesFault)
  const settledWithAnswer = inBatches(settle, isOnesFault, answersInBatch)

  return {
    admit: async (request: AdmissionRequest) => understood(admission, await admitted(request)),

    start: async (callId: string) => {
      await started(callId)
    },

    settle: async (callId: string, outcome: Outcome) => {
      const send = outcome.response === null ? settled : settledWithAnswer
      return understood(settlement, await send({ call_id: callId, outcome }))
    },

    listModels: (caller: LedgerCaller) =>
      callSql(sql`select private.list_ai_models(${sql.json(caller)}) as answer`, answer(modelList), asLedger),

    reportAttempts: async (reports: AttemptReport[]) => {
      await callSql(sql`select private.report_ai_attempts(${sql.json(reports)})`, nothing, asLedger)
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
      callSql(sql`select private.provider_secret(${name}) as answer`, answer(z.string().nullable()), asLedger),
  }
}

/** One of many answers that came together. */
function understood<T>(schema: z.ZodType<T>, one: unknown): T {
  const { data, error } = schema.safeParse(one)
  if (error) throw new AppError('accounting_unavailable', { cause: error })
  return data
}
