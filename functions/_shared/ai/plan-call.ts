/**
 * What a call may be and may cost, by a snapshot: its routes, and the worst case of the dearest. SQL takes that as it is, for the
 * version of the snapshot; so what is worked out here is checked where it counts.
 */
import { AppError } from '../errors.ts'
import type { Asks } from './field-tables.ts'
import type { MediaKind } from './media-rules.ts'
import { type Contents, mediaRefused, mediaTokensLikely, promptTokensAtMost } from './prompt-size.ts'
import { type FoundField, fieldsRefused } from './request-fields.ts'
import type { Endpoint, Model, OptionalUnit, Price, Provider, Snapshot } from './snapshot.ts'

/** What a call asks for. */
export type Wish = {
  endpoint: Endpoint
  model: string
  contents: Contents
  asks: Asks
  /** What not every model takes. */
  fields: readonly FoundField[]
  /** The caller's own limit per choice; null without one. */
  max_output_tokens: number | null
  choices: number
  /** Images asked for; 0 for other endpoints. */
  images: number
  /** The caller's own key of the provider, from the credential vault; null: ours. */
  credential_id: string | null
}

export type PlannedRoute = {
  model: string
  upstream_model: string
  /** Per choice: what may be forwarded, because no more is held. Of images per image: 0 when they are not paid by tokens. */
  max_output_tokens: number
  /** What the model can have read at most, all texts of an embedding together, however little was held for it. */
  context_tokens: number
  limit_field: Model['limit_field']
  open_fields: readonly string[]
  tokens_per_second: number
  /** Of the prompt what is no text: a part of the estimate when the provider reports nothing. */
  media_tokens: number
  /** Of the prompt what was held, for an estimate. */
  prompt_tokens_max: number
  provider: Provider
  price_ref: number
  /** Other prices for larger prompts, as far as this one may be so large, in their order. */
  steps: readonly { above_prompt_tokens: number; price_ref: number }[]
}

/** A call as it would be admitted: its routes in their order, and the worst case of the dearest. */
export type Planned = {
  routes: PlannedRoute[]
  /** Of all routes and their steps. */
  priceRefs: number[]
  /** A bit for the number of each plan for which this is so. */
  plans: bigint
  /** The first route is a half-open breaker's: one call tries it. */
  probes: boolean
  promptTokens: number
  outputTokens: number
  credits: number
  micros: bigint
  lastsMs: number
  timeoutsCharge: Snapshot['timeouts_charge']
}

const kinds: Record<Endpoint, Model['kind']> = {
  'chat.completions': 'chat',
  embeddings: 'embedding',
  'images.generations': 'image',
}

const everyPlan = (1n << 63n) - 1n
const nothing = { priceRefs: [], probes: false, promptTokens: 0, outputTokens: 0, credits: 0, micros: 0n, lastsMs: 0 }
const noRoutes = { routes: [], ...nothing, timeoutsCharge: 'caller' as const }

/**
 * The ways to answer a call: the model and its fallbacks, as far as they are of the endpoint's kind, in the plan, take what is in
 * the request, have a price for all that may be charged, and are not behind an open breaker. Without any the admission says why not.
 * `plan` is the caller's, as far as it is known. Throws when the model that was asked for does not take a kind of media, or has no
 * price for something that is asked of it.
 */
export function planCall(
  known: Snapshot,
  wish: Wish,
  { plan, nowS, mayProbe }: { plan: number | undefined; nowS: number; mayProbe: boolean },
): Planned {
  requireSound(wish)
  const asked = known.models.get(wish.model)
  if (!asked || asked.kind !== kinds[wish.endpoint] || asked.prices.length === 0)
    return { ...noRoutes, plans: everyPlan }
  const ofPlan = plan ?? asked.plans[0]
  if (ofPlan === undefined) return { ...noRoutes, plans: 0n }
  if (!asked.plans.includes(ofPlan)) return { ...noRoutes, plans: 1n << BigInt(ofPlan) }

  const planned: Planned = {
    ...nothing,
    ...{ routes: [], priceRefs: [], plans: bits(asked.plans), timeoutsCharge: known.timeouts_charge },
  }
  for (const candidate of [asked, ...asked.fallbacks.map((id) => known.models.get(id))]) {
    // A fallback that would be refused by itself is none.
    if (candidate?.kind !== asked.kind) continue
    const worst = worstCase(candidate, wish, known)
    if ('refusal' in worst) {
      if (candidate === asked) throw worst.refusal
      continue
    }
    const isInPlan = candidate.plans.includes(ofPlan)
    planned.plans &= isInPlan ? bits(candidate.plans) : ~bits(candidate.plans)
    const vendor = known.providers.get(candidate.provider_id)
    if (!isInPlan || !vendor) continue
    if (candidate.open_until !== null) {
      if (candidate.open_until > nowS || !mayProbe || planned.routes.length > 0) continue
      planned.probes = true
    }
    addRoute(planned, candidate, worst, vendor, wish)
  }
  planned.lastsMs += planned.routes.length > 0 ? known.hold_grace_seconds * 1000 : 0
  return planned
}

/** By the lists of a snapshot, which are as good as a model's name: they never change. */
const masks = new WeakMap<readonly number[], bigint>()

function bits(plans: readonly number[]): bigint {
  const known = masks.get(plans)
  if (known !== undefined) return known
  const mask = plans.reduce((all, plan) => all | (1n << BigInt(plan)), 0n)
  masks.set(plans, mask)
  return mask
}

/** Less than nothing would be taken. */
function requireSound({ contents, asks, images, choices, max_output_tokens }: Wish): void {
  const amounts = [contents.textBytes, contents.messages, contents.tokens, images, asks.searches ?? 0]
  if (amounts.every((amount) => amount >= 0) && choices >= 1 && (max_output_tokens ?? 1) >= 1) return
  throw new AppError('invalid_request_error', {
    message: 'Tokens, choices, searches and images must be numbers of such things.',
  })
}

/** What a call may come to by one model. `prices` are those of all steps that its prompt may reach, the first from nothing on. */
type Worst = { prices: [Price, ...Price[]]; promptTokens: number; answerTokens: number; outputTokens: number }

function worstCase(model: Model, wish: Wish, known: Snapshot): Worst | { refusal: AppError } {
  const { contents, asks, choices, images } = wish
  const vendor = known.providers.get(model.provider_id)
  const shut = vendor && fieldsRefused(wish.fields, model, vendor)
  if (shut) return refuse('invalid_request_error', shut.message, shut.param)
  const refused = mediaRefused(contents, model)
  if (refused)
    return refuse(
      'invalid_request_error',
      `The model ${model.id} takes no input of the kind ${refused}. An operator can let it, with a rule in models.media.`,
    )
  const promptTokens = promptTokensAtMost(contents, model, asks)
  const [first, ...steps] = pricesOf(model, asks)
  if (first?.above_prompt_tokens !== 0)
    return refuse('model_not_priced', `The model ${model.id} has no price for ${whichPrice(model, asks)}.`)
  const prices: Worst['prices'] = [first, ...steps.filter((step) => step.above_prompt_tokens < promptTokens)]
  const missing = unitsAsked(wish).find((unit) => prices.some(({ unpriced }) => unpriced.includes(unit)))
  if (missing)
    return refuse(
      'model_not_priced',
      `The model ${model.id} has no price for ${unitNames[missing]}, which this asks for. An operator can give it one in model_prices.`,
    )
  const answerTokens = longestAnswer(model, prices, wish, known)
  const answers = model.kind === 'image' ? images : choices
  return { prices, promptTokens, answerTokens, outputTokens: answers * answerTokens }
}

const refuse = (code: 'invalid_request_error' | 'model_not_priced', message: string, param = 'model') => ({
  refusal: new AppError(code, { message, param }),
})

const whichPrice = ({ kind }: Model, { variant }: Asks) =>
  variant ?? (kind === 'image' ? 'an image of no named size and quality' : 'small prompts')

/** What holds for every variant, named or not. */
const everyVariant = '*'

/** The prices of the variant, by steps; of one that has none of its own, those of every variant. Never those of what is not named. */
function pricesOf({ prices }: Model, { variant = '' }: Asks): Price[] {
  const own = prices.filter((one) => one.variant === variant)
  return own.length > 0 ? own : prices.filter((one) => one.variant === everyVariant)
}

const unitNames: Record<OptionalUnit, string> = {
  cache_write: 'writing into a cache',
  cache_write_1h: 'writing into a cache for an hour',
  audio_input: 'sound in a prompt',
  audio_output: 'answers in sound',
  image: 'an image',
  search: 'searches',
}

const noUnits: OptionalUnit[] = []

/** Units that only a call has which asks for them. With the caller's own key none of them is charged here. */
function unitsAsked({ asks, contents, images, credential_id }: Wish): OptionalUnit[] {
  if (credential_id !== null) return noUnits
  // Most ask for text alone.
  if (images === 0 && contents.media.length === 0 && !asks.cacheWrites && !asks.audioOut && !asks.searches)
    return noUnits
  const units: [OptionalUnit, boolean][] = [
    ['cache_write', asks.cacheWrites === '5m'],
    ['cache_write_1h', asks.cacheWrites === '1h'],
    ['audio_input', has(contents, 'audio')],
    ['audio_output', asks.audioOut ?? false],
    ['image', images > 0],
    ['search', (asks.searches ?? 0) > 0],
  ]
  return units.flatMap(([unit, isAsked]) => (isAsked ? [unit] : []))
}

const has = ({ media }: Contents, ...kinds: MediaKind[]) => media.some(({ kind }) => kinds.includes(kind))

/** Of a film the sound may be charged apart, and so may what is at an address, or in a file of which nothing says what it is. */
const mayBeHeard = (contents: Contents) =>
  has(contents, 'audio', 'video', 'file') || contents.media.some(({ isUnseen }) => isUnseen)

/**
 * Of one choice, or one image. Vectors have no tokens; images have some where an output price says that they are paid by them. Whoever tells
 * the provider no limit may get all that the model can say, and of images nobody can tell one.
 */
function longestAnswer(model: Model, prices: readonly Price[], wish: Wish, known: Snapshot): number {
  const { kind, limit_field, max_output_tokens } = model
  if (kind === 'embedding') return 0
  if (kind === 'image') return prices.some(isPaidByOutput) ? max_output_tokens : 0
  if (limit_field === 'none') return max_output_tokens
  return Math.min(wish.max_output_tokens ?? known.default_max_output_tokens, max_output_tokens)
}

const isPaidByOutput = ({ output_pico, reasoning_pico }: Price) => output_pico > 0 || reasoning_pico > 0

function addRoute(planned: Planned, model: Model, worst: Worst, vendor: Provider, wish: Wish) {
  const [first, ...steps] = worst.prices
  planned.routes.push({
    model: model.id,
    upstream_model: model.upstream_id,
    max_output_tokens: worst.answerTokens,
    context_tokens: model.context_tokens * (wish.contents.prompts ?? 1),
    limit_field: model.limit_field,
    open_fields: model.open_fields,
    tokens_per_second: model.tokens_per_second,
    media_tokens: mediaTokensLikely(wish.contents, model),
    prompt_tokens_max: worst.promptTokens,
    provider: vendor,
    price_ref: first.ref,
    steps: steps.map(({ ref, above_prompt_tokens }) => ({ price_ref: ref, above_prompt_tokens })),
  })
  for (const { ref } of worst.prices) planned.priceRefs.push(ref)
  planned.promptTokens = Math.max(planned.promptTokens, worst.promptTokens)
  planned.outputTokens = Math.max(planned.outputTokens, worst.outputTokens)
  planned.lastsMs += vendor.total_timeout_ms
  // The caller's own key: no credits, and nothing of the project's money.
  if (wish.credential_id !== null) return
  for (const price of worst.prices) {
    planned.credits = Math.max(planned.credits, price.credits)
    const micros = mostMicros(price, worst, wish)
    if (micros > planned.micros) planned.micros = micros
  }
}

/** At the dearest that each token may be, in micro-dollars, rounded up once. */
function mostMicros(price: Price, { promptTokens, outputTokens }: Worst, { asks, contents, images }: Wish): bigint {
  // Whether a prompt is found in a cache, or written into one, is the provider's to say.
  const input = Math.max(
    price.input_pico,
    price.cached_input_pico,
    price.cache_write_pico,
    asks.cacheWrites === '1h' ? price.cache_write_1h_pico : 0,
    mayBeHeard(contents) ? price.audio_input_pico : 0,
  )
  // All of an answer may be reasoning.
  const output = Math.max(price.output_pico, price.reasoning_pico, asks.audioOut ? price.audio_output_pico : 0)
  return microsOf([
    [promptTokens, input],
    [outputTokens, output],
    [images, price.image_pico],
    [asks.searches ?? 0, price.search_pico],
    [1, price.request_pico],
  ])
}

const picoPerMicro = 1_000_000

/** What so much of each costs, rounded up once. */
function microsOf(parts: [count: number, pico: number][]): bigint {
  let total = 0
  for (const [count, pico] of parts) total += count * pico
  // Nothing here is less than nothing, so that no step towards a number that is exact was inexact; and bigints take ten times as long.
  if (total > Number.MAX_SAFE_INTEGER)
    return (parts.reduce((sum, [count, pico]) => sum + BigInt(count) * BigInt(pico), 0n) + 999_999n) / 1_000_000n
  const rest = total % picoPerMicro
  return BigInt((total - rest) / picoPerMicro + (rest > 0 ? 1 : 0))
}
