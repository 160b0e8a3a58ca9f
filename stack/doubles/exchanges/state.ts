/** What the stand-in exchanges know: keys with permissions, balances and trades, prices, and how they misbehave. */
import { timingSafeEqual } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { defaultPrices, type Listing, symbolsOf } from './markets.ts'

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
  /** Fields of the exchange's own row that are not as they should be. */
  raw?: Record<string, unknown> | undefined
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
  /** What markets cost at moments of the past, in the order of time: candles are made of it. */
  history: Map<string, { at_ms: number; price: string }[]>
  /** Markets that are not as they were at the start, by `nameOf(exchange, symbol)`. */
  listings: Map<string, { exchange: ExchangeName; symbol: string; listing: Listing }>
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
  history: new Map(),
  listings: new Map(),
  moods: new Map(),
  calls: [],
  now,
})

/** The names in `keys`, `moods` and `listings`; without a key it is the mood of the whole exchange. */
export const nameOf = (exchange: ExchangeName, apiKey = '') => `${exchange} ${apiKey}`

export const findKey = (state: State, exchange: ExchangeName, apiKey: string | undefined): Key | undefined => {
  const key = state.keys.get(nameOf(exchange, apiKey))
  return key?.revoked ? undefined : key
}

/** The markets that an exchange shows. */
export function marketsOf(state: State, exchange: ExchangeName): string[] {
  const changed = [...state.listings.values()].filter((market) => market.exchange === exchange)
  const gone = new Set(changed.filter(({ listing }) => listing === 'gone').map(({ symbol }) => symbol))
  return [...new Set([...symbolsOf[exchange], ...changed.map(({ symbol }) => symbol)])].filter(
    (name) => !gone.has(name),
  )
}

export const isOpen = (state: State, exchange: ExchangeName, symbol: string): boolean =>
  (state.listings.get(nameOf(exchange, symbol))?.listing ?? 'open') === 'open'

/** [start in ms, last price] of each span of `spanMs` from `from` to `until` in which there was one, the oldest first. */
export function candlesOf(
  state: State,
  symbol: string,
  spanMs: number,
  from: number,
  until: number,
): [number, string][] {
  const candles = new Map<number, string>()
  for (const { at_ms, price } of state.history.get(symbol) ?? [])
    candles.set(Math.floor(at_ms / spanMs) * spanMs, price)
  return [...candles].filter(([start]) => start >= from && start <= until)
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
