/** Chat completions: the door, and what is forwarded. */
import { z } from 'zod'
import type { AiRequest } from './ai-request.ts'
import { promptBytes, tokensAtMost, tokensEstimated } from './estimate-tokens.ts'
import { modelName, parseBody } from './parse-body.ts'

const message = z.looseObject({
  role: z.enum(['developer', 'system', 'user', 'assistant', 'tool', 'function']),
  content: z.union([z.string(), z.array(z.looseObject({ type: z.string() })), z.null()]).optional(),
})
const tokenLimit = z.int32().min(1).nullish()
const between = (low: number, high: number) => z.number().min(low).max(high).nullish()

const chatRequest = z.looseObject({
  model: modelName,
  messages: z.array(message).min(1),
  stream: z.boolean().nullish(),
  stream_options: z.looseObject({ include_usage: z.boolean().nullish() }).nullish(),
  max_tokens: tokenLimit,
  max_completion_tokens: tokenLimit,
  n: z.int().min(1).max(128).nullish(),
  temperature: between(0, 2),
  top_p: between(0, 1),
  frequency_penalty: between(-2, 2),
  presence_penalty: between(-2, 2),
  tools: z.array(z.looseObject({ type: z.string() })).nullish(),
  response_format: z.looseObject({ type: z.string() }).nullish(),
  /** `priority` costs a multiple of the price that was held, `auto` may choose it. */
  service_tier: z.enum(['default', 'flex']).nullish(),
})

type ChatRequest = z.infer<typeof chatRequest>

export function readChatRequest(body: Uint8Array): AiRequest {
  const chat = parseBody(chatRequest, body)
  const bytes = promptBytes(chat)
  return {
    endpoint: 'chat.completions',
    model: chat.model,
    stream: chat.stream ?? false,
    wantsUsage: chat.stream_options?.include_usage ?? false,
    promptTokensMax: tokensAtMost(bytes),
    promptTokensEstimated: tokensEstimated(bytes),
    maxOutputTokens: outputLimit(chat),
    choices: chat.n ?? 1,
    images: 0,
    bodyFor: (route) => upstreamBody(chat, route),
  }
}

/** The smaller of the limits that the caller gave, per choice. */
function outputLimit({ max_tokens, max_completion_tokens }: ChatRequest): number | null {
  const given = [max_tokens, max_completion_tokens].filter((limit) => typeof limit === 'number')
  return given.length > 0 ? Math.min(...given) : null
}

/** The caller's body with the route's model, the limit that was held, and usage switched on. Unknown fields stay. */
function upstreamBody(
  chat: ChatRequest,
  { upstream_model, max_output_tokens }: Parameters<AiRequest['bodyFor']>[0],
): Record<string, unknown> {
  const { max_tokens, max_completion_tokens, stream_options, ...rest } = chat
  // Exactly one limit: a provider that reads the other one would ignore what was held.
  const limit = typeof max_completion_tokens === 'number' ? 'max_completion_tokens' : 'max_tokens'
  const options = chat.stream ? { ...stream_options, include_usage: true } : stream_options
  return { ...rest, model: upstream_model, [limit]: max_output_tokens, ...(options && { stream_options: options }) }
}
