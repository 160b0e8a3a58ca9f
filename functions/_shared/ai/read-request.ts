/**
 * The doors of the endpoints: what is understood is checked, what changes price or route is found, and what is forwarded asks for no more
 * than was held. The model's row is not known here: `fieldsRefused` and `promptTokensAtMost` say later what it takes, and for how much.
 */
import type { z } from 'zod'
import { AppError } from '../errors.ts'
import { isFields } from '../forms.ts'
import { byteLength, tokensEstimated, writeJson } from './estimate-tokens.ts'
import { type Asks, fieldOf, mostTokens } from './field-tables.ts'
import type { Route } from './ledger.ts'
import type { Contents, Media } from './prompt-size.ts'
import { bytesOfText, readContents, readParts } from './read-contents.ts'
import { type FoundField, invalid, isRead, lookAtFields, mostInList } from './request-fields.ts'
import { refuseIntricate } from './scan-structure.ts'
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
  /** What the model has to read, of which its row makes the upper bound that is held. */
  contents: Contents
  /** What beside text may be charged. */
  asks: Asks
  /** What not every model takes. */
  fields: readonly FoundField[]
  /** What is charged for the text when the provider reports nothing. */
  promptTokensEstimated: number
  /** The caller's own limit per choice; null without one. */
  maxOutputTokens: number | null
  choices: number
  /** Images asked for. */
  images: number
  /** The caller's body for one route: its name of the model, and no more output than was held for it. */
  bodyFor(route: Upstream): Record<string, unknown>
  /** A route has begun to answer, so that the body, which may be large, is needed no more. */
  forget(): void
}

/** What a body says of the route that it is for. */
type Upstream = Pick<Route, 'upstream_model' | 'max_output_tokens' | 'limit_field'>

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

/** Throws with the name of the first field that the schema does not take. */
async function parseObject<Schema extends z.ZodType>(
  schema: () => Promise<Schema>,
  given: unknown,
): Promise<z.infer<Schema>> {
  const { data, error } = (await schema()).safeParse(given)
  if (!error) return data
  const [issue] = error.issues
  const param = issue?.path.join('.') ?? ''
  const isMissing = issue?.path.reduce(fieldOf, given) === undefined
  throw invalid(param, isMissing ? 'is missing' : (issue?.message ?? 'is wrong'))
}

const decoder = new TextDecoder('utf-8', { fatal: true })

function readJson(body: Uint8Array): object {
  refuseIntricate(body)
  let given: unknown
  try {
    given = JSON.parse(decoder.decode(body))
  } catch (cause) {
    throw new AppError('invalid_request_error', { message: 'The body is not valid JSON.', cause })
  }
  if (isFields(given)) return given
  throw new AppError('invalid_request_error', { message: 'The body must be a JSON object.' })
}

const roles = ['developer', 'system', 'user', 'assistant', 'tool', 'function'] as const
/** @internal For tests. */
export const chatSchema = made((z) => {
  const between = (low: number, high: number) => z.number().min(low).max(high).nullish()
  const part = z.looseObject({ type: z.string() })
  const content = z.union([z.string(), z.array(part).max(mostInList), z.null()])
  const tokenLimit = z.int32().min(1).nullish()
  return z.looseObject({
    model: modelName(z),
    messages: z
      .array(z.looseObject({ role: z.enum(roles), content: content.optional() }))
      .min(1)
      .max(mostInList),
    stream: z.boolean().nullish(),
    stream_options: z.looseObject({ include_usage: z.boolean().nullish() }).nullish(),
    max_tokens: tokenLimit,
    max_completion_tokens: tokenLimit,
    n: z.int().min(1).max(128).nullish(),
    temperature: between(0, 2),
    top_p: between(0, 1),
    frequency_penalty: between(-2, 2),
    presence_penalty: between(-2, 2),
    tools: z.array(part).max(mostInList).nullish(),
    functions: z
      .array(z.looseObject({ name: z.string() }))
      .max(mostInList)
      .nullish(),
    response_format: z.looseObject({ type: z.string() }).nullish(),
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
const isWord = (value: unknown) => isMissing(value) || ['string', 'number', 'boolean'].includes(typeof value)
/** Fields that change no price and that no model reads; with any other one the schema and the tables have the word. */
const plainFields: ReadonlySet<string> = new Set([
  ...['model', 'messages', 'stream', 'stream_options', 'max_tokens', 'max_completion_tokens', 'n', 'temperature'],
  ...['top_p', 'frequency_penalty', 'presence_penalty', 'seed', 'user'],
] satisfies (keyof ChatRequest)[])
const plainOptions: ReadonlySet<string> = new Set(['include_usage', 'include_obfuscation'])
const plainParts: ReadonlySet<string> = new Set(['role', 'content', 'name'])

function hasOnly(given: object, fields: ReadonlySet<string>): boolean {
  // A body that was parsed has no fields but its own.
  for (const field in given) if (!fields.has(field)) return false
  return true
}

/**
 * Most chat requests, without the schema and the tables, which take longer than everything else that is done to a body.
 * @internal For tests, which compare both on random bodies.
 */
export function isPlainChat(given: unknown): given is ChatRequest {
  if (typeof given !== 'object' || given === null || !hasOnly(given, plainFields)) return false
  const chat: Record<string, unknown> = { ...given }
  const { model, messages, stream, stream_options } = chat
  return (
    typeof model === 'string' &&
    model.length <= 200 &&
    modelForm.test(model) &&
    Array.isArray(messages) &&
    messages.length > 0 &&
    messages.length <= mostInList &&
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
    isWord(chat.seed) &&
    isWord(chat.user)
  )
}

const isPlainMessage = (given: unknown): boolean =>
  typeof given === 'object' &&
  given !== null &&
  hasOnly(given, plainParts) &&
  'role' in given &&
  knownRoles.has(given.role) &&
  (!('name' in given) || isWord(given.name)) &&
  'content' in given &&
  (typeof given.content === 'string' || given.content === null)

const isPlainOptions = (given: unknown): boolean =>
  isMissing(given) ||
  (typeof given === 'object' &&
    !Array.isArray(given) &&
    hasOnly(given, plainOptions) &&
    (!('include_obfuscation' in given) || isWord(given.include_obfuscation)) &&
    (!('include_usage' in given) || isMissing(given.include_usage) || typeof given.include_usage === 'boolean'))

function forgettable<Body>(body: Body, write: (body: Body, route: Upstream) => Record<string, unknown>) {
  let kept: Body | undefined = body
  return {
    bodyFor(route: Upstream) {
      if (kept === undefined) throw new AppError('internal', { cause: 'a body is asked for that was let go' })
      return write(kept, route)
    },
    forget() {
      kept = undefined
    },
  }
}

const withModel = <Body extends object>(body: Body, { upstream_model }: Upstream) => ({
  ...body,
  model: upstream_model,
})

const nothingFound = { fields: [], asks: {} }

export async function readChatRequest(body: Uint8Array): Promise<AiRequest> {
  const given = readJson(body)
  const isPlain = isPlainChat(given)
  const chat = isPlain ? given : await parseObject(chatSchema, given)
  const found = isPlain ? nothingFound : lookAtFields('chat.completions', chat)
  const { plainBytes, textBytes, media } = isPlain ? readMessages(chat) : readChat(chat)
  const around = chat.messages.length + (chat.tools?.length ?? 0) + (chat.functions?.length ?? 0)
  return {
    endpoint: 'chat.completions',
    model: chat.model,
    stream: chat.stream ?? false,
    wantsUsage: usageWish(chat),
    contents: { textBytes, messages: around, media, tokens: 0 },
    ...found,
    promptTokensEstimated: tokensEstimated(plainBytes),
    maxOutputTokens: outputLimit(chat),
    choices: chat.n ?? 1,
    images: 0,
    ...forgettable(chat, upstreamBody),
  }
}

function readMessages({ messages }: ChatRequest) {
  const bytes = byteLength(writeJson({ messages }))
  return { plainBytes: bytes, textBytes: bytes, media: [] }
}

function readChat({ messages, ...others }: ChatRequest) {
  return readContents('messages', messages, readFields('chat.completions', others))
}

/** The fields that the model reads, or may read. */
const readFields = (endpoint: Endpoint, request: object): Record<string, unknown> =>
  Object.fromEntries(Object.entries(request).filter(([field]) => isRead(endpoint, field)))

/** The smaller of the limits that the caller gave, per choice. */
function outputLimit({ max_tokens, max_completion_tokens }: ChatRequest): number | null {
  const given = [max_tokens, max_completion_tokens].filter((limit) => typeof limit === 'number')
  return given.length > 0 ? Math.min(...given) : null
}

/** OpenAI's `stream_options`, else OpenRouter's `usage: {"include": true}`. */
function usageWish({ stream_options, usage }: ChatRequest): UsageWish | undefined {
  const asked = stream_options?.include_usage
  if (typeof asked === 'boolean') return asked ? 'in a chunk' : 'no'
  const included = fieldOf(usage, 'include')
  return typeof included === 'boolean' ? (included ? 'in the last chunk' : 'no') : undefined
}

/** The caller's body with the route's model, the limit that was held, and usage switched on. */
function upstreamBody(
  chat: ChatRequest,
  { upstream_model, max_output_tokens, limit_field }: Upstream,
): Record<string, unknown> {
  const { max_tokens, max_completion_tokens, stream_options, ...rest } = chat
  const options = chat.stream ? { ...stream_options, include_usage: true } : stream_options
  const body = { ...rest, model: upstream_model, ...(options && { stream_options: options }) }
  // What the caller says goes on as it is: the model's largest answer is held whatever that is.
  if (limit_field === 'none') return { ...body, ...limitsOf(chat) }
  // Exactly one limit: a provider that reads the other one would ignore what was held.
  return { ...body, [limit_field]: max_output_tokens }
}

const limitsOf = ({ max_tokens, max_completion_tokens }: ChatRequest) => ({
  ...(typeof max_tokens === 'number' && { max_tokens }),
  ...(typeof max_completion_tokens === 'number' && { max_completion_tokens }),
})

const embeddingsSchema = made((z) => {
  const text = z.string().min(1)
  const tokens = z.array(z.int().nonnegative()).min(1).max(mostTokens)
  const parts = z.looseObject({
    content: z
      .array(z.looseObject({ type: z.string() }))
      .min(1)
      .max(mostInList),
  })
  const lists = z.union([z.array(text), z.array(tokens), z.array(parts)])
  return z.looseObject({
    model: modelName(z),
    input: z.union([text, tokens, lists.refine(({ length }) => length > 0 && length <= 2_048)]),
    encoding_format: z.enum(['float', 'base64']).nullish(),
    dimensions: z.int().min(1).max(100_000).nullish(),
  })
})

type Input = z.infer<Awaited<ReturnType<typeof embeddingsSchema>>>['input']

export async function readEmbeddingsRequest(body: Uint8Array): Promise<AiRequest> {
  const request = await parseObject(embeddingsSchema, readJson(body))
  return {
    endpoint: 'embeddings',
    model: request.model,
    stream: false,
    wantsUsage: undefined,
    ...lookAtFields('embeddings', request),
    ...readInput(request.input),
    maxOutputTokens: null,
    choices: 1,
    images: 0,
    ...forgettable(request, withModel),
  }
}

/** Texts are read one by one, each with the whole context for itself; tokens that the caller made are as many as there are. */
function readInput(input: Input): Pick<AiRequest, 'contents' | 'promptTokensEstimated'> {
  const parts = Array.isArray(input) && typeof input[0] !== 'number' ? input : [input]
  const contents = { textBytes: 0, messages: parts.length, tokens: 0, prompts: parts.length }
  const pictures: Record<string, unknown>[] = []
  let estimated = 0
  for (const part of parts) {
    if (typeof part === 'string') {
      contents.textBytes += byteLength(part)
      estimated += tokensEstimated(byteLength(part))
    } else if (Array.isArray(part)) contents.tokens += part.length
    else if (typeof part === 'object') pictures.push(part)
  }
  const seen = pictures.length > 0 ? readContents('input', pictures, {}) : { textBytes: 0, plainBytes: 0, media: [] }
  contents.textBytes += seen.textBytes
  return {
    contents: { ...contents, media: seen.media },
    promptTokensEstimated: estimated + contents.tokens + tokensEstimated(seen.plainBytes),
  }
}

const imagesSchema = made((z) => {
  /** A part of the name of a price. */
  const word = z
    .string()
    .regex(/^[\w.:-]{1,40}$/, 'is not a size or quality')
    .nullish()
  return z.looseObject({
    model: modelName(z),
    prompt: z.string().min(1).max(32_000),
    n: z.int().min(1).max(10).nullish(),
    size: word,
    resolution: word,
    quality: word,
    input_references: z
      .array(z.looseObject({ type: z.string() }))
      .max(64)
      .nullish(),
  })
})

export async function readImagesRequest(body: Uint8Array): Promise<AiRequest> {
  const request = await parseObject(imagesSchema, readJson(body))
  if (request.size && request.resolution) throw invalid('resolution', 'names a size, and so does size')
  const { fields, asks } = lookAtFields('images.generations', request)
  const { input_references, ...text } = readFields('images.generations', request)
  const media: Media[] = []
  readParts(request.input_references ?? [], 'input_references', media)
  const { textBytes, plainBytes } = bytesOfText(text)
  return {
    endpoint: 'images.generations',
    model: request.model,
    stream: false,
    wantsUsage: undefined,
    contents: { textBytes, messages: 1, media, tokens: 0 },
    asks,
    fields,
    promptTokensEstimated: tokensEstimated(plainBytes),
    maxOutputTokens: null,
    choices: 1,
    images: request.n ?? 1,
    ...forgettable(request, withModel),
  }
}
