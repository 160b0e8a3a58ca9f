/** Floods of keys that do not exist and of bodies that are no JSON: counted, and refused before a body is read. */
import { createHash } from 'node:crypto'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import type { AnonymousVerdict, LedgerCaller } from '../../functions/_shared/ai/ledger.ts'
import { noteKey, rememberBlocked } from '../../functions/_shared/ai/who-calls.ts'
import { admittedTo, type Changes, codeOf, createWorld, messages, startProvider } from './ai-world.ts'

let provider: Awaited<ReturnType<typeof startProvider>>
beforeAll(async () => {
  provider = await startProvider()
})
afterAll(() => provider.close())

const keyOf = (number: number) => {
  const letters = `pal_live_${String(number).padStart(32, '0')}`
  return letters + createHash('sha256').update(letters).digest('hex').slice(0, 8)
}
const hashOf = (key: string) => createHash('sha256').update(key).digest('hex')
const goodKey = keyOf(0)

/** A ledger that knows one key, a network's limit, and a clock that is turned by hand. */
function createFlood(limit = 1_000, changes: Changes = {}) {
  let now = Date.parse('2026-03-01T12:00:00Z')
  const [asked, counted]: [string[], string[]] = [[], []]
  const blocked = new Map()
  const isGood = (caller: LedgerCaller) => !('api_key_hash' in caller) || caller.api_key_hash === hashOf(goodKey)
  const count = async (ip: string): Promise<AnonymousVerdict> => {
    counted.push(ip)
    return counted.length <= limit ? { allowed: true } : { allowed: false, retry_after_s: 600 }
  }
  const made = createWorld(provider.url, {
    blocked,
    now: () => now,
    ...changes,
    ledger: {
      admit: async (request) => {
        asked.push('admit')
        if (isGood(request)) return admittedTo(`${provider.url}/v1`, request.model)
        return { admitted: false, code: 'invalid_api_key' }
      },
      listModels: async (caller) => {
        asked.push('list')
        return isGood(caller)
          ? { allowed: true, user_id: 'somebody', models: [] }
          : { allowed: false, code: 'invalid_api_key' }
      },
      countAnonymous: rememberBlocked(count, () => now, blocked),
      ...changes.ledger,
    },
  })
  const pass = (ms: number) => {
    now += ms
  }
  return { ...made, asked, counted, pass }
}

const question = JSON.stringify({ model: 'echo', messages })

/** A call whose body tells whether it was read. */
async function ask(flood: ReturnType<typeof createFlood>, token: string, text = question, ip = '203.0.113.7') {
  let wasRead = false
  const pull = (controller: ReadableStreamDefaultController) => {
    wasRead = true
    controller.enqueue(new TextEncoder().encode(text))
    controller.close()
  }
  const body = new ReadableStream({ pull }, { highWaterMark: 0 })
  const headers = { authorization: `Bearer ${token}`, 'x-forwarded-for': ip }
  const answer = await flood.send('/chat/completions', { method: 'POST', body, duplex: 'half', headers } as RequestInit)
  return { status: answer.status, code: answer.ok ? undefined : await codeOf(answer), wasRead, headers: answer.headers }
}

describe('keys that do not exist', () => {
  test('one that was refused is refused for five seconds without a look at its body or at the database', async () => {
    const flood = createFlood()
    expect(await ask(flood, keyOf(1))).toMatchObject({ status: 401, wasRead: true })
    flood.pass(4_999)
    expect(await ask(flood, keyOf(1))).toMatchObject({ status: 401, code: 'invalid_api_key', wasRead: false })
    expect(flood.asked).toEqual(['admit'])

    flood.pass(1)
    expect(await ask(flood, keyOf(1))).toMatchObject({ status: 401, wasRead: true })
    expect(flood.counted).toHaveLength(3)
  })

  test('after the limit of their network no body is read, and the answer says when to come back', async () => {
    const flood = createFlood(2)
    for (const number of [1, 2]) expect(await ask(flood, keyOf(number))).toMatchObject({ status: 401 })
    expect(await ask(flood, keyOf(3))).toMatchObject({ status: 429, code: 'rate_limit_exceeded', wasRead: true })

    const later = await ask(flood, keyOf(4), question, '203.0.113.200')

    expect(later).toMatchObject({ status: 429, code: 'rate_limit_exceeded', wasRead: false })
    expect(later.headers.get('retry-after')).toBe('600')
    expect(flood.counted).toHaveLength(3)
  })

  test('a good key from a network that is over its limit goes on, and is asked about once', async () => {
    const flood = createFlood(0)
    await ask(flood, keyOf(1))
    flood.asked.length = 0

    for (const _ of [1, 2]) expect((await ask(flood, goodKey)).status).toBe(200)

    expect(flood.asked).toEqual(['list', 'admit', 'admit'])
    expect(flood.counted).toHaveLength(1)
  })

  test.each([
    ['no JSON', '{'],
    ['a field too few', '{}'],
    ['too large', `"${'A'.repeat(1_100_000)}"`],
  ])('count when their bodies would be refused anyway: %s', async (_name, text) => {
    const flood = createFlood(1)

    expect(await ask(flood, keyOf(1), text)).toMatchObject({ status: 401, wasRead: true })
    expect(await ask(flood, keyOf(2), text)).toMatchObject({ status: 429 })
    expect(await ask(flood, keyOf(3), text)).toMatchObject({ status: 429, wasRead: false })
  })

  test('a ledger that is away does not hide what is wrong with a body, and is not asked again when it is the reason', async () => {
    const away = async () => {
      throw new Error('away')
    }
    const flood = createFlood(1, { ledger: { listModels: away, admit: away } })

    expect(await ask(flood, keyOf(1), '{')).toMatchObject({ status: 400, code: 'invalid_request_error' })
    expect(await ask(flood, keyOf(1))).toMatchObject({ status: 500 })
    expect(flood.seen.log.filter(({ message }) => message === 'a key was not asked about')).toHaveLength(1)
  })

  test('ten thousand keys are remembered, not more', () => {
    const { world } = createFlood()

    for (let i = 0; i <= 10_000; i += 1) noteKey({ api_key_hash: `${i}`, signature: null, ip: null }, world)

    expect([world.judgedKeys.size, world.judgedKeys.has('0'), world.judgedKeys.has('1')]).toEqual([10_000, false, true])
  })
})

test.each([
  ['203.0.113.1', '203.0.113.255', true],
  ['203.0.113.1', '203.0.114.1', false],
  ['2001:db8:0:12ff::1', '2001:db8::1200:0:0:0:1', true],
  ['2001:db8:0:12ff::1', '2001:db8:0:13ff::1', false],
  ['::ffff:203.0.113.1', '::1', true],
])('%s and %s are one network: %s', async (one, other, isOne) => {
  const asked: string[] = []
  const count = rememberBlocked(
    async (ip) => {
      asked.push(ip)
      return { allowed: false, retry_after_s: 60 }
    },
    () => 0,
  )

  for (const ip of [one, other]) await count(ip, 'ai')

  expect(asked).toEqual(isOne ? [one] : [one, other])
})

describe('bodies that are no JSON', () => {
  const sixty = async (flood: ReturnType<typeof createFlood>, token: string, text: string) => {
    const statuses = new Set<number>()
    for (let i = 0; i < 60; i += 1) statuses.add((await ask(flood, token, text)).status)
    return [...statuses]
  }

  test.each([
    ['a user', 'good'],
    ['a key', goodKey],
  ])('after sixty in a minute none of %s is read until it is over', async (_name, token) => {
    const flood = createFlood()
    expect(await sixty(flood, token, '{')).toEqual([400])
    flood.pass(20_000)
    const answer = await ask(flood, token)
    expect(answer).toMatchObject({ status: 429, code: 'rate_limit_exceeded', wasRead: false })
    expect(answer.headers.get('retry-after')).toBe('40')

    flood.pass(40_000)
    expect(await ask(flood, token)).toMatchObject({ status: 200 })
  })

  test('of one caller stop no other, and ask little of the database', async () => {
    const flood = createFlood()
    await sixty(flood, goodKey, '[]')
    expect(flood.asked).toEqual(['list'])

    expect((await ask(flood, goodKey)).status).toBe(429)
    expect((await ask(flood, 'good')).status).toBe(200)
  })

  test('are not those in which a field is wrong', async () => {
    const flood = createFlood()
    expect(await sixty(flood, 'good', '{"model":"echo"}')).toEqual([400])

    expect((await ask(flood, 'good')).status).toBe(200)
  })

  test('of keys that do not exist are not counted for anybody', async () => {
    const flood = createFlood()

    await ask(flood, keyOf(1), '{')

    expect(flood.world.unreadable.size).toBe(0)
  })
})

describe('bodies that come too slowly', () => {
  beforeEach(() => void vi.useFakeTimers())
  afterEach(() => void vi.useRealTimers())
  /** A body of which nothing comes. */
  const dawdle = async (flood: ReturnType<typeof createFlood>, token: string) => {
    const begun = Promise.withResolvers<void>()
    const body = new ReadableStream({ pull: () => begun.resolve() }, { highWaterMark: 0 })
    const headers = { authorization: `Bearer ${token}`, 'x-forwarded-for': '203.0.113.7' }
    const answer = flood.send('/chat/completions', { method: 'POST', body, duplex: 'half', headers } as RequestInit)
    await begun.promise
    await vi.advanceTimersByTimeAsync(10_500)
    return answer
  }

  test('are refused after ten seconds, as every refusal is, and the connection is free', async () => {
    const answer = await dawdle(createFlood(), 'good')

    expect([answer.status, await codeOf(answer)]).toEqual([400, 'invalid_request_error'])
    expect(answer.headers.get('x-request-id')).toBeTruthy()
  })

  test('count as ten that are no JSON', async () => {
    const flood = createFlood()
    for (let i = 0; i < 6; i += 1) expect((await dawdle(flood, 'good')).status).toBe(400)

    expect(await ask(flood, 'good')).toMatchObject({ status: 429, code: 'rate_limit_exceeded', wasRead: false })
    expect(await ask(flood, goodKey)).toMatchObject({ status: 200 })
  })

  test('of a key that does not exist count for its network', async () => {
    const flood = createFlood(0)

    expect((await dawdle(flood, keyOf(1))).status).toBe(429)
    expect(flood.counted).toHaveLength(1)
  })
})
