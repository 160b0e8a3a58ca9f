/** Embeddings and images take the same way as chats, and every answer says what it cost. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { AdmissionRequest } from '../../functions/_shared/ai/ledger.ts'
import { admittedTo, bodyOf, createWorld, messages, routeTo, startProvider } from './ai-world.ts'

let provider: Awaited<ReturnType<typeof startProvider>>
beforeAll(async () => {
  provider = await startProvider()
})
afterAll(() => provider.close())

const post = (body: object) => ({
  method: 'POST',
  body: JSON.stringify(body),
  headers: { authorization: 'Bearer good' },
})

test.each([
  ['/embeddings', { model: 'echo' }, 'input'],
  ['/images/generations', { model: 'echo', prompt: 'a cat', n: 11 }, 'n'],
  ['/chat/completions', { model: 'echo', messages, n: 129 }, 'n'],
])('%s refuses what is wrong by name, before the ledger is asked', async (path, body, param) => {
  const { seen, send } = createWorld(provider.url)

  const answer = await send(path, post(body))

  expect([answer.status, (await bodyOf(answer)).error?.param]).toEqual([400, param])
  expect(seen.admitted).toEqual([])
})

test('embeddings are admitted and settled', async () => {
  const { seen, send } = createWorld(provider.url)

  const answer = await send('/embeddings', post({ model: 'echo', input: ['hello', 'world'] }))

  expect((await bodyOf(answer)).data).toHaveLength(2)
  expect(seen.admitted).toMatchObject([
    { endpoint: 'embeddings', contents: { textBytes: 10, prompts: 2 }, max_output_tokens: null },
  ])
  expect(seen.outcomes).toMatchObject([
    { usage: { prompt_tokens: 4, completion_tokens: 0, images: 0 }, usage_source: 'provider', model: 'echo' },
  ])
  expect(answer.headers.get('x-credits-remaining')).toBe('89')
})

/** A route by whose price an image has so many tokens at most; 0: it is paid by the image alone. */
function drawing(model: string, max_output_tokens: number) {
  const route = { ...routeTo(`${provider.url}/v1`, model), max_output_tokens }
  const seen: AdmissionRequest[] = []
  const admit = async (asked: AdmissionRequest) => {
    seen.push(asked)
    return { ...admittedTo(`${provider.url}/v1`, model), routes: [route] }
  }
  const world = createWorld(provider.url, { ledger: { admit } })
  return { ...world, seen: { ...world.seen, admitted: seen } }
}

test.each([
  ['echo', 'provider'],
  ['echo+no-usage', 'estimated'],
])('images of %s are paid by the number that came', async (model, usage_source) => {
  const { seen, send } = drawing(model, 0)

  const answer = await send('/images/generations', post({ model, prompt: 'a cat', n: 3, size: '256x256' }))

  expect((await bodyOf(answer)).data).toHaveLength(3)
  expect(seen.admitted).toMatchObject([{ endpoint: 'images.generations', images: 3, choices: 1 }])
  expect(seen.outcomes).toMatchObject([{ usage: { images: 3, completion_tokens: 0 }, usage_source }])
})

test.each<[string, number, number, string, string | null]>([
  ['echo', 2_000, 3_000, 'provider', null],
  ['echo+no-usage', 2_000, 6_000, 'estimated', null],
  ['echo+zero-usage', 2_000, 6_000, 'estimated', '0 completion tokens for 3 images'],
  ['echo', 500, 1_500, 'estimated', '3000 completion tokens, of which 1500 are possible'],
])('of images that are paid by tokens %s at most %i each are %i', async (model, most, tokens, source, implausible) => {
  const { seen, send } = drawing(model, most)

  await send('/images/generations', post({ model, prompt: 'a cat', n: 3, size: '256x256' }))

  const usage = { images: 3, completion_tokens: tokens }
  expect(seen.outcomes).toMatchObject([{ usage, usage_source: source, implausible }])
})

test('without a usage, pictures are charged by the rule of the model that answered, beside the text', async () => {
  const route = { ...routeTo(`${provider.url}/v1`, 'echo+no-usage'), media_tokens: 258 }
  const admit = async () => ({ ...admittedTo(`${provider.url}/v1`, 'echo+no-usage'), routes: [route] })
  const { seen, chat } = createWorld(provider.url, { ledger: { admit } })
  const picture = { type: 'image_url', image_url: { url: 'https://pictures.test/cat.png' } }

  await chat({ model: 'echo+no-usage', messages: [{ role: 'user', content: [picture] }] })

  const [outcome] = seen.outcomes
  expect(outcome).toMatchObject({ usage_source: 'estimated', result: 'succeeded' })
  expect(outcome?.usage?.prompt_tokens).toBeGreaterThan(258)
  expect(outcome?.usage?.prompt_tokens).toBeLessThan(258 + 50)
})

test.each([
  ['/embeddings', { model: 'echo+garbage', input: 'x' }],
  ['/embeddings', { model: 'echo', input: 'x' }],
  ['/images/generations', { model: 'echo', prompt: 'x' }],
])('%s: what is no such answer is not passed on and is free', async (path, body) => {
  const wrong = async () => Response.json({ choices: [] })
  const { seen, send } = createWorld(provider.url, { fetch: wrong })

  expect((await send(path, post(body))).status).toBe(502)
  expect(seen.outcomes).toMatchObject([{ result: 'failed', usage: null }])
})

test('the cost of a whole answer is a header, since its body goes out as it came', async () => {
  const { send } = createWorld(provider.url, {
    ledger: { settle: async () => ({ settled: true, cost_micros: 1_234, credits_remaining: 7 }) },
  })

  const answer = await send('/embeddings', post({ model: 'echo', input: 'hello' }))

  expect(answer.headers.get('x-cost-micros')).toBe('1234')
  expect(answer.headers.get('access-control-expose-headers')).toContain('x-cost-micros')
  expect((await bodyOf(answer)).usage).not.toHaveProperty('cost')
})

/** The usages in a streamed answer, in order. */
async function usagesOf(model: string, include_usage: boolean, cost_micros: number | null = 1_500_000) {
  const settle = async () => ({ settled: true, ...(cost_micros === null ? {} : { cost_micros }) })
  const { chat } = createWorld(provider.url, { ledger: { settle } })
  const body = { model, messages, stream: true, stream_options: { include_usage } }
  const text = await (await chat(body)).text()
  const events = text.split(/(?:\r?\n){2}/).filter((event) => event.includes('"total_tokens"'))
  const usages = events.map((event) => JSON.parse(event.replace(/^data: ?/gm, '')).usage)
  return { usages, text }
}

test.each(['echo', 'echo+usage-twice', 'echo+usage-openrouter', 'echo+crlf'])(
  '%s: the last usage chunk says what the call cost, before [DONE]',
  async (model) => {
    const { usages, text } = await usagesOf(model, true)

    expect(usages.at(-1)).toMatchObject({ prompt_tokens: 6, completion_tokens: 8, cost: 1.5 })
    expect(text.trimEnd().endsWith('[DONE]')).toBe(true)
    expect(text.indexOf('"cost":1.5')).toBeLessThan(text.indexOf('[DONE]'))
  },
)

test('who did not ask for usage gets none, and no cost either', async () => {
  expect((await usagesOf('echo', false)).usages).toEqual([])
})

test('when the cost is unknown the usage chunk goes out as it came', async () => {
  const { usages } = await usagesOf('echo', true, null)

  expect(usages).toEqual([expect.not.objectContaining({ cost: expect.anything() })])
})
