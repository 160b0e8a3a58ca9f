/** How providers end, and what of it is an answer. Until the first byte of one went out, another try and another provider may give it. */
import { expect, test } from 'vitest'
import type { Admission } from '../../functions/_shared/ai/ledger.ts'
import { admittedTo, bodyOf, createWorld, messages, routeTo } from './ai-world.ts'

const base = 'http://provider.test/v1'
const event = (chunk: unknown) => `data: ${typeof chunk === 'string' ? chunk : JSON.stringify(chunk)}\n\n`
const chunks = (...all: unknown[]) => all.map(event).join('')
const role = { choices: [{ index: 0, delta: { role: 'assistant', content: '' }, finish_reason: null }] }
const delta = (content: string) => ({ choices: [{ index: 0, delta: { content }, finish_reason: null }] })
const finish = (finish_reason: string, more: object = {}) => ({
  choices: [{ index: 0, delta: {}, finish_reason, ...more }],
})
const choice = { index: 0, message: { role: 'assistant', content: 'Hello' }, finish_reason: 'stop' }
const json = (more: object) => JSON.stringify({ id: 'a', choices: [choice], ...more })
const good = { true: chunks(role, delta('Hello'), finish('stop'), '[DONE]'), false: json({}) }

type Said = { status?: number; body: string | ReadableStream<Uint8Array>; headers?: Record<string, string> }

/** A world with two routes, `first` and `spare`, where each answers as it is told, by the model's name. */
function worldWith(first: Said, spare?: Said, more: Parameters<typeof createWorld>[1] = {}) {
  const asked: string[] = []
  const routes = [routeTo(base, 'first'), ...(spare ? [routeTo(base, 'spare')] : [])]
  const admission: Admission = { ...admittedTo(base, 'first'), routes }
  const world = createWorld('http://provider.test', {
    ledger: { admit: async () => admission },
    fetch: async (_url, { body }) => {
      const { model } = JSON.parse(String(body))
      asked.push(model)
      const { status = 200, body: said, headers = {} } = (model === 'spare' ? spare : first) ?? first
      return new Response(said, { status, headers })
    },
    ...more,
  })
  const ask = (stream: boolean) => world.chat({ model: 'first', messages, stream })
  return { ...world, asked, ask }
}

const serverError = { error: { message: 'Overloaded', type: 'server_error' } }

const noAnswers: [string, boolean, string][] = [
  ['an error', false, JSON.stringify(serverError)],
  ['an error as a text', false, '{"error":"no capacity"}'],
  ['an HTML page', false, '<!doctype html><html><title>502</title></html>'],
  ['a cut-off JSON', false, json({}).slice(0, -20)],
  ['spaces and then an error', false, `   \n \n${JSON.stringify(serverError)}`],
  ['empty choices', false, json({ choices: [] })],
  ['choices that are none', false, json({ choices: [null] })],
  ['no choices', false, '{"id":"a","object":"chat.completion"}'],
  ['a text that is no JSON', false, 'upstream connect error or disconnect/reset before headers'],
  ['nothing', false, ''],
  ['finish_reason "error"', false, json({ choices: [{ ...choice, finish_reason: 'error' }] })],
  ['an error in a choice', false, json({ choices: [{ ...choice, error: { code: 502, message: 'Lost' } }] })],
  ['{"object":"error"}', false, '{"object":"error","message":"Engine died","type":"InternalServerError","code":500}'],
  ['a list with an error', false, `[${JSON.stringify({ error: { code: 503, status: 'UNAVAILABLE' } })}]`],
  ['an error', true, chunks(serverError)],
  ['an error as JSON', true, JSON.stringify(serverError)],
  ['an HTML page', true, '<!doctype html>\n<html>\n\n<title>502</title></html>'],
  ['a cut-off JSON', true, '{"choices":[{"index":0,'],
  ['spaces and then an error', true, `  \n\n \n\n${JSON.stringify(serverError)}`],
  ['comments and then an error', true, `: wait\n\n: wait\n\n${chunks(serverError)}`],
  ['only [DONE]', true, 'data: [DONE]\n\n'],
  ['empty choices and [DONE]', true, chunks({ id: 'a', choices: [] }, '[DONE]')],
  ['a role and [DONE]', true, chunks(role, '[DONE]')],
  ['a role and an error', true, chunks(role, serverError)],
  ['a role and finish_reason "error"', true, chunks(role, finish('error'))],
  ['an error in a choice', true, chunks(finish('error', { error: { code: 502, message: 'Lost' } }))],
  ['{"object":"error"}', true, chunks({ object: 'error', message: 'Engine died', code: 500 })],
  ['event: error', true, 'event: error\ndata: {"message":"Engine died"}\n\n'],
  ['event: error without JSON', true, 'event:error\r\ndata: Engine died\r\n\r\n'],
  ['events that are no JSON', true, 'data: {"id":"chatcmpl-\n\ndata: <html>\n\n'],
  ['nothing', true, ''],
  [
    'usage and nothing else',
    true,
    chunks({ choices: [], usage: { prompt_tokens: 5, completion_tokens: 0 } }, '[DONE]'),
  ],
]

test.each(noAnswers)(
  '200 with %s (stream: %s) is asked for again, then elsewhere, and is free',
  async (_name, stream, body) => {
    const alone = worldWith({ body })
    const helped = worldWith({ body }, { body: good[`${stream}`] })

    const answer = await alone.ask(stream)
    const spare = await helped.ask(stream)

    expect([answer.status, (await bodyOf(answer)).error?.code]).toEqual([502, 'upstream_error'])
    expect(alone.asked).toHaveLength(3)
    expect(alone.seen.outcomes).toMatchObject([
      { result: 'failed', usage: null, usage_source: 'none', response_bytes: 0 },
    ])
    expect(alone.seen.reports.map(({ ok }) => ok)).toEqual([false, false, false])
    expect([spare.status, await spare.text()]).toEqual([200, good[`${stream}`]])
    expect(helped.asked).toEqual(['first', 'first', 'first', 'spare'])
  },
)

test.each(['embeddings', 'images/generations'])('%s: data without what was asked for is no answer', async (path) => {
  for (const data of [[], [{}], [null], [{ object: 'embedding' }], 'none']) {
    const { send, seen } = createWorld('http://provider.test', { fetch: async () => Response.json({ data }) })
    const body = JSON.stringify({ model: 'm', input: 'x', prompt: 'x' })

    expect((await send(`/${path}`, { method: 'POST', body })).status).toBe(502)
    expect(seen.outcomes).toMatchObject([{ attempts: 3, usage: null }])
  }
})

const tooLong = { error: { message: 'Too long by 12 tokens', code: 'context_length_exceeded' } }
const flagged = { error: { code: 403, message: 'Your input was flagged', metadata: { reasons: ['violence'] } } }
const callersErrors: [string, boolean, string, string, RegExp][] = [
  ['too long', false, JSON.stringify(tooLong), 'context_length_exceeded', /^Too long by 12 tokens$/],
  ['too long', true, chunks(tooLong), 'context_length_exceeded', /^Too long by 12 tokens$/],
  ['too long, as JSON', true, JSON.stringify(tooLong), 'context_length_exceeded', /^Too long by 12 tokens$/],
  ['flagged', false, JSON.stringify(flagged), 'invalid_request_error', /flagged \(violence\)$/],
  ['flagged', true, chunks(role, flagged), 'invalid_request_error', /flagged \(violence\)$/],
  ['a number', false, '{"error":{"code":400,"message":"Bad tool"}}', 'invalid_request_error', /^Bad tool$/],
  [
    'vLLM’s',
    true,
    chunks({ object: 'error', message: 'No', type: 'BadRequestError', code: 400 }),
    'BadRequestError',
    /^No$/,
  ],
  ['a type', false, '{"error":{"type":"invalid_request_error","message":"No"}}', 'invalid_request_error', /^No$/],
]

test.each(callersErrors)(
  '200 with an error of the caller’s, %s (stream: %s), is theirs, once',
  async (_name, stream, body, code, message) => {
    const { ask, asked, seen } = worldWith({ body }, { body: good[`${stream}`] })

    const answer = await ask(stream)

    const { error } = await bodyOf(answer)
    expect([answer.status, error?.code]).toEqual([400, code])
    expect(error?.message).toMatch(message)
    expect(asked).toEqual(['first'])
    expect(seen.reports).toEqual([])
    expect(seen.outcomes).toMatchObject([{ result: 'failed', usage: null, error_code: 'invalid_request_error' }])
  },
)

test.each(['', false, {}, null, { message: '', code: null }])(
  'error: %j beside a good answer is a good answer',
  async (error) => {
    const usage = { prompt_tokens: 5, completion_tokens: 2 }
    const plain = worldWith({ body: json({ error, usage }) })
    const streamed = worldWith({
      body: chunks({ ...delta('Hello'), error }, { ...finish('stop'), error }, { choices: [], usage }, '[DONE]'),
    })

    expect((await plain.ask(false)).status).toBe(200)
    expect(await (await streamed.ask(true)).text()).toContain('[DONE]')
    for (const { seen } of [plain, streamed]) {
      expect(seen.outcomes).toMatchObject([{ result: 'succeeded', usage }])
      expect(seen.reports.map(({ ok }) => ok)).toEqual([true])
    }
  },
)

const inTheMiddle: [string, unknown][] = [
  ['an error', serverError],
  ['finish_reason "error"', finish('error')],
  ['an error in a choice', finish('stop', { error: { message: 'Lost' } })],
  ['{"object":"error"}', { object: 'error', message: 'Lost' }],
]

test.each(inTheMiddle)(
  '%s after content ends the call as failed, and what was delivered is charged',
  async (_name, error) => {
    const body = chunks(delta('12345678'), error)
    const { ask, asked, seen } = worldWith({ body }, { body: good.true })

    const answer = await ask(true)

    expect([answer.status, await answer.text()]).toEqual([200, body])
    expect(asked).toEqual(['first'])
    expect(seen.outcomes).toMatchObject([
      { result: 'failed', http_status: 502, usage_source: 'estimated', usage: { completion_tokens: 2 } },
    ])
    expect(seen.reports).toMatchObject([{ ok: false, error_code: 'upstream_error' }])
  },
)

const beside = {
  choices: [{ index: 0, delta: { content: '87654321' }, finish_reason: null }],
  error: { message: 'Lost' },
}
const spent = { prompt_tokens: 70, completion_tokens: 30 }

test.each<[string, object, string, object]>([
  ['content', beside, 'estimated', { completion_tokens: 4 }],
  [
    'content in a choice that ends so',
    finish('error', { delta: { content: '87654321' } }),
    'estimated',
    { completion_tokens: 4 },
  ],
  ['a usage', { ...beside, usage: spent }, 'provider', spent],
  [
    'a usage in a later choice',
    { ...beside, choices: [...beside.choices, { index: 1, usage: spent }] },
    'provider',
    spent,
  ],
  ['a finish and a usage', { ...finish('stop'), error: { message: 'Lost' }, usage: spent }, 'provider', spent],
])('%s that comes with an error in one chunk is charged as delivered', async (_name, chunk, usage_source, usage) => {
  const { ask, seen } = worldWith({ body: chunks(delta('12345678'), chunk, '[DONE]') })

  await (await ask(true)).text()

  expect(seen.outcomes).toMatchObject([{ result: 'failed', http_status: 502, usage_source, usage }])
})

test('the words of an error are nothing that was said', async () => {
  const error = { error: { message: 'Lost', text: 'x'.repeat(400), delta: { content: 'x'.repeat(400) } } }
  const { ask, seen } = worldWith({ body: chunks(delta('12345678'), error) })

  await (await ask(true)).text()

  expect(seen.outcomes).toMatchObject([{ usage_source: 'estimated', usage: { completion_tokens: 2 } }])
})

test('event: error after content is an error; one about the request tells the breaker nothing', async () => {
  const body = `${chunks(delta('12345678'))}event: error\ndata: {"message":"content_filter: flagged"}\n\n`
  const { ask, seen } = worldWith({ body })

  expect(await (await ask(true)).text()).toBe(body)
  expect(seen.outcomes).toMatchObject([
    { result: 'failed', http_status: 400, error_code: 'invalid_request_error', usage: { completion_tokens: 2 } },
  ])
  expect(seen.reports).toEqual([])
})

/** A body whose parts come one read after the other. */
function parts(...texts: string[]): ReadableStream<Uint8Array> {
  const left = [...texts]
  return new ReadableStream({
    pull(controller) {
      const text = left.shift()
      if (text === undefined) controller.close()
      else controller.enqueue(new TextEncoder().encode(text))
    },
  })
}

test('an error that comes after the role, by itself, is a status of its own, too', async () => {
  const whole = { within: <T>(_ms: number, work: Promise<T>) => work }
  let tries = 0
  const { ask } = worldWith({ body: '' }, undefined, {
    ...whole,
    fetch: async () => new Response(parts(chunks(role), tries++ < 2 ? chunks(serverError) : good.true)),
  })

  const answer = await ask(true)

  expect([answer.status, answer.headers.get('x-attempts')]).toEqual([200, '3'])
  expect(await answer.text()).toBe(chunks(role) + good.true)
})

test.each([
  ['a role', {}],
  ['a role with a usage', { usage: { prompt_tokens: 9, completion_tokens: 3 } }],
])('%s alone does not hold the caller up for long, and an error after it is free', async (_name, more) => {
  let tell = () => {}
  const silent = new Promise<void>((done) => {
    tell = done
  })
  let isFirst = true
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      if (!isFirst) await silent
      controller.enqueue(new TextEncoder().encode(chunks(isFirst ? { ...role, ...more } : serverError)))
      if (!isFirst) controller.close()
      isFirst = false
    },
  })
  const { ask, seen } = worldWith({ body })

  const answer = await ask(true)
  tell()

  expect([answer.status, await answer.text()]).toEqual([200, chunks(role, serverError)])
  expect(seen.outcomes).toMatchObject([{ result: 'failed', usage: null, usage_source: 'none' }])
})

test.each([
  [true, json({}), 'The AI provider answered with JSON for a stream.'],
  [false, good.true, 'The AI provider answered with a stream for JSON.'],
  [false, `: wait\r\n\r\n${good.true}`, 'The AI provider answered with a stream for JSON.'],
])('the other form (stream: %s) is one clear error, and nobody is asked again', async (stream, body, message) => {
  const { ask, asked, seen } = worldWith({ body }, { body: good[`${stream}`] })

  const answer = await ask(stream)

  expect([answer.status, (await bodyOf(answer)).error?.message]).toEqual([502, message])
  expect(answer.headers.get('x-should-retry')).toBe('false')
  expect(asked).toEqual(['first'])
  expect(seen.outcomes).toMatchObject([{ result: 'failed', usage: null }])
  expect(seen.reports).toEqual([])
})

test('an error in the other form is that error', async () => {
  const { ask, asked } = worldWith({ body: chunks(tooLong) })

  expect([(await ask(false)).status, asked.length]).toEqual([400, 1])
})

test('brackets by the million are no answer, and no stack of ours', async () => {
  const deep = '['.repeat(400_000) + ']'.repeat(400_000)
  const { ask } = worldWith({ body: `{"error":${deep}}` }, { body: json({ choices: [{ ...choice, more: 1 }] }) })

  expect((await ask(false)).status).toBe(200)
})
