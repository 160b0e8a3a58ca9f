import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Ledger, Outcome } from '../../functions/_shared/ai/ledger.ts'
import { AppError } from '../../functions/_shared/errors.ts'
import { within } from '../../functions/_shared/within.ts'
import { codeOf, createWorld, messages, startProvider } from './ai-world.ts'

let provider: Awaited<ReturnType<typeof startProvider>>
beforeAll(async () => {
  provider = await startProvider()
})
afterAll(() => provider.close())

test('without a token nothing is read, and every answer has its id and is readable by browsers', async () => {
  const { seen, chat } = createWorld(provider.url)

  const answer = await chat('no json', { headers: { 'x-request-id': 'mine.1' } })

  expect([answer.status, await codeOf(answer)]).toEqual([401, 'invalid_api_key'])
  expect(answer.headers.get('x-request-id')).toBe('mine.1')
  expect(answer.headers.get('access-control-allow-origin')).toBe('*')
  expect(answer.headers.get('access-control-expose-headers')).toContain('x-credits-remaining')
  expect(seen.admitted).toEqual([])
})

test.each(['Bearer pal_abc', 'Bearer other', 'Basic good', 'Bearer '])('%s is refused', async (authorization) => {
  expect((await createWorld(provider.url).chat({}, { headers: { authorization } })).status).toBe(401)
})

test('an id that could break a log line is replaced', async () => {
  const { send } = createWorld(provider.url)

  const answer = await send('/models', { headers: { 'x-request-id': 'a b', authorization: 'Bearer good' } })

  expect(answer.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/)
})

test.each([{}, { 'content-length': '10' }])('%o: a body over the limit is refused while it is read', async (length) => {
  let sent = 0
  const pull = (controller: ReadableStreamDefaultController) => {
    sent += 100_000
    controller.enqueue(new Uint8Array(100_000))
  }
  const body = new ReadableStream({ pull })
  const init = { method: 'POST', body, duplex: 'half' as const, headers: { authorization: 'Bearer good', ...length } }

  const answer = await createWorld(provider.url).send('/chat/completions', init)

  expect([answer.status, await codeOf(answer)]).toEqual([413, 'request_too_large'])
  expect(sent).toBeLessThan(1_500_000)
})

test('a refusal of the ledger reaches the caller with its headers, and the provider is not asked', async () => {
  const details = { resets_at: new Date(Date.now() + 60_000).toISOString() }
  const admit = async () =>
    ({ admitted: false, code: 'daily_quota_exceeded', message: 'No calls left.', details }) as const
  const { chat } = createWorld(provider.url, { ledger: { admit }, fetch: () => Promise.reject(new Error('asked')) })

  const answer = await chat({ model: 'echo', messages })

  expect([answer.status, await codeOf(answer)]).toEqual([429, 'daily_quota_exceeded'])
  expect(answer.headers.get('x-should-retry')).toBe('false')
  expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(50)
})

test.each([
  ['accounting_unavailable', 503, () => Promise.reject(new AppError('accounting_unavailable'))],
  ['internal', 500, async () => ({ admitted: false, code: 'no_such_code' }) as const],
])('an unreachable or odd ledger fails closed: %s', async (code, status, admit) => {
  const { chat } = createWorld(provider.url, { ledger: { admit }, fetch: () => Promise.reject(new Error('asked')) })

  const answer = await chat({ model: 'echo', messages })

  expect([answer.status, await codeOf(answer)]).toEqual([status, code])
})

test('a missing provider key is our fault and free', async () => {
  const { seen, chat } = createWorld(provider.url, { providerKey: async () => undefined })

  expect(await codeOf(await chat({ model: 'echo', messages }))).toBe('provider_not_configured')
  expect(seen.outcomes).toMatchObject([{ result: 'failed', usage: null, attempts: 0 }])
})

test.each([
  ['echo+400', 400, 'invalid_request_error', 'invalid_value'],
  ['echo+401', 502, 'upstream_error'],
  ['echo+429', 429, 'rate_limit_exceeded'],
  ['echo+429-date', 429, 'rate_limit_exceeded'],
  ['echo+500', 502, 'upstream_error'],
  ['echo+503', 502, 'upstream_error'],
  ['echo+error-first', 502, 'upstream_error'],
  ['echo+hang', 504, 'upstream_timeout'],
  ['echo+hang-body', 504, 'upstream_timeout'],
])(
  '%s becomes %i %s, streamed or not, settles once and costs only what may have been worked',
  async (model, status, code, told = code) => {
    for (const stream of [true, false]) {
      const { seen, chat } = createWorld(provider.url, {}, model.startsWith('echo+hang') ? 50 : 5_000)

      const answer = await chat({ model, messages, stream })

      expect([answer.status, await codeOf(answer)]).toEqual([status, told])
      const usage_source = status === 504 ? 'estimated' : 'none'
      expect(seen.outcomes).toMatchObject([{ result: 'failed', http_status: status, error_code: code, usage_source }])
      expect(seen.outcomes[0]?.usage === null).toBe(status !== 504)
      expect(answer.headers.get('x-credits-remaining')).toBe('89')
    }
  },
)

test('a redirect is not followed', async () => {
  const { chat } = createWorld(provider.url, {
    fetch: async (url, { redirect, ...init }) =>
      redirect === 'manual' ? Response.redirect('http://elsewhere/') : fetch(url, init),
  })

  expect((await chat({ model: 'echo', messages })).status).toBe(502)
})

test('a JSON answer is settled before it is sent, and tells the new balance', async () => {
  const { seen, chat } = createWorld(provider.url)

  const answer = await chat({ model: 'echo', messages })

  expect(seen.outcomes).toMatchObject([
    { result: 'succeeded', usage: { prompt_tokens: 6, completion_tokens: 8 }, usage_source: 'provider' },
  ])
  expect(answer.headers.get('x-credits-remaining')).toBe('89')
  expect(answer.headers.get('x-model-used')).toBe('echo')
  expect(answer.headers.get('x-attempts')).toBe('1')
  expect(answer.headers.get('x-ratelimit-remaining-requests')).toBe('98')
  expect(await answer.text()).toContain('You said: hello brave new world')
})

test.each([
  ['echo+no-usage', 'estimated', 8],
  ['echo+zero-usage', 'provider', 0],
  ['echo+crlf', 'provider', 8],
  ['echo+big-chunk', 'provider', 8],
])('%s streams, and is charged %s', async (model, usage_source, completion_tokens) => {
  const { seen, chat } = createWorld(provider.url)

  const text = await (await chat({ model, messages, stream: true })).text()

  expect(text).toContain('[DONE]')
  expect(text).not.toContain('prompt_tokens')
  expect(seen.outcomes).toMatchObject([
    { result: 'succeeded', usage_source, usage: { completion_tokens }, response_bytes: Buffer.byteLength(text) },
  ])
})

test.each(['echo+error-middle', 'echo+reset', 'echo+garbage'])(
  '%s ends with an error event and charges what was delivered',
  async (model) => {
    const { seen, chat } = createWorld(provider.url)

    const text = await (await chat({ model, messages, stream: true })).text()

    expect(text.match(/"error":/g)).toHaveLength(1)
    expect(seen.outcomes).toMatchObject([
      { result: 'failed', http_status: 502, usage_source: 'estimated', usage: { completion_tokens: 4 } },
    ])
  },
)

test('a ledger that is away for a moment is asked again, and the answer goes out', async () => {
  let tries = 0
  const settle = async () => {
    tries += 1
    if (tries < 3) throw new AppError('accounting_unavailable')
    return { settled: true }
  }
  const { chat, background } = createWorld(provider.url, { ledger: { settle } })

  expect((await chat({ model: 'echo', messages })).status).toBe(200)
  await Promise.all(background)
  expect(tries).toBe(3)
})

test('an answer that cannot be settled is not delivered, and nobody pays for it', async () => {
  let away = true
  const outcomes: Outcome[] = []
  const settle: Ledger['settle'] = async (_call, outcome) => {
    if (away) throw new AppError('accounting_unavailable')
    outcomes.push(outcome)
    return { settled: true }
  }
  const { chat, background, seen } = createWorld(provider.url, {
    ledger: { settle },
    sleep: () => new Promise((done) => setTimeout(done, 50)),
    within: (_ms, work) => within(1, work),
  })

  const answer = await chat({ model: 'echo', messages })
  away = false
  await Promise.all(background)

  expect([answer.status, await codeOf(answer)]).toEqual([503, 'accounting_unavailable'])
  expect(outcomes).toMatchObject([
    { result: 'failed', http_status: 503, usage: null, response: null, response_bytes: 0 },
  ])
  expect(seen.log.some(({ message }) => message === 'an answer was not delivered')).toBe(true)
})

test('models are listed in the shape of OpenAI, ids with slashes too', async () => {
  const { send } = createWorld(provider.url)

  expect(await (await send('/models')).json()).toMatchObject({
    object: 'list',
    data: [{ id: 'demo/echo', object: 'model' }],
  })
  for (const id of ['demo/echo', 'demo%2Fecho'])
    expect(await (await send(`/models/${id}`)).json()).toMatchObject({ id: 'demo/echo' })
  expect(await codeOf(await send('/models/none'))).toBe('model_not_found')
})

test('no prompt and no answer is ever logged', async () => {
  const { seen, chat } = createWorld(provider.url)

  for (const body of [
    { model: 'echo', messages },
    { model: 'echo+error-middle', messages, stream: true },
    '{"brave": brave',
  ])
    await (await chat(body)).text()

  expect(seen.log).toHaveLength(3)
  expect(JSON.stringify(seen.log)).not.toContain('brave')
})
