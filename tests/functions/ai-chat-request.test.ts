import { expect, test } from 'vitest'
import { outputLimit, upstreamBody } from '../../functions/_shared/ai/call-provider.ts'
import { promptBytes, tokensAtMost } from '../../functions/_shared/ai/estimate-tokens.ts'
import { parseChatRequest } from '../../functions/_shared/ai/parse-chat-request.ts'
import { admittedTo } from './ai-world.ts'

const valid = { model: 'demo/echo', messages: [{ role: 'user', content: 'hello' }] }
const parse = (body: unknown) =>
  parseChatRequest(new TextEncoder().encode(typeof body === 'string' ? body : JSON.stringify(body)))
const admission = admittedTo('http://provider/v1', 'echo')

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
])('%s is named when it is wrong: %o', (param, over) => {
  const status = expect.objectContaining({
    code: 'invalid_request_error',
    status: 400,
    details: expect.objectContaining({ param }),
  })

  expect(() => parse({ ...valid, ...over })).toThrow(status)
})

test.each(['', 'hello {', '[]', 'null', '"text"'])('a body that is no JSON object is refused: %s', (body) => {
  expect(() => parse(body)).toThrow(expect.objectContaining({ code: 'invalid_request_error' }))
})

test('unknown fields reach the provider, also inside messages', () => {
  const request = {
    ...valid,
    top_k: 5,
    messages: [{ role: 'user', content: 'x', cache_control: { type: 'ephemeral' } }],
  }

  expect(upstreamBody(parse(request), admission)).toEqual({ ...request, model: 'echo', max_tokens: 500 })
})

test.each([
  [{}, null, { max_tokens: 500 }],
  [{ max_tokens: 9 }, 9, { max_tokens: 500 }],
  [{ max_tokens: null, max_completion_tokens: 9 }, 9, { max_completion_tokens: 500 }],
  [{ max_tokens: 1, max_completion_tokens: 9_999 }, 1, { max_completion_tokens: 500 }],
])('%o asks for %o at most, and only the limit that was held is forwarded', (limits, asked, forwarded) => {
  const chat = parse({ ...valid, ...limits })
  const { max_tokens, max_completion_tokens } = upstreamBody(chat, admission)

  expect(outputLimit(chat)).toBe(asked)
  expect(JSON.parse(JSON.stringify({ max_tokens, max_completion_tokens }))).toEqual(forwarded)
})

test("a stream always asks the provider for its usage, and keeps the caller's other options", () => {
  const chat = parse({ ...valid, stream: true, stream_options: { include_usage: false, x: 1 } })

  expect(upstreamBody(chat, admission)).toMatchObject({ stream_options: { include_usage: true, x: 1 } })
})

test('the prompt is counted in bytes, with tools and unknown fields, without settings', () => {
  const bytes = promptBytes(parse(valid))

  expect(bytes).toBe(JSON.stringify({ messages: valid.messages }).length)
  expect(promptBytes(parse({ ...valid, temperature: 1, user: 'x'.repeat(100) }))).toBe(bytes)
  expect(promptBytes(parse({ ...valid, documents: 'é'.repeat(100) }))).toBeGreaterThan(bytes + 200)
  expect(tokensAtMost(10)).toBe(4)
})
