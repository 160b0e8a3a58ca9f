/** The stand-in exchanges in this process, a key at each, and connections of ours to them. */
import { z } from 'zod'
import { connectExchange, type World } from '../../functions/_shared/exchanges/connect.ts'
import type { Secrets } from '../../functions/_shared/open-credential.ts'
import { createExchanges } from '../../stack/doubles/exchanges.ts'

export const names = ['binance', 'coinbase', 'kraken'] as const
export type Name = (typeof names)[number]

const origin = 'http://exchanges.local'
const keyMade = z.object({ api_key: z.string(), api_secret: z.string() })
const tradesMade = z.object({ trades: z.array(z.looseObject({ id: z.string() })) })
const callsMade = z.object({ calls: z.array(z.object({ method: z.string(), path: z.string() })) })

export function createWorld(options: { now?: () => number } = {}) {
  const server = createExchanges(options)
  const send = async (input: string, init: RequestInit = {}, address = '127.0.0.1') =>
    server.fetch(new Request(input.startsWith('http') ? input : origin + input, init), {
      incoming: { socket: { remoteAddress: address } },
    })
  const control = async <T>(schema: z.ZodType<T>, method: string, path: string, body?: object): Promise<T> => {
    const answer = await send(`/control${path}`, { method, ...(body ? { body: JSON.stringify(body) } : {}) })
    if (!answer.ok) throw new Error(await answer.text())
    return schema.parse(method === 'DELETE' ? undefined : await answer.json())
  }
  const hangUp = (signal: AbortSignal) =>
    new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }))
  const fetch: typeof globalThis.fetch = (input, init = {}) =>
    init.signal ? Promise.race([send(String(input), init), hangUp(init.signal)]) : send(String(input), init)
  const world: World = { fetch, now: Date.now, gapMs: 1, timeoutMs: 10_000 }

  return {
    send,
    world,
    makeKey: (exchange: Name, settings: object = {}) =>
      control(keyMade, 'POST', '/keys', { exchange, ...settings }) satisfies Promise<Secrets>,
    changeKey: (exchange: Name, api_key: string, settings: object) =>
      control(z.unknown(), 'PATCH', '/keys', { exchange, api_key, ...settings }),
    addTrades: (exchange: Name, api_key: string, trades: object[]) =>
      control(tradesMade, 'POST', '/trades', { exchange, api_key, trades }),
    setMood: (exchange: Name, mood: object) => control(z.unknown(), 'POST', '/mood', { exchange, ...mood }),
    setMarket: (exchange: Name, symbol: string, listing: 'open' | 'closed' | 'gone') =>
      control(z.unknown(), 'POST', '/markets', { exchange, symbol, listing }),
    setHistory: (prices: Record<string, { at_ms: number; price: string }[]>) =>
      control(z.unknown(), 'POST', '/history', prices),
    setPrices: (prices: object) => control(z.unknown(), 'POST', '/prices', prices),
    calls: async () => (await control(callsMade, 'GET', '/calls')).calls,
    reset: () => control(z.unknown(), 'DELETE', ''),
    connect: (exchange: Name, credentials: Secrets, over: Partial<World> = {}) =>
      connectExchange({ exchange, credentials, base_url: `${origin}/${exchange}` }, { ...world, ...over }),
  }
}
