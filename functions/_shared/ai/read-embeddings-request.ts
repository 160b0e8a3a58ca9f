/** Embeddings: the door, and what is forwarded. */
import { z } from 'zod'
import type { AiRequest } from './ai-request.ts'
import { byteLength, tokensAtMost, tokensEstimated } from './estimate-tokens.ts'
import { modelName, parseBody } from './parse-body.ts'

const text = z.string().min(1)
const tokens = z.array(z.int().nonnegative()).min(1)

const embeddingsRequest = z.looseObject({
  model: modelName,
  input: z.union([text, tokens, z.array(text).min(1).max(2_048), z.array(tokens).min(1).max(2_048)]),
  encoding_format: z.enum(['float', 'base64']).nullish(),
  dimensions: z.int().min(1).max(100_000).nullish(),
})

type Input = z.infer<typeof embeddingsRequest>['input']

export function readEmbeddingsRequest(body: Uint8Array): AiRequest {
  const request = parseBody(embeddingsRequest, body)
  return {
    endpoint: 'embeddings',
    model: request.model,
    stream: false,
    wantsUsage: false,
    promptTokensMax: countInput(request.input, tokensAtMost),
    promptTokensEstimated: countInput(request.input, tokensEstimated),
    maxOutputTokens: null,
    choices: 1,
    images: 0,
    bodyFor: ({ upstream_model }) => ({ ...request, model: upstream_model }),
  }
}

/** Tokens that the caller made are as many as there are; texts are counted one by one, since each is rounded up. */
function countInput(input: Input, tokensOf: (bytes: number) => number): number {
  const parts = Array.isArray(input) ? input : [input]
  const count = (part: Input[number] | string) => {
    if (typeof part === 'string') return tokensOf(byteLength(part))
    return Array.isArray(part) ? part.length : 1
  }
  return parts.reduce<number>((sum, part) => sum + count(part), 0)
}
