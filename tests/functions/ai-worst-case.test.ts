/**
 * The promise of a hold, from the body of a request to the last micro-dollar: whatever a provider that tells the truth reports of it is no
 * more than was held. What it may report is made here a second time, by what the request says and not by what the readers found in it.
 */
import fc from 'fast-check'
import { countTokens } from 'gpt-tokenizer/encoding/o200k_base'
import { beforeAll, expect, test } from 'vitest'
import { nothingUsed, type Usage } from '../../functions/_shared/ai/ledger.ts'
import type { MediaKind, MediaRule } from '../../functions/_shared/ai/media-rules.ts'
import { usedBy } from '../../functions/_shared/ai/open-call.ts'
import { type PlannedRoute, planCall } from '../../functions/_shared/ai/plan-call.ts'
import {
  type AiRequest,
  readChatRequest,
  readEmbeddingsRequest,
  readImagesRequest,
} from '../../functions/_shared/ai/read-request.ts'
import { type Endpoint, type Model, type Price, type Snapshot, snapshot } from '../../functions/_shared/ai/snapshot.ts'
import { runs } from '../support/runs.ts'

const seed = Number(process.env.SEED ?? Date.now() % 1_000_000)
beforeAll(() => console.info(`seed ${seed}: run again with SEED=${seed}`))

const maybe = <T>(one: fc.Arbitrary<T>, freq = 2) => fc.option(one, { nil: undefined, freq })

// Requests ------------------------------------------------------------------------------------------------------------

/** Blocks of Unicode, known to tokenizers or not. */
const blocks: [number, number][] = [
  ...([
    [0x20, 0x7e],
    [0x0, 0x1f],
    [0x400, 0x4ff],
    [0x600, 0x6ff],
    [0x900, 0x97f],
    [0x1200, 0x137f],
  ] as [number, number][]),
  ...([
    [0x16a0, 0x16ff],
    [0x4e00, 0x9fff],
    [0xe000, 0xe0ff],
    [0x12000, 0x123ff],
  ] as [number, number][]),
  ...([
    [0x13000, 0x1342f],
    [0x1f300, 0x1faff],
    [0x0, 0x10ffff],
  ] as [number, number][]),
]
const script = fc.constantFrom(...blocks).chain(([min, max]) => fc.array(fc.integer({ min, max }), { maxLength: 40 }))
/** Of up to three scripts, and never nothing. */
const text = fc
  .array(script, { minLength: 1, maxLength: 3 })
  .map((points) => `${String.fromCodePoint(...points.flat())}.`.toWellFormed())

const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64')

/** As much of a picture as says its size. */
function png(width: number, height: number): string {
  const bytes = new DataView(new ArrayBuffer(33))
  for (const [at, byte] of [
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 13, 0x49, 0x48, 0x44, 0x52,
  ].entries())
    bytes.setUint8(at, byte)
  bytes.setUint32(16, width)
  bytes.setUint32(20, height)
  return `data:image/png;base64,${base64(new Uint8Array(bytes.buffer))}`
}

/** A sound without packing: what its header says, of which one number may be a lie, and so many bytes behind it. */
type Sound = {
  rate: number
  channels: number
  bits: number
  length: number
  lie?: { at: number; value: number } | undefined
}
/** The rates have four bytes, everything else two. */
const lieAt = (places: number[], max: number) =>
  fc.record({ at: fc.constantFrom(...places), value: fc.oneof(fc.nat({ max }), fc.constant(max)) })
const sound: fc.Arbitrary<Sound> = fc.record({
  ...{ rate: fc.constantFrom(8_000, 16_000, 192_000), channels: fc.integer({ min: 1, max: 8 }) },
  ...{ bits: fc.constantFrom(8, 16, 32), length: fc.nat({ max: 8_000 }) },
  lie: maybe(fc.oneof(lieAt([24, 28], 0xffffffff), lieAt([20, 22, 32, 34], 0xffff))),
})

function wav({ rate, channels, bits, length, lie }: Sound): string {
  const bytes = Buffer.alloc(44 + length)
  bytes.write('RIFF')
  bytes.write('WAVEfmt ', 8)
  const perFrame = (channels * bits) / 8
  bytes.writeUInt32LE(16, 16)
  for (const [at, value] of [
    ...([
      [20, 1],
      [22, channels],
      [24, rate],
      [28, rate * perFrame],
      [32, perFrame],
      [34, bits],
    ] as const),
    ...(lie ? [[lie.at, lie.value] as const] : []),
  ])
    if (at === 24 || at === 28) bytes.writeUInt32LE(value, at)
    else bytes.writeUInt16LE(value, at)
  bytes.write('data', 36)
  bytes.writeUInt32LE(length, 40)
  return base64(new Uint8Array(bytes))
}

/** Of one that says the truth, or that its samples are of another form; how long another lasts nobody knows. */
function secondsOf(heard: Sound): { seconds?: number } {
  const { rate, channels, bits, length, lie } = heard
  const isTrue = !lie || wav(heard) === wav({ ...heard, lie: undefined }) || (lie.at === 20 && lie.value === 3)
  return isTrue ? { seconds: length / ((rate * channels * bits) / 8) } : {}
}

/** What is in a request beside text, as its maker knows it; sizes that nobody can see are what the rule has at most. */
type Piece = {
  kind: MediaKind
  width?: number
  height?: number
  seconds?: number
  isLow?: boolean
  /** What is there the provider finds out; it may be of every kind that the model reads. */
  isAddress?: boolean
}
/** A part of a message, and what is in it. */
type Part = { part: Record<string, unknown>; text: string; piece?: Piece }

const cacheControl = maybe(fc.record({ type: fc.constant('ephemeral'), ttl: maybe(fc.constantFrom('5m', '1h')) }), 6)
const px = fc.oneof(fc.integer({ min: 1, max: 70 }), fc.integer({ min: 1, max: 9_000 }))
const image: fc.Arbitrary<Part> = fc
  .tuple(maybe(fc.tuple(px, px)), maybe(fc.constantFrom('low', 'high', 'auto')), cacheControl)
  .map(([size, detail, cache_control]) => ({
    part: {
      ...{ type: 'image_url', cache_control },
      image_url: { url: size ? png(...size) : 'https://pictures.test/a.png', detail },
    },
    text: '',
    piece: {
      ...{ kind: 'image', isLow: detail === 'low', isAddress: !size },
      ...(size && { width: size[0], height: size[1] }),
    },
  }))
const others: fc.Arbitrary<Part> = fc.oneof(
  fc
    .tuple(text, cacheControl)
    .map(([said, cache_control]) => ({ part: { type: 'text', text: said, cache_control }, text: said })),
  {
    weight: 3,
    arbitrary: fc.tuple(maybe(sound, 5), fc.constantFrom('wav', 'wav', 'mp3')).map(
      ([heard, format]): Part => ({
        part: { type: 'input_audio', input_audio: { data: heard ? wav(heard) : 'AAAA', format } },
        text: '',
        piece: { kind: 'audio', ...(heard && format === 'wav' && secondsOf(heard)) },
      }),
    ),
  },
  // Files that are something else, and pictures that are films.
  fc.tuple(sound, fc.constantFrom('audio/wav', 'application/octet-stream')).map(
    ([heard, type]): Part => ({
      part: { type: 'file', file: { file_data: `data:${type};base64,${wav(heard)}` } },
      text: '',
      piece: { kind: 'audio', ...(type === 'audio/wav' && secondsOf(heard)) },
    }),
  ),
  fc.constantFrom<Part>(
    { part: { type: 'file', file: { file_data: 'data:video/mp4;base64,AAAA' } }, text: '', piece: { kind: 'video' } },
    {
      part: { type: 'image_url', image_url: 'https://youtu.be/a' },
      text: '',
      piece: { kind: 'video', isAddress: true },
    },
    {
      part: { type: 'file', file: { file_data: 'https://files.test/a' } },
      text: '',
      piece: { kind: 'file', isAddress: true },
    },
  ),
  fc.tuple(text, fc.boolean()).map(([filename, isText]): Part => {
    const data = isText ? `data:text/plain,${filename}` : 'data:application/pdf;base64,AAAA'
    return {
      part: { type: 'file', file: { filename, file_data: data } },
      text: isText ? filename + data : filename,
      piece: { kind: 'file' },
    }
  }),
  fc.constant<Part>({
    part: { type: 'video_url', video_url: { url: 'https://films.test/a.mp4' } },
    text: '',
    piece: { kind: 'video', isAddress: true },
  }),
)
const parts = fc.array(fc.oneof(others, image), { minLength: 1, maxLength: 4 })

/** What a request is and what is in it: texts that are read one after the other, and what beside them is charged. */
type Asked = {
  endpoint: Endpoint
  body: Record<string, unknown>
  /** Each with the context for itself; of chats and images there is one. */
  prompts: { texts: string[]; tokens: number; turns: number; pieces: Piece[] }[]
  images: number
  searches: number
  variant: string
}

const message = fc
  .tuple(
    fc.constantFrom('system', 'user', 'assistant'),
    fc.oneof(text, fc.constant('.'), parts, parts),
    maybe(text, 6),
    maybe(fc.tuple(text, text), 6),
  )
  .map(([role, said, name, call]) => {
    const calls = call && [{ id: 'c', type: 'function', function: { name: call[0], arguments: call[1] } }]
    const isText = typeof said === 'string'
    return {
      message: { role, content: isText ? said : said.map(({ part }) => part), name, tool_calls: calls },
      texts: [role, name ?? '', ...(call ?? []), ...(isText ? [said] : said.map((one) => one.text))],
      pieces: isText ? [] : said.flatMap(({ piece }) => piece ?? []),
    }
  })

const schema = fc.dictionary(
  text,
  fc.oneof(text, fc.array(text, { maxLength: 3 }), fc.dictionary(text, text, { maxKeys: 2 })),
  { maxKeys: 3 },
)
const ownTool = fc.tuple(text, text, schema, cacheControl).map(([name, description, parameters, cache_control]) => ({
  ...{ type: 'function', cache_control },
  function: { name, description, parameters },
}))
const searchTool = maybe(fc.integer({ min: 1, max: 30 })).map((max_uses) => ({ type: 'web_search', max_uses }))
/** The most of a tool of which nothing is said. */
const usualSearches = 10

/** How a provider may write a structure for the model: as it came, with spaces, with letters by their numbers. */
const written = (value: unknown): string[] => {
  const indented = JSON.stringify(value, null, 2)
  const escaped = indented.replace(
    /[^\0-\x7f]/g,
    (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
  return [JSON.stringify(value), indented, escaped]
}
/** The one of most tokens. */
const dearest = (value: unknown) =>
  value === undefined ? '' : (written(value).sort((a, b) => tokensOf(b) - tokensOf(a))[0] ?? '')
const tokensOf = (said: string) =>
  countTokens(said, { allowedSpecial: new Set<string>(), disallowedSpecial: new Set<string>() })

const limit = maybe(fc.integer({ min: 1, max: 3_000 }))
const chat: fc.Arbitrary<Asked> = fc
  .record({
    messages: fc.oneof(
      fc.array(message, { minLength: 1, maxLength: 4 }),
      fc.array(message, { minLength: 1, maxLength: 1 }),
    ),
    tools: maybe(
      fc.array(fc.oneof({ weight: 4, arbitrary: ownTool }, { weight: 1, arbitrary: searchTool }), { maxLength: 3 }),
    ),
    response_format: maybe(
      schema.map((inside) => ({ type: 'json_schema', json_schema: { name: 'n', schema: inside } })),
      5,
    ),
    max_tokens: limit,
    max_completion_tokens: limit,
    n: maybe(fc.integer({ min: 1, max: 4 })),
    stream: maybe(fc.boolean()),
    cache_control: cacheControl,
    modalities: maybe(fc.constantFrom(['text'], ['text', 'audio']), 6),
    reasoning_effort: maybe(fc.constantFrom('low', 'high'), 6),
  })
  .map(({ messages, tools, ...rest }) => ({
    endpoint: 'chat.completions',
    body: { model: 'asked', messages: messages.map((one) => one.message), tools, ...rest },
    prompts: [
      {
        texts: [...messages.flatMap(({ texts }) => texts), dearest(tools), dearest(rest.response_format)],
        ...{ tokens: 0, turns: messages.length + (tools?.length ?? 0) + 1 },
        pieces: messages.flatMap(({ pieces }) => pieces),
      },
    ],
    images: 0,
    searches: (tools ?? []).reduce((sum, tool) => sum + ('function' in tool ? 0 : (tool.max_uses ?? usualSearches)), 0),
    variant: '',
  }))

const inputs = fc.oneof(
  text.map((one) => ({ input: one as unknown, given: [{ texts: [one], tokens: 0, pieces: [] as Piece[] }] })),
  fc.array(text, { minLength: 1, maxLength: 4 }).map((all) => ({
    input: all as unknown,
    given: all.map((one) => ({ texts: [one], tokens: 0, pieces: [] as Piece[] })),
  })),
  fc
    .array(fc.array(fc.nat({ max: 9 }), { minLength: 1, maxLength: 90 }), { minLength: 1, maxLength: 3 })
    .map((all) => ({
      input: all as unknown,
      given: all.map(({ length }) => ({ texts: [], tokens: length, pieces: [] as Piece[] })),
    })),
  // What some models refuse.
  {
    weight: 3,
    arbitrary: fc.array(parts, { minLength: 1, maxLength: 3 }).map((all) => ({
      input: all.map((one) => ({ content: one.map(({ part }) => part) })) as unknown,
      given: all.map((one) => ({
        ...{ texts: one.map((part) => part.text), tokens: 0 },
        pieces: one.flatMap(({ piece }) => piece ?? []),
      })),
    })),
  },
)
const embedding: fc.Arbitrary<Asked> = inputs.map(({ input, given }) => ({
  ...{ endpoint: 'embeddings', body: { model: 'asked', input }, images: 0, searches: 0, variant: '' },
  prompts: given.map((one) => ({ ...one, turns: 1 })),
}))

const word = maybe(fc.constantFrom('auto', 'small', 'large'))
const drawing: fc.Arbitrary<Asked> = fc
  .tuple(
    text,
    maybe(fc.integer({ min: 1, max: 10 })),
    word,
    word,
    maybe(fc.array(image, { minLength: 1, maxLength: 3 })),
  )
  .map(([prompt, n, size = 'auto', quality = 'auto', references]) => ({
    endpoint: 'images.generations',
    body: { model: 'asked', prompt, n, size, quality, input_references: references?.map(({ part }) => part) },
    prompts: [{ texts: [prompt], tokens: 0, turns: 2, pieces: references?.flatMap(({ piece }) => piece ?? []) ?? [] }],
    images: n ?? 1,
    searches: 0,
    variant: size === 'auto' && quality === 'auto' ? '' : `${size}/${quality}`,
  }))

// Models --------------------------------------------------------------------------------------------------------------

const few = fc.oneof(fc.nat({ max: 20 }), fc.nat({ max: 2_000 }))
const size = fc.integer({ min: 1, max: 2_500 })
const pictureRules: fc.Arbitrary<MediaRule>[] = [
  fc.record({ rule: fc.constant('fixed' as const), tokens: few }),
  fc.record({
    rule: fc.constant('tiles' as const),
    base: few,
    tile: few,
    tile_px: size,
    fit_px: size,
    short_px: size,
    low: few,
  }),
  fc.record({ rule: fc.constant('pixels' as const), per: size, max: few }),
  fc.constant({ rule: 'context' as const }),
]
/** Doubles would nearly all be next to nothing. */
const hundredths = fc.nat({ max: 4_000 }).map((count) => count / 100)
const soundRule: fc.Arbitrary<MediaRule> = fc.record({
  ...{ rule: fc.constant('seconds' as const), tokens: hundredths, max_seconds: few },
})
const fileRule: fc.Arbitrary<MediaRule> = fc.record({
  rule: fc.constant('pages' as const),
  tokens: few,
  max_pages: few,
})
const media = fc.record(
  {
    ...{ image: fc.oneof(...pictureRules), audio: fc.oneof(soundRule, soundRule, ...pictureRules.slice(3)) },
    ...{
      file: fc.oneof(fileRule, fileRule, ...pictureRules.slice(3)),
      video: fc.oneof(soundRule, ...pictureRules.slice(3)),
    },
  },
  { noNullPrototype: true },
)

const pico = fc.oneof(fc.nat({ max: 9 }), fc.nat({ max: 50_000_000 }), fc.constant(0))
const thing = fc.oneof(fc.nat({ max: 9 }), fc.nat({ max: 40_000_000_000 }))
const units = ['cache_write', 'cache_write_1h', 'audio_input', 'audio_output', 'image', 'search']
const amounts = fc.record({
  ...{ credits: fc.nat({ max: 50 }), input_pico: pico, cached_input_pico: pico, cache_write_pico: pico },
  ...{
    cache_write_1h_pico: pico,
    audio_input_pico: pico,
    output_pico: pico,
    reasoning_pico: pico,
    audio_output_pico: pico,
  },
  ...{ image_pico: thing, search_pico: thing, request_pico: thing },
  unpriced: fc.oneof({ weight: 9, arbitrary: fc.constant([]) }, { weight: 1, arbitrary: fc.subarray(units) }),
})
/** Rows of a variant, in steps. */
const rows = (variant: string) =>
  fc
    .tuple(
      fc.uniqueArray(fc.constantFrom(20, 100, 700, 9_000), { maxLength: 3 }),
      fc.array(amounts, { minLength: 4, maxLength: 4 }),
    )
    .map(([steps, prices]) =>
      [0, ...steps.sort((a, b) => a - b)].map((above_prompt_tokens, at) => ({
        variant,
        above_prompt_tokens,
        ...prices[at],
      })),
    )
const priceRows = fc
  .tuple(rows(''), maybe(rows('*'), 3), maybe(rows('large/auto')), maybe(rows('small/large')))
  .map((all) => all.flatMap((of) => of ?? []))

const opened = ['modalities', 'tools.web_search']
const models = fc.array(
  fc.record({
    context_tokens: fc.oneof(fc.integer({ min: 50, max: 2_000 }), fc.constant(200_000)),
    template_percent: fc.nat({ max: 25 }),
    template_tokens: fc.nat({ max: 30 }),
    search_prompt_tokens: fc.option(few),
    media: fc.oneof({ weight: 6, arbitrary: media }, { weight: 1, arbitrary: fc.constant({}) }),
    limit_field: fc.constantFrom('max_tokens', 'max_completion_tokens', 'none'),
    open_fields: fc.oneof({ weight: 4, arbitrary: fc.constant(opened) }, { weight: 1, arbitrary: fc.subarray(opened) }),
    max_output_tokens: fc.integer({ min: 1, max: 4_000 }),
    prices: priceRows,
  }),
  { minLength: 1, maxLength: 3 },
)
type Rows = typeof models extends fc.Arbitrary<infer All> ? All : never

const kinds = { 'chat.completions': 'chat', embeddings: 'embedding', 'images.generations': 'image' }
const limits = { connect_timeout_ms: 1, first_byte_timeout_ms: 1, idle_timeout_ms: 1, total_timeout_ms: 1 }

/** The first is asked for, the others are its fallbacks. */
function known(all: Rows, endpoint: Endpoint): Snapshot {
  const names = all.map((_, at) => (at === 0 ? 'asked' : `fallback ${at}`))
  return snapshot.parse({
    ...{ version: 1, default_max_output_tokens: 800, timeouts_charge: 'caller', hold_grace_seconds: 5 },
    providers: [
      {
        ...{ id: 'one', base_url: 'https://one.test/v1', api_key_secret: null, ...limits },
        ...{ passes_unknown_fields: false, stops_when_left: false },
      },
    ],
    models: all.map(({ prices, ...model }, at) => ({
      ...{ id: names[at], provider_id: 'one', upstream_id: 'up', kind: kinds[endpoint], tokens_per_second: 50 },
      ...{ plans: [0], fallbacks: at === 0 ? names.slice(1) : [], open_until: null, ...model },
      prices: prices.map((price, row) => ({ ref: at * 100 + row, ...price })),
    })),
  })
}

// What is true -----------------------------------------------------------------------------------------------------------

/** The most tokens that the model can make of one piece by its rule: of its true size, or of any that it takes. */
function pieceTokens({ width, height, seconds, isLow }: Piece, rule: MediaRule | undefined, context: number): number {
  switch (rule?.rule) {
    case 'fixed':
      return rule.tokens
    case 'tiles': {
      if (isLow) return rule.low
      const most = (side: number) => Math.ceil(side / rule.tile_px)
      const short = Math.min(rule.fit_px, rule.short_px)
      if (!width || !height) return rule.base + rule.tile * most(rule.fit_px) * most(short)
      // Shrunk into the square, and then until its short side fits.
      const fit = Math.min(1, rule.fit_px / Math.max(width, height))
      const again = Math.min(1, rule.short_px / (fit * Math.min(width, height)))
      // Less a breath, so that what is exactly a tile is not two.
      const side = (length: number) => Math.max(1, most(length * fit * again - 1e-6))
      return rule.base + rule.tile * side(width) * side(height)
    }
    case 'pixels':
      return width && height ? Math.min(rule.max, Math.ceil((width * height) / rule.per)) : rule.max
    case 'seconds':
      return rule.tokens * Math.min(seconds ?? rule.max_seconds, rule.max_seconds)
    case 'pages':
      return rule.tokens * rule.max_pages
    default:
      return context
  }
}

/** Of what is at an address: of any kind that the model reads, and where that has a fixed number, of any length. */
function addressTokens({ isLow }: Piece, model: Model): number {
  const { context_tokens: context } = model
  const most = Object.entries(model.media).map(([kind, rule]) =>
    rule.rule === 'fixed'
      ? context
      : pieceTokens({ kind: kind as MediaKind, isLow: kind === 'image' && isLow === true }, rule, context),
  )
  return Math.max(...most)
}

function promptMost({ prompts, searches }: Asked, model: Model): number {
  const found = searches * (model.search_prompt_tokens ?? model.context_tokens)
  return prompts.reduce((sum, { texts, tokens, turns, pieces }) => {
    const said = texts.reduce((all, one) => all + tokensOf(one), 0)
    const each = pieces.map((one) =>
      one.isAddress ? addressTokens(one, model) : pieceTokens(one, model.media[one.kind], model.context_tokens),
    )
    const seen = each.reduce((all, one) => all + one, found)
    const around = turns * model.template_tokens + Math.floor((said * model.template_percent) / 100)
    return sum + Math.min(Math.floor(said + around + tokens + seen), model.context_tokens)
  }, 0)
}

/** As the provider reads the body that it is sent. Of every image it may have made as much as the model can. */
function outputMost(request: AiRequest, route: PlannedRoute, model: Model, asked: Asked): number {
  if (request.endpoint === 'embeddings') return 0
  if (request.endpoint === 'images.generations') return asked.images * model.max_output_tokens
  const { n, max_tokens, max_completion_tokens } = request.bodyFor(route) as Record<string, number | undefined>
  const told = { max_tokens, max_completion_tokens, none: undefined }[model.limit_field]
  return (n ?? 1) * Math.min(told ?? model.max_output_tokens, model.max_output_tokens)
}

const json = (value: unknown) => JSON.stringify(value)

/** What the gateway makes of a report, which must not be disbelieved. */
function chargedFor(request: AiRequest, route: PlannedRoute, reported: Usage): Usage {
  const { cost_usd, images, ...counts } = reported
  const report = { counts, cost_usd, doubt: null }
  const { usage, implausible } = usedBy({ request, route }, report, { text: 0, media: 0, images })
  expect(implausible).toBeNull()
  return { ...(usage ?? nothingUsed), images }
}

/** One of all that the provider may truly report: `shares` say how much of what is left each kind has. */
function usageOf(asked: Asked, shares: number[], promptTokens: number, outputTokens: number): Usage {
  const [read = 0, wrote = 0, ...rest] = shares
  const used = {
    ...nothingUsed,
    prompt_tokens: Math.ceil(read * promptTokens),
    // An image has a token at least.
    completion_tokens: Math.max(Math.ceil(wrote * outputTokens), Math.min(asked.images, 1)),
  }
  let [prompt, completion] = [used.prompt_tokens, used.completion_tokens]
  const [cached = 0, hour = 0, heard = 0, write = 0, thought = 0, spoken = 0, made = 0] = rest
  const ofPrompt = (share: number) => {
    const part = Math.round(share * prompt)
    prompt -= part
    return part
  }
  const ofCompletion = (share: number) => {
    const part = Math.round(share * completion)
    completion -= part
    return part
  }
  const isHeard = asked.prompts.some(({ pieces }) =>
    pieces.some(({ kind, isAddress }) => isAddress || kind !== 'image'),
  )
  return {
    ...used,
    cached_tokens: ofPrompt(cached),
    cache_write_1h_tokens: json(asked.body).includes('"ttl":"1h"') ? ofPrompt(hour) : 0,
    audio_input_tokens: isHeard ? ofPrompt(heard) : 0,
    cache_write_tokens: ofPrompt(write),
    reasoning_tokens: ofCompletion(thought),
    audio_output_tokens: json(asked.body.modalities)?.includes('audio') ? ofCompletion(spoken) : 0,
    images: Math.round(made * asked.images),
    searches: Math.round(made * asked.searches),
  }
}

/** The row of the variant that was asked for, or of every one, at the step that the prompt reached. */
function priceOf({ prices }: Model, { variant }: Asked, { prompt_tokens }: Usage): Price {
  const own = prices.filter((one) => one.variant === variant)
  const rowsOfIt = own.length > 0 ? own : prices.filter((one) => one.variant === '*')
  return rowsOfIt.findLast(({ above_prompt_tokens: above }) => above === 0 || prompt_tokens > above) as Price
}

function costOf(price: Price, used: Usage): bigint {
  const written = used.cache_write_tokens + used.cache_write_1h_tokens
  const plainIn = used.prompt_tokens - used.cached_tokens - written - used.audio_input_tokens
  const plainOut = used.completion_tokens - used.reasoning_tokens - used.audio_output_tokens
  const pairs: [number, number][] = [
    [plainIn, price.input_pico],
    [used.cached_tokens, price.cached_input_pico],
    [used.cache_write_tokens, price.cache_write_pico],
    [used.cache_write_1h_tokens, price.cache_write_1h_pico],
    [used.audio_input_tokens, price.audio_input_pico],
    [plainOut, price.output_pico],
    [used.reasoning_tokens, price.reasoning_pico],
    [used.audio_output_tokens, price.audio_output_pico],
    [used.images, price.image_pico],
    [used.searches, price.search_pico],
    [1, price.request_pico],
  ]
  return (pairs.reduce((sum, [count, pico]) => sum + BigInt(count) * BigInt(pico), 0n) + 999_999n) / 1_000_000n
}

const share = fc.oneof(fc.constantFrom(0, 1), fc.double({ min: 0, max: 1, noNaN: true }))
/** The dearest are at the corners: all that there is, and all of one kind. */
const corners = [undefined, 2, 3, 4, 5].flatMap((ofPrompt) =>
  [undefined, 6, 7].map((ofAnswer) =>
    [1, 1, 0, 0, 0, 0, 0, 0, 1].map((part, at) => (at === ofPrompt || at === ofAnswer ? 1 : part)),
  ),
)
const readers = {
  'chat.completions': readChatRequest,
  embeddings: readEmbeddingsRequest,
  'images.generations': readImagesRequest,
}
const planned = (request: AiRequest, of: Snapshot) =>
  planCall(
    of,
    { ...request, max_output_tokens: request.maxOutputTokens, credential_id: null },
    { plan: 0, nowS: 0, mayProbe: true },
  )

test.each<[Endpoint, fc.Arbitrary<Asked>, number]>([
  ['chat.completions', chat, 300],
  ['embeddings', embedding, 150],
  ['images.generations', drawing, 150],
])('%s: no truth costs more micro-dollars, tokens or credits than were held', async (endpoint, asking, times) => {
  const seen = { held: 0, refused: 0 }
  await fc.assert(
    fc.asyncProperty(asking, models, fc.array(share, { minLength: 9, maxLength: 9 }), async (asked, all, shares) => {
      const of = known(all, endpoint)
      const request = await readers[endpoint](new TextEncoder().encode(json(asked.body)))
      const plan = await Promise.resolve()
        .then(() => planned(request, of))
        .catch((error: unknown) => {
          expect(error).toMatchObject({ code: expect.stringMatching(/^(model_not_priced|invalid_request_error)$/) })
        })
      seen[plan ? 'held' : 'refused'] += 1

      for (const route of plan?.routes ?? []) {
        const model = of.models.get(route.model) as Model
        const [promptTokens, outputTokens] = [promptMost(asked, model), outputMost(request, route, model, asked)]
        for (const each of [shares, ...corners]) {
          const used = usageOf(asked, each, promptTokens, outputTokens)
          const price = priceOf(model, asked, used)
          const charged = chargedFor(request, route, used)
          expect(costOf(price, used)).toBeLessThanOrEqual(plan?.micros ?? -1n)
          expect(costOf(price, charged)).toBe(costOf(price, used))
          expect(charged.prompt_tokens).toBeLessThanOrEqual(plan?.promptTokens ?? -1)
          expect(charged.completion_tokens).toBeLessThanOrEqual(plan?.outputTokens ?? -1)
          expect(price.credits).toBeLessThanOrEqual(plan?.credits ?? -1)
        }
      }
    }),
    { numRuns: runs(times), seed },
  )
  // Else nothing would have been looked at.
  expect(Math.min(seen.held, seen.refused)).toBeGreaterThan(times / 50)
})
