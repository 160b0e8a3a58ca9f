import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  chatSchema,
  isPlainChat,
  readChatRequest,
  readEmbeddingsRequest,
  readImagesRequest,
} from '../../functions/_shared/ai/read-request.ts'
import { lookAtFields } from '../../functions/_shared/ai/request-fields.ts'
import { routeTo } from './ai-world.ts'

const valid = { model: 'demo/echo', messages: [{ role: 'user', content: 'hello' }] }
const parse = (body: unknown) =>
  readChatRequest(new TextEncoder().encode(typeof body === 'string' ? body : JSON.stringify(body)))
const route = routeTo('http://provider/v1', 'echo')

test.each([
  ['model', { model: undefined }],
  ['model', { model: '' }],
  ['model', { model: 'a\u0000b' }],
  ['model', { model: 7 }],
  ['messages', { messages: undefined }],
  ['messages', { messages: [] }],
  ['messages.0.role', { messages: [{ content: 'x' }] }],
  ['messages.0.role', { messages: [{ role: 'robot', content: 'x' }] }],
  ['messages.0.content', { messages: [{ role: 'user', content: 5 }] }],
  ['max_tokens', { max_tokens: -1 }],
  ['max_tokens', { max_tokens: 1.5 }],
  ['max_completion_tokens', { max_completion_tokens: '9' }],
  ['n', { n: 0 }],
  ['temperature', { temperature: 'hot' }],
  ['stream', { stream: 'yes' }],
  ['stream_options.include_usage', { stream_options: { include_usage: 1 } }],
  ['models', { models: ['expensive'] }],
  ['tools.0.type', { tools: [{}] }],
  ['messages.0.content.0.image_url.url', { messages: [{ role: 'user', content: [{ type: 'image_url' }] }] }],
  ['messages.0.images', { messages: [{ role: 'assistant', content: 'x', images: {} }] }],
])('%s is named when it is wrong: %o', async (param, over) => {
  await expect(parse({ ...valid, ...over })).rejects.toMatchObject({
    code: 'invalid_request_error',
    status: 400,
    details: { param },
  })
})

test.each(['', 'hello {', '[]', 'null', '"text"'])('a body that is no JSON object is refused: %s', async (body) => {
  await expect(parse(body)).rejects.toMatchObject({ code: 'invalid_request_error' })
})

test('what is not for every model is still in the body for the route that takes it', async () => {
  const request = {
    ...valid,
    mystery: 5,
    messages: [{ role: 'user', content: 'x', cache_control: { type: 'ephemeral' } }],
  }

  expect((await parse(request)).bodyFor(route)).toEqual({ ...request, model: 'echo', max_tokens: 500 })
})

test.each([
  [{}, null, { max_tokens: 500 }],
  [{ max_tokens: 9 }, 9, { max_tokens: 500 }],
  [{ max_tokens: null, max_completion_tokens: 9 }, 9, { max_tokens: 500 }],
  [{ max_tokens: 1, max_completion_tokens: 9_999 }, 1, { max_tokens: 500 }],
])('%o asks for %o at most, and only the limit that was held is forwarded', async (limits, asked, forwarded) => {
  const chat = await parse({ ...valid, ...limits })

  expect(chat.maxOutputTokens).toBe(asked)
  expect(limitsIn(chat.bodyFor({ ...route, limit_field: 'max_tokens' }))).toEqual(forwarded)
})

const limitsIn = ({ max_tokens, max_completion_tokens }: Record<string, unknown>) =>
  JSON.parse(JSON.stringify({ max_tokens, max_completion_tokens }))

describe('no limit at all for a model that refuses `max_tokens` (o-series, gpt-5)', () => {
  test.each([{}, { max_tokens: 9 }, { max_completion_tokens: 9 }, { max_tokens: 9, max_completion_tokens: 7 }])(
    'the field that the row of the model names is the only one, whatever the caller says: %o',
    async (limits) => {
      const chat = await parse({ ...valid, ...limits })

      expect(limitsIn(chat.bodyFor({ ...route, limit_field: 'max_completion_tokens' }))).toEqual({
        max_completion_tokens: 500,
      })
    },
  )

  test.each([{}, { max_tokens: 9 }, { max_completion_tokens: 9 }])(
    'a row that names none adds none, and takes away none of %o',
    async (limits) => {
      const chat = await parse({ ...valid, ...limits })

      expect(limitsIn(chat.bodyFor({ ...route, limit_field: 'none' }))).toEqual(limits)
    },
  )
})

test("a stream always asks the provider for its usage, and keeps the caller's other options", async () => {
  const chat = await parse({ ...valid, stream: true, stream_options: { include_usage: false, x: 1 } })

  expect(chat.bodyFor(route)).toMatchObject({ stream_options: { include_usage: true, x: 1 } })
})

test('the prompt is counted in bytes, with names, tools and schemas, without settings', async () => {
  const { contents, promptTokensEstimated } = await parse(valid)
  const bytes = JSON.stringify({ messages: valid.messages }).length
  const textBytes = async (over: object) => (await parse({ ...valid, ...over })).contents.textBytes

  expect([contents, promptTokensEstimated]).toEqual([
    { textBytes: bytes, messages: 1, media: [], tokens: 0 },
    Math.ceil(bytes / 4),
  ])
  expect(await textBytes({ temperature: 1, user: 'x'.repeat(100), metadata: { a: 'b' } })).toBe(bytes)
  expect(await textBytes({ messages: [{ ...valid.messages[0], name: 'é'.repeat(9) }] })).toBeGreaterThan(bytes + 18)
  const response_format = { type: 'json_schema', json_schema: { name: 'x', schema: { title: 'x'.repeat(99) } } }
  expect(await textBytes({ response_format })).toBeGreaterThan(bytes + 99)
  expect((await parse({ ...valid, tools: [tool, tool] })).contents.messages).toBe(3)
})

const tool = { type: 'function', function: { name: 'f', parameters: {} } }
const bytesOf = (body: unknown) => new TextEncoder().encode(JSON.stringify(body))
const embed = (over: object) => readEmbeddingsRequest(bytesOf({ model: 'm', input: 'hello', ...over }))
const draw = (over: object) => readImagesRequest(bytesOf({ model: 'm', prompt: 'a cat', ...over }))

test.each([
  ['hello', { textBytes: 5, tokens: 0, prompts: 1 }, 2],
  ['žluťoučký', { textBytes: 13, tokens: 0, prompts: 1 }, 4],
  [['hello', 'you'], { textBytes: 8, tokens: 0, prompts: 2 }, 3],
  [[1, 2, 3], { textBytes: 0, tokens: 3, prompts: 1 }, 3],
  [[[1, 2], [3]], { textBytes: 0, tokens: 3, prompts: 2 }, 3],
])('embeddings of %o have %o to read and are charged %i without a usage', async (input, contents, charged) => {
  const request = await embed({ input, dimensions: 3, mystery: 1 })

  expect([request.contents, request.promptTokensEstimated, request.maxOutputTokens]).toEqual([
    { media: [], messages: contents.prompts, ...contents },
    charged,
    null,
  ])
  expect(request.bodyFor(route)).toEqual({ model: 'echo', input, dimensions: 3, mystery: 1 })
})

test.each([{ input: '' }, { input: [] }, { input: ['', 1] }, { input: [1.5] }, { input: {} }, { input: undefined }])(
  'embeddings of %o are refused by name',
  async (over) => {
    const param = expect.stringMatching(/^input\b/)
    await expect(embed(over)).rejects.toMatchObject({ details: { param } })
  },
)

test('images are counted by n and forwarded as they are', async () => {
  expect((await draw({})).images).toBe(1)
  expect((await draw({ n: 10 })).images).toBe(10)
  expect((await draw({ n: 2, size: '256x256' })).bodyFor(route)).toEqual({
    model: 'echo',
    prompt: 'a cat',
    n: 2,
    size: '256x256',
  })
})

test.each([
  ['n', { n: 11 }],
  ['n', { n: 0 }],
  ['prompt', { prompt: '' }],
  ['size', { size: '1024/x' }],
  ['quality', { quality: 7 }],
  ['model', { model: ' ' }],
])('of images, %s is named when it is wrong: %o', async (param, over) => {
  await expect(draw(over)).rejects.toMatchObject({ details: { param } })
})

const odd = fc.constantFrom<unknown>(null, '', 'x', true, -1, 0, 1, 1.5, 2, 129, 2 ** 31, [], {}, ['x'], { type: 'x' })
const names = [
  ...['stream', 'max_tokens', 'max_completion_tokens', 'n', 'temperature', 'top_p', 'frequency_penalty', 'seed'],
  ...['presence_penalty', 'tools', 'response_format', 'service_tier', 'top_k', 'user', 'models', 'mystery'],
]
const message = fc.record(
  {
    role: fc.constantFrom('user', 'system', 'tool', 'robot', null),
    content: fc.oneof(fc.string(), odd, fc.constant([{ type: 'text', text: 'x' }]), fc.constant([{ text: 'x' }])),
    name: odd,
    mood: odd,
  },
  { requiredKeys: [] },
)
const model = fc.constantFrom('a b', 'é', 'x'.repeat(200), 'x'.repeat(201))
const change = fc.oneof(
  fc.tuple(fc.constantFrom(...names, 'model', 'messages', 'stream_options'), odd),
  fc.tuple(fc.constant('model'), model),
  fc.tuple(fc.constant('messages'), fc.array(message, { maxLength: 2 })),
  fc.tuple(
    fc.constant('stream_options'),
    fc.record({ include_usage: odd, include_obfuscation: odd, more: odd }, { requiredKeys: [] }),
  ),
  fc.tuple(fc.constant('service_tier'), fc.constantFrom('flex', 'priority')),
)

test('what is taken without the schema and the tables, they take as it is', async () => {
  let taken = 0
  const schema = await chatSchema()
  await fc.assert(
    fc.asyncProperty(fc.array(change, { maxLength: 2 }), async (changes) => {
      const body = { ...valid, ...Object.fromEntries(changes) }
      if (!isPlainChat(body)) return
      taken += 1
      expect(schema.safeParse(body).data).toEqual(body)
      expect(lookAtFields('chat.completions', body)).toEqual({ fields: [], asks: {} })
      const slow = await parse({ ...body, stop: null })
      expect(JSON.stringify(await parse(body))).toBe(JSON.stringify(slow))
    }),
    { numRuns: 3_000 },
  )
  expect(taken).toBeGreaterThan(500)
})
