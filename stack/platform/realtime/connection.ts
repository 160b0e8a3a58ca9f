/** One WebSocket: its frames in their order, its channels, its limits. */
import type { WebSocket } from 'ws'
import { z } from 'zod'
import type { ApiRole } from '../gateway/tokens.ts'
import { type Channel, type ChannelConfig, type Connection, noReading, openChannel, type World } from './channel.ts'
import { decodeFrame, encodeFrame, type Frame, type Version } from './frames.ts'
import { createRate } from './limits.ts'
import { type Pass, readPass } from './permissions.ts'

const policyViolation = 1008
/** Frames that wait for the database; a client that sends more is not one of ours. */
const mostWaiting = 1_000

export function serveConnection(world: World, socket: WebSocket, version: Version, keyRole: ApiRole): void {
  const { limits, log } = world
  const channels = new Map<string, Channel>()
  const connection = connectionOf(world, socket, channels, version, keyRole)
  const rates = { join: createRate(limits.joinsPerSecond), broadcast: createRate(limits.messagesPerSecond) }
  let waiting = 0
  let last = Promise.resolve()
  const idle = setTimeout(() => socket.close(1000, 'No heartbeat'), limits.idleMs)

  socket.on('message', (data, isBinary) => {
    idle.refresh()
    const frame = Buffer.isBuffer(data) ? decodeFrame(version, data, isBinary) : undefined
    if (!frame) return socket.close(policyViolation, 'Not a frame of this protocol version')
    waiting += 1
    if (waiting > mostWaiting) return socket.close(policyViolation, 'Too many frames')
    last = last
      .then(() => (socket.readyState === socket.OPEN ? handle(frame) : undefined))
      .catch((error: unknown) => {
        log(`realtime: ${frame.event}: ${error instanceof Error ? error.message : error}`)
        connection.push(replyTo(frame, 'error', { reason: 'Realtime was unable to connect to the project database' }))
      })
      .finally(() => {
        waiting -= 1
      })
  })
  socket.on('error', () => {}) // 'close' follows.
  socket.on('close', () => {
    clearTimeout(idle)
    for (const channel of channels.values()) channel.end()
    channels.clear()
  })

  const handle = async (frame: Frame): Promise<void> => {
    if (frame.topic === 'phoenix') return connection.push(replyTo(frame, 'ok', {}))
    if (frame.event === 'phx_join') return join(frame)
    if (frame.event === 'phx_leave') return leave(frame)
    const channel = channels.get(frame.topic)
    if (!channel) return connection.push(replyTo(frame, 'error', { reason: 'unmatched topic' }))
    if (frame.event === 'broadcast') {
      return rates.broadcast() ? channel.broadcast(frame) : channel.shutDown('Too many messages per second')
    }
    if (frame.event === 'access_token') {
      return rates.join() ? channel.refresh(frame) : channel.shutDown('Too many new tokens per second')
    }
    const reason = frame.event === 'presence' ? 'The local stack has no presence' : `Unknown event ${frame.event}`
    connection.push(replyTo(frame, 'error', { reason }))
  }
  const join = async (frame: Frame) => {
    if (!rates.join()) {
      connection.push(replyTo(frame, 'error', { reason: 'ClientJoinRateLimitReached: Too many joins per second' }))
      return socket.close(policyViolation, 'Too many joins per second')
    }
    close(frame.topic)
    if (channels.size >= limits.channels) {
      return connection.push(replyTo(frame, 'error', { reason: 'ChannelRateLimitReached: Too many channels' }))
    }
    const admission = await admit(world, connection, frame)
    if ('reason' in admission) return connection.push(replyTo(frame, 'error', admission))
    if (socket.readyState !== socket.OPEN) return
    connection.push(replyTo(frame, 'ok', { postgres_changes: [] }))
    channels.set(frame.topic, openChannel(world, connection, admission.config, admission.pass))
    if (admission.wantsReady) connection.push(readyFor(frame, admission.config.topic.name))
  }
  /**
   * Of one join, not of its topic: a client may have joined the topic anew before it leaves its older channel, which has
   * ended by then. Phoenix, too, does not answer that.
   */
  const leave = (frame: Frame) => {
    const joinRef = channels.get(frame.topic)?.joinRef ?? frame.joinRef
    if (joinRef !== frame.joinRef) return
    connection.push(replyTo(frame, 'ok', {}))
    close(frame.topic)
  }
  /** A second join takes the place of the first. */
  const close = (address: string) => {
    channels.get(address)?.close()
    channels.delete(address)
  }
}

function connectionOf(
  { limits }: World,
  socket: WebSocket,
  channels: Map<string, Channel>,
  version: Version,
  keyRole: ApiRole,
): Connection {
  const write = (data: string | Buffer) => {
    if (socket.readyState !== socket.OPEN) return
    if (socket.bufferedAmount > limits.unreadBytes) return socket.terminate()
    socket.send(data)
  }
  return {
    version,
    keyRole,
    write,
    push: (frame) => write(encodeFrame(version, frame)),
    forget: (address, channel) => {
      if (channels.get(address) === channel) channels.delete(address)
    },
  }
}

const replyTo = (frame: Frame, status: 'ok' | 'error', response: unknown): Frame => ({
  ...frame,
  event: 'phx_reply',
  payload: { status, response },
})

const readyFor = (frame: Frame, name: string): Frame => ({
  ...frame,
  ref: null,
  event: 'system',
  payload: { extension: 'system', status: 'ok', message: 'Replication connection established', channel: name },
})

const flag = z.boolean().nullish()
const joinPayload = z.looseObject({
  access_token: z.string().nullish(),
  user_token: z.string().nullish(),
  config: z
    .looseObject({
      private: flag,
      broadcast: z
        .looseObject({ self: flag, ack: flag, replication_ready: flag, replay: z.unknown().optional() })
        .nullish(),
      presence: z.looseObject({ enabled: flag }).nullish(),
      postgres_changes: z.array(z.unknown()).nullish(),
    })
    .nullish(),
})
type JoinPayload = z.infer<typeof joinPayload>

type Admission = { config: ChannelConfig; pass: Pass; wantsReady: boolean }

async function admit(world: World, connection: Connection, frame: Frame): Promise<Admission | { reason: string }> {
  const name = /^realtime:(.*)$/s.exec(frame.topic)?.[1]
  if (name === undefined) return { reason: 'unmatched topic' }
  if (name === '') return { reason: 'TopicNameRequired: You must provide a topic name' }
  const parsed = joinPayload.safeParse(frame.payload)
  if (!parsed.success) return { reason: 'InvalidJoinPayload: The join is not of the shape that Realtime reads' }
  const missing = whatIsMissing(parsed.data)
  if (missing) return { reason: missing }
  const { access_token, user_token, config } = parsed.data
  const pass = await readPass(world.tokens, user_token ?? access_token, connection.keyRole)
  if ('reason' in pass) return pass
  const isPrivate = config?.private ?? false
  if (isPrivate && !(await world.permissions.mayReceive(name, pass.subject))) {
    return { reason: `Unauthorized: ${noReading(name)}` }
  }
  const { self, ack, replication_ready } = config?.broadcast ?? {}
  const topic = { name, isPrivate }
  return {
    config: { topic, joinRef: frame.joinRef, self: self ?? false, ack: ack ?? false },
    pass,
    wantsReady: replication_ready ?? false,
  }
}

/** What hosted has and the local stack has not, said at once rather than left silent. */
function whatIsMissing({ config }: JoinPayload): string | undefined {
  if ((config?.postgres_changes ?? []).length > 0) {
    return 'RealtimeDisabledForConfiguration: The local stack has no postgres_changes: send a broadcast from a trigger'
  }
  if (config?.presence?.enabled) return 'PresenceDisabled: The local stack has no presence'
  if (config?.broadcast?.replay) return 'UnableToReplayMessages: The local stack does not replay messages'
  return undefined
}
