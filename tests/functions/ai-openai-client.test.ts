/** The official client against the gateway, over a socket: what it understands is the contract. */
import { once } from 'node:events'
import { serve } from '@hono/node-server'
import OpenAI from 'openai'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { handleAiRequest } from '../../functions/_shared/ai/handle-ai-request.ts'
import type { Admission } from '../../functions/_shared/ai/ledger.ts'
import { AppError } from '../../functions/_shared/errors.ts'
import { type Changes, callsOf, createWorld, startProvider } from './ai-world.ts'

let provider: Awaited<ReturnType<typeof startProvider>>
const servers: { close(): void }[] = []
beforeAll(async () => {
  provider = await startProvider()
})
afterEach(() => {
  for (const server of servers.splice(0)) server.close()
})
afterAll(() => provider.close())

const model = 'echo'
const said = { model, messages: [{ role: 'user' as const, content: 'hello brave new world' }] }

/** A gateway on a loopback socket, and a client that counts its requests. */
async function open(changes: Changes = {}, options: { apiKey?: string; maxRetries?: number; timeout?: number } = {}) {
  const { world, ...rest } = createWorld(provider.url, changes)
  let requests = 0
  const gateway = (request: Request) => {
    requests += 1
    return handleAiRequest(request, world)
  }
  const server = serve({ fetch: gateway, port: 0, hostname: '127.0.0.1' })
  servers.push(server)
  await once(server, 'listening')
  const address = server.address()
  const port = typeof address === 'object' ? address?.port : undefined
  const client = new OpenAI({ apiKey: 'good', baseURL: `http://127.0.0.1:${port}/ai/v1`, maxRetries: 0, ...options })
  return { ...rest, client, requests: () => requests }
}

const refusing = (code: string, details = {}) => ({
  ledger: { admit: async (): Promise<Admission> => ({ admitted: false, code, details }) },
})

test.each([
  ['insufficient_credits', OpenAI.APIError, 402, 1],
  ['insufficient_quota', OpenAI.APIError, 402, 1],
  ['spend_cap_reached', OpenAI.APIError, 402, 1],
  ['account_suspended', OpenAI.PermissionDeniedError, 403, 1],
  ['mfa_required', OpenAI.PermissionDeniedError, 403, 1],
  ['model_not_allowed', OpenAI.PermissionDeniedError, 403, 1],
  ['model_not_found', OpenAI.NotFoundError, 404, 1],
  ['model_not_priced', OpenAI.BadRequestError, 400, 1],
  ['idempotency_not_replayable', OpenAI.ConflictError, 409, 1],
  ['idempotency_key_reused', OpenAI.UnprocessableEntityError, 422, 1],
  ['daily_quota_exceeded', OpenAI.RateLimitError, 429, 1],
  ['provider_not_configured', OpenAI.InternalServerError, 503, 1],
])('%s is a %o, and is not asked again', async (code, kind, status, times) => {
  const { client, requests } = await open(refusing(code), { maxRetries: 2 })

  const error = await client.chat.completions.create(said).catch((thrown: unknown) => thrown)

  expect(error).toBeInstanceOf(kind)
  expect(error).toMatchObject({ status, code })
  expect(requests()).toBe(times)
})

test('a token that is none is an AuthenticationError with a request id', async () => {
  const { client, requests } = await open({}, { apiKey: 'bad', maxRetries: 2 })

  const error = await client.models.list().catch((thrown: unknown) => thrown)

  expect(error).toBeInstanceOf(OpenAI.AuthenticationError)
  expect(error).toMatchObject({ code: 'invalid_api_key', requestID: expect.stringMatching(/^[0-9a-f-]{36}$/) })
  expect(requests()).toBe(1)
})

test('a field that is wrong is named', async () => {
  const { client } = await open()

  const error = await client.chat.completions.create({ ...said, n: 0 }).catch((thrown: unknown) => thrown)

  expect(error).toBeInstanceOf(OpenAI.BadRequestError)
  expect(error).toMatchObject({ param: 'n', code: 'invalid_request_error' })
})

test('a rate limit is waited for and then passes', async () => {
  const admissions: Admission[] = [{ admitted: false, code: 'rate_limit_exceeded', details: { retry_after_s: 1 } }]
  const inner = createWorld(provider.url)
  const { client, requests } = await open(
    { ledger: { admit: async (request) => admissions.shift() ?? inner.world.ledger.admit(request) } },
    { maxRetries: 1 },
  )

  const before = Date.now()
  const answer = await client.chat.completions.create(said)

  expect(answer.choices[0]?.message.content).toBe('You said: hello brave new world')
  expect(requests()).toBe(2)
  expect(Date.now() - before).toBeGreaterThan(900)
})

test('a ledger that is away is an InternalServerError after the retries that the client wants', async () => {
  const admit = () => Promise.reject(new AppError('accounting_unavailable', { retryAfterS: 0 }))
  const { client, requests } = await open({ ledger: { admit } }, { maxRetries: 1 })

  await expect(client.chat.completions.create(said)).rejects.toBeInstanceOf(OpenAI.InternalServerError)
  expect(requests()).toBe(2)
})

test('a stream is understood, with its usage and its cost', async () => {
  const { client, seen } = await open()

  const stream = await client.chat.completions.create({
    ...said,
    stream: true,
    stream_options: { include_usage: true },
  })
  const chunks = []
  for await (const chunk of stream) chunks.push(chunk)

  expect(chunks.map(({ choices }) => choices[0]?.delta.content ?? '').join('')).toBe('You said: hello brave new world')
  expect(chunks.at(-1)?.usage).toMatchObject({ prompt_tokens: 6, completion_tokens: 8, cost: 0.000001 })
  expect(seen.outcomes).toMatchObject([{ result: 'succeeded' }])
})

test('an error in the middle of a stream is thrown to who reads it', async () => {
  const { client } = await open()
  const stream = await client.chat.completions.create({ ...said, model: 'echo+error-middle', stream: true })

  const read = async () => {
    for await (const _ of stream);
  }

  await expect(read()).rejects.toBeInstanceOf(OpenAI.APIError)
})

test('a stream that is aborted settles once and stops the provider', async () => {
  const { client, seen } = await open()
  const tag = crypto.randomUUID()
  const stream = await client.chat.completions.create({ ...said, model: 'echo+endless', stream: true, user: tag })

  for await (const chunk of stream) if (chunk.choices[0]?.delta.content) stream.controller.abort()
  const aborted = async () => (await callsOf(provider.url, tag))[0]?.aborted
  await expect.poll(() => seen.outcomes.length, { timeout: 10_000 }).toBe(1)
  await expect.poll(aborted, { timeout: 10_000 }).toBe(true)

  expect(seen.outcomes).toMatchObject([{ result: 'cancelled', http_status: 499, usage_source: 'estimated' }])
  expect(seen.outcomes[0]?.usage?.completion_tokens).toBeGreaterThan(0)
})

test('a client that gives up waiting pays an estimate of what the provider did meanwhile', async () => {
  const { client, seen } = await open({}, { timeout: 100 })

  await expect(client.chat.completions.create({ ...said, model: 'echo+hang' })).rejects.toBeInstanceOf(
    OpenAI.APIConnectionTimeoutError,
  )
  await expect.poll(() => seen.outcomes.length, { timeout: 10_000 }).toBe(1)

  expect(seen.outcomes).toMatchObject([{ result: 'cancelled', http_status: 499, usage_source: 'estimated' }])
})

test('the headers of an answer can be read', async () => {
  const { client } = await open()

  const { response, request_id } = await client.chat.completions.create(said).withResponse()

  expect(request_id).toMatch(/^[0-9a-f-]{36}$/)
  expect(response.headers.get('x-ratelimit-remaining-requests')).toBe('98')
  expect(response.headers.get('x-attempts')).toBe('1')
})

test('several choices come back', async () => {
  const { client, seen } = await open()

  const answer = await client.chat.completions.create({ ...said, n: 3 })

  expect(answer.choices).toHaveLength(3)
  expect(seen.admitted).toMatchObject([{ choices: 3 }])
  expect(seen.outcomes).toMatchObject([{ usage: { completion_tokens: 24 } }])
})

test('tools and structured outputs reach the provider as they were asked for', async () => {
  const { client } = await open()
  const user = crypto.randomUUID()
  const schema = { type: 'object', properties: { answer: { type: 'string' } } }
  const response_format = { type: 'json_schema' as const, json_schema: { name: 'reply', strict: true, schema } }
  const tools = [{ type: 'function' as const, function: { name: 'find', parameters: schema } }]

  await client.chat.completions.create({ ...said, user, tools, tool_choice: 'auto', response_format })
  const calls = await callsOf(provider.url, user)

  expect(calls[0]?.body).toMatchObject({ tools, tool_choice: 'auto', response_format })
})

test('embeddings arrive as numbers', async () => {
  const { client } = await open()

  const { data, usage } = await client.embeddings.create({ model, input: ['hello', 'world'], dimensions: 8 })

  expect(data.map(({ embedding }) => embedding.length)).toEqual([8, 8])
  expect(usage.prompt_tokens).toBe(4)
})

test('images arrive', async () => {
  const { client, seen } = await open()

  const { data } = await client.images.generate({ model, prompt: 'a cat', n: 2, size: '256x256' })

  expect(data?.map(({ b64_json }) => b64_json?.slice(0, 5))).toEqual(['iVBOR', 'iVBOR'])
  expect(seen.outcomes).toMatchObject([{ usage: { images: 2 } }])
})

test('models are listed and found', async () => {
  const { client } = await open()

  expect((await client.models.list()).data.map(({ id }) => id)).toEqual(['demo/echo'])
  expect((await client.models.retrieve('demo/echo')).id).toBe('demo/echo')
  await expect(client.models.retrieve('none')).rejects.toBeInstanceOf(OpenAI.NotFoundError)
})
