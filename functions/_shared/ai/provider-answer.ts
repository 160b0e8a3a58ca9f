/** What we read of a provider's answer, JSON or a chunk of a stream. The rest is not our business and is passed on as it is. */
import { byteLength } from './estimate-tokens.ts'
import { nothingUsed, type Usage } from './ledger.ts'

type Fields = Record<string, unknown>
type Choice = { index: number; message: unknown; delta: unknown; finish_reason: string | null }
/** Chat and embeddings have a prompt and a completion, images have an input; what images are made of is paid by the image. */
type ReportedUsage = {
  prompt: number | null
  completion: number
  cached: number
  reasoning: number
  cost: number | null
}

export type ProviderAnswer = {
  choices: Choice[] | undefined
  /** Vectors or images. */
  data: unknown[] | undefined
  usage: ReportedUsage | null
  error: unknown
  contentBytes: number
}

/**
 * Undefined for what is not a JSON object. Read by hand, since this is done for every answer; a part that makes no sense is a
 * missing one, so there is nothing that a schema would have to say.
 */
export function readProviderAnswer(json: string): ProviderAnswer | undefined {
  const answer = parseJson(json)
  if (!isFields(answer)) return undefined
  const choices = readChoices(answer.choices)
  let said = 0
  for (const { message, delta } of choices ?? []) said += contentBytes(message) + contentBytes(delta)
  return {
    choices,
    data: Array.isArray(answer.data) ? answer.data : undefined,
    usage: readUsage(answer.usage),
    error: answer.error,
    contentBytes: said,
  }
}

function parseJson(json: string): unknown {
  try {
    return JSON.parse(json)
  } catch {
    return undefined
  }
}

const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

function readChoices(given: unknown): Choice[] | undefined {
  if (!Array.isArray(given) || !given.every(isFields)) return undefined
  return given.map(({ index, message, delta, finish_reason }) => ({
    index: typeof index === 'number' ? index : 0,
    message,
    delta,
    finish_reason: typeof finish_reason === 'string' ? finish_reason : null,
  }))
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) >= 0
const isMissing = (value: unknown) => value === null || value === undefined
/** A detail that is wrong is a missing one. */
const detail = (details: unknown, name: string): number => {
  const value = isFields(details) ? details[name] : undefined
  return isCount(value) ? value : 0
}

/** A usage that makes no sense is a missing one: it is estimated. */
function readUsage(given: unknown): ReportedUsage | null {
  if (!isFields(given)) return null
  const { prompt_tokens, input_tokens, completion_tokens, cost } = given
  for (const count of [prompt_tokens, input_tokens, completion_tokens])
    if (!isMissing(count) && !isCount(count)) return null
  const prompt = prompt_tokens ?? input_tokens
  return {
    prompt: isCount(prompt) ? prompt : null,
    completion: isCount(completion_tokens) ? completion_tokens : 0,
    cached: detail(given.prompt_tokens_details, 'cached_tokens'),
    reasoning: detail(given.completion_tokens_details, 'reasoning_tokens'),
    cost: typeof cost === 'number' && Number.isFinite(cost) && cost >= 0 ? cost : null,
  }
}

/** The bytes of what a model said in a `message` or a `delta`: text, reasoning, refusal, tool calls, audio. */
function contentBytes(said: unknown): number {
  if (typeof said !== 'object' || said === null) return 0
  let bytes = 0
  for (const [field, value] of Object.entries(said)) {
    if (field === 'role' || value === null || value === undefined) continue
    bytes += byteLength(typeof value === 'string' ? value : JSON.stringify(value))
  }
  return bytes
}

export const hasError = ({ error }: ProviderAnswer): boolean => error !== undefined && error !== null

/** Cached tokens are inside the prompt's and reasoning tokens inside the completion's, never more than these. */
export function usageOf({ usage }: ProviderAnswer): Usage | null {
  if (!usage || usage.prompt === null) return null
  return {
    ...nothingUsed,
    prompt_tokens: usage.prompt,
    completion_tokens: usage.completion,
    cached_tokens: Math.min(usage.cached, usage.prompt),
    reasoning_tokens: Math.min(usage.reasoning, usage.completion),
    cost_usd: usage.cost,
  }
}
