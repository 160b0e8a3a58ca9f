/**
 * The doors of the endpoints: what we understand is checked, what we do not know passes through to the provider, and what is
 * forwarded asks for no more than was held.
 */
import type { z } from 'zod'
import { AppError } from '../errors.ts'
import { byteLength, promptBytes, tokensEstimated } from './estimate-tokens.ts'
import type { Route } from './ledger.ts'
import type { Asks } from './plan-call.ts'
import type { Contents } from './prompt-size.ts'
import type { Endpoint } from './snapshot.ts'

/** With OpenAI's an extra chunk at the end has it and all others a null; with OpenRouter's the last chunk, and no other says of it. */
export type UsageWish = 'in a chunk' | 'in the last chunk' | 'no'

/** What admission, the provider and the accounts need to know of a request, whichever endpoint it came to. */
export type AiRequest = {
  endpoint: Endpoint
  model: string
  stream: boolean
  /** Whether the caller wants the usage of a stream; undefined when nothing was said of it. */
  wantsUsage: UsageWish | undefined
  /** What the model has to read, from which each route's upper bound is worked out. */
  contents: Contents
  asks: Asks
  /** What is charged when the provider reports nothing. */
  promptTokensEstimated: number
  /** The caller's own limit per choice; null without one. */
  maxOutputTokens: number | null
  choices: number
  /** Images asked for. */
  images: number
  /** The caller's body for one route: its name of the model, and no more output than was held for it. */
  bodyFor(route: Pick<Route, 'upstream_model' | 'max_output_tokens'>): Record<string, unknown>
}

type Zod = typeof z

/** Made when it is first asked for, with the library that it is made of: a worker that starts for one good call does without. */
function made<Schema>(make: (library: Zod) => Schema): () => Promise<Schema> {
  let schema: Promise<Schema> | undefined
  return () => {
    schema ??= import('zod').then((library) => make(library.z))
    return schema
  }
}

/** Printable ASCII only: the name goes into jsonb, headers and logs. */
const modelForm = /^[\x21-\x7e]+$/
const modelName = (z: Zod) => z.string().min(1).max(200).regex(modelForm, 'is not a model name')

/**
 * The exception to passing through: with these a caller gets another model than the one that was admitted, or is billed for
 * more than tokens, so the hold would not cover the call.
 */
const refusedFields = ['models', 'route', 'preset', 'plugins', 'web_search_options', 'best_of']

/** `isFine` knows, much faster than the schema, most of what the schema takes, and nothing else. */
async function parseBody<Schema extends z.ZodType>(
  schema: () => Promise<Schema>,
  body: Uint8Array,
  alsoRefused: readonly string[] = [],
  isFine?: (given: unknown) => given is z.infer<Schema>,
): Promise<z.infer<Schema>> {
  const given = parseJson(body)
  if (typeof given !== 'object' || given === null || Array.isArray(given))
    throw invalid('The body must be a JSON object.')
  const refused = [...refusedFields, ...alsoRefused].find((field) => Object.hasOwn(given, field))
  if (refused) throw invalid(`${refused}: is not supported, because it changes what a call costs.`, refused)
  if (isFine?.(given)) return given
  const { data, error } = (await schema()).safeParse(given)
  if (!error) return data
  const [issue] = error.issues
  const param = issue?.path.join('.')
  const isMissing = issue?.path.reduce(fieldOf, given) === undefined
  throw invalid(`${param}: ${isMissing ? 'is missing' : issue?.message}`, param)
}

const decoder = new TextDecoder('utf-8', { fatal: true })

function parseJson(body: Uint8Array): unknown {
  try {
    return JSON.parse(decoder.decode(body))
  } catch (cause) {
    throw new AppError('invalid_request_error', { message: 'The body is not valid JSON.', cause })
  }
}

const fieldOf = (value: unknown, key: PropertyKey): unknown =>
  typeof value === 'object' && value !== null ? Reflect.get(value, key) : undefined

const invalid = (message: string, param?: string) => new AppError('invalid_request_error', { message, param })

const roles = ['developer', 'system', 'user', 'assistant', 'tool', 'function'] as const

/** @internal For tests. */
export const chatSchema = made((z) => {
  const between = (low: number, high: number) => z.number().min(low).max(high).nullish()
  const content = z.union([z.string(), z.array(z.looseObject({ type: z.string() })), z.null()])
  const tokenLimit = z.int32().min(1).nullish()
  return z.looseObject({
    model: modelName(z),
    messages: z.array(z.looseObject({ role: z.enum(roles), content: content.optional() })).min(1),
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
})

type ChatRequest = z.infer<Awaited<ReturnType<typeof chatSchema>>>

const knownRoles: ReadonlySet<unknown> = new Set(roles)
const isMissing = (value: unknown): value is null | undefined => value === null || value === undefined
const isWithin = (value: unknown, low: number, high: number) =>
  isMissing(value) || (typeof value === 'number' && value >= low && value <= high)
const isCount = (value: unknown, most: number) =>
  isWithin(value, 1, most) && (isMissing(value) || Number.isInteger(value))
const mostInt32 = 2 ** 31 - 1
/** Fields of the schema that most calls do not have; with one of them the schema has the word. */
const rareFields = ['tools', 'response_format', 'service_tier'] as const satisfies (keyof ChatRequest)[]

/**
 * Most chat requests, without the schema, which takes longer than everything else that is done to a body.
 * @internal For tests, which compare both on random bodies.
 */
export function isPlainChat(given: unknown): given is ChatRequest {
  if (typeof given !== 'object' || given === null) return false
  const chat: Record<string, unknown> = { ...given }
  const { model, messages, stream, stream_options } = chat
  return (
    typeof model === 'string' &&
    model.length <= 200 &&
    modelForm.test(model) &&
    Array.isArray(messages) &&
    messages.length > 0 &&
    messages.every(isPlainMessage) &&
    (isMissing(stream) || typeof stream === 'boolean') &&
    isPlainOptions(stream_options) &&
    isCount(chat.max_tokens, mostInt32) &&
    isCount(chat.max_completion_tokens, mostInt32) &&
    isCount(chat.n, 128) &&
    isWithin(chat.temperature, 0, 2) &&
    isWithin(chat.top_p, 0, 1) &&
    isWithin(chat.frequency_penalty, -2, 2) &&
    isWithin(chat.presence_penalty, -2, 2) &&
    rareFields.every((field) => isMissing(chat[field]))
  )
}

const isPlainMessage = (given: unknown): boolean =>
  typeof given === 'object' &&
  given !== null &&
  'role' in given &&
  knownRoles.has(given.role) &&
  'content' in given &&
  (typeof given.content === 'string' || given.content === null)

const isPlainOptions = (given: unknown): boolean =>
  isMissing(given) ||
  (typeof given === 'object' &&
    !Array.isArray(given) &&
    (!('include_usage' in given) || isMissing(given.include_usage) || typeof given.include_usage === 'boolean'))

export async function readChatRequest(body: Uint8Array): Promise<AiRequest> {
  const chat = await parseBody(chatSchema, body, [], isPlainChat)
  const bytes = promptBytes(chat)
  return {
    endpoint: 'chat.completions',
    model: chat.model,
    stream: chat.stream ?? false,
    wantsUsage: usageWish(chat),
    contents: { textBytes: bytes, messages: chat.messages.length + (chat.tools?.length ?? 0), media: [], tokens: 0 },
    asks: {},
    promptTokensEstimated: tokensEstimated(bytes),
    maxOutputTokens: outputLimit(chat),
    choices: chat.n ?? 1,
    images: 0,
    bodyFor: (route) => upstreamBody(chat, route),
  }
}

/** OpenAI's `stream_options`, else OpenRouter's `usage: {"include": true}`. */
function usageWish({ stream_options, usage }: ChatRequest): UsageWish | undefined {
  const asked = stream_options?.include_usage
  if (typeof asked === 'boolean') return asked ? 'in a chunk' : 'no'
  const included = fieldOf(usage, 'include')
  return typeof included === 'boolean' ? (included ? 'in the last chunk' : 'no') : undefined
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

const embeddingsSchema = made((z) => {
  const text = z.string().min(1)
  const tokens = z.array(z.int().nonnegative()).min(1)
  return z.looseObject({
    model: modelName(z),
    input: z.union([text, tokens, z.array(text).min(1).max(2_048), z.array(tokens).min(1).max(2_048)]),
    encoding_format: z.enum(['float', 'base64']).nullish(),
    dimensions: z.int().min(1).max(100_000).nullish(),
  })
})

type Input = z.infer<Awaited<ReturnType<typeof embeddingsSchema>>>['input']

export async function readEmbeddingsRequest(body: Uint8Array): Promise<AiRequest> {
  const request = await parseBody(embeddingsSchema, body)
  return {
    endpoint: 'embeddings',
    model: request.model,
    stream: false,
    wantsUsage: undefined,
    contents: inputContents(request.input),
    asks: {},
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

/** Each text is read by itself, with the whole context for it. */
function inputContents(input: Input): Contents {
  const parts = Array.isArray(input) ? input : [input]
  const contents = { textBytes: 0, messages: 0, media: [], tokens: 0, prompts: 0 }
  for (const part of parts) {
    if (typeof part === 'number') contents.tokens += 1
    else if (typeof part === 'string') contents.textBytes += byteLength(part)
    else contents.tokens += part.length
    contents.prompts += typeof part === 'number' ? 0 : 1
  }
  return { ...contents, prompts: Math.max(1, contents.prompts) }
}

const imagesSchema = made((z) =>
  z.looseObject({
    model: modelName(z),
    prompt: z.string().min(1).max(32_000),
    n: z.int().min(1).max(10).nullish(),
    /** A stream of partial images is charged by tokens that nobody held. */
    stream: z.literal(false).nullish(),
  }),
)

export async function readImagesRequest(body: Uint8Array): Promise<AiRequest> {
  const request = await parseBody(imagesSchema, body, ['partial_images'])
  const bytes = promptBytes(request)
  return {
    endpoint: 'images.generations',
    model: request.model,
    stream: false,
    wantsUsage: undefined,
    contents: { textBytes: bytes, messages: 1, media: [], tokens: 0 },
    asks: {},
    promptTokensEstimated: tokensEstimated(bytes),
    maxOutputTokens: null,
    choices: 1,
    images: request.n ?? 1,
    bodyFor: ({ upstream_model }) => ({ ...request, model: upstream_model }),
  }
}
