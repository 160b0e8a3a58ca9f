/**
 * What admission depends on beside the account: models, prices, routes and breakers as of one version, and what a call may be and
 * may cost by them. An admission by another version takes nothing, so what is worked out here is checked where it counts.
 */
import { z } from 'zod'
import { AppError } from '../errors.ts'

export type Endpoint = 'chat.completions' | 'embeddings' | 'images.generations'

/** What a call asks for. */
export type Wish = {
  endpoint: Endpoint
  model: string
  prompt_tokens_max: number
  /** The caller's own limit per choice; null without one. */
  max_output_tokens: number | null
  choices: number
  /** Images asked for; 0 for other endpoints. */
  images: number
  /** The caller's own key of the provider, from the credential vault; null: ours. */
  credential_id: string | null
}

const provider = z.object({
  id: z.string(),
  base_url: z.url({ protocol: /^https?$/ }),
  api_key_secret: z.string().nullable(),
  connect_timeout_ms: z.number().positive(),
  first_byte_timeout_ms: z.number().positive(),
  idle_timeout_ms: z.number().positive(),
  total_timeout_ms: z.number().positive(),
})

/** In pico-dollars, a millionth of a micro-dollar, for one unit of each kind; `request` once a call. */
const price = z.object({
  ref: z.int(),
  credits: z.int().nonnegative(),
  input_pico: z.int().nonnegative(),
  cached_input_pico: z.int().nonnegative(),
  output_pico: z.int().nonnegative(),
  reasoning_pico: z.int().nonnegative(),
  image_pico: z.int().nonnegative(),
  request_pico: z.int().nonnegative(),
})

const model = z.object({
  id: z.string().min(1),
  provider_id: z.string(),
  upstream_id: z.string().min(1),
  kind: z.enum(['chat', 'embedding', 'image']),
  max_output_tokens: z.int().positive(),
  /** The numbers of the plans that have it. */
  plans: z.array(z.int().min(0).max(62)),
  fallbacks: z.array(z.string()),
  /** Unix seconds; set while its breaker is open or half open. */
  open_until: z.number().nullable(),
  price: price.nullable(),
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
type Provider = z.infer<typeof provider>
type Price = z.infer<typeof price>
type Model = z.infer<typeof model>

export type PlannedRoute = {
  model: string
  upstream_model: string
  /** Per choice: what may be forwarded, because no more is held. */
  max_output_tokens: number
  provider: Provider
  price_ref: number
}

/** A call as it would be admitted: its routes in their order, and the worst case of the dearest. */
export type Planned = {
  routes: PlannedRoute[]
  priceRefs: number[]
  /** A bit for the number of each plan for which this is so. */
  plans: bigint
  /** The first route is a half-open breaker's: one call tries it. */
  probes: boolean
  outputTokens: number
  credits: number
  micros: bigint
  lastsMs: number
}

/** Keeps the newest snapshot; asks for another when it was forgotten, once for all who wait. */
export function keepSnapshot(load: () => Promise<Snapshot>) {
  type Kept = { loading: Promise<Snapshot>; version?: number }
  let kept: Kept | undefined
  const current = (): Promise<Snapshot> => {
    if (kept) return kept.loading
    const mine: Kept = { loading: load() }
    kept = mine
    mine.loading.then(
      ({ version }) => {
        mine.version = version
      },
      () => {
        if (kept === mine) kept = undefined
      },
    )
    return mine.loading
  }
  return {
    current,
    /** This version is no longer the newest. Whoever says so while another is on its way says nothing new. */
    forget(old: number): void {
      if (kept?.version === old) kept = undefined
    },
  }
}

const kinds: Record<Endpoint, Model['kind']> = {
  'chat.completions': 'chat',
  embeddings: 'embedding',
  'images.generations': 'image',
}

const everyPlan = (1n << 63n) - 1n
const noRoutes = { routes: [], priceRefs: [], probes: false, outputTokens: 0, credits: 0, micros: 0n, lastsMs: 0 }

/**
 * The ways to answer a call: the model and its fallbacks, as far as they are of the endpoint's kind, in the plan, priced and not
 * behind an open breaker. Without any the admission says why not. `plan` is the caller's, as far as it is known.
 */
export function planCall(
  known: Snapshot,
  wish: Wish,
  { plan, nowS, mayProbe }: { plan: number | undefined; nowS: number; mayProbe: boolean },
): Planned {
  // Less than nothing would be taken.
  if (Math.min(wish.prompt_tokens_max, wish.images) < 0 || Math.min(wish.choices, wish.max_output_tokens ?? 1) < 1)
    throw new AppError('invalid_request_error', {
      message: 'Tokens, choices and images must be numbers of such things.',
    })
  const asked = known.models.get(wish.model)
  if (!asked || asked.kind !== kinds[wish.endpoint] || !asked.price) return { ...noRoutes, plans: everyPlan }
  const ofPlan = plan ?? asked.plans[0]
  if (ofPlan === undefined) return { ...noRoutes, plans: 0n }
  if (!asked.plans.includes(ofPlan)) return { ...noRoutes, plans: 1n << BigInt(ofPlan) }

  const planned: Planned = { ...noRoutes, routes: [], priceRefs: [], plans: bits(asked.plans) }
  for (const candidate of [asked, ...asked.fallbacks.map((id) => known.models.get(id))]) {
    // A fallback that would be refused by itself is none.
    if (!candidate?.price || candidate.kind !== asked.kind) continue
    const isInPlan = candidate.plans.includes(ofPlan)
    planned.plans &= isInPlan ? bits(candidate.plans) : ~bits(candidate.plans)
    const vendor = known.providers.get(candidate.provider_id)
    if (!isInPlan || !vendor) continue
    if (candidate.open_until !== null) {
      if (candidate.open_until > nowS || !mayProbe || planned.routes.length > 0) continue
      planned.probes = true
    }
    addRoute(planned, candidate, candidate.price, vendor, wish, known)
  }
  planned.lastsMs += planned.routes.length > 0 ? known.hold_grace_seconds * 1000 : 0
  return planned
}

const bits = (plans: readonly number[]) => plans.reduce((mask, plan) => mask | (1n << BigInt(plan)), 0n)

function addRoute(
  planned: Planned,
  { id, upstream_id, kind, max_output_tokens }: Model,
  cost: Price,
  vendor: Provider,
  wish: Wish,
  known: Snapshot,
) {
  const most =
    kind === 'chat' ? Math.min(wish.max_output_tokens ?? known.default_max_output_tokens, max_output_tokens) : 0
  const output = wish.choices * most
  planned.routes.push({
    model: id,
    upstream_model: upstream_id,
    max_output_tokens: most,
    provider: vendor,
    price_ref: cost.ref,
  })
  planned.priceRefs.push(cost.ref)
  planned.outputTokens = Math.max(planned.outputTokens, output)
  planned.lastsMs += vendor.total_timeout_ms
  // The caller's own key: no credits, and nothing of the project's money.
  if (wish.credential_id !== null) return
  planned.credits = Math.max(planned.credits, cost.credits)
  const micros = costMicros(cost, {
    prompt: wish.prompt_tokens_max,
    completion: output,
    // All of an answer may be reasoning.
    reasoning: cost.reasoning_pico > cost.output_pico ? output : 0,
    images: wish.images,
  })
  if (micros > planned.micros) planned.micros = micros
}

/**
 * What units cost at most, in micro-dollars, rounded up once; reasoning tokens are part of the completion's.
 * @internal For tests: the same as SQL charges.
 */
export function costMicros(
  cost: Price,
  { prompt, completion, reasoning, images }: { prompt: number; completion: number; reasoning: number; images: number },
): bigint {
  const pico =
    BigInt(prompt) * BigInt(cost.input_pico) +
    BigInt(completion - reasoning) * BigInt(cost.output_pico) +
    BigInt(reasoning) * BigInt(cost.reasoning_pico) +
    BigInt(images) * BigInt(cost.image_pico) +
    BigInt(cost.request_pico)
  return (pico + 999_999n) / 1_000_000n
}
