/** What providers report, in the dialects that they have, and what of it is believed. Prices: 1, 10, 0.1 and 1.25 dollars per million. */
import { expect, test } from 'vitest'
import type { Outcome, Route } from '../../functions/_shared/ai/ledger.ts'
import { admittedTo, type Changes, createWorld, messages, routeTo } from './ai-world.ts'

const route: Route = { ...routeTo('http://provider.test/v1', 'm'), max_output_tokens: 16_000, context_tokens: 128_000 }
const admit = async () => ({ ...admittedTo('http://provider.test/v1', 'm'), routes: [route] })

const choice = (content: string) => ({ index: 0, message: { role: 'assistant', content }, finish_reason: 'stop' })
const event = (chunk: unknown) => `data: ${typeof chunk === 'string' ? chunk : JSON.stringify(chunk)}\n\n`
const delta = (content: string) => ({ choices: [{ index: 0, delta: { content }, finish_reason: null }] })
const finish = { choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }

function worldWith(body: string, changes: Changes = {}) {
  const type = body.startsWith('{') ? 'application/json' : 'text/event-stream'
  const fetch = async () => new Response(body, { headers: { 'content-type': type } })
  return createWorld('http://provider.test', { fetch, ledger: { admit }, ...changes })
}

/** How the call ended when the provider's answer is this. */
async function outcomeOf(body: string, more: object = {}): Promise<{ outcome: Outcome; text: string }> {
  const { chat, seen } = worldWith(body)
  const answer = await chat({ model: 'm', messages, stream: !body.startsWith('{'), ...more })
  const text = await answer.text()
  const [outcome] = seen.outcomes
  if (answer.status !== 200 || !outcome) throw new Error(`${answer.status} ${text}`)
  return { outcome, text }
}

const asJson = (usage: unknown, content = 'Hello!') => JSON.stringify({ choices: [choice(content)], usage })
const asStream = (usage: unknown, content = 'Hello!') =>
  [delta(content), finish, { choices: [], usage }, '[DONE]'].map(event).join('')

function microsOf({ usage }: Outcome): number {
  if (!usage) return 0
  const { prompt_tokens, cached_tokens, cache_write_tokens, cache_write_1h_tokens, completion_tokens } = usage
  const plain = prompt_tokens - cached_tokens - cache_write_tokens - cache_write_1h_tokens
  const input = plain + 0.1 * cached_tokens + 1.25 * cache_write_tokens + 2 * cache_write_1h_tokens
  return Math.ceil(input + 10 * completion_tokens)
}

const plain = { prompt_tokens: 1000, completion_tokens: 500 }

test.each<[string, object, number]>([
  ['OpenAI', { ...plain, total_tokens: 1500, prompt_tokens_details: { cached_tokens: 400 } }, 5640],
  [
    'xAI: reasoning outside of the completion',
    {
      prompt_tokens: 32,
      completion_tokens: 9,
      total_tokens: 268,
      completion_tokens_details: { reasoning_tokens: 227 },
    },
    2392,
  ],
  ['Google: thoughts only in the total', { prompt_tokens: 5, completion_tokens: 10, total_tokens: 515 }, 5105],
  ['the names of Responses', { input_tokens: 100, output_tokens: 500 }, 5100],
  ['no completion, but a total', { prompt_tokens: 100, total_tokens: 600 }, 5100],
  ['a completion of null', { prompt_tokens: 100, completion_tokens: null, total_tokens: 600 }, 5100],
  ['no prompt, but a total', { completion_tokens: 500, total_tokens: 600 }, 5100],
  ['a prompt of zero, but a total', { prompt_tokens: 0, completion_tokens: 500, total_tokens: 600 }, 5100],
  ['DeepSeek', { ...plain, prompt_cache_hit_tokens: 400, prompt_cache_miss_tokens: 600 }, 5640],
  [
    'DeepSeek, twice in one report',
    { ...plain, prompt_cache_hit_tokens: 400, prompt_tokens_details: { cached_tokens: 400 } },
    5640,
  ],
  ['Moonshot', { ...plain, cached_tokens: 400 }, 5640],
  [
    'Anthropic: the cache is outside of the input',
    { input_tokens: 100, output_tokens: 500, cache_read_input_tokens: 900 },
    5190,
  ],
  [
    'Anthropic, with less in the cache than outside',
    { input_tokens: 500, output_tokens: 1, cache_read_input_tokens: 100 },
    520,
  ],
  [
    'cached larger than the prompt',
    { ...plain, prompt_tokens: 100, prompt_tokens_details: { cached_tokens: 900 } },
    5190,
  ],
  [
    'cached outside by the total',
    { ...plain, total_tokens: 2400, prompt_tokens_details: { cached_tokens: 900 } },
    6090,
  ],
  [
    'OpenRouter: cache writes',
    { prompt_tokens: 10_000, completion_tokens: 10, prompt_tokens_details: { cache_write_tokens: 9000 } },
    12_350,
  ],
  [
    'Anthropic: cache writes',
    { input_tokens: 1000, output_tokens: 10, cache_creation_input_tokens: 9000, cache_read_input_tokens: 0 },
    12_350,
  ],
  ['cache writes inside', { prompt_tokens: 10_000, completion_tokens: 10, cache_creation_input_tokens: 9000 }, 12_350],
  [
    'Anthropic: some of them for an hour',
    {
      input_tokens: 1000,
      output_tokens: 10,
      cache_creation_input_tokens: 9000,
      cache_creation: { ephemeral_5m_input_tokens: 5000, ephemeral_1h_input_tokens: 4000 },
    },
    1000 + 6250 + 8000 + 100,
  ],
  ['explicit zeros', { prompt_tokens: 0, completion_tokens: 0 }, 0],
  ['Perplexity: more reasoning than completion', { ...plain, total_tokens: 1500, reasoning_tokens: 2000 }, 26_000],
])('%s', async (_name, usage, micros) => {
  for (const body of [asJson(usage), asStream(usage)]) {
    const { outcome } = await outcomeOf(body)

    expect(outcome).toMatchObject({ usage_source: 'provider', implausible: null })
    expect(microsOf(outcome)).toBe(micros)
  }
})

test('parts are told by themselves, each token in one of them at most', async () => {
  const usage = {
    prompt_tokens: 1000,
    completion_tokens: 500,
    prompt_tokens_details: { cached_tokens: 600, audio_tokens: 700, cache_write_tokens: 100 },
    completion_tokens_details: { reasoning_tokens: 300, audio_tokens: 400 },
    server_tool_use: { web_search_requests: 3 },
    cost: 0.25,
  }

  expect((await outcomeOf(asJson(usage))).outcome.usage).toEqual({
    prompt_tokens: 1000,
    completion_tokens: 500,
    cached_tokens: 600,
    cache_write_tokens: 100,
    cache_write_1h_tokens: 0,
    audio_input_tokens: 300,
    reasoning_tokens: 300,
    audio_output_tokens: 200,
    images: 0,
    // Nobody asked for one.
    searches: 0,
    cost_usd: 0.25,
  })
})

test.each<[string, object, object | undefined, number]>([
  ['nothing is said of it', { web_search_options: {} }, plain, 1],
  ['nothing is said at all', { web_search_options: {} }, undefined, 1],
  ['none was made', { web_search_options: {} }, { ...plain, server_tool_use: { web_search_requests: 0 } }, 0],
  ['nothing is said of one that the model may make', { tools: [{ type: 'web_search' }] }, plain, 0],
])('a search is charged where %s as it must have been', async (_name, asked, usage, searches) => {
  for (const body of [asJson(usage), asStream(usage)])
    expect((await outcomeOf(body, asked)).outcome).toMatchObject({ implausible: null, usage: { searches } })
})

const chunks = (...all: unknown[]) => all.map(event).join('')
const zeros = { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 }
const inLater = (first: object) => ({ choices: [first, first, { ...finish.choices[0], index: 2, usage: plain }] })

test.each([
  ['zeros after a real one', chunks(delta('Hi'), { ...finish, usage: plain }, { choices: [], usage: zeros }, '[DONE]')],
  ['in x_groq', chunks(delta('Hi'), { ...finish, x_groq: { id: 'r', usage: plain } }, '[DONE]')],
  ['in a choice', chunks(delta('Hi'), { choices: [{ ...finish.choices[0], usage: plain }] }, '[DONE]')],
  ['in a later choice', chunks(delta('Hi'), inLater({ ...finish.choices[0], usage: null }), '[DONE]')],
  ['in a later choice than zeros', chunks(delta('Hi'), inLater({ ...finish.choices[0], usage: zeros }), '[DONE]')],
  ['after [DONE]', chunks(delta('Hi'), finish, '[DONE]', { choices: [], usage: plain })],
  ['in every chunk', chunks({ ...delta('Hi'), usage: zeros }, { ...finish, usage: plain }, '[DONE]')],
])('usage of a stream that is %s counts as reported', async (_name, body) => {
  const { outcome } = await outcomeOf(body)

  expect(outcome).toMatchObject({ usage_source: 'provider', usage: plain })
  expect(microsOf(outcome)).toBe(6000)
})

test.each([0, 1, 2])('usage that stands in choice %i of a whole answer alone counts as reported', async (place) => {
  const choices = [0, 1, 2].map((index) => ({ ...choice('Hi'), index, ...(index === place && { usage: plain }) }))

  const { outcome } = await outcomeOf(JSON.stringify({ choices }))

  expect(outcome).toMatchObject({ usage_source: 'provider', usage: plain })
})

const used = (prompt_tokens: number, completion_tokens: number) => ({ usage: { prompt_tokens, completion_tokens } })
const completionAlone = { choices: [], usage: { output_tokens: 500 } }
const words = 'word '.repeat(600)

test.each<[string, unknown[], object]>([
  ['one token before all that is said', [{ ...delta(''), ...used(100, 1) }, delta(words)], used(100, 750)],
  ['zeros in every chunk but the last', [{ ...delta(words), ...used(0, 0) }, delta('more')], used(16, 751)],
  ['all tokens before they are said', [{ ...delta(''), ...used(100, 900) }, delta(words)], used(100, 900)],
  [
    'the prompt first, and the completion alone',
    [{ ...delta('Hi'), ...used(100, 1) }, completionAlone],
    used(100, 500),
  ],
])('a stream that reports %s is charged no less than what it said', async (_name, said, most) => {
  const { outcome } = await outcomeOf(chunks(...said, finish, '[DONE]'))

  expect(outcome).toMatchObject({ result: 'succeeded', implausible: null, ...most })
})

test('usage that comes after [DONE], a while later, is waited for', async () => {
  const bytes = new TextEncoder()
  let send = (_text: string) => {}
  const body = new ReadableStream<Uint8Array>({
    start: (controller) => {
      send = (text) => controller.enqueue(bytes.encode(text))
    },
  })
  const { chat, seen } = createWorld('http://provider.test', {
    fetch: async () => new Response(body),
    ledger: { admit },
    within: (_ms, work) => work,
  })

  send(chunks(delta('Hi'), finish, '[DONE]'))
  const answer = await chat({ model: 'm', messages, stream: true, stream_options: { include_usage: true } })
  const text = answer.text()
  setImmediate(() => send(event({ choices: [], usage: plain })))

  expect(await text).toMatch(/"prompt_tokens":1000[^\n]*"cost":[^\n]*\n\ndata: \[DONE\]\n\n$/)
  expect(seen.outcomes).toMatchObject([{ usage_source: 'provider', usage: plain }])
})

test.each([
  ['more than the context', { prompt_tokens: 200_000, completion_tokens: 5 }],
  ['more than the limit', { prompt_tokens: 10, completion_tokens: 900_000 }],
  ['over 2^53', { prompt_tokens: 2 ** 60, completion_tokens: 5 }],
  ['1e300', { prompt_tokens: 10, completion_tokens: 1e300 }],
  ['negative', { prompt_tokens: -10, completion_tokens: 5 }],
  ['a fraction', { prompt_tokens: 10, completion_tokens: 1.5 }],
  ['a text', { prompt_tokens: '10', completion_tokens: 5 }],
  ['a total that gives more than the limit', { prompt_tokens: 10, completion_tokens: 5, total_tokens: 2 ** 53 - 1 }],
  ['a cache larger than the context', { ...plain, prompt_tokens_details: { cached_tokens: 2 ** 40 } }],
])('%s: not believed, charged by estimate, and told', async (_name, usage) => {
  for (const body of [asJson({ ...usage, cost: 1 }), asStream({ ...usage, cost: 1 })]) {
    const { outcome } = await outcomeOf(body)

    expect(outcome).toMatchObject({
      result: 'succeeded',
      usage_source: 'estimated',
      implausible: expect.stringMatching(/prompt|completion/),
      usage: { completion_tokens: 2, cost_usd: null },
    })
  }
})

test('no completion for kilobytes of text is not believed; for a little it is', async () => {
  const nothing = { prompt_tokens: 10, completion_tokens: 0 }
  const text = 'word '.repeat(800)

  for (const body of [asJson(nothing, text), asStream(nothing, text)])
    expect((await outcomeOf(body)).outcome).toMatchObject({
      usage_source: 'estimated',
      implausible: '0 completion tokens for 4000 bytes of text',
      usage: { completion_tokens: 1000 },
    })
  expect((await outcomeOf(asJson(nothing))).outcome).toMatchObject({ usage_source: 'provider', usage: nothing })
})

test('a provider that goes beyond the limit is believed as far as its words can be seen', async () => {
  const usage = { prompt_tokens: 10, completion_tokens: 20_000 }

  expect((await outcomeOf(asJson(usage, 'word '.repeat(20_000)))).outcome).toMatchObject({ usage_source: 'provider' })
})

test.each([
  [{ cost: 1e300 }, 'cost is no amount'],
  [{ cost: -1 }, 'cost is no amount'],
  [{ cost: 'much' }, 'cost is no amount'],
  [{ prompt_tokens_details: { cached_tokens: -5 } }, 'cached_tokens is no count'],
  [{ completion_tokens_details: { reasoning_tokens: 0.5 } }, 'reasoning_tokens is no count'],
])('of %j only that part is not believed', async (more, implausible) => {
  const { outcome } = await outcomeOf(asJson({ ...plain, ...more }))

  expect(outcome).toMatchObject({ usage_source: 'provider', implausible, usage: { ...plain, cost_usd: null } })
})

test('costs are a number or a total', async () => {
  const usage = { ...plain, cost: { total_cost: 0.5, request_cost: 0.1 } }

  expect((await outcomeOf(asJson(usage))).outcome.usage).toMatchObject({ cost_usd: 0.5 })
})

test.each([
  ['a text in a choice', (content: string) => ({ choices: [{ index: 0, text: content, finish_reason: null }] })],
  ['a message', (content: string) => ({ choices: [{ index: 0, message: { role: 'assistant', content } }] })],
  ['a text beside a delta of null', (text: string) => ({ choices: [{ index: 0, text, delta: null }] })],
  [
    'a message beside an empty delta',
    (content: string) => ({ choices: [{ index: 0, delta: {}, message: { content } }] }),
  ],
])('%s inside a stream without usage is estimated by what it says', async (_name, chunkOf) => {
  const text = 'said \\"so\\" '.repeat(40)
  const { outcome } = await outcomeOf(chunks(chunkOf(text), chunkOf(text), finish, '[DONE]'))

  expect(outcome.usage_source).toBe('estimated')
  expect(outcome.usage?.completion_tokens).toBeGreaterThanOrEqual((2 * text.length) / 4)
})

test('what a delta has said is not estimated again as the message at the end', async () => {
  const whole = { choices: [{ index: 0, delta: {}, message: { content: words }, finish_reason: 'stop' }] }
  const { outcome } = await outcomeOf(chunks(delta(words), whole, '[DONE]'))

  expect(outcome.usage?.completion_tokens).toBe(words.length / 4)
})

test('a picture in an answer is not estimated as text, and neither disproves a report', async () => {
  const url = `data:image/png;base64,${'A'.repeat(1_000_000)}`
  const message = { role: 'assistant', content: 'Here:', images: [{ type: 'image_url', image_url: { url } }] }
  const usage = { prompt_tokens: 10, completion_tokens: 1290 }
  const json = (more: object) => JSON.stringify({ choices: [{ index: 0, message, finish_reason: 'stop' }], ...more })
  const stream = (more: object) =>
    chunks({ choices: [{ index: 0, delta: message }] }, finish, { choices: [], ...more }, '[DONE]')

  for (const body of [json({ usage }), stream({ usage })])
    expect((await outcomeOf(body)).outcome).toMatchObject({ usage_source: 'provider', usage })
  for (const body of [json({}), stream({})])
    expect((await outcomeOf(body)).outcome.usage?.completion_tokens).toBeLessThan(16_020)
})

const openAi = [{ ...delta('Hi'), usage: null }, { ...finish, usage: null }, { choices: [], usage: plain }, '[DONE]']
const repeated = { choices: [{ index: 0, delta: { role: 'assistant', content: '' }, finish_reason: 'stop' }] }
const openRouter = [delta('Hi'), finish, { ...repeated, usage: { ...plain, cost: 0.5 } }, '[DONE]']

async function streamFor(body: string, more: object, headers: Record<string, string> = {}) {
  const { chat } = worldWith(body)
  const init = { headers: { authorization: 'Bearer good', ...headers } }
  return (await chat({ model: 'm', messages, stream: true, ...more }, init)).text()
}

test('who did not ask gets neither the usage nor a null in its place, and every other byte', async () => {
  const told = [delta('Hi'), finish, '[DONE]']

  for (const body of [openAi, openRouter, [delta('Hi'), { ...finish, usage: plain }, '[DONE]']]) {
    expect(await streamFor(chunks(...body), {})).toBe(chunks(...told))
    expect(await streamFor(chunks(...body), { stream_options: { include_usage: false } })).toBe(chunks(...told))
  }
})

test.each([
  ['{"id":"a","usage":null,"choices":[]}', '{"id":"a","choices":[]}'],
  [
    '{"choices":[{"delta":{"content":"\\"usage\\":null,"}}],"usage":null}',
    '{"choices":[{"delta":{"content":"\\"usage\\":null,"}}]}',
  ],
  [
    '{"choices":[{"delta":{"tool":{"usage":null}}}] , "usage" : null }',
    '{"choices":[{"delta":{"tool":{"usage":null}}}]  }',
  ],
  ['{"usage":null}', '{}'],
  ['{"choices":[{"usage":null,"index":0}],"obfuscation":"x"}', '{"choices":[{"index":0}],"obfuscation":"x"}'],
  ['{"usage":"some"}', '{"usage":"some"}'],
])('of %s is left %s', async (given, left) => {
  const around = (text: string) => chunks(delta('Hi'), text, delta('é'), text, finish, '[DONE]')

  expect(await streamFor(around(given), {})).toBe(around(left))
})

test('who asks as OpenAI has it gets the usage, and nulls where the provider sends them, with the cost', async () => {
  const asked = { stream_options: { include_usage: true } }

  const text = await streamFor(chunks(...openAi), asked)

  expect(text).toBe(chunks(...openAi.slice(0, 2), { choices: [], usage: { ...plain, cost: 0.000001 } }, '[DONE]'))
})

test.each([
  ['a request for it', { usage: { include: true } }, ''],
  ['@openrouter/sdk', {}, 'speakeasy-sdk/typescript 1.3.19 2.914.0 1.0.0 @openrouter/sdk'],
  ['@openrouter/ai-sdk-provider', {}, 'ai/6.0.1 ai-sdk/openrouter/2.10.0 runtime/node.js/24'],
])('%s: OpenRouter’s last chunk has the usage, as it sends it, and no chunk a null', async (_name, more, agent) => {
  const last = { ...repeated, usage: { ...plain, cost: 0.000001 } }

  expect(await streamFor(chunks(...openRouter), more, { 'user-agent': agent })).toBe(
    chunks(delta('Hi'), finish, last, '[DONE]'),
  )
  expect(await streamFor(chunks(...openAi), more, { 'user-agent': agent })).not.toMatch(/"usage":null/)
})

test('zeros after a real report are told to nobody', async () => {
  const body = chunks(delta('Hi'), finish, { choices: [], usage: plain }, { choices: [], usage: zeros }, '[DONE]')

  const text = await streamFor(body, { stream_options: { include_usage: true } })

  expect(text.match(/prompt_tokens":\d+/g)).toEqual(['prompt_tokens":1000'])
})

test.each([{ total_tokens: 12 }, { prompt_tokens: 0, total_tokens: 12 }])(
  'embeddings are charged by a total alone, and made of no tokens: %j',
  async (usage) => {
    const data = [{ object: 'embedding', index: 0, embedding: [0.5] }]
    const { send, seen } = worldWith(JSON.stringify({ data, usage }))

    await send('/embeddings', { method: 'POST', body: JSON.stringify({ model: 'm', input: 'x' }) })

    expect(seen.outcomes).toMatchObject([
      { usage: { prompt_tokens: 12, completion_tokens: 0 }, usage_source: 'provider' },
    ])
  },
)

test('no more images are charged than were asked for', async () => {
  const { send, seen } = worldWith(JSON.stringify({ data: Array(9).fill({ b64_json: 'AAAA' }) }))

  await send('/images/generations', { method: 'POST', body: JSON.stringify({ model: 'm', prompt: 'x', n: 2 }) })

  expect(seen.outcomes).toMatchObject([{ usage: { images: 2 } }])
})
