/** What one connection may cost the local Realtime endpoint, and how a client comes back: on an endpoint of its own. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import postgres from 'postgres'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { readConfig } from '../../stack/config.ts'
import { localDbUrl } from '../../stack/platform/bootstrap.ts'
import { createRealtime, type Realtime } from '../../stack/platform/realtime.ts'
import { type Scratch, startScratch } from '../../stack/platform/scratch.ts'
import { closeRealtimeClients, listenTo, realtimeClient, subscribed } from '../support/realtime.ts'

const limits = {
  channels: 3,
  joinsPerSecond: 20,
  messagesPerSecond: 5,
  messageBytes: 10_000,
  unreadBytes: 100_000,
  idleMs: 1_500,
  recheckMs: 100,
}

let scratch: Scratch
let realtime: Realtime
let sql: postgres.Sql
let place: { url: string; key: string }
const sockets: Duplex[] = []
const logs: string[] = []
const server = createServer()

beforeAll(async () => {
  scratch = await startScratch()
  const database = `realtime_${process.pid}`
  sql = postgres(await scratch.createDatabase(database), { max: 2, onnotice: () => {} })
  await sql`create policy "all hear" on realtime.messages for select to anon using (true)`
  realtime = await createRealtime({
    config: readConfig({}).platform,
    keys: scratch.keys,
    dbUrl: (role) => localDbUrl(scratch.port, scratch.keys, role, database),
    limits,
    log: (line) => logs.push(line),
  })
  server.on('upgrade', (request, socket, head) => {
    sockets.push(socket)
    realtime.upgrade(request, socket, head)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  place = { url: `http://127.0.0.1:${port}`, key: scratch.keys.publishableKey }
})
afterEach(closeRealtimeClients)
afterAll(async () => {
  await realtime?.close()
  server.close()
  // The driver waits without end for a connection that the crash took while it was busy.
  await sql?.end({ timeout: 1 })
  await scratch?.stop()
})

const client = () => realtimeClient(null, { heartbeatIntervalMs: 200, reconnectAfterMs: () => 10 }, place)

/** A bare WebSocket with what it received, and its close code once it is closed. */
async function bareSocket(vsn = '2.0.0') {
  const socket = new WebSocket(
    `${place.url.replace('http', 'ws')}/realtime/v1/websocket?apikey=${place.key}&vsn=${vsn}`,
  )
  const received: string[] = []
  const closed: { code?: number } = {}
  socket.on('message', (data) => received.push(String(data)))
  socket.on('close', (code) => Object.assign(closed, { code }))
  await new Promise<void>((resolve, reject) => socket.once('open', resolve).once('error', reject))
  return { socket, received, closed }
}
const heartbeat = JSON.stringify([null, '1', 'phoenix', 'heartbeat', {}])
const joinFrame = (topic: string, ref = '1') =>
  JSON.stringify([ref, ref, `realtime:${topic}`, 'phx_join', { config: {} }])
const broadcastFrame = (topic: string, payload: unknown) =>
  JSON.stringify(['1', null, `realtime:${topic}`, 'broadcast', { type: 'broadcast', event: 'e', payload }])
const send = (topic: string, event: string, payload = {}) =>
  sql`select realtime.send(${sql.json(payload)}, ${event}, ${topic})`

test('a private channel whose policies let it in no more ends by itself, and others go on', async () => {
  const { socket, received } = await bareSocket()
  const join = (topic: string) =>
    socket.send(JSON.stringify([topic, topic, `realtime:${topic}`, 'phx_join', { config: { private: true } }]))
  const beat = setInterval(() => socket.send(heartbeat), 200)
  const heard = (topic: string, event: string) =>
    received.filter((frame) => frame.includes(`"realtime:${topic}"`) && frame.includes(`"${event}"`)).length
  for (const topic of ['ends', 'lasts']) join(topic)
  await expect.poll(() => [heard('ends', 'phx_reply'), heard('lasts', 'phx_reply')]).toEqual([1, 1])

  await sql`create policy "closed" on realtime.messages as restrictive for select to anon using (topic <> 'ends')`
  await expect.poll(() => heard('ends', 'phx_close'), { timeout: 10_000 }).toBe(1)
  await sql`drop policy "closed" on realtime.messages`
  for (const topic of ['ends', 'lasts']) await send(topic, 'later')
  await expect.poll(() => heard('lasts', 'later')).toBe(1)

  expect(received.join()).toContain('You do not have permissions to read from this Channel topic: ends')
  expect([heard('ends', 'later'), heard('lasts', 'phx_close')]).toEqual([0, 0])
  clearInterval(beat)
  socket.close()
})

describe('a connection is closed', () => {
  test('when it says nothing for a while; a heartbeat keeps it', async () => {
    const [silent, alive] = await Promise.all([bareSocket(), bareSocket()])
    const beat = setInterval(() => alive.socket.send(heartbeat), 50)

    await expect.poll(() => silent.closed.code).toBe(1000)
    clearInterval(beat)

    expect(alive.closed).toEqual({})
    expect(alive.received[0]).toBe('[null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]')
    alive.socket.close()
  })

  test('when it sends what is no frame: garbage, another version, a broken binary', async () => {
    const broken: [string, string | Buffer][] = [
      ['2.0.0', 'garbage'],
      ['2.0.0', '{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"}'],
      ['1.0.0', '[null,"1","phoenix","heartbeat",{}]'],
      ['1.0.0', Buffer.from([3, 0, 0, 0, 0, 0, 1])],
      ['2.0.0', Buffer.from([3, 1, 1, 200, 1, 0, 1, 49])],
      ['2.0.0', Buffer.alloc(0)],
    ]

    for (const [vsn, data] of broken) {
      const { socket, closed } = await bareSocket(vsn)
      socket.send(data)
      await expect.poll(() => closed.code).toBe(1008)
    }
  })

  test('when a frame is too large', async () => {
    const { socket, closed } = await bareSocket()

    socket.send(broadcastFrame('a', 'x'.repeat(20_000)))

    await expect.poll(() => closed.code).toBe(1009)
  })

  test('when it joins too often', async () => {
    const { socket, received, closed } = await bareSocket()

    for (let n = 0; n < 60; n += 1) socket.send(joinFrame('a', String(n)))

    await expect.poll(() => closed.code).toBe(1008)
    expect(received.at(-1)).toContain('ClientJoinRateLimitReached')
  })

  test('when it does not read what comes, so that it costs no memory', async () => {
    const slow = await bareSocket()
    slow.socket.send(joinFrame('flood'))
    await expect.poll(() => slow.received.length).toBe(1)
    slow.socket.pause()
    const beat = setInterval(() => slow.socket.send(heartbeat), 50)
    const connection = sockets.at(-1)

    // The system's own buffers take some megabytes first.
    for (let n = 0; n < 60 && !connection?.destroyed; n += 1) {
      await sql`
        select realtime.send(jsonb_build_object('text', repeat('x', 9000)), 'flood', 'flood', false) from generate_series(1, 50)`
    }

    await expect.poll(() => connection?.destroyed).toBe(true)
    clearInterval(beat)
    slow.socket.terminate()
  })
})

test('more channels than a connection may have are refused, and a left one makes room', async () => {
  const anon = await client()
  const joined = []
  for (const topic of ['a', 'b', 'c', 'd']) joined.push(await listenTo(anon, topic))

  expect(joined.map(({ result }) => result)).toEqual([
    subscribed,
    subscribed,
    subscribed,
    { status: 'CHANNEL_ERROR', reason: 'ChannelRateLimitReached: Too many channels' },
  ])
  for (const { channel } of joined.slice(2)) await anon.removeChannel(channel)
  expect((await listenTo(anon, 'e')).result).toEqual(subscribed)
})

test('a channel that sends too much is closed with a reason', async () => {
  const anon = await client()
  const { channel, result } = await listenTo(anon, 'busy', { private: false })
  const reasons: unknown[] = []
  channel.on('system', {}, ({ message }) => reasons.push(message))

  for (let n = 0; n < 30; n += 1) await channel.send({ type: 'broadcast', event: 'e', payload: {} })

  expect(result).toEqual(subscribed)
  await expect.poll(() => reasons).toEqual(['Too many messages per second'])
  await expect.poll(() => channel.state).toBe('closed')
})

test('a message that is too large is not delivered, and the log names it', async () => {
  const { received } = await listenTo(await client(), 'large')

  await send('large', 'too large', { text: 'x'.repeat(20_000) })
  await send('large', 'small')

  await expect.poll(() => received.map(({ event }) => event)).toEqual(['small'])
  expect(logs.join()).toMatch(/message [0-9a-f-]{36} is larger than 10000 bytes/)
})

test('a client comes back by itself when its connection breaks', async () => {
  const anon = await client()
  const { channel, received } = await listenTo(anon, 'back')

  const before = sockets.length
  sockets.at(-1)?.destroy()
  await expect.poll(() => sockets.length).toBeGreaterThan(before)
  await expect.poll(() => channel.state).toBe('joined')
  await send('back', 'again')

  await expect.poll(() => received.map(({ event }) => event)).toEqual(['again'])
})

test('delivery goes on after the database crashed', async () => {
  const anon = await client()
  const { received } = await listenTo(anon, 'crash')

  await scratch.crash()

  await expect
    .poll(async () => {
      await send('crash', 'after').catch(() => {})
      return received.length
    })
    .toBeGreaterThan(0)
})

test('messages are thrown away after three days', async () => {
  await sql`insert into realtime.messages (topic, extension, inserted_at) values ('old', 'broadcast', now() - interval '73 hours')`
  await sql`insert into realtime.messages (topic, extension, inserted_at) values ('old', 'broadcast', now() - interval '71 hours')`

  await realtime.clean()

  const rows = await sql`select from realtime.messages where topic = 'old'`
  expect(rows).toHaveLength(1)
})
