/** Realtime as plain supabase-js meets it: subscribe, and what came. */
import {
  createClient,
  type RealtimeChannel,
  type RealtimeClientOptions,
  type SupabaseClient,
} from '@supabase/supabase-js'
import { target } from '../target.ts'

export type Received = { event: string; payload: unknown }

const opened: SupabaseClient[] = []

type Place = { url: string; key: string }

/**
 * A client that shows this token from its first join on, or only its key; `options` are those of realtime-js. The token is
 * that of the callback, as a session's is: one that is only given to `setAuth` is lost at the first join.
 */
export async function realtimeClient(
  token: string | null,
  options: RealtimeClientOptions = {},
  place: Place = { url: target().apiUrl, key: target().publishableKey },
): Promise<SupabaseClient> {
  const auth = { persistSession: false, autoRefreshToken: false }
  const callback = token === null ? {} : { accessToken: async () => token }
  const client = createClient(place.url, place.key, { auth, realtime: { ...callback, ...options } })
  opened.push(client)
  if (token !== null) await client.realtime.setAuth()
  return client
}

/** To be called after each test: nothing that it opened stays open. */
export async function closeRealtimeClients(): Promise<void> {
  for (const client of opened.splice(0)) await client.realtime.disconnect()
}

/** How subscribing ends: the status, and the reason when it is refused. */
export const subscribe = (channel: RealtimeChannel) =>
  new Promise<{ status: string; reason?: string }>((resolve) => {
    channel.subscribe((status, error) => resolve({ status, ...(error ? { reason: error.message } : {}) }))
  })

export const subscribed = { status: 'SUBSCRIBED' }

/** Joins a channel, private unless said otherwise, and keeps every broadcast that comes. */
export async function listenTo(
  client: SupabaseClient,
  topic: string,
  config: { private?: boolean; broadcast?: { ack?: boolean; self?: boolean } } = {},
) {
  const received: Received[] = []
  const channel = client.channel(topic, { config: { private: true, ...config } })
  channel.on('broadcast', { event: '*' }, ({ event, payload }) => received.push({ event, payload }))
  const result = await subscribe(channel)
  return { channel, received, result }
}
