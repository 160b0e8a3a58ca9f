/** Bodies of up to 20 MB for models that take media: let in by the caller's plan, few at a time, and nobody keeps the others out. */
import { createHash } from 'node:crypto'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { createRoom, type Room } from '../../functions/_shared/ai/body-room.ts'
import { createWheel } from '../../functions/_shared/wheel.ts'
import { bodyOf, createWorld, startProvider } from './ai-world.ts'

let provider: Awaited<ReturnType<typeof startProvider>>
beforeAll(async () => {
  provider = await startProvider()
})
afterAll(() => provider.close())

const megabyte = 1_000_000
const see = (model: string, megabytes: number, modelFirst = false) => {
  const url = `data:image/png;base64,${'A'.repeat(megabytes * megabyte)}`
  const messages = [{ role: 'user', content: [{ type: 'image_url', image_url: { url } }] }]
  return JSON.stringify(modelFirst ? { model, messages } : { messages, model })
}
const listing = (...ids: string[]) => ({
  takingMedia: async (taken: string[]) => new Set(taken.filter((id) => id === eyes)),
  listModels: async () => ({
    allowed: true as const,
    user_id: 'somebody',
    models: ids.map((id) => ({ id, owned_by: 'demo', created: 0, kind: 'chat' })),
  }),
})
const eyes = 'echo'
const blind = 'echo+no-usage'

/** A body that is sent in pieces, and how many of them were asked for. */
function pieces(text: string) {
  const bytes = new TextEncoder().encode(text)
  const size = 65_536
  let at = 0
  const body = new ReadableStream({
    pull(controller) {
      if (at >= bytes.byteLength) return controller.close()
      controller.enqueue(bytes.subarray(at, at + size))
      at += size
    },
  })
  return { init: { method: 'POST', body, duplex: 'half' } as RequestInit, sent: () => Math.min(at, bytes.byteLength) }
}

test.each([true, false])('a picture of 5 MB reaches a model that takes it; named first: %s', async (modelFirst) => {
  const { seen, chat } = createWorld(provider.url, { ledger: listing(eyes) })

  const answer = await chat(see(eyes, 5, modelFirst))

  expect(answer.status).toBe(200)
  expect(seen.admitted).toMatchObject([{ model: eyes, request_bytes: expect.closeTo(5 * megabyte, -3) }])
})

describe('413 and nothing is asked for', () => {
  test.each<[string, string, string[], boolean]>([
    ['a model that takes no media', blind, [blind], true],
    ['a model that is not in the plan', eyes, [blind], true],
    ['a model that takes no media and comes last', blind, [blind, eyes], false],
  ])('%s', async (_name, model, listed, modelFirst) => {
    const { seen, chat } = createWorld(provider.url, { ledger: listing(...listed) })

    const answer = await chat(see(model, 2, modelFirst))

    expect([answer.status, (await bodyOf(answer)).error?.code]).toEqual([413, 'request_too_large'])
    expect(seen.admitted).toEqual([])
  })

  test('a plan in which no model takes media, after the first megabyte', async () => {
    const { send } = createWorld(provider.url, { ledger: listing(blind) })
    const { init, sent } = pieces(see(eyes, 5))

    expect((await send('/chat/completions', { ...init, headers: { authorization: 'Bearer good' } })).status).toBe(413)
    expect(sent()).toBeLessThan(1.5 * megabyte)
  })

  test('more than 20 MB, before any of it is read when it says so', async () => {
    const { seen, chat, send } = createWorld(provider.url, { ledger: listing(eyes) })
    const { init, sent } = pieces('{}')
    const headers = { authorization: 'Bearer good', 'content-length': '20000001' }

    expect((await chat(see(eyes, 21))).status).toBe(413)
    expect((await send('/chat/completions', { ...init, headers })).status).toBe(413)
    expect(sent()).toBeLessThanOrEqual(65_536)
    expect(seen.admitted).toEqual([])
  })

  test('a model of another name than the one at the beginning', async () => {
    const { chat } = createWorld(provider.url, { ledger: listing(eyes, blind) })
    const twice = see(eyes, 2, true).replace(/}$/, `,"model":"${blind}"}`)

    expect((await chat(twice)).status).toBe(413)
  })

  test('a signed body, whose signature is checked in the database', async () => {
    const { chat } = createWorld(provider.url, { ledger: listing(eyes) })
    const signature = { 'webhook-id': 'a', 'webhook-timestamp': '1', 'webhook-signature': 'v1,a' }
    const headers = { authorization: `Bearer ${apiKey}`, ...signature }

    expect((await chat(see(eyes, 2), { headers })).status).toBe(413)
  })
})

// The form of a key, with the checksum that belongs to it.
const keyOf = (letters: string) => letters + createHash('sha256').update(letters).digest('hex').slice(0, 8)
const apiKey = keyOf('pal_live_0123456789abcdefghjkmnpqrstvwxyz')
const otherKey = keyOf('pal_live_abcdefghjkmnpqrstvwxyz0123456789')

test('a large body of somebody whom nobody knows is not read', async () => {
  const { send } = createWorld(provider.url)
  const { init, sent } = pieces(see(eyes, 5))

  const answer = await send('/chat/completions', { ...init, headers: { authorization: 'Bearer bad' } })

  expect(answer.status).toBe(401)
  expect(sent()).toBeLessThanOrEqual(65_536)
})

test('a key that is not valid is found out after the first megabyte', async () => {
  const refusing = { listModels: async () => ({ allowed: false as const, code: 'invalid_api_key' }) }
  const { send } = createWorld(provider.url, { ledger: refusing })
  const { init, sent } = pieces(see(eyes, 5))

  const answer = await send('/chat/completions', { ...init, headers: { authorization: `Bearer ${apiKey}` } })

  expect(answer.status).toBe(401)
  expect(sent()).toBeLessThan(1.5 * megabyte)
})

/** A room that lets everybody in, and who came. */
function openDoor() {
  const owners: string[] = []
  const enter = async (owner: string) => {
    owners.push(owner)
    return { grow: () => undefined, end: () => {}, leave: () => {} }
  }
  return { owners, room: { enter } }
}

test('a key that does not exist takes no place in the room', async () => {
  const refusing = { listModels: async () => ({ allowed: false as const, code: 'invalid_api_key' }) }
  const { owners, room } = openDoor()
  const { chat } = createWorld(provider.url, { ledger: refusing, room })

  expect((await chat(see(eyes, 2), { headers: { authorization: `Bearer ${apiKey}` } })).status).toBe(401)
  expect(owners).toEqual([])
})

test('a model that is named first and takes no media takes no place in the room', async () => {
  const { owners, room } = openDoor()
  const { chat } = createWorld(provider.url, { ledger: listing(eyes, blind), room })

  expect((await chat(see(blind, 2, true))).status).toBe(413)
  expect(owners).toEqual([])
})

test('several keys of one user are one caller in the room', async () => {
  const { owners, room } = openDoor()
  const { chat } = createWorld(provider.url, { ledger: listing(eyes), room })

  for (const key of [apiKey, otherKey]) {
    expect((await chat(see(eyes, 2), { headers: { authorization: `Bearer ${key}` } })).status).toBe(200)
  }
  expect(owners).toEqual(['somebody', 'somebody'])
})

test('what breaks here while a body is read is our fault, and a body that breaks off is the caller who has gone', async () => {
  const broken = { ...listing(eyes), takingMedia: () => Promise.reject(new Error('a mistake of ours')) }
  const { chat } = createWorld(provider.url, { ledger: broken })
  const { send } = createWorld(provider.url)
  const body = new ReadableStream({ pull: (controller) => controller.error(new Error('gone')) })
  const init = { method: 'POST', body, duplex: 'half', headers: { authorization: 'Bearer good' } } as RequestInit

  expect([(await chat(see(eyes, 2))).status, (await send('/chat/completions', init)).status]).toEqual([500, 499])
})

describe('the room for large bodies', () => {
  /** A wheel that is turned by hand. */
  const openRoom = (bytes: number) => {
    const looks = new Set<(now: number) => void>()
    const room = createRoom((look) => {
      looks.add(look)
      return () => void looks.delete(look)
    }, bytes)
    const turn = (ms: number) => {
      for (const look of [...looks]) look(performance.now() + ms)
    }
    return { room, turn, looks }
  }
  /** A body of which all has come. */
  const enter = async (room: Room, owner: string, bytes: number) => {
    const place = await room.enter(owner, bytes, bytes)
    return () => place.leave(true)
  }
  const entered = (entering: Promise<unknown>) => {
    const done = vi.fn()
    entering.then(done, done)
    return done
  }
  const settled = () => new Promise((done) => setImmediate(done))

  test('is for so many bytes, and who comes later waits until somebody leaves', async () => {
    const { room } = openRoom(30)
    const leave = await enter(room, 'a', 20)
    const waiting = entered(enter(room, 'b', 20))
    await settled()
    expect(waiting).not.toHaveBeenCalled()

    leave()
    await settled()

    expect(waiting).toHaveBeenCalledOnce()
  })

  test('is never more than full, however often somebody says that they leave', async () => {
    const { room } = openRoom(30)
    const leave = await enter(room, 'a', 20)
    leave()
    leave()
    await enter(room, 'b', 20)
    const waiting = entered(enter(room, 'c', 20))
    await settled()

    expect(waiting).not.toHaveBeenCalled()
  })

  test('has one of each caller, who does not keep others out', async () => {
    const { room } = openRoom(30)
    await enter(room, 'a', 10)
    const again = entered(enter(room, 'a', 10))
    const other = entered(enter(room, 'b', 10))
    await settled()

    expect([again.mock.calls.length, other.mock.calls.length]).toEqual([0, 1])
    await expect(enter(room, 'a', 10)).rejects.toMatchObject({ code: 'concurrency_limit', status: 429 })
  })

  test('is not passed by small ones while a large one waits', async () => {
    const { room } = openRoom(30)
    const leave = await enter(room, 'a', 20)
    const large = entered(enter(room, 'b', 30))
    const small = entered(enter(room, 'c', 1))
    await settled()
    expect(small).not.toHaveBeenCalled()

    leave()
    await settled()
    expect([large.mock.calls.length, small.mock.calls.length]).toEqual([1, 0])
  })

  test('refuses who waited too long, with a time to try again, and lets in who can be', async () => {
    const { room, turn, looks } = openRoom(30)
    await enter(room, 'a', 20)
    const refused = expect(enter(room, 'b', 20)).rejects.toMatchObject({
      code: 'concurrency_limit',
      details: { retryAfterS: 2 },
    })
    const small = entered(enter(room, 'c', 5))

    turn(10_000)
    await refused
    await settled()

    expect(small).toHaveBeenCalledOnce()
    expect(looks.size).toBe(0)
  })

  test('is not kept from others by who is slow: a body has what came of it, and what comes in the time that others wait', async () => {
    const { room, turn } = openRoom(30_000)
    const slow = await room.enter('slow', 30_000, 1_000)
    slow.grow(2_000)
    const [fits, doesNot] = [entered(enter(room, 'b', 26_000)), entered(enter(room, 'c', 2_000))]

    // A thousand in two seconds: 2,500 more in five.
    turn(2_000)
    await settled()
    expect([fits.mock.calls.length, doesNot.mock.calls.length]).toEqual([0, 0])
    turn(3_000)
    await settled()

    expect([fits.mock.calls.length, doesNot.mock.calls.length]).toEqual([1, 0])
  })

  test('has no more bytes in it than it is for: who was slow waits for room to go on, before all who come', async () => {
    const { room, turn } = openRoom(30)
    const slow = await room.enter('slow', 30, 1)
    const others = enter(room, 'b', 25)
    turn(4_900)
    const leave = await others
    const more = entered(slow.grow(10) ?? Promise.resolve())
    const late = entered(enter(room, 'c', 4))
    await settled()
    expect([more.mock.calls.length, late.mock.calls.length]).toEqual([0, 0])

    leave()
    await settled()

    expect([more.mock.calls.length, late.mock.calls.length]).toEqual([1, 1])
  })

  test('of two who wait for each other the younger one is refused, and the older one goes on', async () => {
    const { room, turn } = openRoom(30)
    const older = await room.enter('a', 30, 1)
    const entering = room.enter('b', 29, 1)
    turn(4_900)
    const younger = await entering
    const goesOn = entered(older.grow(20) ?? Promise.resolve())
    younger.grow(15)
    const refused = expect(younger.grow(30)).rejects.toMatchObject({ code: 'concurrency_limit' })
    void refused.then(() => younger.leave(false))

    turn(10_000)
    await refused
    await settled()

    expect(goesOn.mock.calls).toEqual([[undefined]])
  })

  test('a body that said no length takes no more than it has once all has come', async () => {
    const { room } = openRoom(30)
    const place = await room.enter('a', 30, 1)
    place.grow(10)
    place.end()

    expect(await enter(room, 'b', 20)).toBeInstanceOf(Function)
  })
})

describe('an owner whose large body became no call', () => {
  beforeEach(() => void vi.useFakeTimers())
  afterEach(() => void vi.useRealTimers())
  const stay = async (room: Room, ms: number, isPaid: boolean) => {
    const place = await room.enter('a', 10, 1)
    vi.advanceTimersByTime(ms)
    place.leave(isPaid)
  }

  test('stays away for as long as it was there, and is told how long', async () => {
    const room = createRoom(createWheel(), 30)
    await stay(room, 20_000, false)
    vi.advanceTimersByTime(5_000)
    const refused = { code: 'concurrency_limit', details: { retryAfterS: 15 } }
    await expect(room.enter('a', 10, 1)).rejects.toMatchObject(refused)
    await room.enter('b', 10, 1)

    vi.advanceTimersByTime(15_000)

    await stay(room, 20_000, true)
    await stay(room, 20_000, false)
  })

  test('a slow one is told that it was, and a second one at once is not read', async () => {
    const { send, seen } = createWorld(provider.url, { ledger: listing(eyes) })
    const ask = () => {
      const body = new ReadableStream({ start: (to) => to.enqueue(new TextEncoder().encode(see(eyes, 1, true))) })
      const headers = { authorization: 'Bearer good' }
      return send('/chat/completions', { method: 'POST', body, duplex: 'half', headers } as RequestInit)
    }
    const slow = ask()
    await vi.advanceTimersByTimeAsync(20_500)
    const [first, second] = [await slow, await ask()]

    expect([first.status, (await bodyOf(first)).error?.message]).toEqual([400, expect.stringContaining('too slowly')])
    expect([second.status, Number(second.headers.get('retry-after'))]).toEqual([429, expect.closeTo(20, -1)])
    expect(seen.admitted).toEqual([])
  })
})
