/**
 * A connection to one exchange with one user's key. ccxt can trade and withdraw; what is not in `readMethods` cannot be
 * called through a connection, and nothing else in this project touches ccxt: tests/functions/exchanges-reads.test.ts.
 */
import { z } from 'zod'
import type { Secrets } from '../open-credential.ts'
import { ExchangeFailure, type Traffic, toFailure } from './failure.ts'
import { loadExchange } from './load-exchange.ts'

/**
 * Everything that is ever asked of an exchange. The three long names are what each of ours calls its key's permissions.
 * @internal For tests: that this list is the reviewed one.
 */
export const readMethods = [
  'loadMarkets',
  'fetchCurrencies',
  'fetchTime',
  'fetchBalance',
  'fetchTickers',
  'fetchOHLCV',
  'fetchMyTrades',
  'sapiGetAccountApiRestrictions',
  'v3PrivateGetBrokerageKeyPermissions',
  'privatePostGetApiKeyInfo',
] as const
export type ReadMethod = (typeof readMethods)[number]

/** `gapMs` is the least time between two calls to a stand-in; without it, and to the exchange itself, it is what ccxt knows. */
export type World = { fetch: typeof fetch; now(): number; timeoutMs?: number; gapMs?: number | undefined }

export type Connection = {
  exchange: string
  /** The answer in the form of `schema`. Throws an ExchangeFailure and nothing else. */
  call<T>(schema: z.ZodType<T>, method: ReadMethod, ...args: unknown[]): Promise<T>
  /** Whether trades are asked for market by market. */
  needsSymbol: boolean
  now(): number
}

/** An exchange, and a user's key there. */
type Access = { exchange: string; credentials: Secrets; base_url?: string | null | undefined }

export async function connectExchange({ exchange, credentials, base_url }: Access, world: World): Promise<Connection> {
  const Exchange = await loadExchange(exchange)
  const traffic: Traffic = { sent: 0, status: undefined, retryAfterS: undefined }
  const instance = new Exchange({
    apiKey: credentials.api_key.trim(),
    // A key pair's private half is often pasted with its line ends spelled out.
    secret: (credentials.api_secret ?? '').trim().replaceAll('\\n', '\n'),
    password: credentials.passphrase,
    enableRateLimit: true,
    ...(base_url && world.gapMs !== undefined ? { rateLimit: world.gapMs } : {}),
    timeout: world.timeoutMs ?? 10_000,
    // Amounts stay the decimal strings that they are.
    number: String,
    options: optionsOf[exchange] ?? {},
    fetchImplementation: createFetch(base_url, world, traffic),
  })

  keepUnreadable(instance)
  return {
    exchange,
    needsSymbol: features.safeParse(instance).data?.features.spot.fetchMyTrades.symbolRequired ?? true,
    now: world.now,
    async call(schema, method, ...args) {
      Object.assign(traffic, { sent: 0, status: undefined, retryAfterS: undefined })
      const found: unknown = readMethods.includes(method) ? Reflect.get(instance, method) : undefined
      if (typeof found !== 'function') throw new ExchangeFailure('unknown', `${exchange} has no ${method}`)
      const answer: unknown = await Reflect.apply(found, instance, args).catch((error: unknown) => {
        throw toFailure(error, traffic)
      })
      const { data, error } = schema.safeParse(answer)
      if (error)
        throw new ExchangeFailure('unknown', `${method}: ${error.issues[0]?.path.join('.')} is not as expected`)
      return data
    },
  }
}

/** ccxt throws a whole page of trades away when it cannot read one: that one is handed on as it came. */
function keepUnreadable(instance: object): void {
  const parse: unknown = Reflect.get(instance, 'parseTrade')
  if (typeof parse !== 'function') return
  Reflect.set(instance, 'parseTrade', (row: object, market: unknown): unknown => {
    try {
      return Reflect.apply(parse, instance, [row, market])
    } catch {
      return { id: idOf(row), info: row }
    }
  })
}

const idOf = (row: object): unknown =>
  ['id', 'trade_id']
    .map((name) => Reflect.get(row, name))
    .find((id) => typeof id === 'string' || typeof id === 'number')

/** Binance: spot markets, without the signed calls that ccxt would add. Coinbase: the wallets of Advanced Trade. */
const optionsOf: Record<string, object> = {
  binance: { fetchMarkets: { types: ['spot'] }, fetchMargins: false, fetchCurrencies: false },
  coinbase: { fetchBalance: 'v3PrivateGetBrokerageAccounts' },
}

const features = z.object({
  features: z.object({ spot: z.object({ fetchMyTrades: z.object({ symbolRequired: z.boolean() }) }) }),
})

type Init = { method: string; headers: Record<string, string>; body?: string | undefined; signal: AbortSignal }

/**
 * Only where the bytes go changes with `base_url`: ccxt signs for the exchange's real host, and reads its errors as its.
 * The time limit covers the body, too, which ccxt's own does not. A redirect would carry the key elsewhere.
 */
function createFetch(baseUrl: string | null | undefined, world: World, traffic: Traffic) {
  return async (url: string, { method, headers, body, signal }: Init): Promise<Response> => {
    const { pathname, search } = new URL(url)
    const address = baseUrl ? baseUrl.replace(/\/+$/, '') + pathname + search : url
    const limit = AbortSignal.any([signal, AbortSignal.timeout(world.timeoutMs ?? 10_000)])
    traffic.sent += 1
    const init = { method, headers, body: body ?? null, signal: limit, redirect: 'error' as const }
    const answer = await world.fetch(address, init)
    traffic.status = answer.status
    traffic.retryAfterS = Number(answer.headers.get('retry-after')) || undefined
    return answer
  }
}
