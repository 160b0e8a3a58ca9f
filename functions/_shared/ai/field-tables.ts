/**
 * Every field of a request that is known here, and what becomes of it: those that change neither price nor route pass, the others are
 * priced by a row, opened by a row, or refused by name. docs/requests.md shows these tables, a test compares both.
 */
import type { Endpoint } from './snapshot.ts'

/** What beside text a call may be charged for; a model without a price for it refuses the call. */
export type Asks = {
  /** `SIZE/QUALITY` of images, `auto` for the one that is not named; undefined when neither is. */
  variant?: string | undefined
  /** How often server tools may be used. */
  searches?: number | undefined
  /** As many of them as are taken to be made whatever the model likes, where a provider reports nothing of searches. */
  sureSearches?: number | undefined
  /** The provider adds to the prompt what it finds, and how much that is nobody here knows. */
  findsMore?: boolean | undefined
  /** The longest time to live of what is written to a cache. */
  cacheWrites?: '5m' | '1h' | undefined
  /** The answer may be spoken. */
  audioOut?: boolean | undefined
}

/**
 * `passes`: to every provider. `priced`: with a price for it in `model_prices`. `closed`: where `models.open_fields` names it.
 * `refused`: never.
 */
export type Rule = {
  verdict: 'passes' | 'priced' | 'closed' | 'refused'
  why: string
  /** The model reads it, so it counts as text. What is closed or unknown always does. */
  isRead?: true
  /** Values that change nothing, so that they pass. */
  unless?: (value: unknown) => boolean
  asks?: (value: unknown) => Asks
  /** The longest list, when it may be longer than others. */
  most?: number
  /** Any JSON, because it is read as text and as nothing else, or not read at all. Otherwise an object must be of `inside` or `kinds`. */
  isFree?: true
  /** A list of such values. */
  isList?: true
  /** Plain values (words, numbers, switches) in place of objects or of a list. */
  orPlain?: true
  /** The fields of the object, or of each of a list. */
  inside?: Table
  /** A list of different things: its kinds by the field that names them, with their fields. */
  kinds?: { by: string; of: ReadonlyMap<unknown, Table>; why: string; asks?: (value: unknown) => Asks }
}
export type Table = ReadonlyMap<string, Rule>

const table = (rules: Record<string, Rule>): Table => new Map(Object.entries(rules))
const passes = (why: string, more: Partial<Rule> = {}): Rule => ({ verdict: 'passes', why, ...more })
const read = (why: string, more: Partial<Rule> = {}): Rule => ({ verdict: 'passes', why, isRead: true, ...more })
const priced = (why: string, asks: NonNullable<Rule['asks']>, more: Partial<Rule> = {}): Rule => ({
  ...{ verdict: 'priced', why, asks },
  ...more,
})
const closed = (why: string, more: Partial<Rule> = {}): Rule => ({ verdict: 'closed', why, ...more })
const refused = (why: string, more: Partial<Rule> = {}): Rule => ({ verdict: 'refused', why, ...more })

const isOneOf =
  (...values: unknown[]) =>
  (value: unknown) =>
    values.includes(value)
const isOff = isOneOf(false)
const areAll = (isFine: (value: unknown) => boolean) => (value: unknown) => Array.isArray(value) && value.every(isFine)
export const fieldOf = (value: unknown, key: PropertyKey): unknown =>
  typeof value === 'object' && value !== null ? Reflect.get(value, key) : undefined

/** What is kept for longer than usual costs more, whatever the provider calls the time. */
const usualTimes = new Set<unknown>([undefined, null, '5m', '30m'])
const cacheWrites = (value: unknown): Asks => ({ cacheWrites: usualTimes.has(fieldOf(value, 'ttl')) ? '5m' : '1h' })
const cached = priced('writes to a cache at the price of cache writes', cacheWrites, {
  inside: table({ type: passes('a word'), mode: passes('a word'), ttl: passes('a time') }),
})
/** Both are written, by OpenAI too. */
const isInMemory = isOneOf('in_memory', 'in-memory')
const marks = { cache_control: cached, prompt_cache_breakpoint: cached }

/** A tool that may search as often as it likes is taken to do it this often. */
const mostSearches = 10
const counted = (value: unknown): number | undefined =>
  typeof value === 'number' && Number.isInteger(value) && value > 0 && value <= 1_000 ? value : undefined
/** Of two limits the larger one: which of them a provider reads nobody knows. */
const searches = (value: unknown): Asks => {
  const given = [fieldOf(value, 'max_uses'), fieldOf(fieldOf(value, 'parameters'), 'max_uses')]
  const named = given.filter((one) => one !== undefined && one !== null).map((one) => counted(one) ?? mostSearches)
  const most = named.length > 0 ? Math.max(...named) : mostSearches
  return hasOnly(value, sameFindings) ? { searches: most } : { searches: most, findsMore: true }
}
/** What says nothing of how much is found; with more than this the caller may have asked for longer results. */
const sameFindings = new Set<string>([
  ...['type', 'id', 'name', 'enabled', 'max_uses', 'parameters', 'user_location', 'filters'],
  ...['allowed_domains', 'blocked_domains', 'excluded_domains', 'include_domains', 'exclude_domains'],
])
function hasOnly(value: unknown, known: ReadonlySet<string>): boolean {
  if (typeof value !== 'object' || value === null) return false
  return Object.entries(value).every(([key, one]) => known.has(key) && (key !== 'parameters' || hasOnly(one, known)))
}
const findsMore = { asks: (): Asks => ({ findsMore: true }) }
/** What xAI reads at most when nothing is said. */
const mostSources = 20
const isNoSearch = (value: unknown) => fieldOf(value, 'mode') === 'off'
const isSearch = (kind: unknown) => typeof kind === 'string' && kind.includes('search')

const id = passes('an identifier')
const functionCall = table({
  ...{ name: read('text'), arguments: read('text') },
  parsed_arguments: read('text', { isFree: true }),
})
const toolCall = table({
  ...{ id, index: passes('a number'), type: passes('a word') },
  function: read('what was called', { inside: functionCall }),
  custom: read('what was called', { inside: table({ name: read('text'), input: read('text') }) }),
})

const imageUrl = table({
  url: read('a picture'),
  detail: closed('a picture in its own size may be more than the rule of the model counts; auto, low and high pass', {
    unless: isOneOf('auto', 'low', 'high'),
  }),
})
const address = table({
  url: read('a film'),
  processing: closed('such processing has a price of its own; static passes', { unless: isOneOf('static') }),
})
const fileId = closed('names a file at the provider, of a size that nobody knows here and maybe of somebody else')
const type = passes('a word')
const parts: ReadonlyMap<unknown, Table> = new Map([
  ['text', table({ type, text: read('text'), ...marks })],
  ['refusal', table({ type, refusal: read('text') })],
  [
    'image_url',
    table({
      type,
      image_url: read('a picture, counted by the rule of the model', { inside: imageUrl, orPlain: true }),
      ...marks,
    }),
  ],
  [
    'input_audio',
    table({
      type,
      input_audio: read('a sound, counted by the rule of the model', {
        orPlain: true,
        inside: table({ data: read('a sound'), format: passes('a word') }),
      }),
      ...marks,
    }),
  ],
  [
    'file',
    table({
      type,
      file: read('a file, counted by the rule of the model', {
        orPlain: true,
        inside: table({ filename: read('text'), file_data: read('a file'), file_id: fileId }),
      }),
      ...marks,
    }),
  ],
  [
    'video_url',
    table({
      type,
      video_url: read('a film, counted by the rule of the model', { inside: address, orPlain: true }),
      ...marks,
    }),
  ],
  [
    'input_video',
    table({
      type,
      video_url: read('a film, counted by the rule of the model', { inside: address, orPlain: true }),
      ...marks,
    }),
  ],
])

const unknownPart = 'what such a part costs is not known'
const partsOf = (...kinds: string[]): ReadonlyMap<unknown, Table> =>
  new Map([...parts].filter(([kind]) => kinds.includes(String(kind))))

/** What an earlier answer says of where it is from: pages of the web, and files with what was read in them, pictures too. */
const place = passes('a number')
const citation = {
  ...{ url: read('text'), title: read('text'), content: read('text'), start_index: place, end_index: place },
}
const annotations: ReadonlyMap<unknown, Table> = new Map([
  ['url_citation', table({ type, url_citation: read('a page', { inside: table(citation) }), ...citation })],
  [
    'file',
    table({
      type,
      file: read('what was read in a file', {
        inside: table({
          ...{ hash: id, name: read('text') },
          content: read('text and pictures, counted by the rule of the model', {
            kinds: { by: 'type', of: partsOf('text', 'image_url'), why: unknownPart },
          }),
        }),
      }),
    }),
  ],
])
/** Of what is encrypted or signed there is no more than its bytes, and none but who wrote it can read it. */
const thought = { type, id, format: type, index: place }
const thoughts: ReadonlyMap<unknown, Table> = new Map([
  ['reasoning.text', table({ ...thought, text: read('text'), signature: read('text') })],
  ['reasoning.summary', table({ ...thought, summary: read('text') })],
  ['reasoning.encrypted', table({ ...thought, data: read('text') })],
])

const message = table({
  role: read('who says it'),
  content: read('what is said', { orPlain: true, kinds: { by: 'type', of: parts, why: unknownPart } }),
  name: read('text'),
  tool_calls: read('calls of tools', { isList: true, inside: toolCall }),
  tool_call_id: id,
  function_call: read('a call', { inside: functionCall }),
  refusal: read('text'),
  reasoning: read('text'),
  reasoning_content: read('text'),
  reasoning_details: read('thoughts of an earlier answer', {
    kinds: { by: 'type', of: thoughts, why: 'what is in such a thought is not known' },
  }),
  annotations: read('where an earlier answer is from', {
    kinds: { by: 'type', of: annotations, why: 'what is in such a note is not known' },
  }),
  parsed: read('text', { isFree: true }),
  images: read('pictures, counted by the rule of the model', {
    isList: true,
    inside: table({ ...{ type, index: place }, image_url: read('a picture', { inside: imageUrl, orPlain: true }) }),
  }),
  audio: read('a sound of an earlier answer, counted by the rule of the model', {
    inside: table({ id, data: read('a sound'), format: type, transcript: read('text'), expires_at: passes('a time') }),
  }),
  model: passes('which model said it'),
  prefix: passes('the answer begins with this message'),
  ...marks,
})

const definition = table({
  ...{
    name: read('text'),
    description: read('text'),
    parameters: read('a schema', { isFree: true }),
    strict: passes('a switch'),
  },
})
const tools: ReadonlyMap<unknown, Table> = new Map([
  [
    'function',
    table({
      ...{ type, function: read('what the caller runs', { inside: definition }), cache_control: cached },
      eager_input_streaming: passes('how arguments are streamed'),
    }),
  ],
  [
    'custom',
    table({
      type,
      custom: read('what the caller runs', {
        inside: table({ name: read('text'), description: read('text'), format: read('a grammar', { isFree: true }) }),
      }),
      cache_control: cached,
    }),
  ],
])
/** They run once, cost nothing and choose no model. */
const freePlugins: ReadonlyMap<unknown, Table> = new Map(
  ['response-healing', 'context-compression'].map((plugin) => [
    plugin,
    table({ id, enabled: passes('a switch'), engine: passes('a word') }),
  ]),
)

const named = (why: string) => read(why, { inside: table({ name: read('text') }) })
const choice = table({
  ...{ type, name: read('text'), mode: type, disable_parallel_tool_use: passes('a switch') },
  ...{ function: named('which function'), custom: named('which tool') },
  allowed_tools: read('which tools', {
    inside: table({
      mode: type,
      tools: read('which tools', {
        isList: true,
        inside: table({
          ...{ type, name: read('text'), function: named('which function'), custom: named('which tool') },
        }),
      }),
    }),
  }),
})
const aSchema = read('a schema', { isFree: true })
const answerForm = table({
  ...{ type, schema: aSchema, grammar: read('a grammar') },
  json_schema: read('a schema', {
    inside: table({ name: read('text'), description: read('text'), schema: aSchema, strict: passes('a switch') }),
  }),
})

const sampling = passes('how words are chosen')
const anotherModel = refused('asks for another model than the one whose price is held')
const tracing = passes('for logs of the provider', { isFree: true })

const chat = table({
  model: passes('looked up in the table of models'),
  messages: read('what the model reads', { isList: true, inside: message }),
  stream: passes('how the answer comes'),
  stream_options: passes('what a stream tells', {
    inside: table({
      include_usage: passes('usage at the end of a stream'),
      include_obfuscation: passes('padding of a stream'),
    }),
  }),
  max_tokens: passes('the limit of the answer, in the field that the row of the model names'),
  max_completion_tokens: passes('the limit of the answer, in the field that the row of the model names'),
  n: passes('answers, each of which is held'),
  ...{ temperature: sampling, top_p: sampling, top_k: sampling, top_a: sampling, min_p: sampling, seed: sampling },
  ...{ frequency_penalty: sampling, presence_penalty: sampling, repetition_penalty: sampling },
  logit_bias: passes('how words are chosen', { isFree: true }),
  stop: passes('where the answer ends', { isList: true, orPlain: true }),
  logprobs: passes('how likely words were'),
  top_logprobs: passes('how likely words were'),
  tools: read('what the caller runs', {
    kinds: {
      by: 'type',
      of: tools,
      why: 'is run by the provider, which reads the prompt again and has a price for it',
      asks: (tool) => (isSearch(fieldOf(tool, 'type')) ? searches(tool) : { findsMore: true }),
    },
  }),
  tool_choice: read('which tool', { orPlain: true, inside: choice }),
  parallel_tool_calls: passes('several tools at once'),
  functions: read('what the caller runs', { isList: true, inside: definition }),
  function_call: read('which function', { orPlain: true, inside: table({ name: read('text') }) }),
  response_format: read('the form of the answer', { inside: answerForm }),
  structured_outputs: passes('a switch'),
  reasoning_effort: passes('how long it thinks, inside the limit of the answer'),
  reasoning: passes('how long it thinks, inside the limit of the answer', {
    inside: table({
      ...{ effort: type, summary: type, max_tokens: passes('a number') },
      ...{ enabled: passes('a switch'), exclude: passes('a switch') },
    }),
  }),
  include_reasoning: passes('whether thoughts are shown'),
  thinking: passes('how long it thinks, inside the limit of the answer', {
    inside: table({ type, budget_tokens: passes('a number') }),
  }),
  verbosity: passes('how long it talks, inside the limit of the answer'),
  user: passes('who asks'),
  safety_identifier: passes('who asks'),
  metadata: passes('for logs of the provider', { isFree: true }),
  store: passes('whether the provider keeps the answer'),
  moderation: passes('a look at the text that costs nothing', { isFree: true }),
  usage: passes('what the answer tells of its cost', { inside: table({ include: passes('a switch') }) }),
  session_id: passes('for logs of the provider'),
  trace: tracing,
  transforms: passes('leaves out what is too long', { isList: true }),
  prompt_cache_key: passes('which cache is read'),
  prompt_cache_options: cached,
  prompt_cache_retention: priced('keeps a cache for longer, at the price of cache writes of an hour', (value) =>
    isInMemory(value) ? {} : { cacheWrites: '1h' },
  ),
  cache_control: cached,
  modalities: closed('pictures in an answer have a price of their own; text passes, and audio at the price of audio', {
    unless: areAll(isOneOf('text', 'audio')),
    asks: (value) => (Array.isArray(value) && value.includes('audio') ? { audioOut: true } : {}),
  }),
  audio: priced('the answer is spoken, at the price of audio', () => ({ audioOut: true }), {
    inside: table({ format: type, voice: passes('whose voice', { orPlain: true, inside: table({ id }) }) }),
  }),
  service_tier: closed('another tier has another price; default, auto, flex, standard and on_demand pass', {
    unless: isOneOf('auto', 'default', 'flex', 'on_demand', 'standard'),
  }),
  speed: closed('another speed has another price; standard and normal pass', { unless: isOneOf('standard', 'normal') }),
  inference_geo: closed('another place has another price'),
  prediction: closed('words that were predicted wrongly are charged beside the answer'),
  image_config: closed('the size of a picture has a price'),
  web_search_options: closed('searches have a price of their own', {
    asks: (value) => ({ searches: 1, sureSearches: 1, ...(!hasOnly(value, sameFindings) && { findsMore: true }) }),
  }),
  search_parameters: closed('searches have a price of their own', {
    unless: isNoSearch,
    asks: (value) => ({
      searches: isNoSearch(value) ? 0 : (counted(fieldOf(value, 'max_search_results')) ?? mostSources),
    }),
    inside: table({
      ...{ mode: type, from_date: passes('a day'), to_date: passes('a day'), return_citations: passes('a switch') },
      ...{ max_search_results: place, sources: passes('where', { isFree: true }) },
    }),
  }),
  enable_search: closed('searches have a price of their own', {
    unless: isOff,
    asks: (value) => ({ searches: isOff(value) ? 0 : 1 }),
  }),
  mcp: closed('a server of tools is asked as often as the model likes', findsMore),
  mcp_servers: closed('a server of tools is asked as often as the model likes', findsMore),
  plugins: passes('what is done beside the answer', {
    kinds: {
      by: 'id',
      of: freePlugins,
      why: 'is run by the provider, which has a price for it',
      asks: (plugin) => (fieldOf(plugin, 'id') === 'web' ? searches(plugin) : { findsMore: true }),
    },
  }),
  max_tool_calls: passes('fewer calls of tools'),
  stop_server_tools_when: passes('fewer calls of tools', { isFree: true }),
  provider: closed('chooses who answers, and so the price'),
  debug: closed('shows what the provider was sent'),
  preset: anotherModel,
  models: anotherModel,
  route: anotherModel,
  best_of: refused('is charged for answers that nobody sees'),
})

/** More than any provider takes in one request. */
export const mostTokens = 1_000_000

const embeddings = table({
  model: passes('looked up in the table of models'),
  input: read('what the model reads', {
    most: mostTokens,
    ...{ isList: true, orPlain: true },
    inside: table({ content: read('text and pictures', { kinds: { by: 'type', of: parts, why: unknownPart } }) }),
  }),
  encoding_format: passes('how numbers are written'),
  dimensions: passes('how many numbers'),
  input_type: passes('what the text is for'),
  user: passes('who asks'),
  session_id: passes('for logs of the provider'),
  trace: tracing,
  provider: closed('chooses who answers, and so the price'),
  models: anotherModel,
  preset: anotherModel,
  route: anotherModel,
})

/** `auto` is what an image is when nothing is said. */
const sizeOf = (value: unknown): Asks => (value === 'auto' ? {} : { variant: `${value}/auto` })
const qualityOf = (value: unknown): Asks => (value === 'auto' ? {} : { variant: `auto/${value}` })

const images = table({
  model: passes('looked up in the table of models'),
  prompt: read('what the model reads'),
  n: passes('images, each of which is held'),
  size: priced('the price of the variant SIZE/QUALITY', sizeOf),
  resolution: priced('the same as a size', sizeOf),
  quality: priced('the price of the variant SIZE/QUALITY', qualityOf),
  style: passes('how it looks'),
  background: passes('how it looks'),
  moderation: passes('how strictly it is looked at'),
  output_format: closed('films and drawings have a price of their own; png, jpeg and webp pass', {
    unless: isOneOf('png', 'jpeg', 'webp'),
  }),
  output_compression: passes('how it is written'),
  response_format: passes('how it comes'),
  input_references: read('pictures, counted by the rule of the model', {
    kinds: { by: 'type', of: partsOf('image_url'), why: unknownPart },
  }),
  seed: sampling,
  user: passes('who asks'),
  safety_identifier: passes('who asks'),
  session_id: passes('for logs of the provider'),
  trace: tracing,
  stream: refused('sends partial images, which are charged by tokens that nobody held', { unless: isOff }),
  partial_images: refused('sends partial images, which are charged by tokens that nobody held', { unless: isOneOf(0) }),
  aspect_ratio: closed('another shape may have another price: name a size'),
  complexity: closed('a drawing has another price by it'),
  frame_count: closed('each frame has a price'),
  frame_duration_ms: closed('films have a price of their own'),
  svg: closed('drawings have a price of their own'),
  provider: closed('chooses who answers, and so the price'),
  models: anotherModel,
  preset: anotherModel,
  route: anotherModel,
})

export const tables: Record<Endpoint, Table> = { 'chat.completions': chat, embeddings, 'images.generations': images }

/**
 * The tables as docs/requests.md shows them: field, what becomes of it, why.
 * @internal For tests.
 */
export function describeFields(endpoint: Endpoint): [field: string, verdict: string, why: string][] {
  const rows = new Map<string, [string, string, string]>()
  const add = (rules: Table, prefix: string) => {
    for (const [key, { verdict, why, inside, kinds }] of rules) {
      const field = prefix + key
      rows.set(field, [field, verdict, why])
      if (inside) add(inside, `${field}.`)
      for (const of of kinds?.of.values() ?? []) add(of, `${field}.`)
      if (!kinds) continue
      const known = [...kinds.of.keys()].map((kind) => `\`${kind}\``).join(', ')
      rows.set(`${field}.*`, [`${field}.*`, 'closed', `${kinds.why}; those of the ${kinds.by} ${known} pass`])
    }
  }
  add(tables[endpoint], '')
  return [...rows.values()]
}
