/** One joined channel of one connection: what it may receive and send, and when it ends. */
import { z } from 'zod'
import type { ApiRole, Tokens } from '../gateway/tokens.ts'
import { type Broadcast, type Frame, shortText, type Version } from './frames.ts'
import type { Limits } from './limits.ts'
import { isKey, type Pass, type Permissions, readPass } from './permissions.ts'
import type { Topic, Topics } from './topics.ts'

export type Channel = {
  /** Of the join that opened it; a client tells by it which of a topic's joins is meant. */
  joinRef: string | null
  broadcast(frame: Frame): Promise<void>
  refresh(frame: Frame): Promise<void>
  /** Ends it from our side and says why. */
  shutDown(message: string): void
  /** Ends it and tells the client, who left or joins anew. */
  close(): void
  end(): void
}

export type ChannelConfig = { topic: Topic; joinRef: string | null; self: boolean; ack: boolean }

const broadcastPayload = z.looseObject({
  type: z.literal('broadcast').default('broadcast'),
  event: shortText,
})
const tokenPayload = z.looseObject({ access_token: z.string().nullish() })
const longestTimerMs = 3_600_000

export const noReading = (topic: string) => `You do not have permissions to read from this Channel topic: ${topic}`
const noWriting = (topic: string) => `You do not have permissions to write to this Channel topic: ${topic}`

const describe = (error: unknown): string => (error instanceof Error ? error.message : String(error))

export function openChannel(world: World, connection: Connection, config: ChannelConfig, firstPass: Pass): Channel {
  const { topic, joinRef } = config
  const address = `realtime:${topic.name}`
  let pass = firstPass
  /** Asked once for each token. */
  let maySend: boolean | undefined
  let expiry: NodeJS.Timeout | undefined
  /** What waited for the database meanwhile has nothing more to say. */
  let hasEnded = false

  const push = (event: string, payload: unknown, ref: string | null) =>
    connection.push({ joinRef, ref, topic: address, event, payload })
  const reply = (ref: string | null, status: 'ok' | 'error', response: unknown = {}) =>
    push('phx_reply', { status, response }, ref)
  const end = () => {
    hasEnded = true
    clearTimeout(expiry)
    clearInterval(recheck)
    world.topics.remove(topic, listener)
  }
  const close = () => {
    end()
    push('phx_close', {}, joinRef)
  }
  const shutDown = (message: string) => {
    push('system', { extension: 'system', status: 'error', message, channel: topic.name }, null)
    close()
    connection.forget(address, channel)
  }
  /** Never ends the channel before it returns: its connection has yet to learn of a channel that is being opened. */
  const watchExpiry = () => {
    clearTimeout(expiry)
    const { expiresAt } = pass
    if (expiresAt === null) return
    const leftMs = expiresAt - world.now()
    const expire = () => (world.now() < expiresAt ? watchExpiry() : shutDown('Token has expired'))
    expiry = setTimeout(expire, Math.min(Math.max(leftMs, 0), longestTimerMs))
  }
  /** A session that ended, an account that was suspended: the policies know, the token does not. */
  const askAgain = async () => {
    const asked = pass
    const mayReceive = await world.permissions.mayReceive(topic.name, asked.subject)
    if (!mayReceive && !hasEnded && pass === asked) shutDown(noReading(topic.name))
  }
  const recheck = topic.isPrivate
    ? setInterval(
        () => void askAgain().catch((error: unknown) => world.log(`realtime: ${topic.name}: ${describe(error)}`)),
        world.limits.recheckMs,
      )
    : undefined
  const listener: { version: Version; write(data: string | Buffer): void } = {
    version: connection.version,
    write: connection.write,
  }
  const channel: Channel = {
    joinRef,
    end,
    close,
    shutDown,

    async broadcast({ ref, payload }) {
      const parsed = broadcastPayload.safeParse(payload)
      const refuse = (reason: string) => (config.ack ? reply(ref, 'error', { reason }) : undefined)
      if (!parsed.success) return refuse('A broadcast is an object with an event.')
      if (parsed.data.persist) return refuse('The local stack does not store broadcasts of clients.')
      maySend ??= !topic.isPrivate || (await world.permissions.maySend(topic.name, pass.subject))
      if (hasEnded) return
      if (!maySend) return refuse(`Unauthorized: ${noWriting(topic.name)}`)
      const message: Broadcast = parsed.data
      world.topics.deliver(topic, message, config.self ? undefined : listener)
      if (config.ack) reply(ref, 'ok')
    },

    async refresh({ payload }) {
      const token = tokenPayload.safeParse(payload).data?.access_token
      if (isKey(token) || token === pass.token) return
      const fresh = await readPass(world.tokens, token, connection.keyRole)
      const mayReceive =
        'subject' in fresh && (!topic.isPrivate || (await world.permissions.mayReceive(topic.name, fresh.subject)))
      if (hasEnded) return
      if ('reason' in fresh) return shutDown(fresh.reason.replace(/^\w+: /, ''))
      if (!mayReceive) return shutDown(noReading(topic.name))
      pass = fresh
      maySend = undefined
      watchExpiry()
    },
  }
  world.topics.add(topic, listener)
  watchExpiry()
  return channel
}

export type World = {
  tokens: Tokens
  permissions: Permissions
  topics: Topics
  limits: Limits
  now(): number
  log(line: string): void
}

export type Connection = {
  version: Version
  /** The role of the API key that opened it. */
  keyRole: ApiRole
  push(frame: Frame): void
  write(data: string | Buffer): void
  /** The channel has ended, unless another took its place. */
  forget(address: string, channel: Channel): void
}
