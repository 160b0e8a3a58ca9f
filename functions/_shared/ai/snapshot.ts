/**
 * What admission depends on beside the account: models, prices, routes and breakers as of one version. An admission by another
 * version takes nothing. Loaded with the first call: the schema library takes as long as the rest of a start.
 */
import { z } from 'zod'
import { mediaRules } from './media-rules.ts'

export type Endpoint = 'chat.completions' | 'embeddings' | 'images.generations'

const provider = z.object({
  id: z.string(),
  base_url: z.url({ protocol: /^https?$/ }),
  api_key_secret: z.string().nullable(),
  connect_timeout_ms: z.number().positive(),
  first_byte_timeout_ms: z.number().positive(),
  idle_timeout_ms: z.number().positive(),
  total_timeout_ms: z.number().positive(),
  /** Fields of a request that nobody here knows go to it all the same. */
  passes_unknown_fields: z.boolean(),
  /** It works and bills no further when the connection is closed. */
  stops_when_left: z.boolean(),
})

const pico = z.int().nonnegative()
/** Units that a price may lack; the others have one always. */
const optionalUnits = ['cache_write', 'cache_write_1h', 'audio_input', 'audio_output', 'image', 'search'] as const
export type OptionalUnit = (typeof optionalUnits)[number]

/**
 * In pico-dollars, a millionth of a micro-dollar, for one unit of each kind; `request` once a call. A row for each step and variant
 * of a model; see private.prices_in_force.
 */
const price = z.object({
  ref: z.int(),
  /** It holds for prompts that are larger, up to the next step. */
  above_prompt_tokens: z.int().nonnegative(),
  /** Of images: empty when neither size nor quality is named, `*` for all without a row of their own. */
  variant: z.string(),
  credits: z.int().nonnegative(),
  input_pico: pico,
  cached_input_pico: pico,
  cache_write_pico: pico,
  cache_write_1h_pico: pico,
  audio_input_pico: pico,
  output_pico: pico,
  reasoning_pico: pico,
  audio_output_pico: pico,
  image_pico: pico,
  search_pico: pico,
  request_pico: pico,
  /** Units for which the operator gave no price: a call that asks for them is refused. */
  unpriced: z.array(z.enum(optionalUnits)),
})

const model = z.object({
  id: z.string().min(1),
  provider_id: z.string(),
  upstream_id: z.string().min(1),
  kind: z.enum(['chat', 'embedding', 'image']),
  context_tokens: z.int().positive(),
  template_percent: z.number().nonnegative(),
  template_tokens: z.number().nonnegative(),
  /** What one search may add to a prompt; without it the whole context is held. */
  search_prompt_tokens: z.int().nonnegative().nullable().default(null),
  media: mediaRules,
  /** The field that limits an answer; with `none` the provider is told no limit, so that the model's own is held. */
  limit_field: z.enum(['max_tokens', 'max_completion_tokens', 'none']),
  /** Fields that change what a call costs and are let through on purpose. */
  open_fields: z.array(z.string()),
  max_output_tokens: z.int().positive(),
  /** How fast it writes, for time in which nobody sees what it wrote. */
  tokens_per_second: z.int().positive(),
  /** The numbers of the plans that have it. */
  plans: z.array(z.int().min(0).max(62)),
  fallbacks: z.array(z.string()),
  /** Unix seconds; set while its breaker is open or half open. */
  open_until: z.number().nullable(),
  /** By variants, and in each of them by steps. */
  prices: z.array(price),
})

/** A row that is not understood is none: calls of its model or provider are refused, and those of the others are not. */
const those = <Row>(schema: z.ZodType<Row>) =>
  z.array(z.unknown()).transform((rows) =>
    rows.flatMap((row) => {
      const { data } = schema.safeParse(row)
      return data === undefined ? [] : [data]
    }),
  )

/** The answer of private.ai_snapshot, ready to look things up in. */
export const snapshot = z
  .object({
    version: z.int(),
    default_max_output_tokens: z.int().positive(),
    // A word that is neither must not stop all calls.
    timeouts_charge: z.enum(['caller', 'project']).catch('caller'),
    hold_grace_seconds: z.number().nonnegative(),
    providers: those(provider),
    models: those(model),
  })
  .transform(({ providers, models, ...rest }) => ({
    ...rest,
    providers: new Map(providers.map((one) => [one.id, one])),
    models: new Map(models.map((one) => [one.id, one])),
  }))

export type Snapshot = z.infer<typeof snapshot>
export type Provider = z.infer<typeof provider>
export type Price = z.infer<typeof price>
export type Model = z.infer<typeof model>
