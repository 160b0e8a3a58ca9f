/** Streams pass through byte by byte, however they come and however they end. The provider is on a real socket. */
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { createWorld, messages, startProvider } from './ai-world.ts'

let provider: Awaited<ReturnType<typeof startProvider>>
beforeAll(async () => {
  provider = await startProvider()
})
afterAll(() => provider.close())

/** Notes what the provider sends, as it passes. */
function recording() {
  const sent: Uint8Array[] = []
  const note = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
    transform: (chunk, controller) => {
      sent.push(chunk.slice())
      controller.enqueue(chunk)
    },
  })
  const recorded = async (url: string, init: RequestInit) => {
    const answer = await fetch(url, init)
    return new Response(answer.body?.pipeThrough(note), answer)
  }
  return { fetch: recorded, text: () => Buffer.concat(sent).toString() }
}

const isUsage = (event: string) => /"choices":\s*\[\]|"total_tokens"/.test(event.replace(/\r?\ndata: */g, ''))

test.each([
  'echo',
  'echo+utf8-split',
  'echo+crlf',
  'echo+big-chunk',
  'echo+usage-early',
  'echo+usage-twice',
  'echo+usage-openrouter',
  'echo+no-usage',
  'echo+zero-usage',
  'echo+reasoning+slow',
  'echo+error-middle',
  'echo+crlf+utf8-split+usage-twice',
])('%s: what the caller gets is what the provider sent, without the usage', async (model) => {
  const upstream = recording()
  const { chat, seen } = createWorld(provider.url, { fetch: upstream.fetch })

  const text = await (await chat({ model, messages, stream: true })).text()

  const events = upstream.text().split(/(?<=\r?\n\r?\n)/)
  const wanted = events.filter((event) => !isUsage(event)).join('')
  expect(text).toBe(wanted.replace(/"usage": ?null,/g, ''))
  expect(seen.outcomes).toMatchObject([{ response_bytes: Buffer.byteLength(text) }])
})

test.each([
  ['echo', 'provider', { prompt_tokens: 6, completion_tokens: 8 }],
  ['echo+usage-early', 'provider', { prompt_tokens: 6, completion_tokens: 8 }],
  ['echo+usage-twice', 'provider', { prompt_tokens: 6, completion_tokens: 8 }],
  ['echo+usage-openrouter', 'provider', { completion_tokens: 8, cost_usd: 0.000014 }],
  ['echo+zero-usage', 'provider', { prompt_tokens: 0, completion_tokens: 0 }],
  ['echo+no-usage', 'estimated', { prompt_tokens: 16, completion_tokens: 8 }],
  ['echo+no-usage+crlf', 'estimated', { prompt_tokens: 16, completion_tokens: 8 }],
  ['echo+cached', 'provider', { prompt_tokens: 6, cached_tokens: 3 }],
  ['echo+reasoning', 'provider', { completion_tokens: 72, reasoning_tokens: 64 }],
])('%s is charged by usage of the %s', async (model, usage_source, usage) => {
  const { chat, seen } = createWorld(provider.url)

  await (await chat({ model, messages, stream: true })).text()

  expect(seen.outcomes).toMatchObject([{ result: 'succeeded', usage_source, usage }])
})

test('a character that is split across chunks arrives whole', async () => {
  const { chat } = createWorld(provider.url)

  const text = await (await chat({ model: 'echo+utf8-split', messages, stream: true })).text()

  expect(text).toContain('日本語')
  expect(text).not.toContain('\uFFFD')
})

test('a provider that falls silent in the middle ends with an error event, and what was said is charged', async () => {
  const said = new TextEncoder().encode('data: {"choices":[{"index":0,"delta":{"content":"12345678"}}]}\n\n')
  const body = () => new ReadableStream({ start: (controller) => controller.enqueue(said) })
  const { chat, seen } = createWorld(provider.url, { fetch: async () => new Response(body()), ticks: () => 0 }, 40)

  const answer = await chat({ model: 'echo', messages, stream: true })
  const text = await answer.text()

  expect([answer.status, text.match(/"code":"(\w+)"/)?.[1]]).toEqual([200, 'upstream_timeout'])
  expect(seen.outcomes).toMatchObject([{ result: 'failed', http_status: 504, usage: { completion_tokens: 2 } }])
  expect(seen.reports).toMatchObject([{ ok: false, error_code: 'upstream_timeout' }])
})

test('an endless stream ends when its time is over', async () => {
  const { chat, seen } = createWorld(provider.url, {}, 5_000, 1_000)

  const text = await (await chat({ model: 'echo+endless', messages, stream: true })).text()

  expect(text).toContain('"code":"upstream_timeout"')
  expect(seen.outcomes).toMatchObject([{ result: 'failed', http_status: 504, usage_source: 'estimated' }])
})

test('keep-alive comments before an error are not a beginning', async () => {
  const text = ': wait\n\n: wait\n\ndata: {"error":{"message":"no"}}\n\n'
  const { chat, seen } = createWorld(provider.url, { fetch: async () => new Response(text) })

  const answer = await chat({ model: 'echo', messages, stream: true })

  expect([answer.status, answer.headers.get('content-type')]).toEqual([502, 'application/json'])
  expect(seen.outcomes).toMatchObject([{ result: 'failed', usage: null }])
})

test('words about usage and errors in the text are only text', async () => {
  const content =
    '"usage":{"prompt_tokens":1} "error":{"x":1} [DONE] "finish_reason":"stop" "delta":{"content":"x"} \\" \\\\'
  const chunk = (more: object) => `data: ${JSON.stringify({ choices: [{ index: 0, delta: {}, ...more }] })}\n\n`
  const text = `${chunk({ delta: { content } })}${chunk({ finish_reason: 'stop' })}data: [DONE]\n\n`
  const { chat, seen } = createWorld(provider.url, { fetch: async () => new Response(text) })

  const got = await (await chat({ model: 'echo', messages, stream: true })).text()

  expect(got).toBe(text)
  const completion_tokens = Math.ceil((JSON.stringify(content).length - 2) / 4)
  expect(seen.outcomes).toMatchObject([
    { result: 'succeeded', usage_source: 'estimated', usage: { completion_tokens } },
  ])
})

test('tool calls and reasoning are said, too, and the role is not', async () => {
  const delta = {
    role: 'assistant',
    content: null,
    reasoning: '1234',
    tool_calls: [{ index: 0, function: { name: 'find', arguments: '{"a":1}' } }],
  }
  const text = `data: ${JSON.stringify({ choices: [{ index: 0, delta, finish_reason: 'tool_calls' }] })}\n\n`
  const { chat, seen } = createWorld(provider.url, { fetch: async () => new Response(text) })

  await (await chat({ model: 'echo', messages, stream: true })).text()

  // "1234", "find" and "{\"a\":1}" with its backslashes.
  expect(seen.outcomes).toMatchObject([{ usage: { completion_tokens: Math.ceil((4 + 4 + 9) / 4) } }])
})

test('a stream of two thousand chunks sets a handful of timers', async () => {
  const chunk = new TextEncoder().encode('data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n')
  let left = 2_000
  const body = new ReadableStream({
    pull: (controller) => (left-- > 0 ? controller.enqueue(chunk) : controller.close()),
  })
  const world = createWorld(provider.url, { fetch: async () => new Response(body) })
  const timers = vi.spyOn(globalThis, 'setTimeout')

  const text = await (await world.chat({ model: 'echo', messages, stream: true })).text()
  const count = timers.mock.calls.length
  timers.mockRestore()

  expect(text.match(/data: \{"choices/g)).toHaveLength(2_000)
  expect(count).toBeLessThan(10)
})
