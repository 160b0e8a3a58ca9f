/**
 * What a provider says a call used, in whichever dialect, as one kind of numbers; and whether it can be true. A report that cannot
 * be true is none: the call is charged by estimate, and why is told.
 */
import { type Fields, isFields } from '../forms.ts'
import type { Usage } from './ledger.ts'

/** As reported, before anybody asked whether it is possible. */
export type Report = {
  /** Null: nothing of the counts makes sense. Images are not reported, they are counted. */
  counts: Omit<Usage, 'images' | 'cost_usd'> | null
  cost_usd: number | null
  /** It says nothing of searches. */
  isWithoutSearches?: boolean
  /** A completion without a prompt: what was missing in a report before it. */
  completion?: number | undefined
  /** What was left out because it makes no sense, for the operator. */
  doubt: string | null
}

/** A number that is no count is a missing one, and is told. */
type Read = (owner: unknown, name: string) => number | undefined

function createRead(doubts: string[]): Read {
  return (owner, name) => {
    const value = isFields(owner) ? owner[name] : undefined
    if (value === undefined || value === null) return undefined
    if (Number.isSafeInteger(value) && Number(value) >= 0) return Number(value)
    doubts.push(`${name} is no count`)
    return undefined
  }
}

/** The same thing under several names: the first that is more than zero, so that nothing is counted twice. */
function first(read: Read, ...places: [owner: unknown, names: string[]][]): number | undefined {
  let found: number | undefined
  for (const [owner, names] of places)
    for (const name of names) {
      found = read(owner, name) ?? found
      if (found !== undefined && found > 0) return found
    }
  return found
}

/**
 * The usage of an answer or a chunk; null without one. Beside the usual place it may be in any of the choices (Moonshot), in `x_groq`,
 * or in the `response` or `message` of an event. Of several the first counts that is more than zeros and nonsense.
 */
export function readReport(answer: Fields): Report | null {
  const choices = Array.isArray(answer.choices) ? answer.choices : []
  const places = [answer, answer.x_groq, ...choices, answer.response, answer.message]
  let first: Report | null = null
  for (const place of places) {
    if (!isFields(place) || !isFields(place.usage)) continue
    const report = readDialect(place.usage)
    if (hasCounts(report)) return report
    first ??= report
  }
  return first
}

function readDialect(usage: Fields): Report {
  const doubts: string[] = []
  const read = createRead(doubts)
  const ofPrompt = usage.prompt_tokens_details ?? usage.input_tokens_details
  const ofCompletion = usage.completion_tokens_details ?? usage.output_tokens_details
  const told = first(read, [usage, ['prompt_tokens', 'input_tokens']])
  const completion = first(read, [usage, ['completion_tokens', 'output_tokens']])
  const isSenseless = doubts.length > 0
  const total = read(usage, 'total_tokens')
  // No prompt is nothing: beside a total that has one, a zero is a number that was left out. What came from a cache may be all of it.
  const prompt = told === 0 && !isCacheOutside(usage) && total !== undefined ? undefined : told
  const whole = wholeOf(prompt, completion, total)
  const cost_usd = readCost(usage.cost, doubts)
  const doubt = () => (doubts.length > 0 ? doubts.join(', ').slice(0, 200) : null)
  if (isSenseless) return { counts: null, cost_usd, doubt: doubt() }
  if (!whole) return { counts: null, cost_usd, completion, doubt: doubt() }

  const parts = {
    ...readCache(read, usage, ofPrompt),
    reasoning: first(read, [ofCompletion, ['reasoning_tokens']], [usage, ['reasoning_tokens']]),
    audioInput: read(ofPrompt, 'audio_tokens'),
    audioOutput: read(ofCompletion, 'audio_tokens'),
  }
  const searches = first(
    read,
    [usage.server_tool_use, ['web_search_requests']],
    [usage.server_tool_use_details, ['tool_calls_executed', 'web_search_requests']],
    [usage, ['num_search_queries', 'num_server_side_tools_used', 'num_sources_used']],
  )
  const counts = { ...putTogether(whole, total, parts, isCacheOutside(usage)), searches: searches ?? 0 }
  return { counts, cost_usd, isWithoutSearches: searches === undefined, doubt: doubt() }
}

type Whole = { prompt: number; completion: number }

/** A part that is missing is what the total has beside the other one. A total alone is that of embeddings. */
function wholeOf(prompt?: number, completion?: number, total?: number): Whole | undefined {
  if (prompt === undefined && total === undefined) return undefined
  if (prompt === undefined)
    return { prompt: Math.max(0, (total ?? 0) - (completion ?? 0)), completion: completion ?? 0 }
  return { prompt, completion: completion ?? Math.max(0, (total ?? 0) - prompt) }
}

type Cache = { cached: number; writes: number; hourWrites: number }

function readCache(read: Read, usage: Fields, details: unknown): Cache {
  const byLife = usage.cache_creation ?? (isFields(details) ? details.cache_creation : undefined)
  const hourWrites = read(byLife, 'ephemeral_1h_input_tokens') ?? 0
  const writes = first(
    read,
    [details, ['cache_write_tokens', 'cache_creation_tokens']],
    [usage, ['cache_write_tokens', 'cache_creation_input_tokens']],
  )
  const cached = first(
    read,
    [details, ['cached_tokens', 'cache_read_tokens']],
    [usage, ['cached_tokens', 'prompt_cache_hit_tokens', 'cache_read_input_tokens']],
  )
  const short = writes === undefined ? read(byLife, 'ephemeral_5m_input_tokens') : writes - hourWrites
  return { cached: cached ?? 0, writes: Math.max(0, short ?? 0), hourWrites }
}

/** Anthropic's names, by which `input_tokens` are those that the cache has no part in. */
const isCacheOutside = (usage: Fields): boolean =>
  usage.prompt_tokens === undefined &&
  (usage.cache_read_input_tokens !== undefined || usage.cache_creation_input_tokens !== undefined)

type Parts = Cache & Record<'reasoning' | 'audioInput' | 'audioOutput', number | undefined>

/**
 * The prompt is made whole, with what came from the cache and what went into it; so is the completion, with what was thought. Each
 * token is in one part at most. What the total has beyond both is output: some count thoughts only there.
 */
function putTogether(whole: Whole, total: number | undefined, parts: Parts, cacheIsOutside: boolean) {
  const { cached, writes, hourWrites, reasoning = 0, audioInput = 0, audioOutput = 0 } = parts
  const inCache = cached + writes + hourWrites
  const isOutside =
    inCache > 0 && (cacheIsOutside || inCache > whole.prompt || total === whole.prompt + whole.completion + inCache)
  const prompt = isOutside ? whole.prompt + inCache : whole.prompt
  const said = whole.completion + (reasoning > whole.completion ? reasoning : 0)
  const completion = total !== undefined && total > prompt + whole.completion ? total - prompt : said
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    cached_tokens: cached,
    cache_write_tokens: writes,
    cache_write_1h_tokens: hourWrites,
    reasoning_tokens: Math.min(reasoning, completion),
    audio_input_tokens: Math.min(audioInput, prompt - inCache),
    audio_output_tokens: Math.min(audioOutput, completion - Math.min(reasoning, completion)),
  }
}

/** No call costs more; beyond it a number is noise. */
const mostCostUsd = 10_000

/** In dollars, as a number or as Perplexity's `total_cost`. */
function readCost(given: unknown, doubts: string[]): number | null {
  const cost = isFields(given) ? given.total_cost : given
  if (cost === undefined || cost === null) return null
  if (typeof cost === 'number' && cost >= 0 && cost <= mostCostUsd) return cost
  doubts.push('cost is no amount')
  return null
}

const hasCounts = ({ counts }: Report): boolean =>
  counts !== null && (counts.prompt_tokens > 0 || counts.completion_tokens > 0)

/**
 * Reports are totals, so a later one replaces the one before; but not by less than a report: zeros after real numbers (some end
 * so), or numbers that make no sense.
 */
export function laterReport(before: Report | null, report: Report | null): Report | null {
  if (!report || !before?.counts) return report ?? before
  if (report.completion !== undefined) return withCompletion(before, before.counts, report)
  if (!report.counts || (hasCounts(before) && !hasCounts(report))) return before
  return before.counts.completion_tokens > 0 && report.counts.completion_tokens === 0 ? before : report
}

/** Some tell the prompt at once, and at the end nothing but the completion. */
function withCompletion(before: Report, counts: NonNullable<Report['counts']>, later: Report): Report {
  const { completion = 0, cost_usd, doubt } = later
  if (completion <= counts.completion_tokens) return before
  const told = { cost_usd: cost_usd ?? before.cost_usd, doubt: doubt ?? before.doubt }
  return { ...told, counts: { ...counts, completion_tokens: completion } }
}

/** What can be true of a call. */
export type Bounds = {
  /** The most that may have been read: the model's context, or all inputs of an embedding. */
  promptTokens: number
  /** The most that was asked for, all choices or images together; null: what is made is not paid by tokens. */
  completionTokens: number | null
  /** Uses of the provider's own tools that were asked for, and held. */
  searches: number
  /** Of these as many as were made for sure. */
  sureSearches?: number
}

/** Bytes of what was seen of an answer; `media` are pictures and sound as base64. */
export type Said = {
  text: number
  media: number
  /** A `delta` has said some of it. */
  isInDeltas?: true
}
export type Seen = Said & {
  /** Of a call for images their number. */
  images?: number
  /** The report is older than some of this, which says nothing against it. */
  isPartial?: boolean
}

/** A token may be some words long, and escapes take up to six bytes for one. Up to the first, there may be no tokens at all. */
const freeBytes = 2_000
const mostBytesPerToken = 300

/** Why this cannot be so; undefined when it can. */
function whyNot(counts: NonNullable<Report['counts']>, said: Seen, bounds: Bounds): string | undefined {
  const { prompt_tokens, completion_tokens } = counts
  if (prompt_tokens > bounds.promptTokens)
    return `${prompt_tokens} prompt tokens, of which ${bounds.promptTokens} are possible`
  if (bounds.completionTokens === null) return undefined
  // A provider may go beyond the limit: what was seen is believed, with a byte or more a token.
  const most = bounds.completionTokens + said.text
  if (completion_tokens > most) return `${completion_tokens} completion tokens, of which ${most} are possible`
  if (!said.isPartial && said.text > freeBytes + completion_tokens * mostBytesPerToken)
    return `${completion_tokens} completion tokens for ${said.text} bytes of text`
  if (said.images && completion_tokens === 0) return `0 completion tokens for ${said.images} images`
  return undefined
}

/** Vectors are not made of tokens, nor are images where no price says that they are. */
const nothingMade = { completion_tokens: 0, reasoning_tokens: 0, audio_output_tokens: 0 }

/** The usage that is charged, images aside; null when there is none that is believed, and why. */
export function judgeReport(
  report: Report | null,
  said: Seen,
  bounds: Bounds,
): { usage: Usage | null; implausible: string | null } {
  if (!report?.counts) return { usage: null, implausible: report?.doubt ?? null }
  const { counts, doubt, cost_usd } = report
  const reason = whyNot(counts, said, bounds)
  if (reason !== undefined) return { usage: null, implausible: reason }
  const made = bounds.completionTokens === null ? nothingMade : {}
  // What nobody asked for was held by nobody; the rest of the report is true all the same.
  const unasked = `${counts.searches} searches, of which ${bounds.searches} were asked for`
  const searches = report.isWithoutSearches ? (bounds.sureSearches ?? 0) : Math.min(counts.searches, bounds.searches)
  const doubts = searches < counts.searches ? unasked : doubt
  return { usage: { ...counts, ...made, searches, images: 0, cost_usd }, implausible: doubts }
}
