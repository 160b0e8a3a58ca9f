/** The frames of one connection when joins, leaves, tokens and the database overtake each other; without a database. */
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { WebSocket, WebSocketServer } from 'ws'
import type { World } from '../../stack/platform/realtime/channel.ts'
import { serveConnection } from '../../stack/platform/realtime/connection.ts'
import { hostedLimits } from '../../stack/platform/realtime/limits.ts'
import { createTopics } from '../../stack/platform/realtime/topics.ts'

type Json = [joinRef: string | null, ref: string | null, topic: string, event: string, payload: unknown]

const topic = 'realtime:room'
/** Of every token, in seconds; its subject may receive unless the answer is held back. */
const expiry = 1_000

let now: number
/** Each question for a permission that the database has not answered yet. */
let asked: ((answer: boolean) => void)[]
let answersAtOnce: boolean
let topics: World['topics']
let server: WebSocketServer
let socket: WebSocket
let received: Json[]

beforeEach(async () => {
  now = 0
  asked = []
  answersAtOnce = true
  received = []
  topics = createTopics()
  server = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  server.on('connection', (client) => serveConnection(world(), client, '2.0.0', 'anon'))
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  socket = new WebSocket(`ws://127.0.0.1:${port}`)
  socket.on('message', (data) => received.push(JSON.parse(String(data))))
  await once(socket, 'open')
})
afterEach(() => {
  for (const client of server.clients) client.terminate()
  server.close()
})

function world(): World {
  const permission = async () =>
    answersAtOnce || new Promise<boolean>((resolve) => asked.push((answer) => resolve(answer)))
  const claims = { sub: crypto.randomUUID(), session_id: crypto.randomUUID(), exp: expiry }
  return {
    permissions: { mayReceive: permission, maySend: permission },
    tokens: {
      issuer: '',
      sign: async () => '',
      signRole: async () => '',
      verify: async () => ({ claims: { ...claims, aud: 'authenticated', role: 'authenticated' } }),
    },
    topics,
    limits: hostedLimits,
    now: () => now,
    log: () => {},
  }
}

const push = (...frame: Json) => socket.send(JSON.stringify(frame))
const join = (ref: string) =>
  push(ref, ref, topic, 'phx_join', { config: { private: true }, access_token: `a.b.${ref}` })
const ok = (joinRef: string | null, ref: string, response: unknown = {}) =>
  [joinRef, ref, topic, 'phx_reply', { status: 'ok', response }] satisfies Json
const joined = (ref: string) => ok(ref, ref, { postgres_changes: [] })
const closed = (ref: string): Json => [ref, ref, topic, 'phx_close', {}]
const expired = (ref: string): Json => [
  ref,
  null,
  topic,
  'system',
  { extension: 'system', status: 'error', message: 'Token has expired', channel: 'room' },
]
const message: Json = [null, null, topic, 'broadcast', { type: 'broadcast', event: 'e' }]
const deliver = () => topics.deliver({ name: 'room', isPrivate: true }, { type: 'broadcast', event: 'e' })

/** Everything that the server had to say to the frames so far. */
async function answers(): Promise<Json[]> {
  push(null, 'done', 'phoenix', 'heartbeat', {})
  await expect.poll(() => received.at(-1)?.[1]).toBe('done')
  return received.splice(0).slice(0, -1)
}

test('a leave ends the join that it names, and is answered with a reply and a close', async () => {
  join('1')
  push('1', '2', topic, 'phx_leave', {})

  expect(await answers()).toEqual([joined('1'), ok('1', '2'), closed('1')])
  deliver()
  expect(await answers()).toEqual([])
})

test('a leave that names an earlier join leaves the present one alone', async () => {
  join('1')
  push('1', '2', topic, 'phx_leave', {})
  join('3')
  push('1', '4', topic, 'phx_leave', {})
  await answers()

  deliver()

  expect(await answers()).toEqual([message])
})

test('a leave of what is not joined succeeds', async () => {
  push('1', '2', topic, 'phx_leave', {})

  expect(await answers()).toEqual([ok('1', '2')])
})

test('a second join of a topic closes the first, and a message comes once', async () => {
  join('1')
  join('2')

  expect(await answers()).toEqual([joined('1'), closed('1'), joined('2')])
  deliver()
  expect(await answers()).toEqual([message])
})

test('a leave that overtakes the answer to its join takes effect after it', async () => {
  answersAtOnce = false
  join('1')
  push('1', '2', topic, 'phx_leave', {})
  await expect.poll(() => asked).toHaveLength(1)

  asked[0]?.(true)

  expect(await answers()).toEqual([joined('1'), ok('1', '2'), closed('1')])
})

test('a connection that ends while it joins hears nothing', async () => {
  answersAtOnce = false
  join('1')
  await expect.poll(() => asked).toHaveLength(1)
  const added: unknown[] = []
  topics.add = (name) => added.push(name)

  socket.close()
  await expect.poll(() => server.clients.size).toBe(0)
  asked[0]?.(true)
  await new Promise(setImmediate)

  expect(added).toEqual([])
})

test('a token that expires while it joins ends the channel, which is then not there', async () => {
  answersAtOnce = false
  join('1')
  await expect.poll(() => asked).toHaveLength(1)

  now = expiry * 1000
  asked[0]?.(true)
  await expect.poll(() => received).toEqual([joined('1'), expired('1'), closed('1')])
  push('1', '2', topic, 'broadcast', { type: 'broadcast', event: 'e' })

  const [, , , unmatched] = await answers()
  expect(unmatched?.[4]).toEqual({ status: 'error', response: { reason: 'unmatched topic' } })
})

test('a token that expires while a new one is looked at ends the channel once', async () => {
  now = expiry * 1000 - 1
  join('1')
  await answers()
  answersAtOnce = false
  push('1', '2', topic, 'access_token', { access_token: 'a.new.token' })
  await expect.poll(() => asked).toHaveLength(1)

  now = expiry * 1000
  await expect.poll(() => received).toEqual([expired('1'), closed('1')])
  asked[0]?.(false)

  expect(await answers()).toEqual([expired('1'), closed('1')])
})

test('a broadcast that waited for its permission is not sent when its token expired meanwhile', async () => {
  now = expiry * 1000 - 1
  join('1')
  await answers()
  answersAtOnce = false
  push('1', '2', topic, 'broadcast', { type: 'broadcast', event: 'e' })
  await expect.poll(() => asked).toHaveLength(1)
  const heard: unknown[] = []
  topics.add({ name: 'room', isPrivate: true }, { version: '2.0.0', write: (data) => heard.push(data) })

  now = expiry * 1000
  await expect.poll(() => received).toEqual([expired('1'), closed('1')])
  asked[0]?.(true)

  await answers()
  expect(heard).toEqual([])
})
