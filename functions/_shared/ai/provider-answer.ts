/** What we read of a provider's answer, JSON or a chunk of a stream. The rest is not our business and is passed on as it is. */
import { z } from 'zod'
import { byteLength } from './estimate-tokens.ts'
import type { Usage } from './ledger.ts'

const count = z.int().nonnegative()

/** Chat and embeddings have a prompt and a completion, images have an input; what images are made of is paid by the image. */
const usage = z.object({
  prompt_tokens: count.nullish(),
  input_tokens: count.nullish(),
  completion_tokens: count.nullish(),
  prompt_tokens_details: z
    .object({ cached_tokens: count.nullish().catch(null) })
    .nullish()
    .catch(null),
  completion_tokens_details: z
    .object({ reasoning_tokens: count.nullish().catch(null) })
    .nullish()
    .catch(null),
  cost: z.number().nonnegative().nullish().catch(null),
})

const choice = z.object({
  index: z.number().catch(0),
  message: z.unknown().optional(),
  delta: z.unknown().optional(),
  finish_reason: z.string().nullish().catch(null),
})

/** A usage that makes no sense is a missing one: it is estimated. */
const answer = z.object({
  choices: z.array(choice).optional().catch(undefined),
  /** Vectors or images. */
  data: z.array(z.unknown()).optional().catch(undefined),
  usage: usage.nullish().catch(null),
  error: z.unknown().optional(),
})

export type ProviderAnswer = z.infer<typeof answer> & { contentBytes: number }

/** Undefined for what is not a JSON object. */
export function readProviderAnswer(json: string): ProviderAnswer | undefined {
  try {
    const read = answer.parse(JSON.parse(json))
    const said = (read.choices ?? []).map(({ message, delta }) => contentBytes(message) + contentBytes(delta))
    return { ...read, contentBytes: said.reduce((sum, bytes) => sum + bytes, 0) }
  } catch {
    return undefined
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
  const prompt = usage?.prompt_tokens ?? usage?.input_tokens
  if (!usage || typeof prompt !== 'number') return null
  const completion = usage.completion_tokens ?? 0
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    cached_tokens: Math.min(usage.prompt_tokens_details?.cached_tokens ?? 0, prompt),
    reasoning_tokens: Math.min(usage.completion_tokens_details?.reasoning_tokens ?? 0, completion),
    images: 0,
    cost_usd: usage.cost ?? null,
  }
}
