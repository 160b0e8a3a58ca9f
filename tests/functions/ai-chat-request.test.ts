import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  chatSchema,
  isPlainChat,
  readChatRequest,
  readEmbeddingsRequest,
  readImagesRequest,
} from '../../functions/_shared/ai/read-request.ts'
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
  ['service_tier', { service_tier: 'priority' }],
])('%s is named when it is wrong: %o', async (param, over) => {
  const status = expect.objectContaining({
    code: 'invalid_request_error',
    status: 400,
    details: expect.objectContaining({ param }),
  })

  await expect(parse({ ...valid, ...over })).rejects.toThrow(status)
})

test.each(['', 'hello {', '[]', 'null', '"text"'])('a body that is no JSON object is refused: %s', async (body) => {
  await expect(parse(body)).rejects.toThrow(expect.objectContaining({ code: 'invalid_request_error' }))
})

test('unknown fields reach the provider, also inside messages', async () => {
  const request = {
    ...valid,
    top_k: 5,
    messages: [{ role: 'user', content: 'x', cache_control: { type: 'ephemeral' } }],
  }

  expect((await parse(request)).bodyFor(route)).toEqual({ ...request, model: 'echo', max_tokens: 500 })
})

test.each([
  [{}, null, { max_tokens: 500 }],
  [{ max_tokens: 9 }, 9, { max_tokens: 500 }],
  [{ max_tokens: null, max_completion_tokens: 9 }, 9, { max_completion_tokens: 500 }],
  [{ max_tokens: 1, max_completion_tokens: 9_999 }, 1, { max_completion_tokens: 500 }],
])('%o asks for %o at most, and only the limit that was held is forwarded', async (limits, asked, forwarded) => {
  const chat = await parse({ ...valid, ...limits })
  const { max_tokens, max_completion_tokens } = chat.bodyFor(route)

  expect(chat.maxOutputTokens).toBe(asked)
  expect(JSON.parse(JSON.stringify({ max_tokens, max_completion_tokens }))).toEqual(forwarded)
})

test("a stream always asks the provider for its usage, and keeps the caller's other options", async () => {
  const chat = await parse({ ...valid, stream: true, stream_options: { include_usage: false, x: 1 } })

  expect(chat.bodyFor(route)).toMatchObject({ stream_options: { include_usage: true, x: 1 } })
})

test('the prompt is counted in bytes, with tools and unknown fields, without settings', async () => {
  const { contents, promptTokensEstimated } = await parse(valid)
  const bytes = JSON.stringify({ messages: valid.messages }).length

  expect([contents.textBytes, promptTokensEstimated]).toEqual([bytes, Math.ceil(bytes / 4)])
  expect((await parse({ ...valid, temperature: 1, user: 'x'.repeat(100) })).contents).toEqual(contents)
  expect((await parse({ ...valid, documents: 'é'.repeat(99) })).contents.textBytes).toBeGreaterThan(bytes + 198)
})

const bytesOf = (body: unknown) => new TextEncoder().encode(JSON.stringify(body))
const embed = (over: object) => readEmbeddingsRequest(bytesOf({ model: 'm', input: 'hello', ...over }))
const draw = (over: object) => readImagesRequest(bytesOf({ model: 'm', prompt: 'a cat', ...over }))

test.each([
  ['hello', 5, 2],
  ['žluťoučký', 13, 4],
  [['hello', 'you'], 8, 3],
  [[1, 2, 3], 3, 3],
  [[[1, 2], [3]], 3, 3],
])('embeddings of %o hold %i tokens and are charged %i without a usage', async (input, held, charged) => {
  const request = await embed({ input, dimensions: 3, mystery: 1 })

  const { textBytes, tokens } = request.contents
  expect([textBytes + tokens, request.promptTokensEstimated, request.maxOutputTokens]).toEqual([held, charged, null])
  expect(request.bodyFor(route)).toEqual({ model: 'echo', input, dimensions: 3, mystery: 1 })
})

test.each([{ input: '' }, { input: [] }, { input: ['', 1] }, { input: [1.5] }, { input: {} }, { input: undefined }])(
  'embeddings of %o are refused by name',
  async (over) => {
    const param = expect.stringMatching(/^input\b/)
    await expect(embed(over)).rejects.toThrow(expect.objectContaining({ details: expect.objectContaining({ param }) }))
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
  ['stream', { stream: true }],
  ['partial_images', { partial_images: 2 }],
  ['model', { model: ' ' }],
])('of images, %s is named when it is wrong: %o', async (param, over) => {
  await expect(draw(over)).rejects.toThrow(expect.objectContaining({ details: expect.objectContaining({ param }) }))
})

const odd = fc.constantFrom<unknown>(null, '', 'x', true, -1, 0, 1, 1.5, 2, 129, 2 ** 31, [], {}, ['x'], { type: 'x' })
const names = [
  ...['stream', 'max_tokens', 'max_completion_tokens', 'n', 'temperature', 'top_p', 'frequency_penalty'],
  ...['presence_penalty', 'tools', 'response_format', 'service_tier', 'top_k'],
]
const message = fc.record(
  {
    role: fc.constantFrom('user', 'system', 'tool', 'robot', null),
    content: fc.oneof(fc.string(), odd, fc.constant([{ type: 'text', text: 'x' }]), fc.constant([{ text: 'x' }])),
  },
  { requiredKeys: [] },
)
const model = fc.constantFrom('a b', 'é', 'x'.repeat(200), 'x'.repeat(201))
const change = fc.oneof(
  fc.tuple(fc.constantFrom(...names, 'model', 'messages', 'stream_options'), odd),
  fc.tuple(fc.constant('model'), model),
  fc.tuple(fc.constant('messages'), fc.array(message, { maxLength: 2 })),
  fc.tuple(fc.constant('stream_options'), fc.record({ include_usage: odd, more: odd }, { requiredKeys: [] })),
  fc.tuple(fc.constant('service_tier'), fc.constantFrom('flex', 'priority')),
)

test('what is taken without the schema, the schema takes as it is', async () => {
  let taken = 0
  const schema = await chatSchema()
  fc.assert(
    fc.property(fc.array(change, { maxLength: 2 }), (changes) => {
      const body = { ...valid, ...Object.fromEntries(changes) }
      if (!isPlainChat(body)) return
      taken += 1
      expect(schema.safeParse(body).data).toEqual(body)
    }),
    { numRuns: 3_000 },
  )
  expect(taken).toBeGreaterThan(500)
})
