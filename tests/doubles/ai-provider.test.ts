import { once } from 'node:events'
import { inflateSync } from 'node:zlib'
import { serve } from '@hono/node-server'
import OpenAI from 'openai'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { z } from 'zod'
import { behaviours } from '../../stack/doubles/ai-provider/behaviours.ts'
import { createAiProvider } from '../../stack/doubles/ai-provider.ts'

const calls = z.object({
  calls: z.array(
    z.looseObject({
      headers: z.record(z.string(), z.string()),
      aborted: z.boolean(),
      finished: z.boolean(),
      chunks_sent: z.number(),
    }),
  ),
})

let provider = createAiProvider()
const cleanups: (() => void)[] = []
beforeEach(() => {
  provider = createAiProvider()
})
afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup()
})

const messages = [{ role: 'user' as const, content: 'hello world' }]
const ask = (model: string, more: object = {}, init: RequestInit = {}) =>
  new Request('http://provider/v1/chat/completions', {
    method: 'POST',
    body: JSON.stringify({ model, messages, ...more }),
    ...init,
  })
const stream = { stream: true, stream_options: { include_usage: true } }
const send = async (model: string, more: object = {}, init: RequestInit = {}) => provider.fetch(ask(model, more, init))
const recorded = async (query = '') =>
  calls.parse(await (await provider.fetch(new Request(`http://provider/calls${query}`))).json()).calls

const client = (baseURL = 'http://provider/v1') =>
  new OpenAI({
    baseURL,
    apiKey: 'sk-secret-1234',
    maxRetries: 0,
    fetch: async (url, init) => provider.fetch(new Request(url, init)),
  })

/** A real loopback server, for what only a socket can show. */
async function listen(): Promise<string> {
  const server = serve({ fetch: provider.fetch, port: 0, hostname: '127.0.0.1' })
  cleanups.push(() => server.close())
  await once(server, 'listening')
  const address = server.address()
  return typeof address === 'object' && address ? `http://127.0.0.1:${address.port}` : ''
}

const textOf = async (model: string, more: object = stream) => (await send(model, more)).text()

/** The JSON of each event, by the letter of the SSE specification. */
const eventsOf = (sse: string) =>
  sse
    .replaceAll('\r\n', '\n')
    .split('\n\n')
    .map((event) =>
      event
        .split('\n')
        .flatMap((line) => (line.startsWith('data: ') ? [line.slice(6)] : []))
        .join('\n'),
    )
    .filter((data) => data !== '' && data !== '[DONE]')
    .map((data) => z.looseObject({ choices: z.array(z.unknown()).optional() }).parse(JSON.parse(data)))

test('a model that does not exist is refused with 404 model_not_found', async () => {
  const refusals = await Promise.all(['gpt-5', 'echo+no-such-thing', 'echo+'].map((model) => send(model)))

  for (const refusal of refusals) {
    expect(refusal.status).toBe(404)
    expect(await refusal.json()).toMatchObject({ error: { type: 'invalid_request_error', code: 'model_not_found' } })
  }
})

test('a body that is not JSON, or not a chat request, is refused with 400 and the parameter at fault', async () => {
  const noise = await send('echo', {}, { body: 'noise' })
  const noTokens = await send('echo', { max_tokens: 0 })

  expect(noise.status).toBe(400)
  expect(noTokens.status).toBe(400)
  expect(await noTokens.json()).toMatchObject({ error: { param: 'max_tokens', type: 'invalid_request_error' } })
})

test('an unknown path is refused with 404 in the shape of OpenAI', async () => {
  const answer = await provider.fetch(new Request('http://provider/v1/files'))

  expect(answer.status).toBe(404)
  expect(await answer.json()).toMatchObject({ error: { code: 'unknown_url' } })
})

test.each([400, 401, 429, 500, 503])('echo+%i is refused with that status', async (status) => {
  const [json, sse] = await Promise.all([send(`echo+${status}`), send(`echo+${status}`, stream)])

  expect([json.status, sse.status]).toEqual([status, status])
  expect(await sse.json()).toMatchObject({ error: { message: expect.any(String), type: expect.any(String) } })
})

test('a rate limit says when to come back, in seconds or as a date', async () => {
  const seconds = await send('echo+429')
  const date = await send('echo+429-date')

  expect(seconds.headers.get('retry-after')).toBe('1')
  expect(date.status).toBe(429)
  expect(Date.parse(date.headers.get('retry-after') ?? '')).toBeGreaterThan(Date.now())
})

test('the official client gets the echo of its last user message and a usage that adds up', async () => {
  const answer = await client().chat.completions.create({ model: 'echo', messages })

  expect(answer.choices[0]?.message.content).toBe('You said: hello world')
  expect(answer.choices[0]?.finish_reason).toBe('stop')
  expect(answer.usage).toMatchObject({ prompt_tokens: 3, completion_tokens: 6, total_tokens: 9 })
})

test('the official client streams the same text, the role first and the usage last', async () => {
  const answer = await client().chat.completions.create({ model: 'echo', messages, ...stream, stream: true })
  const chunks = await Array.fromAsync(answer)

  expect(chunks[0]?.choices[0]?.delta.role).toBe('assistant')
  expect(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('')).toBe('You said: hello world')
  expect(chunks.at(-2)?.choices[0]?.finish_reason).toBe('stop')
  expect(chunks.at(-1)).toMatchObject({ object: 'chat.completion.chunk', choices: [], usage: { total_tokens: 9 } })
})

test('a caller who does not ask for usage in a stream gets none', async () => {
  const sse = await textOf('echo', { stream: true })

  expect(sse).not.toContain('usage')
  expect(sse.endsWith('data: [DONE]\n\n')).toBe(true)
})

test('max_tokens cuts the answer at four bytes a token and says so', async () => {
  const answer = await client().chat.completions.create({ model: 'echo', messages, max_tokens: 3 })
  const newer = await client().chat.completions.create({
    model: 'echo',
    messages,
    max_completion_tokens: 2,
    max_tokens: 9,
  })

  expect(answer.choices[0]).toMatchObject({ message: { content: 'You said: he' }, finish_reason: 'length' })
  expect(answer.usage?.completion_tokens).toBe(3)
  expect(newer.usage?.completion_tokens).toBe(2)
})

test('max_tokens never cuts a character in half', async () => {
  const content = '🛡🛡🛡'
  const answer = await client().chat.completions.create({
    model: 'echo',
    messages: [{ role: 'user', content: [{ type: 'text', text: content }] }],
    max_tokens: 4,
  })

  expect(answer.choices[0]?.message.content).toBe('You said: 🛡')
  expect(answer.usage?.completion_tokens).toBe(4)
})

test('n answers are n choices and are all counted', async () => {
  const answer = await client().chat.completions.create({ model: 'echo', messages, n: 3 })
  const events = eventsOf(await textOf('echo', { ...stream, n: 3 }))

  expect(answer.choices.map(({ index }) => index)).toEqual([0, 1, 2])
  expect(answer.usage).toMatchObject({ prompt_tokens: 3, completion_tokens: 18 })
  expect(events.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: 18 } })
})

test('missing usage and explicit zeros are told apart', async () => {
  const none = await client().chat.completions.create({ model: 'echo+no-usage', messages })
  const zero = await client().chat.completions.create({ model: 'echo+zero-usage', messages })

  expect(none.usage).toBeUndefined()
  expect(zero.usage).toMatchObject({ prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 })
  expect(await textOf('echo+no-usage')).not.toContain('usage":')
  expect(eventsOf(await textOf('echo+zero-usage')).at(-1)).toMatchObject({ usage: { total_tokens: 0 } })
})

test('cached tokens are inside the prompt, reasoning tokens inside the completion and its limit', async () => {
  const cached = await client().chat.completions.create({ model: 'echo+cached', messages })
  const free = await client().chat.completions.create({ model: 'echo+reasoning', messages })
  const limited = await client().chat.completions.create({ model: 'echo+reasoning', messages, max_tokens: 50 })

  expect(cached.usage).toMatchObject({ prompt_tokens: 3, prompt_tokens_details: { cached_tokens: 1 } })
  expect(free.usage).toMatchObject({ completion_tokens: 70, completion_tokens_details: { reasoning_tokens: 64 } })
  expect(limited.usage).toMatchObject({ completion_tokens: 50, completion_tokens_details: { reasoning_tokens: 50 } })
  expect(limited.choices[0]).toMatchObject({ message: { content: '' }, finish_reason: 'length' })
})

test('usage can come twice, or before the text', async () => {
  const usages = (sse: string) => eventsOf(sse).flatMap(({ usage }, index) => (usage ? [index] : []))

  const twice = await textOf('echo+usage-twice')
  const early = await textOf('echo+usage-early')

  expect(usages(twice)).toHaveLength(2)
  expect(eventsOf(twice).at(-1)).toEqual(eventsOf(twice).at(-2))
  expect(usages(early)).toEqual([1])
})

test('usage can come as OpenRouter sends it: after comments, with a repeated finish_reason and a cost', async () => {
  const sse = await textOf('echo+usage-openrouter')

  expect(sse.startsWith(': OPENROUTER PROCESSING\n\n')).toBe(true)
  expect(eventsOf(sse).at(-1)).toMatchObject({ choices: [{ finish_reason: 'stop' }], usage: { cost: 0.000009 } })
})

test('an error can be the first event after a 200', async () => {
  const events = eventsOf(await textOf('echo+error-first'))

  expect(events).toEqual([{ error: expect.objectContaining({ code: 'server_error' }) }])
})

test('the official client throws when an error comes in the middle of a stream', async () => {
  const answer = await client().chat.completions.create({ model: 'echo+error-middle', messages, stream: true })
  let text = ''
  const read = async () => {
    for await (const chunk of answer) text += chunk.choices[0]?.delta.content ?? ''
  }

  await expect(read()).rejects.toThrow('Provider disconnected')
  expect(text).toBe('You said:')
})

test('an error in a JSON answer comes with a 200, too', async () => {
  const answer = await send('echo+error-first')

  expect(answer.status).toBe(200)
  expect(await answer.json()).toMatchObject({ error: { code: 'server_error' } })
})

test('long is 2,000 chunks of a token each, and fewer under max_tokens', async () => {
  const whole = eventsOf(await textOf('echo+long'))
  const limited = eventsOf(await textOf('echo+long', { ...stream, max_tokens: 100 }))

  expect(whole).toHaveLength(2003) // The role, finish_reason and usage have a chunk of their own.
  expect(whole.at(-1)).toMatchObject({ usage: { completion_tokens: 2000 } })
  expect(limited.at(-1)).toMatchObject({ usage: { completion_tokens: 100 } })
})

test('garbage cannot be parsed, neither as JSON nor as events', async () => {
  const json = await send('echo+garbage')
  const sse = await textOf('echo+garbage')

  await expect(json.json()).rejects.toThrow(SyntaxError)
  expect(() => eventsOf(sse)).toThrow(SyntaxError)
  expect(sse).not.toContain('[DONE]')
})

test('a big chunk is a line of a mebibyte whose usage stays small', async () => {
  const sse = await textOf('echo+big-chunk')

  expect(Math.max(...sse.split('\n').map((line) => line.length))).toBeGreaterThan(2 ** 20)
  expect(eventsOf(sse).at(-1)).toMatchObject({ usage: { completion_tokens: 6 } })
})

test('CRLF and several data lines in an event are still the same events to the official client', async () => {
  const sse = await textOf('echo+crlf')
  const answer = await client().chat.completions.create({ model: 'echo+crlf', messages, stream: true })
  const chunks = await Array.fromAsync(answer)

  expect(sse.replaceAll('\r\n', '')).not.toContain('\n')
  expect(sse.split('\r\n\r\n')[0]?.split('\r\n').length).toBeGreaterThan(5)
  expect(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('')).toBe('You said: hello world')
})

test('utf8-split leaves characters torn between writes and whole for who joins the bytes', async () => {
  for (const more of [stream, {}]) {
    const answer = await send('echo+utf8-split', more)
    const parts = answer.body ? await Array.fromAsync(answer.body) : []

    expect(parts.some((part) => new TextDecoder().decode(part).includes('\ufffd'))).toBe(true)
    expect(Buffer.concat(parts).toString()).toContain('日本語')
    expect(Buffer.concat(parts).toString()).not.toContain('\ufffd')
  }
})

test('flaky fails the first attempt of each request id and no other', async () => {
  const attempt = async (id: string) => (await send('echo+flaky', {}, { headers: { 'x-request-id': id } })).status

  const statuses = [await attempt('a'), await attempt('a'), await attempt('b'), await attempt('a'), await attempt('b')]

  expect(statuses).toEqual([500, 200, 500, 200, 200])
})

test('options join: slow and without usage', async () => {
  const started = performance.now()

  const sse = await textOf('echo+slow+no-usage')

  expect(performance.now() - started).toBeGreaterThan(90) // Six chunks, five gaps of 20 ms.
  expect(sse).not.toContain('usage":')
})

test.each(['hang', 'hang-body', 'slower', 'endless'])(
  'echo+%s ends when the caller hangs up, and that is recorded',
  async (name) => {
    const url = await listen()
    const caller = new AbortController()
    const { body, method } = ask(`echo+${name}`, stream)
    const answer = fetch(`${url}/v1/chat/completions`, { method, body, duplex: 'half', signal: caller.signal })
    const read = answer.then((response) => response.text())
    read.catch(() => {})
    await expect.poll(() => recorded()).toHaveLength(1)

    caller.abort()

    await expect(read).rejects.toThrow('aborted')
    await expect.poll(() => recorded()).toMatchObject([{ aborted: true, finished: false }])
  },
)

test('a caller who cancels the body is recorded with the chunks that were sent until then', async () => {
  const answer = await send('echo+endless', stream)
  const reader = answer.body?.getReader()
  for (const _ of [1, 2, 3]) await reader?.read()

  await reader?.cancel()

  expect(await recorded()).toMatchObject([{ aborted: true, finished: false, chunks_sent: 3 }])
})

test('an aborted request keeps no timer alive', async () => {
  const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
  const before = timers()
  const caller = new AbortController()
  const answer = await send('echo+slower', stream, { signal: caller.signal })
  const reader = answer.body?.getReader()
  await reader?.read()
  const next = reader?.read()
  await new Promise(setImmediate)
  expect(timers()).toBeGreaterThan(before)

  caller.abort()

  await expect(next).rejects.toThrow('aborted')
  expect(timers()).toBe(before)
})

test.each([stream, {}])('reset tears the connection after a part of the answer (%o)', async (more) => {
  const url = await listen()
  const { body, method } = ask('echo+reset', more)

  const answer = await fetch(`${url}/v1/chat/completions`, { method, body, duplex: 'half' })

  expect(answer.status).toBe(200)
  await expect(answer.text()).rejects.toThrow('terminated')
  expect(await recorded()).toMatchObject([{ aborted: false, finished: false }])
})

test('reset without a socket errors the stream', async () => {
  const answer = await send('echo+reset', stream)

  await expect(answer.text()).rejects.toThrow('connection reset')
})

test('calls show what was asked, without the secret, and can be filtered by tag and forgotten', async () => {
  const headers = { authorization: 'Bearer sk-secret-1234' }
  await send('echo', { user: 'mine' }, { headers })
  await send('echo', { metadata: { tag: 'mine' } })
  await textOf('echo', { ...stream, user: 'theirs' })

  const mine = await recorded('?tag=mine')
  const [theirs] = await recorded('?tag=theirs')
  await provider.fetch(new Request('http://provider/calls', { method: 'DELETE' }))

  expect(mine).toMatchObject([
    { model: 'echo', body: { user: 'mine' }, finished: true, aborted: false },
    { finished: true },
  ])
  expect(mine[0]?.headers.authorization).toBe('…1234')
  expect(theirs).toMatchObject({ finished: true, chunks_sent: 7 })
  expect(await recorded()).toEqual([])
})

test('the models are echo and echo with each behaviour, all of which answer for one line of documentation', async () => {
  const { data } = await client().models.list()

  expect(data.map(({ id }) => id)).toEqual(['echo', ...Object.keys(behaviours).map((name) => `echo+${name}`)])
  for (const line of Object.values(behaviours)) expect(line).toMatch(/^[^\n]{10,160}$/)
})

test('the official client gets embeddings in which shared words are near', async () => {
  const input = ['the red car', 'a red car', 'tax law']
  const { data, usage } = await client().embeddings.create({ model: 'echo', input, dimensions: 64 })
  const dot = (a: number[] = [], b: number[] = []) => a.reduce((sum, value, index) => sum + value * (b[index] ?? 0), 0)
  const [red, similar, other] = data.map(({ embedding }) => embedding)

  expect(red).toHaveLength(64)
  expect(dot(red, similar)).toBeGreaterThan(dot(red, other))
  expect(dot(red, red)).toBeCloseTo(1)
  expect(usage).toEqual({ prompt_tokens: 8, total_tokens: 8 })
})

test('the official client gets images that are real PNG files of the size it asked for', async () => {
  const { data, usage } = await client().images.generate({ model: 'echo', prompt: 'a cat', n: 2, size: '256x256' })
  const png = Buffer.from(data?.[0]?.b64_json ?? '', 'base64')
  const pixels = inflateSync(png.subarray(41, png.length - 16))

  expect(data).toHaveLength(2)
  expect(png.subarray(1, 4).toString()).toBe('PNG')
  expect([png.readUInt32BE(16), png.readUInt32BE(20)]).toEqual([256, 256])
  expect(pixels).toHaveLength(256 * (1 + 3 * 256))
  expect(usage).toMatchObject({ input_tokens: 2, output_tokens: 2000 })
})
