/** Our own API to the stand-in exchanges, for tests and the demo: makes keys and trades, sets prices and moods. */
import { generateKeyPairSync, randomBytes, randomUUID } from 'node:crypto'
import { Hono } from 'hono'
import { z } from 'zod'
import { listings, partsOf } from './markets.ts'
import { exchangeNames, findKey, type Key, nameOf, permissions, type State, type Trade } from './state.ts'

const decimal = z.string().regex(/^\d+(\.\d+)?$/)
/** What is free may be odd. */
const balance = z.object({ free: z.string(), used: decimal.default('0') })
const exchange = z.enum(exchangeNames)
const keySettings = z.object({
  permissions: z.array(z.enum(permissions)),
  allowed_ips: z.array(z.string()),
  balances: z.record(z.string(), z.union([balance, z.string().transform((free) => ({ free, used: '0' }))])),
  revoked: z.boolean(),
})
const newKey = keySettings.partial().extend({ exchange })
const last_nonce = z.string().regex(/^\d+$/).transform(BigInt).optional()
const changedKey = keySettings.partial().extend({ exchange, api_key: z.string(), last_nonce })
const newTrade = z.object({
  symbol: z.string(),
  side: z.enum(['buy', 'sell']),
  amount: decimal,
  price: decimal,
  fee: decimal.default('0'),
  fee_asset: z.string().optional(),
  /** Epoch milliseconds; now when it is absent. */
  at_ms: z.number().int().optional(),
  raw: z.record(z.string(), z.unknown()).optional(),
})
const newTrades = z.object({ exchange, api_key: z.string(), trades: z.array(newTrade) })
const market = z.object({ exchange, symbol: z.string(), listing: z.enum(listings) })
const past = z.record(z.string(), z.array(z.object({ at_ms: z.number().int(), price: decimal })))
const mood = z.object({
  down: z.boolean(),
  rate_limited: z.boolean(),
  banned: z.boolean(),
  slow_ms: z.number(),
  skew_ms: z.number(),
})
const moodOf = mood.partial().extend({ exchange, api_key: z.string().optional() })

const noSuchKey = () => Response.json({ message: 'There is no such key.' }, { status: 404 })
const wrong = (error: z.ZodError) => Response.json({ message: z.prettifyError(error) }, { status: 400 })

export function controlApi(state: State) {
  const app = new Hono()
  const put = <T>(method: 'POST' | 'PATCH', path: string, schema: z.ZodType<T>, act: (input: T) => Response) =>
    app.on(method, path, async (c) => {
      const { data, error } = schema.safeParse(await c.req.json().catch(() => undefined))
      return error ? wrong(error) : act(data)
    })

  put('POST', '/keys', newKey, ({ exchange, ...settings }) => {
    const { api_key, api_secret, verifier } = credentials[exchange]()
    const fresh = { permissions: ['read' as const], allowed_ips: [], balances: {}, revoked: false }
    const empty = { trades: [], last_nonce: 0n, created_ms: state.now() }
    state.keys.set(nameOf(exchange, api_key), { ...fresh, ...defined(settings), ...empty, exchange, api_key, verifier })
    return Response.json({ exchange, api_key, api_secret }, { status: 201 })
  })
  put('PATCH', '/keys', changedKey, ({ exchange, api_key, ...settings }) => {
    const key = state.keys.get(nameOf(exchange, api_key))
    if (!key) return noSuchKey()
    Object.assign(key, defined(settings))
    return Response.json({ exchange, api_key })
  })
  put('POST', '/trades', newTrades, ({ exchange, api_key, trades }) => {
    const key = findKey(state, exchange, api_key)
    if (!key) return noSuchKey()
    const made = trades.map((trade) => addTrade(key, trade, state.now()))
    return Response.json({ trades: made }, { status: 201 })
  })
  put('POST', '/prices', z.record(z.string(), decimal), (prices) => {
    for (const [symbol, price] of Object.entries(prices)) state.prices.set(symbol, price)
    return Response.json(Object.fromEntries(state.prices))
  })
  put('POST', '/markets', market, (changed) => {
    state.listings.set(nameOf(changed.exchange, changed.symbol), changed)
    return Response.json(changed)
  })
  put('POST', '/history', past, (prices) => {
    for (const [symbol, told] of Object.entries(prices)) {
      const all = [...(state.history.get(symbol) ?? []), ...told]
      state.history.set(
        symbol,
        all.toSorted((a, b) => a.at_ms - b.at_ms),
      )
    }
    return Response.json(Object.fromEntries(state.history))
  })
  put('POST', '/mood', moodOf, ({ exchange, api_key, ...changed }) => {
    const name = nameOf(exchange, api_key)
    const next = { ...state.moods.get(name), ...defined(changed) }
    state.moods.set(name, next)
    return Response.json(next)
  })
  app.get('/calls', (c) => c.json({ calls: state.calls }))
  app.delete('/', (c) => {
    state.keys.clear()
    state.moods.clear()
    state.listings.clear()
    state.history.clear()
    state.calls.length = 0
    return c.body(null, 204)
  })
  return app
}

type Defined<T> = { [K in keyof T]?: Exclude<T[K], undefined> }

/** What was given, without what was left out. */
function defined<T extends object>(settings: T): Defined<T> {
  const given: Defined<T> = { ...settings }
  for (const name in given) if (given[name] === undefined) delete given[name]
  return given
}

/** Makes the trade's id in the form of its exchange; Binance counts per symbol, so its ids repeat. */
function addTrade(key: Key, trade: z.infer<typeof newTrade>, now: number): Trade {
  const same = key.trades.filter(({ symbol }) => symbol === trade.symbol).length
  const ids = {
    binance: () => String(100 + same),
    coinbase: () => randomUUID(),
    kraken: () => `T${[6, 5, 6].map((length) => word(length)).join('-')}`.slice(0, 19),
  }
  const { fee_asset = partsOf(trade.symbol).quote, at_ms = now } = trade
  const made: Trade = { ...trade, fee_asset, at_ms, id: ids[key.exchange]() }
  key.trades.push(made)
  key.trades.sort((a, b) => a.at_ms - b.at_ms)
  return made
}

const word = (length: number) => randomBytes(length).toString('hex').toUpperCase().slice(0, length)
const letters = (length: number) =>
  randomBytes(length * 2)
    .toString('base64')
    .replaceAll(/[^A-Za-z0-9]/g, '')
    .slice(0, length)

/** A new key in the form in which each exchange gives it to its user. */
const credentials = {
  binance: () => {
    const secret = letters(64)
    return { api_key: letters(64), api_secret: secret, verifier: secret }
  },
  coinbase: () => {
    const { privateKey, publicKey } = generateKeyPairSync('ec', {
      namedCurve: 'P-256',
      publicKeyEncoding: { type: 'spki', format: 'pem' },
      privateKeyEncoding: { type: 'sec1', format: 'pem' },
    })
    const api_key = `organizations/${randomUUID()}/apiKeys/${randomUUID()}`
    return { api_key, api_secret: privateKey, verifier: publicKey }
  },
  kraken: () => {
    const secret = randomBytes(64).toString('base64')
    return { api_key: letters(56), api_secret: secret, verifier: secret }
  },
}
