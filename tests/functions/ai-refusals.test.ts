/** What the refusals of providers mean, sorted by what they say. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { keyWords, moneyWords, readRefusal, withoutSecrets } from '../../functions/_shared/ai/provider-refusal.ts'
import { runs } from '../support/runs.ts'
import { admittedTo, bodyOf, createWorld, messages } from './ai-world.ts'

const ours = { secret: 'sk-demo', isCallers: false }
const refuse = (status: number, body: unknown, key = ours) =>
  readRefusal(
    { status, header: () => null },
    new TextEncoder().encode(typeof body === 'string' ? body : JSON.stringify(body)),
    key,
  )

/** What the caller gets, how often the provider was asked, what the breaker heard and what the log has. */
async function answered(status: number, body: unknown, asked: object = {}) {
  const fetch = async () => new Response(typeof body === 'string' ? body : JSON.stringify(body), { status })
  const { chat, seen } = createWorld('http://provider.test', { fetch })
  const answer = await chat({ model: 'm', messages, ...asked })
  const { error } = await bodyOf(answer)
  return { status: answer.status, error, seen, attempts: answer.headers.get('x-attempts') }
}

const error = (message: string, more: object = {}) => ({ error: { message, ...more } })

test.each<[number, unknown, string, string, string | null]>([
  [
    400,
    error('This model reads 8192 tokens at most.', { code: 'context_length_exceeded', param: 'messages' }),
    'context_length_exceeded',
    'This model reads 8192 tokens at most.',
    'messages',
  ],
  [400, error('No.', { code: 'content_filter', type: null }), 'content_filter', 'No.', null],
  [400, error('Bad.', { code: null, type: 'invalid_request_error' }), 'invalid_request_error', 'Bad.', null],
  [400, error('Bad.', { code: 400, type: 'BadRequest' }), 'BadRequest', 'Bad.', null],
  [400, { error: 'a plain string' }, 'invalid_request_error', 'a plain string', null],
  [400, 'a plain string', 'invalid_request_error', 'a plain string', null],
  [400, '"a JSON string"', 'invalid_request_error', 'a JSON string', null],
  [422, { detail: 'a detail' }, 'invalid_request_error', 'a detail', null],
  [
    422,
    {
      detail: [
        { loc: ['body', 'messages', 0], msg: 'is missing' },
        { loc: ['body', 'n'], msg: 'is large' },
      ],
    },
    'invalid_request_error',
    'is missing; is large',
    'messages.0',
  ],
  [400, [error('from Google', { code: 400, status: 'INVALID_ARGUMENT' })], 'INVALID_ARGUMENT', 'from Google', null],
  [400, { object: 'error', message: 'vLLM’s', type: 'BadRequestError', code: 400 }, 'BadRequestError', 'vLLM’s', null],
  [400, { message: 'bare' }, 'invalid_request_error', 'bare', null],
  [400, { errors: [{ message: 'one' }, 'two'] }, 'invalid_request_error', 'one; two', null],
  [
    400,
    error('Provider returned error', { code: 400, metadata: { raw: '{"error":{"message":"the real one"}}' } }),
    'invalid_request_error',
    'the real one',
    null,
  ],
  [400, '<html>Bad Request</html>', 'invalid_request_error', 'The AI provider refuses this request.', null],
  [400, '', 'invalid_request_error', 'The AI provider refuses this request.', null],
  [
    403,
    error('Input was flagged', { code: 403, metadata: { reasons: ['violence', 'self-harm'] } }),
    'invalid_request_error',
    'Input was flagged (violence, self-harm)',
    null,
  ],
  [
    500,
    error('The prompt is too long: 9000 tokens'),
    'invalid_request_error',
    'The prompt is too long: 9000 tokens',
    null,
  ],
])('%i %j is told to the caller as 400 %s', async (status, body, code, message, param) => {
  const got = await answered(status, body)

  expect([got.status, got.attempts]).toEqual([400, '1'])
  expect(got.error).toMatchObject({ code, message, param, type: 'invalid_request_error' })
  expect(got.seen.reports).toEqual([])
  expect(got.seen.outcomes).toMatchObject([{ error_code: 'invalid_request_error', usage: null }])
})

test.each<[number, unknown, string]>([
  [401, error('Incorrect API key provided: sk-demo.', { code: 'invalid_api_key' }), 'provider_refuses_key'],
  [
    400,
    [error('API key not valid. Please pass a valid API key.', { status: 'INVALID_ARGUMENT' })],
    'provider_refuses_key',
  ],
  [400, error('Your credit balance is too low', { type: 'invalid_request_error' }), 'provider_refuses_account'],
  [403, error('The key may not use this model'), 'provider_refuses_key'],
  [400, error('Incorrect API key provided: sk-***. You can find it in the console.'), 'provider_refuses_key'],
  [
    400,
    [
      error('Refused.', {
        code: 400,
        status: 'INVALID_ARGUMENT',
        details: [{ '@type': 'x' }, { reason: 'API_KEY_INVALID' }],
      }),
    ],
    'provider_refuses_key',
  ],
  [413, error('No.', { code: 'insufficient_quota' }), 'provider_refuses_account'],
  [401, '', 'provider_refuses_key'],
  [402, error('This request requires more credits'), 'provider_refuses_account'],
  [429, error('You exceeded your current quota', { code: 'insufficient_quota' }), 'provider_refuses_account'],
  [200, error('No auth credentials found', { code: 401 }), 'provider_refuses_key'],
])('%i %j is about our own account: 502 for the caller, an alarm for the operator', async (status, body, event) => {
  const { error: told, seen, ...got } = await answered(status, body)

  expect([got.status, got.attempts, told?.message]).toEqual([502, '1', 'The AI provider failed to answer.'])
  expect(seen.reports).toEqual([])
  expect(seen.log).toContainEqual(expect.objectContaining({ level: 'error', message: event, provider: 'demo' }))
  expect(seen.alarms).toEqual([`demo ${event}`])
  expect(JSON.stringify([told, seen.log])).not.toContain('sk-demo')
})

test.each<[number, unknown, number, string]>([
  [500, error('Internal'), 502, '3'],
  [529, error('Overloaded', { type: 'overloaded_error' }), 502, '3'],
  [503, 'no healthy upstream', 502, '3'],
  [404, error('No such model', { code: 'model_not_found' }), 502, '1'],
  [429, error('Rate limit: tokens per minute. The request is too large.'), 429, '3'],
  [522, '', 502, '3'],
  [408, '', 504, '1'],
  [504, '', 504, '1'],
  [524, '', 504, '1'],
  [504, error('Deadline of the context window exceeded'), 504, '1'],
])('%i %j is the provider’s own: %i after %s tries', async (status, body, expected, attempts) => {
  const got = await answered(status, body)

  expect([got.status, got.attempts]).toEqual([expected, attempts])
})

test('a request cannot raise an alarm by what a refusal quotes of it', async () => {
  const quoted = error(
    "Invalid value for messages[0].content, which must be something else: 'invalid api key, billing'",
  )

  const got = await answered(400, quoted)

  expect([got.status, got.seen.alarms]).toEqual([400, []])
})

/** What callers may say, by the very expressions that are looked for. */
const alarming = fc.oneof(
  ...[keyWords, moneyWords].map(({ source }) => fc.stringMatching(new RegExp(`^(?:${source})$`))),
)
const around = fc.constantFrom('', 'x', 'my ', 'It said:\n', 'é"', '\\', '\t')
const echoes = fc.constantFrom<(said: string) => string>(
  (said) => said,
  (said) => `Invalid value: '${said}'`,
  (said) => `Invalid value: ${said}. Supported values are: 'system', 'user'.`,
  (said) => `messages.0.content: ${said} is no picture`,
  (said) => `${said} is not valid, but disabled and not found`,
  (said) => `Unknown "${said}": is required, and invalid`,
  (said) => said.toUpperCase(),
  (said) => said.slice(0, 14),
  (said) => `No ${said.slice(4)}`,
)

test('whatever a caller says and a refusal echoes, in whatever form: no alarm', async () => {
  const places = fc.constantFrom<(said: string) => object>(
    (said) => ({ messages: [{ role: 'user', content: said }] }),
    (said) => ({ user: said }),
    (said) => ({ tools: [{ type: 'function', function: { name: said, parameters: {} } }] }),
  )
  const given = fc.record({ words: alarming, before: around, after: around, echo: echoes, place: places })
  await fc.assert(
    fc.asyncProperty(given, fc.constantFrom(400, 413, 422, 404, 429, 500), async (asked, status) => {
      const { words, before, after, echo, place } = asked
      const said = before + words + after

      const got = await answered(status, error(echo(words)), place(said))

      expect([got.seen.admitted.length, got.seen.alarms]).toEqual([1, []])
    }),
    { numRuns: runs(300) },
  )
}, 60_000)

test('a caller who speaks of keys and money in other words hides no refusal of ours', async () => {
  const content = 'How do I pay for my key? Is an invalid balance a credit, or is the API too low?'

  for (const said of ['API key not valid. Please pass one.', 'Your credit balance is too low'])
    expect((await answered(400, error(said), { messages: [{ role: 'user', content }] })).seen.alarms).toHaveLength(1)
})

test('once a stream has begun its request is let go, and a message alone says nothing about our key', async () => {
  const events = [
    '{"choices":[{"index":0,"delta":{"content":"Hi"}}]}',
    '{"error":{"message":"API key not valid","code":400}}',
  ]
  const left = events.map((data) => new TextEncoder().encode(`data: ${data}\n\n`))
  const pull = (controller: ReadableStreamDefaultController) => {
    const event = left.shift()
    if (event) controller.enqueue(event)
    else controller.close()
  }
  const fetch = async () => new Response(new ReadableStream({ pull }, { highWaterMark: 0 }))
  const { chat, seen } = createWorld('http://provider.test', { fetch })

  const text = await (await chat({ model: 'm', messages, stream: true })).text()

  expect([text.includes('API key not valid'), seen.alarms]).toEqual([true, []])
})

test('an alarm comes from the middle of a stream, too', async () => {
  const delta = 'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
  const body = `${delta}data: {"error":{"message":"No more","code":"insufficient_quota"}}\n\n`
  const { chat, seen } = createWorld('http://provider.test', { fetch: async () => new Response(body) })

  await (await chat({ model: 'm', messages, stream: true })).text()

  expect(seen.alarms).toEqual(['demo provider_refuses_account'])
})

test('an alarm is told once a minute, each kind by itself', async () => {
  let now = Date.now()
  let status = 401
  const fetch = async () => Response.json(error('No'), { status })
  const { chat, seen } = createWorld('http://provider.test', { fetch, now: () => now })
  const told = async () => {
    await chat({ model: 'm', messages })
    return seen.alarms.splice(0)
  }

  expect(await told()).toEqual(['demo provider_refuses_key'])
  expect(await told()).toEqual([])
  status = 402
  expect(await told()).toEqual(['demo provider_refuses_account'])
  now += 60_000
  expect(await told()).toEqual(['demo provider_refuses_account'])
})

test('a caller’s own key is their own matter, and no alarm', async () => {
  const admit = async () => {
    const admission = admittedTo('http://provider.test/v1', 'm')
    return { ...admission, routes: admission.routes.map((route) => ({ ...route, api_key: 'their-own-key' })) }
  }
  const fetch = async () => Response.json(error('Incorrect API key provided: their-own-key'), { status: 401 })
  const { chat, seen } = createWorld('http://provider.test', { ledger: { admit }, fetch })

  const answer = await chat({ model: 'm', messages })

  expect(answer.status).toBe(400)
  expect((await bodyOf(answer)).error).toMatchObject({
    param: 'credential',
    message: 'The AI provider refuses your own key: Incorrect API key provided: [redacted]',
  })
  expect([seen.alarms, seen.log.filter(({ level }) => level === 'error')]).toEqual([[], []])
})

test.each([
  'sk-proj-abcDEF123456',
  'sk-ant-api03-xyz',
  'sk-abc***xyz',
  'Bearer abcdef123456',
  'AIzaSyA1234567890abcdefghij',
  'gsk_a1b2c3d4e5f6',
  'eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.c2ln',
  'org-AbC123dEf456',
  'https://api.test/v1?key=abc123def',
  'api_key: "abc123def"',
  'the very key that was sent',
])('no text of a provider that is passed on has %s in it', (secret) => {
  const text = `Refused (${secret}), because it is so.`

  const clean = withoutSecrets(text, { secret: 'the very key that was sent', isCallers: false })

  expect(clean).toMatch(/^Refused \(.*\[redacted\].*because it is so\.$/)
  expect(clean).not.toMatch(/abc123|xyz|abcDEF|a1b2c3|c2ln|AbC123|1234567890|very key/)
})

test('what is no secret stays', () => {
  const text = 'key_findings: max_tokens 128000, user_location, sk-learn; bearer of 3 tasks, token limit'

  expect(withoutSecrets(text, { secret: undefined, isCallers: false })).toBe(text)
})

test('an error of a stream goes out without keys', async () => {
  const delta = 'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
  const body = `${delta}data: {"error":{"message":"key sk-demo is over its limit, é"}}\n\n`
  const { chat } = createWorld('http://provider.test', { fetch: async () => new Response(body) })

  const text = await (await chat({ model: 'm', messages, stream: true })).text()

  expect(text).toBe(body.replace('sk-demo', '[redacted]'))
})

test('at most 2,000 characters are passed on, none of them half', () => {
  const { message } = refuse(400, error('🛡'.repeat(5_000)))

  expect([...message]).toHaveLength(2_000)
  expect(message.isWellFormed()).toBe(true)
})

test('a code of ours is not the provider’s to give', () => {
  expect(refuse(400, error('No.', { code: 'idempotency_in_progress' })).details.providerCode).toBeUndefined()
  expect(refuse(400, error('No.', { code: 'x'.repeat(200) })).details.providerCode).toBeUndefined()
  expect(refuse(400, error('No.', { code: 'sk-proj-abcDEF123456' })).details.providerCode).toBeUndefined()
})
