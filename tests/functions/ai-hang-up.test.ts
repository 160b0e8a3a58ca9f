import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Outcome } from '../../functions/_shared/ai/ledger.ts'
import { admittedTo, type Changes, createWorld, messages, routeTo, startProvider } from './ai-world.ts'

let provider: Awaited<ReturnType<typeof startProvider>>
beforeAll(async () => {
  provider = await startProvider()
})
afterAll(() => provider.close())

const request = { model: 'echo', messages, stream: true }

test.each([0, 1, 2, 3, 5, 7, 8])(
  'a caller who hangs up after %i reads settles exactly once and pays for what came',
  async (reads) => {
    const { seen, chat, background } = createWorld(provider.url)
    const reader = (await chat(request)).body?.getReader()

    for (let i = 0; i < reads; i += 1) await reader?.read()
    await reader?.cancel()
    await Promise.all(background)

    expect(seen.outcomes).toHaveLength(1)
    expect(seen.outcomes[0]?.usage?.prompt_tokens).toBeGreaterThan(0)
  },
)

test('a caller who hangs up in the middle is charged for the prompt and the delivered bytes', async () => {
  const { seen, chat } = createWorld(provider.url, { ticks: () => 0 })
  const gone = new AbortController()
  const answer = await chat(
    { ...request, model: 'echo+endless' },
    { headers: { authorization: 'Bearer good' }, signal: gone.signal },
  )
  const reader = answer.body?.getReader()

  let delivered = ''
  for (let i = 0; i < 5; i += 1) delivered += new TextDecoder().decode((await reader?.read())?.value)
  gone.abort()

  // "more" is a token. Chunks of the socket may bring several events at once.
  const completion_tokens = delivered.match(/"content":"more"/g)?.length
  expect(completion_tokens).toBeGreaterThan(0)
  const usage = expect.objectContaining({ prompt_tokens: 16, completion_tokens })
  expect(seen.outcomes).toMatchObject([{ result: 'cancelled', http_status: 499, usage_source: 'estimated', usage }])
})

test.each([true, false])(
  'a caller who hangs up before the first byte pays for the prompt and the time (stream: %s)',
  async (stream) => {
    let now = Date.now()
    const gone = new AbortController()
    const { seen, chat } = createWorld(provider.url, {
      fetch: (url, init) => {
        now += 2_000
        setTimeout(() => gone.abort(), 5)
        return fetch(url, init)
      },
      ticks: () => now,
    })

    await chat(
      { ...request, model: 'echo+hang', stream },
      { headers: { authorization: 'Bearer good' }, signal: gone.signal },
    )

    // Two seconds at fifty tokens a second.
    const usage = { prompt_tokens: 16, completion_tokens: 100 }
    expect(seen.outcomes).toMatchObject([{ result: 'cancelled', http_status: 499, usage, usage_source: 'estimated' }])
  },
)

test('a caller who is gone when the call is admitted has it settled at once, and pays nothing', async () => {
  const gone = new AbortController()
  const { seen, chat } = createWorld(provider.url, {
    ledger: {
      admit: async (asked) => {
        gone.abort()
        return admittedTo(`${provider.url}/v1`, asked.model)
      },
    },
  })

  const answer = await chat(request, { headers: { authorization: 'Bearer good' }, signal: gone.signal })

  expect(answer.status).toBe(499)
  expect(seen.outcomes).toMatchObject([{ result: 'failed', http_status: 499, attempts: 0, usage: null }])
})

test('a caller who hangs up before any provider was asked pays nothing', async () => {
  const { seen, chat } = createWorld(provider.url, {
    providerKey: () => new Promise((done) => setTimeout(done, 20, 'sk')),
  })
  const gone = new AbortController()
  setTimeout(() => gone.abort(), 5)

  await chat(request, { headers: { authorization: 'Bearer good' }, signal: gone.signal })

  expect(seen.outcomes).toMatchObject([{ result: 'failed', http_status: 499, usage: null, usage_source: 'none' }])
})

describe('a provider that does not stop when it is left', () => {
  const worksOn = (model = 'echo', changes: Changes = {}) =>
    createWorld(provider.url, {
      ledger: {
        admit: async () => ({
          ...admittedTo(`${provider.url}/v1`, model),
          routes: [routeTo(`${provider.url}/v1`, model, { stops_when_left: false })],
        }),
      },
      ...changes,
    })

  test.each([0, 1, 3])('is read on to what it reports, after %i reads', async (reads) => {
    const { seen, chat } = worksOn()
    const reader = (await chat(request)).body?.getReader()

    for (let i = 0; i < reads; i += 1) await reader?.read()
    await reader?.cancel()
    await expect.poll(() => seen.outcomes.length, { timeout: 10_000 }).toBe(1)

    const usage = { prompt_tokens: 6, completion_tokens: 8 }
    expect(seen.outcomes).toMatchObject([{ result: 'cancelled', http_status: 499, usage_source: 'provider', usage }])
    expect(seen.reports).toEqual([])
  })

  test('is charged for all that it worked, whoever leaves: thirty after the first chunk', async () => {
    const { seen, chat } = worksOn()
    const leave = async () => {
      const reader = (await chat(request)).body?.getReader()
      await reader?.read()
      await reader?.cancel()
    }

    await Promise.all(Array.from({ length: 30 }, leave))
    await expect.poll(() => seen.outcomes.length, { timeout: 10_000 }).toBe(30)

    const tokens = seen.outcomes.map(({ usage }) => usage?.completion_tokens ?? 0)
    expect(tokens.reduce((sum, one) => sum + one)).toBe(30 * 8)
  })

  test.each([true, false])('is heard out when nothing had come yet, too (stream: %s)', async (stream) => {
    const gone = new AbortController()
    const { seen, chat } = worksOn('echo', {
      fetch: (url, init) => {
        gone.abort()
        return fetch(url, init)
      },
    })

    await chat({ ...request, stream }, { headers: { authorization: 'Bearer good' }, signal: gone.signal })
    await expect.poll(() => seen.outcomes.length, { timeout: 10_000 }).toBe(1)

    const usage = { prompt_tokens: 6, completion_tokens: 8 }
    expect(seen.outcomes).toMatchObject([{ result: 'cancelled', http_status: 499, usage_source: 'provider', usage }])
  })

  test('and never ends is charged by the time until its own, at most what it may write', async () => {
    let now = Date.now()
    const { seen, chat } = worksOn('echo+endless', { ticks: () => now })
    const reader = (await chat(request)).body?.getReader()

    await reader?.read()
    now += 3_600_000
    await reader?.cancel()

    await expect
      .poll(() => seen.outcomes, { timeout: 30_000 })
      .toMatchObject([
        { result: 'cancelled', http_status: 504, usage_source: 'estimated', usage: { prompt_tokens: 16 } },
      ])
    expect(seen.outcomes[0]?.usage?.completion_tokens).toBeGreaterThanOrEqual(500)
  })

  test('and fails is asked no more', async () => {
    const gone = new AbortController()
    const { seen, chat } = worksOn('echo+500', {
      fetch: (url, init) => {
        gone.abort()
        return fetch(url, init)
      },
    })

    await chat(request, { headers: { authorization: 'Bearer good' }, signal: gone.signal })
    await expect.poll(() => seen.outcomes.length, { timeout: 10_000 }).toBe(1)

    expect(seen.outcomes).toMatchObject([{ result: 'failed', http_status: 502, attempts: 1, usage: null }])
  })
})

test('a stream that has come whole before its caller is known to have left is charged by its report', async () => {
  const gone = new AbortController()
  const events = [
    { choices: [{ index: 0, delta: { content: 'all' }, finish_reason: 'stop' }] },
    { choices: [], usage: { prompt_tokens: 7, completion_tokens: 9, total_tokens: 16 } },
  ]
  const text = [...events.map((event) => JSON.stringify(event)), '[DONE]'].map((data) => `data: ${data}\n\n`).join('')
  const base = `${provider.url}/v1`
  const { seen, chat } = createWorld(provider.url, {
    fetch: async () => {
      gone.abort()
      return new Response(text)
    },
    ledger: {
      admit: async () => ({ ...admittedTo(base, 'echo'), routes: [routeTo(base, 'echo', { stops_when_left: false })] }),
    },
  })

  await chat(request, { headers: { authorization: 'Bearer good' }, signal: gone.signal })

  await expect
    .poll(() => seen.outcomes, { timeout: 5_000 })
    .toMatchObject([
      {
        result: 'cancelled',
        http_status: 499,
        usage_source: 'provider',
        usage: { prompt_tokens: 7, completion_tokens: 9 },
      },
    ])
})

test.each([true, false])(
  'an answer too large to be read is asked for once, charged, and no failure (stream: %s)',
  async (stream) => {
    const chunk = new Uint8Array(1_000_000).fill(32)
    let asked = 0
    const { seen, chat } = createWorld(provider.url, {
      // The caller's, also where what comes too late is the project's.
      ledger: {
        admit: async () => ({ ...admittedTo(`${provider.url}/v1`, 'echo'), timeouts_charge: 'project' }),
      },
      fetch: async () => {
        asked += 1
        let left = 10
        const pull = (controller: ReadableStreamDefaultController) => {
          left -= 1
          if (left < 0) controller.close()
          else controller.enqueue(chunk)
        }
        return new Response(new ReadableStream({ pull }))
      },
    })

    expect((await chat({ model: 'echo', messages, stream })).status).toBe(502)

    expect([asked, seen.reports]).toEqual([1, []])
    // How much it was nobody knows: all that was held.
    expect(seen.outcomes).toMatchObject([
      {
        result: 'failed',
        attempts: 1,
        usage_source: 'estimated',
        usage: { prompt_tokens: 16, completion_tokens: 500 },
      },
    ])
  },
)

test('who leaves when all was said pays for all of it, also where a provider stops when it is left', async () => {
  const said = { choices: [{ index: 0, delta: { content: 'all' }, finish_reason: 'stop' }] }
  const usage = { choices: [], usage: { prompt_tokens: 7, completion_tokens: 400, total_tokens: 407 } }
  const dataOf = (event: object) => new TextEncoder().encode(`data: ${JSON.stringify(event)}\n\n`)
  let tellUsage = () => {}
  const { seen, chat } = createWorld(provider.url, {
    fetch: async () =>
      new Response(
        new ReadableStream({
          start(controller) {
            controller.enqueue(dataOf(said))
            tellUsage = () => {
              controller.enqueue(dataOf(usage))
              controller.close()
            }
          },
        }),
      ),
  })
  const reader = (await chat(request)).body?.getReader()

  await reader?.read()
  await reader?.cancel()
  tellUsage()

  await expect
    .poll(() => seen.outcomes, { timeout: 5_000 })
    .toMatchObject([{ result: 'cancelled', usage_source: 'provider', usage: { completion_tokens: 400 } }])
})

test.each([
  ['zeros', { prompt_tokens: 0, completion_tokens: 0 }, 16],
  ['the prompt alone', { prompt_tokens: 7, completion_tokens: 0 }, 7],
])('who leaves a stream that reports %s until its end pays for the time', async (_name, usage, prompt_tokens) => {
  let now = 0
  const chunk = { choices: [{ index: 0, delta: { content: 'Hi' } }], usage }
  const { seen, chat } = createWorld(provider.url, {
    fetch: async () =>
      new Response(
        new ReadableStream({
          start: (to) => to.enqueue(new TextEncoder().encode(`data: ${JSON.stringify(chunk)}\n\n`)),
        }),
      ),
    ticks: () => now,
  })
  const reader = (await chat(request)).body?.getReader()

  await reader?.read()
  now += 4_000
  await reader?.cancel()

  expect(seen.outcomes).toMatchObject([
    { result: 'cancelled', usage_source: 'estimated', usage: { prompt_tokens, completion_tokens: 200 } },
  ])
})

test('images of a caller who has left are charged as many as were asked for', async () => {
  const gone = new AbortController()
  const { seen, send } = createWorld(provider.url, {
    fetch: (url, init) => {
      setTimeout(() => gone.abort(), 5)
      return fetch(url, init)
    },
  })
  const body = JSON.stringify({ model: 'echo+hang', prompt: 'a cat', n: 3 })
  const headers = { authorization: 'Bearer good', 'content-type': 'application/json' }

  await send('/images/generations', { method: 'POST', headers, body, signal: gone.signal })

  expect(seen.outcomes).toMatchObject([{ result: 'cancelled', usage_source: 'estimated', usage: { images: 3 } }])
})

test('the answer that a caller with an idempotency key did not wait for is kept for the next try', async () => {
  const gone = new AbortController()
  const base = `${provider.url}/v1`
  const { seen, chat } = createWorld(provider.url, {
    fetch: (url, init) => {
      gone.abort()
      return fetch(url, init)
    },
    ledger: {
      admit: async () => ({ ...admittedTo(base, 'echo'), routes: [routeTo(base, 'echo', { stops_when_left: false })] }),
    },
  })
  const headers = { authorization: 'Bearer good', 'idempotency-key': 'once' }

  await chat({ model: 'echo', messages }, { headers, signal: gone.signal })

  await expect.poll(() => seen.outcomes[0]?.response, { timeout: 5_000 }).toContain('You said')
})

describe('an answer that does not come in time', () => {
  const late = (timeouts_charge: 'caller' | 'project') => {
    let now = Date.now()
    const world = createWorld(provider.url, {
      ticks: () => now,
      fetch: (url, init) => {
        now += 4_000
        return fetch(url, init)
      },
      ledger: {
        admit: async () => ({ ...admittedTo(`${provider.url}/v1`, 'echo+hang', 40, 20_000), timeouts_charge }),
      },
    })
    return world
  }

  test.each(['caller', 'project'] as const)('is charged by estimate, each time it was asked for: %s', async (who) => {
    const { seen, chat } = late(who)

    expect((await chat({ ...request, stream: false })).status).toBe(504)

    // Three times sixteen tokens, and twelve seconds at fifty a second, at most 500.
    const usage = { prompt_tokens: 48, completion_tokens: 500 }
    expect(seen.outcomes).toMatchObject([
      {
        result: 'failed',
        http_status: 504,
        attempts: 3,
        usage_source: who === 'project' ? 'project' : 'estimated',
        usage,
      },
    ])
    expect(seen.outcomes[0]?.model).toBe('echo+hang')
  })

  test('counts what was worked before a caller left, too, and never more than was held', async () => {
    let now = 0
    const gone = new AbortController()
    let asked = 0
    const base = `${provider.url}/v1`
    const { seen, chat } = createWorld(provider.url, {
      ticks: () => now,
      fetch: (url, init) => {
        now += 1_000
        asked += 1
        if (asked === 3) setTimeout(() => gone.abort(), 5)
        return fetch(url, init)
      },
      ledger: {
        admit: async () => ({
          ...admittedTo(base, 'echo+hang', 40, 20_000),
          routes: [
            {
              ...routeTo(base, 'echo+hang', { first_byte_timeout_ms: 40, connect_timeout_ms: 40 }),
              prompt_tokens_max: 40,
            },
          ],
        }),
      },
    })

    await chat({ ...request, stream: false }, { headers: { authorization: 'Bearer good' }, signal: gone.signal })

    // Fifty a second for three seconds; three times sixteen tokens of prompt are more than the forty that were held.
    const usage = { prompt_tokens: 40, completion_tokens: 150 }
    expect(seen.outcomes).toMatchObject([{ result: 'cancelled', http_status: 499, attempts: 3, usage }])
  })
})

/** Routes `first` and `spare`; each asking takes two seconds, and is answered by the model's name and how often it was asked. */
function slowly(
  answers: Record<string, (asked: number) => Response | Promise<Response>>,
  { stream = false, ...over }: { timeouts_charge?: 'caller' | 'project'; stream?: boolean } = {},
) {
  let now = 0
  const asked: string[] = []
  const base = 'http://provider.test/v1'
  const routes = Object.keys(answers).map((model) => routeTo(base, model))
  const world = createWorld(base, {
    ticks: () => now,
    ledger: { admit: async () => ({ ...admittedTo(base, 'first'), routes, ...over }) },
    fetch: async (_url, { body }) => {
      const { model } = JSON.parse(String(body))
      now += 2_000
      asked.push(model)
      return (await answers[model]?.(asked.filter((one) => one === model).length)) ?? new Response('', { status: 500 })
    },
  })
  return { ...world, asked, ask: () => world.chat({ ...request, model: 'first', stream }) }
}

const answeredWith = (usage?: object) => () =>
  Response.json({
    choices: [{ index: 0, message: { role: 'assistant', content: 'Hello' }, finish_reason: 'stop' }],
    usage,
  })
const failure = (code: unknown, more: object = {}) => ({ error: { message: 'No answer', code, ...more } })

describe('a provider that says itself that it was too slow', () => {
  const tooSlow: [string, () => Response][] = [
    ...[408, 504, 524].map((status): [string, () => Response] => [`${status}`, () => new Response('', { status })]),
    ['504 in a 200', () => Response.json(failure(504))],
    ['"524" in a 200', () => Response.json(failure('524'))],
    ['DEADLINE_EXCEEDED in a 200', () => Response.json(failure(undefined, { status: 'DEADLINE_EXCEEDED' }))],
    ['a stream that begins with it', () => new Response(`data: ${JSON.stringify(failure(408))}\n\n`)],
    ['500 with the type timeout_error', () => Response.json(failure(null, { type: 'timeout_error' }), { status: 500 })],
  ]

  test.each(tooSlow)('by %s has worked: it is not asked again, and its work is charged', async (name, answer) => {
    for (const timeouts_charge of ['caller', 'project'] as const) {
      const { ask, asked, seen } = slowly({ first: answer }, { timeouts_charge, stream: name.includes('stream') })

      expect((await ask()).status).toBe(504)

      expect(asked).toEqual(['first'])
      // Two seconds at fifty a second.
      const usage = { prompt_tokens: 16, completion_tokens: 100 }
      const usage_source = timeouts_charge === 'project' ? 'project' : 'estimated'
      expect(seen.outcomes).toMatchObject([{ result: 'failed', http_status: 504, usage_source, usage, model: 'first' }])
      expect(seen.reports).toMatchObject([{ ok: false, error_code: 'upstream_timeout' }])
    }
  })

  test.each([500, 502, 503, 522, 529])('is not one that says %i: it is asked again, and free', async (status) => {
    const { ask, asked, seen } = slowly({ first: () => new Response('', { status }) })

    expect((await ask()).status).toBe(502)

    expect(asked).toEqual(['first', 'first', 'first'])
    expect(seen.outcomes).toMatchObject([{ result: 'failed', usage: null, usage_source: 'none', late: null }])
  })

  test('is charged as the model that worked, also when the next route is not there', async () => {
    const { ask, asked, seen } = slowly({
      first: () => new Response('', { status: 504 }),
      spare: () => new Response('', { status: 503 }),
    })

    expect((await ask()).status).toBe(502)

    expect(asked).toEqual(['first', 'spare', 'spare', 'spare'])
    const usage = { prompt_tokens: 16, completion_tokens: 100 }
    expect(seen.outcomes).toMatchObject([{ result: 'failed', usage_source: 'estimated', usage, model: 'first' }])
  })

  test('in the middle of what it said is charged for what was delivered, to the caller', async () => {
    const said = { choices: [{ index: 0, delta: { content: 'x'.repeat(40) } }] }
    const body = [said, failure(504)].map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join('')
    const { ask, seen } = slowly({ first: () => new Response(body) }, { timeouts_charge: 'project', stream: true })

    await (await ask()).text()

    expect(seen.outcomes).toMatchObject([{ result: 'failed', http_status: 504, usage_source: 'estimated' }])
    expect(seen.outcomes[0]?.usage?.completion_tokens).toBeGreaterThanOrEqual(10)
  })
})

describe('work in vain before an answer that came', () => {
  const used = { prompt_tokens: 7, completion_tokens: 9 }
  const late = { prompt_tokens: 16, completion_tokens: 100 }

  test('is told as the project’s beside the caller’s, who pays for the answer alone', async () => {
    const { ask, seen } = slowly({ first: () => new Response('', { status: 504 }), spare: answeredWith(used) })

    expect((await ask()).status).toBe(200)

    const answer = { result: 'succeeded', usage_source: 'provider', usage: used, model: 'spare' }
    expect(seen.outcomes).toMatchObject([{ ...answer, late }])
  })

  test('is told beside an estimate, too, and never in it', async () => {
    const { ask, seen } = slowly({ first: () => new Response('', { status: 504 }), spare: answeredWith() })

    await ask()

    const usage = { prompt_tokens: 16, completion_tokens: 2 }
    expect(seen.outcomes).toMatchObject([{ usage_source: 'estimated', usage, late }])
  })

  test('is in no estimate of an answer that breaks off', async () => {
    const said = [{ choices: [{ index: 0, delta: { content: 'x'.repeat(40) } }] }, failure(503)]
    const spare = () => new Response(said.map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join(''))
    const { ask, seen } = slowly({ first: () => new Response('', { status: 504 }), spare }, { stream: true })

    await (await ask()).text()

    const usage = { prompt_tokens: 16, completion_tokens: 10 }
    expect(seen.outcomes).toMatchObject([
      { result: 'failed', http_status: 502, usage_source: 'estimated', usage, late },
    ])
  })

  test('is none when the first asking was answered, or only failed', async () => {
    const failsFirst = (asked: number) => (asked === 1 ? new Response('', { status: 503 }) : answeredWith(used)())
    for (const first of [answeredWith(used), failsFirst]) {
      const { ask, seen } = slowly({ first })

      await ask()

      expect(seen.outcomes).toMatchObject([{ result: 'succeeded', late: null }])
    }
  })
})

test('who is seen to leave while a whole answer waits to be settled once more has not got it: 499', async () => {
  const gone = new AbortController()
  const told: Outcome[] = []
  const settle = async (_call: unknown, outcome: Outcome) => {
    told.push(outcome)
    if (told.length > 1) return { settled: true, cost_micros: 1, credits_charged: 1, credits_remaining: 89 }
    gone.abort()
    throw new Error('the database is away')
  }
  const { chat } = createWorld(provider.url, { ledger: { settle } })
  const headers = { authorization: 'Bearer good' }

  await chat({ ...request, stream: false }, { headers, signal: gone.signal })

  const usage = { prompt_tokens: 6, completion_tokens: 8 }
  expect(told).toMatchObject([
    { result: 'succeeded', http_status: 200, usage },
    { result: 'cancelled', http_status: 499, error_code: 'client_closed_request', usage_source: 'provider', usage },
  ])
})

test('the provider is aborted when the caller hangs up', async () => {
  let signal: AbortSignal | null | undefined
  const { chat } = createWorld(provider.url, {
    fetch: (url, init) => {
      signal = init.signal
      return fetch(url, init)
    },
  })
  const answer = await chat({ ...request, model: 'echo+endless' })

  await answer.body?.cancel()

  expect(signal?.aborted).toBe(true)
})

/** A provider that says `word` for ever and counts how often it was pulled. */
function endlessProvider() {
  const made = { chunks: 0 }
  const chunk = new TextEncoder().encode(
    `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content: 'word' } }] })}\n\n`,
  )
  const pull = (controller: ReadableStreamDefaultController) => {
    made.chunks += 1
    controller.enqueue(chunk)
  }
  return { made, fetch: async () => new Response(new ReadableStream({ pull }, { highWaterMark: 0 })) }
}

test('a slow reader holds the provider back: nothing piles up', async () => {
  const { made, fetch } = endlessProvider()
  const reader = (await createWorld(provider.url, { fetch }).chat(request)).body?.getReader()

  for (let i = 0; i < 20; i += 1) await reader?.read()
  await new Promise((done) => setImmediate(done))

  expect(made.chunks).toBeLessThanOrEqual(22)
  await reader?.cancel()
})

test('a caller who stops reading does not keep a call open for ever', async () => {
  const { fetch } = endlessProvider()
  const world = createWorld(provider.url, { fetch }, 5_000, 50)
  const settled = new Promise<void>((done) => {
    const watch = setInterval(() => world.seen.outcomes.length > 0 && done(clearInterval(watch)), 5)
  })
  const reader = (await world.chat(request)).body?.getReader()

  await reader?.read()
  await settled

  expect(world.seen.outcomes).toMatchObject([{ result: 'failed', http_status: 504, usage_source: 'estimated' }])
  expect(world.seen.outcomes[0]?.usage?.completion_tokens).toBeGreaterThanOrEqual(1)
})
