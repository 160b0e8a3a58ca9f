/** Requests without a valid token or key, counted by the address they come from. */
import { expect, test } from 'vitest'
import type { AnonymousVerdict } from '../../functions/_shared/ai/ledger.ts'
import { rememberBlocked } from '../../functions/_shared/ai/who-calls.ts'
import { AppError } from '../../functions/_shared/errors.ts'
import { codeOf, createWorld } from './ai-world.ts'

const from = (address: string, authorization = 'Bearer bad') => ({
  headers: { authorization, 'x-forwarded-for': address },
})
const nowhere = 'http://127.0.0.1:9'

test('an address over its limit gets a 429 that says when to come back', async () => {
  const resets_at = new Date(Date.now() + 41_500).toISOString()
  const limit = { meter: 'anonymous_requests', period: '60 seconds', amount: 30, remaining: 0, resets_at }
  const countAnonymous = async () => ({ allowed: false, limit, retry_after_s: 42 })
  const { send } = createWorld(nowhere, { ledger: { countAnonymous } })

  for (const path of ['/models', '/chat/completions', '/embeddings']) {
    const method = path === '/models' ? 'GET' : 'POST'
    const answer = await send(path, { method, ...from('203.0.113.1') })
    expect([answer.status, await codeOf(answer)]).toEqual([429, 'rate_limit_exceeded'])
    expect(answer.headers.get('retry-after')).toBe('42')
    expect(answer.headers.get('x-ratelimit-limit-requests')).toBe('30')
    expect(answer.headers.get('x-ratelimit-remaining-requests')).toBe('0')
    expect(answer.headers.get('x-ratelimit-reset-requests')).toMatch(/^4[0-2]s$/)
  }
})

test('below the limit the answer stays 401, and so it does when the counter is away', async () => {
  const away = () => Promise.reject(new AppError('accounting_unavailable'))

  const { send, seen } = createWorld(nowhere)
  expect((await send('/models', from('203.0.113.1'))).status).toBe(401)
  expect(seen.anonymous).toEqual(['203.0.113.1'])
  const alone = createWorld(nowhere, { ledger: { countAnonymous: away } })
  expect((await alone.send('/models', from('203.0.113.1'))).status).toBe(401)
})

test('a valid caller from the same address is not counted and not blocked', async () => {
  const { send, seen } = createWorld(nowhere, {
    ledger: { countAnonymous: async () => ({ allowed: false }) },
  })

  expect((await send('/models', from('203.0.113.1', 'Bearer good'))).status).toBe(200)
  expect(seen.anonymous).toEqual([])
})

function counter(verdict: AnonymousVerdict) {
  let now = 0
  const asked: string[] = []
  const count = rememberBlocked(
    async (ip) => {
      asked.push(ip)
      return verdict
    },
    () => now,
  )
  return { asked, count, pass: (ms: number) => (now += ms) }
}

test('a blocked address costs no further question until its time is over', async () => {
  const { asked, count, pass } = counter({ allowed: false, retry_after_s: 10 })

  await count('a', 'ai')
  pass(9_999)
  expect(await count('a', 'ai')).toEqual({ allowed: false, retry_after_s: 1 })
  await count('b', 'ai')
  expect(asked).toEqual(['a', 'b'])
  pass(1)
  await count('a', 'ai')
  expect(asked).toEqual(['a', 'b', 'a'])
})

test('an address that is allowed is asked about every time', async () => {
  const { asked, count } = counter({ allowed: true })

  for (const _ of [1, 2, 3]) await count('a', 'ai')

  expect(asked).toHaveLength(3)
})

test('ten thousand blocked addresses are remembered, not more', async () => {
  const { asked, count } = counter({ allowed: false, retry_after_s: 100 })

  for (let i = 0; i <= 10_000; i += 1) await count(`address ${i}`, 'ai')
  await count('address 1', 'ai')
  expect(asked).toHaveLength(10_001)
  await count('address 0', 'ai')
  expect(asked).toHaveLength(10_002)
})
