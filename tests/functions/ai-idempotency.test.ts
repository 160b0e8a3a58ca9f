import { createHash } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Admission } from '../../functions/_shared/ai/ledger.ts'
import { codeOf, createWorld, messages, startProvider } from './ai-world.ts'

let provider: Awaited<ReturnType<typeof startProvider>>
beforeAll(async () => {
  provider = await startProvider()
})
afterAll(() => provider.close())

const withKey = (key: string) => ({ headers: { authorization: 'Bearer good', 'idempotency-key': key } })
const request = { model: 'echo', messages }

test.each(['', 'x'.repeat(256), 'ä', 'tab\there'])(
  'a key of other characters or length is refused: "%s"',
  async (key) => {
    const { seen, chat } = createWorld(provider.url)

    const answer = await chat(request, withKey(key))

    expect(answer.status).toBe(400)
    expect(await answer.json()).toMatchObject({ error: { code: 'invalid_request_error', param: 'idempotency-key' } })
    expect(seen.admitted).toEqual([])
  },
)

test('the key goes to the ledger with the hash of the body as it came; without a key both are null', async () => {
  const { seen, chat } = createWorld(provider.url)
  const body = JSON.stringify(request)

  await chat(body, withKey('k'.repeat(255)))
  await chat(body)

  const body_hash = createHash('sha256').update(body).digest('hex')
  expect(seen.admitted).toMatchObject([
    { idempotency_key: 'k'.repeat(255), body_hash },
    { idempotency_key: null, body_hash: null },
  ])
})

test.each([
  ['a whole answer with a key is kept', 'echo', false, 'key', true],
  ['not without a key', 'echo', false, undefined, false],
  ['not a stream', 'echo', true, 'key', false],
  ['not more than a megabyte', 'echo+big-chunk', false, 'key', false],
  ['not a failure', 'echo+400', false, 'key', false],
])('%s', async (_, model, stream, key, kept) => {
  const { seen, chat } = createWorld(provider.url)

  const text = await (await chat({ ...request, model, stream }, key ? withKey(key) : {})).text()

  expect(seen.outcomes.map(({ response }) => response)).toEqual([kept ? text : null])
  expect(JSON.stringify(seen.log)).not.toContain('brave')
})

const refusedWith = (over: object) => async (): Promise<Admission> => ({ admitted: false, code: 'internal', ...over })

test('the first answer is given again, and says so', async () => {
  const replay = { body: '{"id":"first"}', content_type: 'application/json', model: 'demo/echo' }
  const { seen, chat } = createWorld(provider.url, {
    ledger: { admit: refusedWith({ code: 'idempotency_replay', replay }) },
  })

  const answer = await chat(request, withKey('again'))

  expect([answer.status, await answer.text()]).toEqual([200, replay.body])
  expect(answer.headers.get('idempotency-replayed')).toBe('true')
  expect(answer.headers.get('x-model-used')).toBe('demo/echo')
  expect(answer.headers.get('content-type')).toBe('application/json')
  expect(answer.headers.get('access-control-expose-headers')).toContain('idempotency-replayed')
  expect(seen.outcomes).toEqual([])
})

test.each([
  ['idempotency_replay', 409, 'idempotency_not_replayable', 'false', null],
  ['idempotency_not_replayable', 409, 'idempotency_not_replayable', 'false', null],
  ['idempotency_in_progress', 409, 'idempotency_in_progress', null, '1'],
  ['idempotency_key_reused', 422, 'idempotency_key_reused', null, null],
])('%s without an answer to give is %i %s', async (code, status, told, shouldRetry, retryAfter) => {
  const { chat } = createWorld(provider.url, { ledger: { admit: refusedWith({ code }) } })

  const answer = await chat(request, withKey('again'))

  expect([answer.status, await codeOf(answer)]).toEqual([status, told])
  expect([answer.headers.get('x-should-retry'), answer.headers.get('retry-after')]).toEqual([shouldRetry, retryAfter])
})
