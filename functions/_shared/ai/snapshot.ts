/**
 * What admission depends on beside the account: models, prices, routes and breakers as of one version, and what a call may be and
 * may cost by them. An admission by another version takes nothing, so what is worked out here is checked where it counts.
 */
import { AppError } from '../errors.ts'
import {
  AnotherForm,
  type Check,
  type Checked,
  type Form,
  hasFields,
  isCount,
  isListOf,
  isNullOr,
  isNumber,
  isPositive,
  isText,
  isUrl,
} from '../forms.ts'

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

const isWebAddress: Check<string> = (given): given is string => isText(given) && isUrl(given, /^https?$/)
const isName: Check<string> = (given): given is string => isText(given) && given !== ''
const isCountAbove0: Check<number> = (given): given is number => isCount(given) && given > 0
const isPlanNumber: Check<number> = (given): given is number => isCount(given) && given <= 62
const isKind: Check<'chat' | 'embedding' | 'image'> = (given) =>
  given === 'chat' || given === 'embedding' || given === 'image'

const isProvider = hasFields({
  id: isText,
  base_url: isWebAddress,
  api_key_secret: isNullOr(isText),
  connect_timeout_ms: isPositive,
  first_byte_timeout_ms: isPositive,
  idle_timeout_ms: isPositive,
  total_timeout_ms: isPositive,
})

/** In pico-dollars, a millionth of a micro-dollar, for one unit of each kind; `request` once a call. */
const isPrice = hasFields({
  ref: isCount,
  credits: isCount,
  input_pico: isCount,
  cached_input_pico: isCount,
  output_pico: isCount,
  reasoning_pico: isCount,
  image_pico: isCount,
  request_pico: isCount,
})

const isModel = hasFields({
  id: isName,
  provider_id: isText,
  upstream_id: isName,
  kind: isKind,
  max_output_tokens: isCountAbove0,
  /** The numbers of the plans that have it. */
  plans: isListOf(isPlanNumber),
  fallbacks: isListOf(isText),
  /** Unix seconds; set while its breaker is open or half open. */
  open_until: isNullOr(isNumber),
  price: isNullOr(isPrice),
})

const isAny = (given: unknown): given is unknown => given !== undefined
const isSnapshot = hasFields({
  version: isCount,
  default_max_output_tokens: isCountAbove0,
  hold_grace_seconds: isNumber,
  providers: isListOf(isAny),
  models: isListOf(isAny),
})

/** A row that is not understood is none: calls of its model or provider are refused, and those of the others are not. */
const those = <Row extends { id: string }>(check: Check<Row>, rows: unknown[]) =>
  new Map(rows.filter(check).map((row) => [row.id, row]))

export type Snapshot = Omit<Checked<typeof isSnapshot>, 'providers' | 'models'> & {
  providers: Map<string, Provider>
  models: Map<string, Model>
}
type Provider = Checked<typeof isProvider>
type Price = Checked<typeof isPrice>
type Model = Checked<typeof isModel>

/** The answer of private.ai_snapshot, ready to look things up in. */
export const snapshot: Form<Snapshot> = {
  parse(given) {
    if (!isSnapshot(given) || given.hold_grace_seconds < 0) throw new AnotherForm('the snapshot is none')
    return { ...given, providers: those(isProvider, given.providers), models: those(isModel, given.models) }
  },
}

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
    /** Asks without waiting when there is none. What fails is told to whoever waits for it. */
    begin(): void {
      if (!kept) current().catch(() => {})
    },
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
