/** The door for chat requests: what we understand is checked, what we do not know passes through to the provider. */
import { z } from 'zod'
import { AppError } from '../errors.ts'

/** Printable ASCII only: the name goes into jsonb, headers and logs. */
const modelName = z
  .string()
  .min(1)
  .max(200)
  .regex(/^[\x21-\x7e]+$/, 'is not a model name')

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
  /** `priority` costs a multiple of the price that was held, `auto` may choose it. */
  service_tier: z.enum(['default', 'flex']).nullish(),
})

/**
 * The exception to passing through: with these a caller gets another model than the one that was admitted, or is billed for
 * more than tokens, so the hold would not cover the call.
 */
const refusedFields = ['models', 'route', 'preset', 'plugins', 'web_search_options', 'best_of']

export type ChatRequest = z.infer<typeof chatRequest>

export function parseChatRequest(body: Uint8Array): ChatRequest {
  const given = parseJson(body)
  if (typeof given !== 'object' || given === null || Array.isArray(given))
    throw invalid('The body must be a JSON object.')
  const refused = refusedFields.find((field) => Object.hasOwn(given, field))
  if (refused) throw invalid(`${refused}: is not supported, because it changes what a call costs.`, refused)
  const { data, error } = chatRequest.safeParse(given)
  if (!error) return data
  const [issue] = error.issues
  const param = issue?.path.join('.')
  const isMissing = issue?.path.reduce(fieldOf, given) === undefined
  throw invalid(`${param}: ${isMissing ? 'is missing' : issue?.message}`, param)
}

function parseJson(body: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
  } catch (cause) {
    throw new AppError('invalid_request_error', { message: 'The body is not valid JSON.', cause })
  }
}

const fieldOf = (value: unknown, key: PropertyKey): unknown =>
  typeof value === 'object' && value !== null ? Reflect.get(value, key) : undefined

const invalid = (message: string, param?: string) => new AppError('invalid_request_error', { message, param })
