/** Headers of answers: docs/requests.md lists them, a browser may read them, and there are no others. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { corsHeaders } from '../../functions/_shared/http/cors.ts'
import { root } from '../../stack/config.ts'
import { admittedTo, type Changes, createWorld, messages, startProvider } from './ai-world.ts'

let provider: Awaited<ReturnType<typeof startProvider>>
beforeAll(async () => {
  provider = await startProvider()
})
afterAll(() => provider.close())

const page = readFileSync(join(root, 'docs', 'requests.md'), 'utf8')
const chapter = (title: string) => page.split(`\n## ${title}\n`)[1]?.split('\n## ')[0] ?? ''
const documented = [...chapter('Headers of answers').matchAll(/^\| `([a-z-]+)`/gm)].map(([, name]) => name)

/** Those that every browser reads, or that are for what is between us and the caller. */
const ordinary = /^(content-type|cache-control|x-accel-buffering|allow|vary|access-control-.*)$/

test('docs/requests.md lists what a browser may read', () => {
  expect([...documented].sort()).toEqual(corsHeaders['access-control-expose-headers'].split(', ').sort())
})

const resets_at = '2999-01-01T00:00:00Z'
const limitOf = (meter: string) => ({ meter, period: 'day', amount: 10, remaining: 1, resets_at })
const refusing = (code: string, meter: string): Changes => ({
  ledger: { admit: async () => ({ admitted: false, code, details: { limit: limitOf(meter), resets_at } }) },
})
const replaying: Changes = {
  ledger: {
    admit: async () => ({
      admitted: false,
      code: 'idempotency_replay',
      replay: { content_type: 'application/json', model: 'echo', body: '{}' },
    }),
  },
}
const withLimits: Changes = {
  ledger: {
    admit: async ({ model }) => ({
      ...admittedTo(`${provider.url}/v1`, model),
      limits: [limitOf('ai_requests'), limitOf('ai_tokens')],
    }),
  },
}

test('every header of an answer is listed, and each that is listed is set by one', async () => {
  const question = { model: 'echo', messages }
  const answers = [
    await createWorld(provider.url, withLimits).chat(question),
    await createWorld(provider.url).chat({ ...question, stream: true }),
    await createWorld(provider.url).chat({ ...question, model: 'echo+status-500' }),
    await createWorld(provider.url, replaying).chat(question),
    await createWorld(provider.url, refusing('daily_quota_exceeded', 'ai_calls')).chat(question),
    await createWorld(provider.url, refusing('insufficient_credits', 'credits')).chat(question),
    await createWorld(provider.url).chat('{'),
    ...(await Promise.all(
      ['/models', '/models/demo/echo', '/nothing'].map((path) => createWorld(provider.url).send(path)),
    )),
    await createWorld(provider.url).send('/models', { method: 'OPTIONS' }),
    await createWorld(provider.url).send('/embeddings'),
    await createWorld(provider.url).send('/models', { headers: {} }),
  ]

  const set = new Set(answers.flatMap(({ headers }) => [...headers.keys()]).filter((name) => !ordinary.test(name)))

  expect([...set].sort()).toEqual([...documented].sort())
})

test('docs/requests.md lists the paths, and each takes the method that it says', async () => {
  const rows = [...chapter('Paths').matchAll(/^\| `\/ai\/v1(\/[a-z/]+)`.*?\| (GET|POST) /gm)]

  const taken = rows.map(async ([, path = '', method = '']) => {
    const [right, wrong] = [{ method }, { method: method === 'GET' ? 'POST' : 'GET' }]
    const { send } = createWorld(provider.url)
    const headers = { authorization: 'Bearer good' }
    return [(await send(path, { ...right, headers })).status, (await send(path, { ...wrong, headers })).status]
  })

  expect(rows).toHaveLength(4)
  for (const [right, wrong] of await Promise.all(taken))
    expect([right === 200 || right === 400, wrong]).toEqual([true, 405])
})
