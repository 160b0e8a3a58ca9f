/** Realtime: broadcasts over WebSockets at /realtime/v1/websocket, with the authorization of hosted Supabase. */
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import postgres from 'postgres'
import { WebSocketServer } from 'ws'
import type { PlatformConfig } from './config.ts'
import { identify } from './gateway/callers.ts'
import { createTokens } from './gateway/tokens.ts'
import type { DatabaseRole, PlatformKeys } from './keys.ts'
import { openPool } from './pool.ts'
import { serveConnection } from './realtime/connection.ts'
import { startDelivery } from './realtime/delivery.ts'
import { versions } from './realtime/frames.ts'
import { hostedLimits, type Limits } from './realtime/limits.ts'
import { createPermissions } from './realtime/permissions.ts'
import { createTopics } from './realtime/topics.ts'

type RealtimeOptions = {
  config: PlatformConfig
  keys: PlatformKeys
  dbUrl(role: DatabaseRole): string
  limits?: Partial<Limits>
  log(line: string): void
}

export type Realtime = {
  /** For the 'upgrade' event of the API's server. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void
  /** Deletes messages older than three days; it happens every hour by itself. */
  clean(): Promise<unknown>
  /** New connections, after the database was away. Clients stay, and get what they missed. */
  renew(): void
  close(): Promise<void>
}

const path = '/realtime/v1/websocket'
const connections = 4
/** A policy that takes longer, or a transaction that nobody ends, holds up every other channel. In milliseconds. */
const timeouts = { statement_timeout: 8_000, idle_in_transaction_session_timeout: 60_000 }

export async function createRealtime({ config, keys, dbUrl, limits: given, log }: RealtimeOptions): Promise<Realtime> {
  const limits = { ...hostedLimits, ...given }
  const tokens = await createTokens(keys, `${config.urls.api}/auth/v1`)
  const url = dbUrl('supabase_realtime_admin')
  const options = { max: connections, onnotice: () => {}, connect_timeout: 5, connection: timeouts }
  const { sql, renew } = openPool(() => postgres(url, options))
  // Opened at once: on a busy machine a new connection takes longer than a message may.
  await Promise.all(Array.from({ length: connections }, () => sql`select pg_sleep(0.01)`))
  const topics = createTopics()
  const { messageBytes } = limits
  const delivery = await startDelivery({ url, sql, messageBytes, deliver: topics.deliver, log })
  const world = { tokens, permissions: createPermissions(sql), topics, limits, now: Date.now, log }
  // A frame is a message and some addresses around it.
  const server = new WebSocketServer({ noServer: true, maxPayload: messageBytes + 2048, perMessageDeflate: false })

  const open = async (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    const address = new URL(request.url ?? '/', config.urls.api)
    if (address.pathname !== path) return refuseUpgrade(socket, 404, `There is no WebSocket at ${address.pathname}.`)
    const headers = { 'user-agent': request.headers['user-agent'] ?? '' }
    const caller = await identify(new Request(address, { headers }), keys, tokens, false)
    if ('status' in caller) return refuseUpgrade(socket, caller.status, String(caller.body.message))
    const version = versions.safeParse(address.searchParams.get('vsn') ?? '1.0.0')
    if (!version.success) return refuseUpgrade(socket, 400, 'The vsn must be 1.0.0 or 2.0.0.')
    if (server.clients.size >= limits.connections) return refuseUpgrade(socket, 429, 'Too many connected users')
    server.handleUpgrade(request, socket, head, (client) => serveConnection(world, client, version.data, caller.role))
  }

  return {
    upgrade(request, socket, head) {
      socket.on('error', () => socket.destroy())
      open(request, socket, head).catch((error: unknown) => {
        log(`realtime: ${error instanceof Error ? error.message : error}`)
        refuseUpgrade(socket, 500, 'Internal error')
      })
    },
    clean: delivery.clean,
    renew,
    async close() {
      for (const client of server.clients) client.terminate()
      await delivery.stop()
      await sql.end({ timeout: 1 })
    },
  }
}

/** An upgrade has no Response yet: the refusal is written by hand. */
export function refuseUpgrade(socket: Duplex, status: number, message: string): void {
  const body = JSON.stringify({ message })
  const head = [
    `HTTP/1.1 ${status} Refused`,
    'content-type: application/json',
    `content-length: ${Buffer.byteLength(body)}`,
    ...(status === 503 ? ['retry-after: 1'] : []),
    'connection: close',
  ]
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`)
}
