/** What the stand-in exchanges know: keys with permissions, balances and trades, prices, and how they misbehave. */
import { timingSafeEqual } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { defaultPrices } from './markets.ts'

export const exchangeNames = ['binance', 'coinbase', 'kraken'] as const
type ExchangeName = (typeof exchangeNames)[number]

export const permissions = ['read', 'trade', 'withdraw'] as const
export type Permission = (typeof permissions)[number]

/** Decimal strings throughout: a stand-in that rounds would hide that its caller does. */
export type Trade = {
  id: string
  symbol: string
  side: 'buy' | 'sell'
  amount: string
  price: string
  fee: string
  fee_asset: string
  at_ms: number
}

export type Key = {
  exchange: ExchangeName
  api_key: string
  /** The shared secret, for Coinbase the public half of the key pair. */
  verifier: string
  permissions: Permission[]
  /** Empty: from everywhere. */
  allowed_ips: string[]
  balances: Record<string, { free: string; used: string }>
  /** In the order of their time. */
  trades: Trade[]
  last_nonce: bigint
  revoked: boolean
  created_ms: number
}

type Mood = { down: boolean; rate_limited: boolean; banned: boolean; slow_ms: number; skew_ms: number }

export type Bindings = { incoming?: { socket: { remoteAddress?: string | undefined } } }

export type State = {
  keys: Map<string, Key>
  prices: Map<string, string>
  moods: Map<string, Partial<Mood>>
  /** Method and path of what was asked, never the query: it holds signatures. */
  calls: { exchange: ExchangeName; method: string; path: string }[]
  now(): number
}

const callsKept = 10_000
const calm: Mood = { down: false, rate_limited: false, banned: false, slow_ms: 0, skew_ms: 0 }

export const createState = (now: () => number): State => ({
  keys: new Map(),
  prices: new Map(Object.entries(defaultPrices)),
  moods: new Map(),
  calls: [],
  now,
})

/** The names in `keys` and `moods`; without a key it is the mood of the whole exchange. */
export const nameOf = (exchange: ExchangeName, apiKey = '') => `${exchange} ${apiKey}`

export const findKey = (state: State, exchange: ExchangeName, apiKey: string | undefined): Key | undefined => {
  const key = state.keys.get(nameOf(exchange, apiKey))
  return key?.revoked ? undefined : key
}

const moodOf = (state: State, exchange: ExchangeName, apiKey?: string): Mood => ({
  ...calm,
  ...state.moods.get(nameOf(exchange)),
  ...(apiKey === undefined ? {} : state.moods.get(nameOf(exchange, apiKey))),
})

/** The exchange's clock, in epoch milliseconds, as the holder of this key sees it. */
export const clockOf = (state: State, exchange: ExchangeName, apiKey?: string): number =>
  state.now() + moodOf(state, exchange, apiKey).skew_ms

/** Notes the call, waits when the exchange is slow, and tells why it does not answer, if it does not. */
export async function receive(
  state: State,
  exchange: ExchangeName,
  request: { method: string; path: string },
  apiKey?: string,
): Promise<'down' | 'rate_limited' | 'banned' | undefined> {
  state.calls.push({ exchange, method: request.method, path: request.path })
  if (state.calls.length > callsKept) state.calls.shift()
  const mood = moodOf(state, exchange, apiKey)
  if (mood.slow_ms > 0) await sleep(mood.slow_ms, undefined, { ref: false })
  if (mood.down) return 'down'
  if (mood.banned) return 'banned'
  return mood.rate_limited ? 'rate_limited' : undefined
}

export const isAllowedFrom = (key: Key, address: string): boolean =>
  key.allowed_ips.length === 0 || key.allowed_ips.includes(address)

/** Takes the same time wherever the first difference is. */
export function isSame(given: string, expected: string): boolean {
  const [a, b] = [Buffer.from(given), Buffer.from(expected)]
  return a.length === b.length && timingSafeEqual(a, b)
}
