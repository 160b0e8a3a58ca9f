/** Fields that change price, route or provider are priced, opened by a row, or refused by name; everything harmless passes. */
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import type OpenAI from 'openai'
import { describe, expect, test } from 'vitest'
import { describeFields, fieldOf, type Rule, type Table, tables } from '../../functions/_shared/ai/field-tables.ts'
import {
  type AiRequest,
  readChatRequest,
  readEmbeddingsRequest,
  readImagesRequest,
} from '../../functions/_shared/ai/read-request.ts'
import { fieldsRefused, lookAtFields } from '../../functions/_shared/ai/request-fields.ts'
import type { Endpoint } from '../../functions/_shared/ai/snapshot.ts'
import { runs } from '../support/runs.ts'

const bytesOf = (body: unknown) => new TextEncoder().encode(JSON.stringify(body))
const user = { role: 'user', content: 'x' }
const chat = (over: object) => readChatRequest(bytesOf({ model: 'm', messages: [user], ...over }))
const embed = (over: object) => readEmbeddingsRequest(bytesOf({ model: 'm', input: 'x', ...over }))
const draw = (over: object) => readImagesRequest(bytesOf({ model: 'm', prompt: 'x', ...over }))
const say = (...content: object[]) => ({ messages: [{ role: 'user', content }] })
const refused = ({ fields }: AiRequest) => fieldsRefused(fields, { open_fields: [] }, { passes_unknown_fields: false })

/** Of a request type of OpenAI's client: when it learns a field, this does not compile until somebody decides about it. */
type Verdicts<Params> = Record<keyof Params, string>
const ofOpenAi = {
  'chat.completions': {
    ...{ messages: 'passes', model: 'passes', stream: 'passes', stream_options: 'passes', n: 'passes', seed: 'passes' },
    ...{
      max_tokens: 'passes',
      max_completion_tokens: 'passes',
      temperature: 'passes',
      top_p: 'passes',
      stop: 'passes',
    },
    ...{ frequency_penalty: 'passes', presence_penalty: 'passes', logit_bias: 'passes', logprobs: 'passes' },
    ...{ top_logprobs: 'passes', tools: 'passes', tool_choice: 'passes', parallel_tool_calls: 'passes' },
    ...{ functions: 'passes', function_call: 'passes', response_format: 'passes', reasoning_effort: 'passes' },
    ...{ verbosity: 'passes', user: 'passes', safety_identifier: 'passes', metadata: 'passes', store: 'passes' },
    ...{ moderation: 'passes', prompt_cache_key: 'passes', prompt_cache_options: 'priced', audio: 'priced' },
    ...{ prompt_cache_retention: 'priced', modalities: 'closed', service_tier: 'closed', prediction: 'closed' },
    web_search_options: 'closed',
  } satisfies Verdicts<OpenAI.ChatCompletionCreateParams>,
  embeddings: {
    ...{ input: 'passes', model: 'passes', dimensions: 'passes', encoding_format: 'passes', user: 'passes' },
  } satisfies Verdicts<OpenAI.EmbeddingCreateParams>,
  'images.generations': {
    ...{ prompt: 'passes', model: 'passes', n: 'passes', background: 'passes', moderation: 'passes', style: 'passes' },
    ...{ output_compression: 'passes', response_format: 'passes', safety_identifier: 'passes', user: 'passes' },
    ...{ size: 'priced', quality: 'priced', output_format: 'closed', complexity: 'closed', frame_count: 'closed' },
    ...{ frame_duration_ms: 'closed', svg: 'closed', stream: 'refused', partial_images: 'refused' },
  } satisfies Verdicts<OpenAI.ImageGenerateParams>,
} as const

test.each(Object.entries(ofOpenAi))(
  'every field of %s that the openai client knows has its verdict',
  (endpoint, known) => {
    const decided = new Map(
      describeFields(endpoint as keyof typeof ofOpenAi).map(([field, verdict]) => [field, verdict]),
    )

    expect(Object.fromEntries(Object.keys(known).map((field) => [field, decided.get(field)]))).toEqual(known)
  },
)

test.each([
  ['chat.completions', 'Chat completions'],
  ['embeddings', 'Embeddings'],
  ['images.generations', 'Images'],
] as const)('docs/requests.md says of %s what becomes of each field', (endpoint, title) => {
  const rows = describeFields(endpoint).map((row) => row.map((cell) => cell.replace('.*', '.\\*')))
  const passing = rows.flatMap(([field, verdict]) => (verdict === 'passes' ? [field] : []))
  const others = rows.filter(([, verdict]) => verdict !== 'passes').map((row) => `| ${row.join(' | ')} |`)

  const [, section = ''] = readFileSync('docs/requests.md', 'utf8').split(`\n### ${title}\n`)
  const [paragraph = '', table = ''] = (section.split('\n### ')[0] ?? '').trim().split('\n\n')
  const [, , ...told] = table.split('\n').map((line) => line.replaceAll(/ +/g, ' ').trim())

  expect(paragraph.replaceAll('\n', ' ')).toBe(`These pass: ${passing.join(', ')}.`)
  expect(told).toEqual(others)
})

const png =
  'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII='
const schema = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] }
const weather = {
  type: 'function',
  function: { name: 'weather', description: 'now', parameters: schema, strict: true },
}
const call = { id: 'call_1', type: 'function', function: { name: 'weather', arguments: '{"city":"Brno"}' } }
const asked = { role: 'assistant', content: null, refusal: null, annotations: [], tool_calls: [call] }
const told = { role: 'tool', tool_call_id: 'call_1', content: 'rain' }
const picture = { type: 'image_url', image_url: { url: png, detail: 'low' } }
const sound = { type: 'input_audio', input_audio: { data: 'UklGRg==', format: 'mp3' } }
const document = { type: 'file', file: { filename: 'a.pdf', file_data: 'data:application/pdf;base64,JVBERi0x' } }
const json = { type: 'json_schema', json_schema: { name: 'response', strict: true, schema } }

/** Bodies as the clients make them, with all that they send without a question of price. */
const ofClients: Record<string, object> = {
  "OpenAI's client": {
    messages: [{ role: 'developer', content: 'be brief', name: 'me' }, user, asked, told],
    ...{ temperature: 1, top_p: 1, n: 1, stop: ['\n'], seed: 7, max_completion_tokens: 9, stream: true },
    ...{ stream_options: { include_usage: true, include_obfuscation: false }, logprobs: true, top_logprobs: 2 },
    ...{
      tools: [weather, { type: 'custom', custom: { name: 'code' } }],
      tool_choice: 'auto',
      parallel_tool_calls: false,
    },
    ...{ response_format: json, reasoning_effort: 'low', verbosity: 'low', store: false, metadata: { a: 'b' } },
    ...{
      prompt_cache_key: 'k',
      safety_identifier: 's',
      user: 'u',
      logit_bias: { 50256: -100 },
      service_tier: 'default',
    },
    modalities: ['text'],
  },
  "OpenAI's client, with what its helper for parsing adds": {
    messages: [
      user,
      {
        ...asked,
        parsed: { a: 1 },
        tool_calls: [{ ...call, index: 0, function: { ...call.function, parsed_arguments: {} } }],
      },
      { ...told, content: [{ type: 'text', text: 'rain' }] },
      { role: 'assistant', content: [{ type: 'refusal', refusal: 'no' }], function_call: { name: 'f', arguments: '' } },
    ],
    functions: [{ name: 'f', parameters: schema }],
    function_call: 'auto',
  },
  'the AI SDK with @ai-sdk/openai': {
    messages: [{ role: 'user', content: [{ type: 'text', text: 'see' }, picture, sound, document] }],
    ...{ max_tokens: 9, response_format: json, seed: 1, verbosity: 'high', reasoning_effort: 'minimal', store: true },
    ...{ tools: [weather], tool_choice: { type: 'function', function: { name: 'weather' } }, service_tier: 'flex' },
    stream: true,
    stream_options: { include_usage: true },
  },
  'the AI SDK with @openrouter/ai-sdk-provider': {
    messages: [
      { role: 'assistant', content: 'x', reasoning: 'y', reasoning_details: [{ type: 'reasoning.text', text: 'y' }] },
      { ...told, name: 'weather' },
    ],
    ...{ top_k: 4, include_reasoning: true, reasoning: { effort: 'low', exclude: true }, usage: { include: true } },
    tools: [{ ...weather, eager_input_streaming: true }],
    plugins: [{ id: 'response-healing' }],
  },
  "OpenRouter's answers, sent back with all that they told": {
    messages: [
      {
        ...{ role: 'assistant', content: 'x' },
        reasoning_details: [
          { type: 'reasoning.summary', summary: 'y', id: 'r', format: 'unknown', index: 0 },
          { type: 'reasoning.encrypted', data: 'y', id: null, format: 'anthropic-claude-v1', index: 1 },
        ],
        annotations: [
          { type: 'url_citation', url_citation: { url: 'u', title: 't', content: 'c', start_index: 0, end_index: 9 } },
          { type: 'file', file: { hash: 'h', name: 'a.pdf', content: [{ type: 'text', text: 'x' }, picture] } },
        ],
      },
    ],
    tool_choice: {
      type: 'allowed_tools',
      allowed_tools: { mode: 'auto', tools: [{ type: 'function', function: { name: 'f' } }] },
    },
  },
  "OpenRouter's SDK": {
    messages: [
      { role: 'user', content: [{ type: 'video_url', video_url: { url: 'https://films.test/a.mp4' } }] },
      { role: 'assistant', content: 'x', model: 'm', images: [{ image_url: { url: png } }] },
    ],
    ...{ min_p: 0.1, top_a: 0.1, top_k: 1, repetition_penalty: 1, session_id: 's', trace: { trace_id: 't' } },
    ...{ reasoning_effort: 'high', response_format: { type: 'grammar', grammar: 'root ::= "a"' }, max_tool_calls: 3 },
    ...{
      transforms: ['middle-out'],
      stop_server_tools_when: [{ type: 'steps', max: 2 }],
      models: null,
      provider: null,
    },
    plugins: [{ id: 'context-compression', enabled: true, engine: 'middle-out' }],
  },
  "LangChain's ChatOpenAI": {
    messages: [
      { role: 'system', content: 'be brief' },
      { ...user, name: 'me' },
      { role: 'assistant', content: '', tool_calls: [call] },
      told,
    ],
    ...{ temperature: 0, n: 1, stream: false, user: 'u', prompt_cache_key: 'k', verbosity: 'low', logit_bias: {} },
    ...{ tools: [weather], tool_choice: 'required', response_format: { type: 'json_object' }, max_tokens: 5 },
  },
}

test.each(Object.entries(ofClients))('a request of %s passes as it is', async (_client, over) => {
  const request = await chat(over)
  const { messages, ...body } = request.bodyFor({ upstream_model: 'm', max_output_tokens: 9, limit_field: 'none' })

  expect(refused(request)).toBeUndefined()
  expect({ messages, ...body }).toMatchObject(over)
  expect(request.asks).toEqual({})
})

test('requests of other endpoints pass with all that changes no price', async () => {
  const ofEmbeddings = {
    encoding_format: 'base64',
    dimensions: 256,
    input_type: 'search_query',
    user: 'u',
    session_id: 's',
  }
  const ofImages = {
    background: 'opaque',
    output_format: 'webp',
    output_compression: 80,
    moderation: 'low',
    style: 'vivid',
  }

  const drawn = draw({ ...ofImages, response_format: 'b64_json', seed: 1, stream: false })
  for (const request of await Promise.all([embed(ofEmbeddings), drawn]))
    expect([refused(request), request.asks]).toEqual([undefined, {}])
})

describe('a field that changes price, route or provider', () => {
  test.each<[string, object]>([
    ['tools.0.type', { tools: [{ type: 'openrouter:web_search' }] }],
    ['tools.1.type', { tools: [weather, { type: 'web_search_preview' }] }],
    ['tools.0.type', { tools: [{ type: 'mcp', server_url: 'https://tools.test' }] }],
    ['tools.0.type', { tools: [{ type: 'constructor' }] }],
    ['mcp_servers', { mcp_servers: [] }],
    ['web_search_options', { web_search_options: {} }],
    ['search_parameters', { search_parameters: { mode: 'auto' } }],
    ['enable_search', { enable_search: true }],
    ['plugins.0.id', { plugins: [{ id: 'web' }] }],
    ['plugins.0.id', { plugins: [{ id: 'file-parser' }] }],
    ['provider', { provider: { order: ['dear'] } }],
    ['speed', { speed: 'fast' }],
    ['service_tier', { service_tier: 'priority' }],
    ['service_tier', { service_tier: 'scale' }],
    ['modalities', { modalities: ['text', 'image'] }],
    ['image_config', { image_config: { image_size: '4K' } }],
    ['prediction', { prediction: { type: 'content', content: 'x' } }],
    ['debug', { debug: { echo_upstream_body: true } }],
    ['messages.0.content.0.image_url.detail', say({ type: 'image_url', image_url: { url: png, detail: 'original' } })],
    ['messages.0.content.0.file.file_id', say({ type: 'file', file: { file_id: 'file-1' } })],
    ['messages.0.content.1.type', say({ type: 'text', text: 'x' }, { type: 'hologram', data: 'x' })],
    ['messages.0.mood', { messages: [{ ...user, mood: 'bad' }] }],
    ['stream_options.speed', { stream_options: { speed: 2 } }],
    ['mystery', { mystery: 1 }],
  ])('of chats is a 400 that names it where no row opens it: %s in %o', async (param, over) => {
    expect(refused(await chat(over))).toMatchObject({ param, message: expect.stringMatching(/models\.open_fields/) })
  })

  test.each<[string, () => Promise<unknown>]>([
    ['models', () => chat({ models: ['dear'] })],
    ['preset', () => chat({ preset: 'mine' })],
    ['best_of', () => chat({ best_of: 2 })],
    ['stream', () => draw({ stream: true })],
    ['partial_images', () => draw({ partial_images: 2 })],
    ['resolution', () => draw({ size: '1K', resolution: '4K' })],
    ['route', () => embed({ route: 'fallback' })],
  ])('is refused for good when no price could be held: %s', async (param, ask) => {
    await expect(ask()).rejects.toMatchObject({ code: 'invalid_request_error', details: { param } })
  })

  test.each<[string, () => Promise<AiRequest>, string]>([
    ['output_format', () => draw({ output_format: 'svg' }), 'output_format'],
    ['frame_count', () => draw({ frame_count: 9 }), 'frame_count'],
    ['aspect_ratio', () => draw({ aspect_ratio: '16:9' }), 'aspect_ratio'],
    ['a part of the input', () => embed({ input: [{ content: [{ type: 'smell' }] }] }), 'input.0.content.0.type'],
    ['provider', () => embed({ provider: {} }), 'provider'],
  ])('of other endpoints is named, too: %s', async (_name, ask, param) => {
    expect(refused(await ask())).toMatchObject({ param })
  })

  test.each<[object, object]>([
    [
      { messages: [{ role: 'user', content: [{ type: 'text', text: 'x', cache_control: { type: 'ephemeral' } }] }] },
      { cacheWrites: '5m' },
    ],
    [
      {
        messages: [{ ...user, cache_control: { type: 'ephemeral', ttl: '1h' } }],
        cache_control: { type: 'ephemeral' },
      },
      { cacheWrites: '1h' },
    ],
    [{ tools: [{ ...weather, cache_control: { type: 'ephemeral', ttl: '1h' } }] }, { cacheWrites: '1h' }],
    [{ prompt_cache_options: { mode: 'explicit', ttl: '30m' } }, { cacheWrites: '5m' }],
    [{ prompt_cache_retention: '24h' }, { cacheWrites: '1h' }],
    [{ prompt_cache_retention: 'in_memory' }, {}],
    [{ prompt_cache_retention: 'in-memory' }, {}],
    [{ modalities: ['text', 'audio'], audio: { voice: 'alloy', format: 'wav' } }, { audioOut: true }],
    [
      {
        tools: [
          { type: 'openrouter:web_search', parameters: { max_uses: 3 } },
          { type: 'web_search', max_uses: 2 },
        ],
      },
      { searches: 5 },
    ],
    [{ tools: [{ type: 'openrouter:web_search' }] }, { searches: 10 }],
    [{ tools: [{ type: 'web_search', max_uses: 0 }] }, { searches: 10 }],
    [
      { plugins: [{ id: 'web', max_uses: 1 }], web_search_options: {} },
      { searches: 2, sureSearches: 1 },
    ],
    [{ search_parameters: { mode: 'on', max_search_results: 4 } }, { searches: 4 }],
    [{ enable_search: false, search_parameters: { mode: 'off' } }, {}],
    [{ tools: [{ type: 'web_search', max_uses: 2, search_context_size: 'high' }] }, { searches: 2, findsMore: true }],
    [{ plugins: [{ id: 'web', max_results: 99 }] }, { searches: 10, findsMore: true }],
    [{ web_search_options: { search_context_size: 'high' } }, { searches: 1, sureSearches: 1, findsMore: true }],
    [{ web_search_options: { user_location: { type: 'approximate' } } }, { searches: 1, sureSearches: 1 }],
    [{ tools: [{ type: 'openrouter:web_fetch' }] }, { findsMore: true }],
    [{ plugins: [{ id: 'file-parser' }] }, { findsMore: true }],
    [{ mcp_servers: [] }, { findsMore: true }],
  ])('is told to the price list: %o asks for %o', async (over, asks) => {
    expect((await chat(over)).asks).toEqual(asks)
  })

  test.each<[object, string | undefined]>([
    [{}, undefined],
    [{ size: 'auto', quality: 'auto' }, undefined],
    [{ size: '1024x1024' }, '1024x1024/auto'],
    [{ quality: 'high' }, 'auto/high'],
    [{ quality: 'high', size: '1024x1536' }, '1024x1536/high'],
    [{ resolution: '4K', quality: 'low' }, '4K/low'],
  ])('is the variant of an image: %o is %s', async (over, variant) => {
    expect((await draw(over)).asks.variant).toBe(variant)
  })
})

const noted = (...content: object[]) => ({
  messages: [{ ...user, annotations: [{ type: 'file', file: { hash: 'h', name: 'n', content } }] }],
})

describe('what is not as its place wants it is a 400 that names the place', () => {
  const messages = (more: object) => ({ messages: [{ ...user, ...more }] })
  test.each<[string, object]>([
    ['plugins.0', { plugins: ['web'] }],
    ['plugins', { plugins: 'web' }],
    ['plugins', { plugins: { id: 'response-healing' } }],
    ['plugins.0', { plugins: [[{ id: 'web' }]] }],
    ['plugins.1', { plugins: [{ id: 'response-healing' }, null] }],
    ['messages.0.content.0.image_url', say({ type: 'text', text: 'x', image_url: { url: png } })],
    ['messages.0.content.0.file', say({ ...picture, file: { file_data: 'x' } })],
    ['messages.0.content.0.text', say({ type: 'text', text: { image_url: { url: png } } })],
    ['messages.0.content.0.image_url.url', say({ type: 'image_url', image_url: { url: { href: png } } })],
    ['messages.0.content.0.image_url', say({ type: 'image_url', image_url: [{ url: png }] })],
    ['messages.0.annotations', messages({ annotations: { type: 'file' } })],
    ['messages.0.annotations.0', messages({ annotations: ['x'] })],
    ['messages.0.reasoning', messages({ reasoning: { image_url: { url: png } } })],
    ['messages.0.name', messages({ name: { image_url: png } })],
    ['messages.0.tool_calls.0.function.arguments', messages({ tool_calls: [{ function: { arguments: { a: 1 } } }] })],
    ['reasoning', { reasoning: 'high' }],
    ['reasoning', { reasoning: [{ effort: 'high' }] }],
    ['user', { user: { image_url: png } }],
    ['seed', { seed: [1] }],
    ['stream_options.include_obfuscation', { stream_options: { include_obfuscation: { x: 1 } } }],
    ['stop.0', { stop: [{ x: 1 }] }],
  ])('%s in %o', async (param, over) => {
    await expect(chat(over)).rejects.toMatchObject({ code: 'invalid_request_error', details: { param } })
  })

  test.each<[string, object]>([
    ['messages.0.annotations.0.type', messages({ annotations: [{ type: 'picture', url: png }] })],
    ['messages.0.annotations.0.file.content.0.type', noted({ type: 'input_audio', input_audio: { data: 'AAAA' } })],
    ['messages.0.annotations.0.file.pages', messages({ annotations: [{ type: 'file', file: { pages: [picture] } }] })],
    [
      'messages.0.reasoning_details.0.type',
      messages({ reasoning_details: [{ type: 'reasoning.picture', data: png }] }),
    ],
    ['messages.0.reasoning_details.0.url', messages({ reasoning_details: [{ type: 'reasoning.text', url: png }] })],
  ])('or is refused where no row opens it: %s in %o', async (param, over) => {
    expect(refused(await chat(over))).toMatchObject({ param })
  })

  test('of the references for an image, too, which are pictures and nothing else', async () => {
    const text = { ...picture, type: 'text' }
    expect(refused(await draw({ input_references: [text] }))).toMatchObject({ param: 'input_references.0.type' })
  })

  test('and no row opens a picture in a part that is called a text', async () => {
    const open = { open_fields: ['messages.content.image_url'] }
    const asked = chat(say({ type: 'text', text: 'x', image_url: { url: png } })).then(({ fields }) =>
      fieldsRefused(fields, open, { passes_unknown_fields: true }),
    )
    await expect(asked).rejects.toMatchObject({ code: 'invalid_request_error' })
  })
})

/** What stands in a body of which its table says nothing: by the places themselves, and not by what the door found. */
const unjudged = (body: object, rules: Table, place = ''): string[] =>
  Object.entries(body).flatMap(([key, value]) => {
    // What is null says nothing.
    if (value === null) return []
    const rule = rules.get(key)
    return rule ? unjudgedIn(value, rule, `${place}.${key}`) : [`${place}.${key}`]
  })

function unjudgedIn(value: unknown, rule: Rule, place: string): string[] {
  const { isFree, orPlain, inside, kinds } = rule
  if (isFree || value === null) return []
  if (Array.isArray(value)) return value.flatMap((one) => unjudgedIn(one, rule, place))
  if (typeof value !== 'object') return orPlain || !(inside || kinds) ? [] : [place]
  const known = kinds ? kinds.of.get(fieldOf(value, kinds.by)) : inside
  return known ? unjudged(value, known, place) : [place]
}

const wordsOf = (rules: Table): string[] =>
  [...rules].flatMap(([key, { inside, kinds }]) => [
    key,
    ...(inside ? wordsOf(inside) : []),
    ...[...(kinds?.of ?? [])].flatMap(([kind, of]) => [String(kind), ...wordsOf(of)]),
  ])
const words = fc.oneof(fc.constantFrom(...new Set(wordsOf(tables['chat.completions'])), 'web', png), fc.string())
const { anything } = fc.letrec<{ anything: unknown }>((tie) => ({
  anything: fc.oneof(
    { depthSize: 'small' },
    fc.oneof(words, fc.integer(), fc.boolean(), fc.constant(null)),
    fc.array(tie('anything'), { maxLength: 3 }),
    fc.dictionary(words, tie('anything'), { maxKeys: 3 }),
  ),
}))

type Place = { holder: Record<string, unknown>; key: string }
/** Where something can be put: in the place of what is there, and beside it. */
function placesIn(value: unknown): Place[] {
  if (typeof value !== 'object' || value === null) return []
  const holder = value as Record<string, unknown>
  return Object.keys(holder).flatMap((key) => [{ holder, key }, ...placesIn(holder[key])])
}

const bodies: [Endpoint, (body: object) => Promise<AiRequest>, object][] = [
  ...Object.values(ofClients).map((over): [Endpoint, typeof chat, object] => ['chat.completions', chat, over]),
  ['embeddings', embed, { input: [{ content: [picture] }], encoding_format: 'float', trace: { a: 1 } }],
  ['images.generations', draw, { input_references: [picture], size: 'auto', style: 'vivid' }],
]

test('whatever JSON stands wherever in a request, nothing reaches a provider that the tables do not know', async () => {
  const seen = { forwarded: 0, refused: 0 }
  const change = fc.tuple(fc.nat(), fc.boolean(), words, anything)
  const property = fc.asyncProperty(
    fc.constantFrom(...bodies),
    fc.array(change, { maxLength: 3 }),
    async (of, changes) => {
      const [endpoint, ask, over] = of
      const body = structuredClone(over)
      for (const [at, isBeside, key, value] of changes) {
        const all = [{ holder: body as Record<string, unknown>, key: 'user' }, ...placesIn(body)]
        const place = all[at % all.length]
        if (place) place.holder[isBeside && !Array.isArray(place.holder) ? key : place.key] = value
      }
      const request = await ask(body).catch((error: unknown) => {
        expect(error).toMatchObject({ code: 'invalid_request_error' })
      })
      const isForwarded = request !== undefined && refused(request) === undefined
      seen[isForwarded ? 'forwarded' : 'refused'] += 1
      if (!isForwarded) return
      const sent = request.bodyFor({ upstream_model: 'm', max_output_tokens: 9, limit_field: 'max_tokens' })
      expect(unjudged(JSON.parse(JSON.stringify(sent)), tables[endpoint])).toEqual([])
    },
  )

  await fc.assert(property, { numRuns: runs(600) })
  // Else nothing would have been looked at.
  expect(Math.min(seen.forwarded, seen.refused)).toBeGreaterThan(60)
}, 60_000)

test('what nobody knows passes where the row of the provider says so, and counts as text', async () => {
  const { fields, contents } = await chat({ documents: 'é'.repeat(99) })

  expect(fieldsRefused(fields, { open_fields: [] }, { passes_unknown_fields: true })).toBeUndefined()
  expect(contents.textBytes).toBeGreaterThan((await chat({})).contents.textBytes + 2 * 99)
})

test('a field is named once, and a request with too many of them is refused', async () => {
  const many = (amount: number) => Object.fromEntries(Array.from({ length: amount }, (_, at) => [`f${at}`, 1]))

  const moods = await chat({ messages: Array.from({ length: 99 }, () => ({ ...user, mood: 'bad' })) })

  expect(moods.fields).toHaveLength(1)
  expect((await chat(many(64))).fields).toHaveLength(64)
  await expect(chat(many(65))).rejects.toMatchObject({ details: { param: 'f64' } })
})

test('lists have a length, wherever they are', async () => {
  const long = Array.from({ length: 10_001 }, () => 'x')
  const tooLong = [{ stop: long }, { messages: long.map(() => user) }, { tools: long.map(() => weather) }]

  for (const over of [...tooLong, say(...long.map((text) => ({ type: 'text', text })))])
    await expect(chat(over)).rejects.toMatchObject({ code: 'invalid_request_error' })
  await expect(embed({ input: long })).rejects.toMatchObject({ code: 'invalid_request_error' })
})

test('lists of tokens, which OpenAI documents for embeddings, have no fields', () => {
  const body = { model: 'm', input: [[1, 2, 3], [4]] }
  expect(lookAtFields('embeddings', body)).toEqual({ fields: [], asks: {} })
})
