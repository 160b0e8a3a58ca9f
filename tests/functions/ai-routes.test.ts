/** Retries, fallback and what the breaker is told. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { delayMs } from '../../functions/_shared/ai/call-provider.ts'
import type { Admission, Route } from '../../functions/_shared/ai/ledger.ts'
import { AppError } from '../../functions/_shared/errors.ts'
import { admittedTo, type Changes, callsOf, createWorld, messages, routeTo, startProvider } from './ai-world.ts'

let provider: Awaited<ReturnType<typeof startProvider>>
beforeAll(async () => {
  provider = await startProvider()
})
afterAll(() => provider.close())

/** A world whose ledger admits with these routes, and which notes how long it was asked to wait. */
function worldWith(models: (string | Route)[], changes: Changes = {}) {
  const base = `${provider.url}/v1`
  const routes = models.map((model) => (typeof model === 'string' ? routeTo(base, model) : model))
  const waits: number[] = []
  const world = createWorld(provider.url, {
    ledger: { admit: async (): Promise<Admission> => ({ ...admittedTo(base, 'echo'), routes }) },
    sleep: async (ms) => {
      if (ms !== 1_500) waits.push(ms) // The patience with a settlement is another matter.
      await new Promise((done) => setTimeout(done, ms === 1_500 ? ms : 1))
    },
    ...changes,
  })
  const ask = (stream: boolean, more: object = {}) => world.chat({ model: 'asked', messages, stream, ...more })
  return { ...world, waits, ask }
}

const facts = ({ status, headers }: Response) => [status, headers.get('x-attempts'), headers.get('x-model-used')]
const failures = (count: number, model: string) =>
  Array.from({ length: count }, () => ({
    ...{ provider: 'demo', model, user_id: admittedTo('', model).user_id },
    ...{ ok: false, error_code: 'upstream_error' },
  }))

test.each([true, false])('a provider that fails once is asked again (stream: %s)', async (stream) => {
  const { seen, ask, background } = worldWith(['echo+flaky'])

  const answer = await ask(stream)
  const text = await answer.text()
  await Promise.all(background)

  expect(facts(answer)).toEqual([200, '2', 'echo+flaky'])
  expect(text).toContain('world')
  expect(seen.outcomes).toMatchObject([{ result: 'succeeded', attempts: 2, model: 'echo+flaky' }])
  expect(seen.reports.map(({ ok }) => ok)).toEqual([false, true])
})

test.each([
  ['echo+500', 3],
  ['echo+503', 3],
  ['echo+error-first', 3],
  ['echo+429', 0],
])('%s three times, then the next route answers; the breaker hears of %i', async (model, reported) => {
  const { seen, ask } = worldWith([model, 'echo'])

  const answer = await ask(true)
  await answer.text()

  expect(facts(answer)).toEqual([200, '4', 'echo'])
  expect(seen.outcomes).toMatchObject([{ result: 'succeeded', attempts: 4, model: 'echo' }])
  expect(seen.reports.filter(({ ok }) => !ok)).toEqual(failures(reported, model))
})

test.each([
  ['echo+400', 400],
  ['echo+401', 502],
  ['nothing', 502],
])('%s is neither tried again nor asked elsewhere, and the breaker hears nothing', async (model, status) => {
  const { seen, ask } = worldWith([model, 'echo'])

  const answer = await ask(true)

  expect(facts(answer)).toEqual([status, '1', model])
  expect(seen.outcomes).toMatchObject([{ result: 'failed', usage: null, attempts: 1, model: null }])
  expect(seen.reports).toEqual([])
})

test('when all routes fail, the caller gets the last failure and pays nothing', async () => {
  const { seen, ask } = worldWith(['echo+500', 'echo+503'])

  const answer = await ask(false)

  expect(facts(answer)).toEqual([502, '6', 'echo+503'])
  expect(seen.outcomes).toMatchObject([{ result: 'failed', usage: null, attempts: 6, model: null }])
})

test.each(['echo+reset', 'echo+error-middle', 'echo+garbage'])(
  '%s: once something was delivered nothing is asked again, and the breaker hears of it',
  async (model) => {
    const { seen, ask } = worldWith([model, 'echo'])

    const answer = await ask(true)
    await answer.text()

    expect(facts(answer)).toEqual([200, '1', model])
    expect(seen.outcomes).toMatchObject([{ result: 'failed', model }])
    expect(seen.reports).toEqual(failures(1, model))
  },
)

test('a JSON answer that breaks off was delivered to nobody, and is asked for again', async () => {
  const { seen, ask } = worldWith(['echo+reset', 'echo'])

  expect(facts(await ask(false))).toEqual([200, '4', 'echo'])
  expect(seen.reports.filter(({ ok }) => !ok)).toEqual(failures(3, 'echo+reset'))
})

test.each(['echo+hang', 'echo+hang-body'])('%s: silence before the first byte is tried again', async (model) => {
  const impatient = { connect_timeout_ms: 20, first_byte_timeout_ms: 30 }
  for (const stream of [true, false]) {
    const { seen, ask } = worldWith([routeTo(`${provider.url}/v1`, model, impatient), 'echo'])

    expect(facts(await ask(stream))).toEqual([200, '4', 'echo'])
    expect(seen.reports.flatMap(({ error_code }) => error_code ?? [])).toEqual(Array(3).fill('upstream_timeout'))
  }
})

test('a connection that cannot be made is tried again', async () => {
  let tries = 0
  const { ask } = worldWith(['echo'], {
    fetch: (url, init) => {
      tries += 1
      return tries < 3 ? Promise.reject(new TypeError('connection refused')) : fetch(url, init)
    },
  })

  expect(facts(await ask(false))).toEqual([200, '3', 'echo'])
})

test.each([
  ['echo+429', 1_000],
  ['echo+429-date', 1_000],
])('%s: no try comes sooner than the provider asks', async (model, leastMs) => {
  const { ask, waits } = worldWith([model])

  expect((await ask(false)).status).toBe(429)
  expect(waits).toHaveLength(2)
  for (const wait of waits) expect(wait).toBeGreaterThanOrEqual(leastMs)
})

test('a provider that wants a long rest is left for the next one at once', async () => {
  const busy = () => new Response('{}', { status: 429, headers: { 'retry-after': '60' } })
  const sent: unknown[] = []
  const ask = (models: string[]) =>
    worldWith(models, {
      fetch: async (url, init) => {
        sent.push(init.body)
        return sent.length === 1 ? busy() : fetch(url, init)
      },
    })
  const two = ask(['echo', 'echo+slow'])

  expect(facts(await two.ask(false))).toEqual([200, '2', 'echo+slow'])
  expect(two.waits).toEqual([])

  sent.length = 0
  const one = ask(['echo'])
  expect((await one.ask(false)).headers.get('retry-after')).toBe('60')
})

test('delays double, half of each is chance, and only what may pass is waited for', () => {
  const failed = new AppError('upstream_error')

  expect([1, 2].map((tries) => delayMs(failed, tries, 0))).toEqual([125, 250])
  expect([1, 2].map((tries) => delayMs(failed, tries, 1))).toEqual([250, 500])
  expect(delayMs(new AppError('upstream_error', { retryAfterS: 10 }), 1, 0)).toBe(10_000)
  expect(delayMs(new AppError('upstream_error', { retryAfterS: 11 }), 1, 0)).toBeUndefined()
  expect(delayMs(new AppError('invalid_request_error'), 1, 0)).toBeUndefined()
})

test('each route gets its own name of the model, its own field for the limit and no more output than was held for it', async () => {
  const small = { ...routeTo(`${provider.url}/v1`, 'echo+500'), model: 'big', max_output_tokens: 7 }
  const way = { ...routeTo(`${provider.url}/v1`, 'echo'), limit_field: 'max_completion_tokens' as const }
  const large = { ...way, model: 'spare', max_output_tokens: 9 }
  const tag = crypto.randomUUID()
  const { ask } = worldWith([small, large])

  const answer = await ask(false, { user: tag, max_completion_tokens: 99 })
  const calls = await callsOf(provider.url, tag)

  expect(facts(answer)).toEqual([200, '4', 'spare'])
  const sent = calls.map(({ body }) => [body.model, body.max_tokens, body.max_completion_tokens])
  expect(sent).toEqual([...Array(3).fill(['echo+500', 7, undefined]), ['echo', undefined, 9]])
})

test('a provider whose key is missing is left out', async () => {
  const keyless = routeTo(`${provider.url}/v1`, 'echo')
  const { ask } = worldWith(['echo+slow', { ...keyless, provider: { ...keyless.provider, api_key_secret: null } }], {
    providerKey: async () => undefined,
  })

  expect(facts(await ask(false))).toEqual([200, '1', 'echo'])
})

test('a caller who hangs up while the gateway waits to try again ends the call', async () => {
  const gone = new AbortController()
  const { seen, chat } = worldWith(['echo+500', 'echo'], {
    sleep: (ms) => {
      if (ms < 1_000) gone.abort()
      return new Promise((done) => setTimeout(done, ms < 1_000 ? 60_000 : 1).unref())
    },
  })

  await chat({ model: 'asked', messages }, { headers: { authorization: 'Bearer good' }, signal: gone.signal })

  expect(seen.outcomes).toMatchObject([{ result: 'failed', http_status: 499, attempts: 1, usage: null }])
})

test('a hang-up tells the breaker nothing', async () => {
  const { seen, ask } = worldWith(['echo+endless'])
  const reader = (await ask(true)).body?.getReader()

  await reader?.read()
  await reader?.cancel()

  expect(seen.outcomes).toMatchObject([{ http_status: 499 }])
  expect(seen.reports).toEqual([])
})

test("a provider that fails with the caller's own key, or answers with it, tells the breaker nothing", async () => {
  const own = (model: string): Route => ({ ...routeTo(`${provider.url}/v1`, model), api_key: 'sk-own' })
  const failing = worldWith([own('echo+500')])
  const good = worldWith([own('echo')])

  expect((await failing.ask(false)).status).toBe(502)
  expect((await good.ask(false)).status).toBe(200)

  expect([...failing.seen.reports, ...good.seen.reports]).toEqual([])
})

test('that all is well is told once in ten seconds, and at once after a failure', async () => {
  let now = Date.now()
  const { seen, chat } = createWorld(provider.url, { now: () => now })
  const ask = async (model: string) => (await chat({ model, messages })).text()
  const told = () => seen.reports.splice(0).map(({ ok }) => ok)

  for (const _ of [1, 2, 3]) await ask('echo')
  expect(told()).toEqual([true])
  now += 10_000
  await ask('echo')
  expect(told()).toEqual([true])
  await ask('echo+flaky')
  expect(told()).toEqual([false, true])
  await ask('echo+reset')
  expect(told()).toEqual([false, false, false])
})
