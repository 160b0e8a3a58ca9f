/** The shapes that travel between functions/ai and `private.*_ai_*` in SQL. Answers are parsed: a surprise is a failure. */
import { z } from 'zod'

/** Whose call it is: a verified token's user, or whoever owns the key with this SHA-256, called from this address. */
export type LedgerCaller = { user_id: string; session_id: string } | { api_key_hash: string; ip: string | null }

export type AdmissionRequest = LedgerCaller & {
  request_id: string
  endpoint: 'chat.completions'
  model: string
  prompt_tokens_max: number
  max_output_tokens: number | null
  choices: number
  stream: boolean
  request_bytes: number
  ip: string | null
  user_agent: string | null
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

const admitted = z.object({
  admitted: z.literal(true),
  call_id: z.guid(),
  provider,
  upstream_model: z.string().min(1),
  /** Per choice: what may be forwarded, because no more was held. */
  max_output_tokens: z.int().positive(),
  credits_remaining: z.number().nullish(),
  limits: z.array(limit).nullish(),
})

const refused = z.object({
  admitted: z.literal(false),
  call_id: z.guid().nullish(),
  code: z.string(),
  message: z.string().nullish(),
  details: z
    .object({
      param: z.string().nullish(),
      retry_after_s: z.number().nullish(),
      resets_at: z.string().nullish(),
      limit: limit.nullish().catch(null),
    })
    .nullish(),
})

export const admission = z.discriminatedUnion('admitted', [admitted, refused])

export const settlement = z.object({
  settled: z.boolean(),
  cost_micros: z.number().nullish(),
  credits_charged: z.number().nullish(),
  credits_remaining: z.number().nullish(),
})

const model = z.object({ id: z.string(), owned_by: z.string(), created: z.number(), kind: z.string().nullish() })

export const modelList = z.discriminatedUnion('allowed', [
  z.object({ allowed: z.literal(true), models: z.array(model) }),
  z.object({ allowed: z.literal(false), code: z.string(), message: z.string().nullish() }),
])

export type Usage = {
  prompt_tokens: number
  completion_tokens: number
  /** Inside `prompt_tokens`. */
  cached_tokens: number
  /** Inside `completion_tokens`. */
  reasoning_tokens: number
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
}

export type Limit = z.infer<typeof limit>
export type Provider = z.infer<typeof provider>
export type Admitted = z.infer<typeof admitted>
export type Admission = z.infer<typeof admission>
export type Settlement = z.infer<typeof settlement>
export type ModelList = z.infer<typeof modelList>
