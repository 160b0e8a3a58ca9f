/** Image generation: the door, and what is forwarded. */
import { z } from 'zod'
import type { AiRequest } from './ai-request.ts'
import { promptBytes, tokensAtMost, tokensEstimated } from './estimate-tokens.ts'
import { modelName, parseBody } from './parse-body.ts'

const imagesRequest = z.looseObject({
  model: modelName,
  prompt: z.string().min(1).max(32_000),
  n: z.int().min(1).max(10).nullish(),
  /** A stream of partial images is charged by tokens that nobody held. */
  stream: z.literal(false).nullish(),
})

export function readImagesRequest(body: Uint8Array): AiRequest {
  const request = parseBody(imagesRequest, body, ['partial_images'])
  const bytes = promptBytes(request)
  return {
    endpoint: 'images.generations',
    model: request.model,
    stream: false,
    wantsUsage: false,
    promptTokensMax: tokensAtMost(bytes),
    promptTokensEstimated: tokensEstimated(bytes),
    maxOutputTokens: null,
    choices: 1,
    images: request.n ?? 1,
    bodyFor: ({ upstream_model }) => ({ ...request, model: upstream_model }),
  }
}
