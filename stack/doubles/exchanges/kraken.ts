/**
 * Kraken's spot REST as far as reading an account needs it. Errors come with status 200 in a list `error`; shapes are
 * those of docs.kraken.com ("Spot REST", "Get API Key Info", "Error messages"). What it answers to a key that is used
 * from an address outside its allow-list is not written there: ours says that permission is denied.
 */
import { createHash, createHmac } from 'node:crypto'
import { type Context, Hono } from 'hono'
import { multiply, sum } from './decimals.ts'
import { krakenAltname, krakenAsset, krakenId, partsOf } from './markets.ts'
import {
  type Bindings,
  candlesOf,
  clockOf,
  findKey,
  isAllowedFrom,
  isSame,
  type Key,
  marketsOf,
  type Permission,
  receive,
  type State,
  type Trade,
} from './state.ts'

type KrakenContext = Context<{ Bindings: Bindings }>

const pageRows = 50
const refuse = (error: string) => Response.json({ error: [error] })
const result = (value: unknown) => Response.json({ error: [], result: value })
const moods = {
  down: () => refuse('EService:Unavailable'),
  rate_limited: () => refuse('EAPI:Rate limit exceeded'),
  banned: () => refuse('EGeneral:Temporary lockout'),
}

export function krakenApi(state: State) {
  const app = new Hono<{ Bindings: Bindings }>()
  const get = (name: string, answer: (c: KrakenContext) => Response) =>
    app.get(`/0/public/${name}`, async (c) => {
      const mood = await receive(state, 'kraken', { method: 'GET', path: `/0/public/${name}` })
      return mood ? moods[mood]() : answer(c)
    })
  const post = (name: string, answer: (form: URLSearchParams, key: Key) => Response, needsRead = true) =>
    app.post(`/0/private/${name}`, async (c) => {
      const path = `/0/private/${name}`
      const mood = await receive(state, 'kraken', { method: 'POST', path }, c.req.header('api-key'))
      if (mood) return moods[mood]()
      const body = await c.req.text()
      const key = authenticate(state, c, path, body)
      if (key instanceof Response) return key
      if (needsRead && !key.permissions.includes('read')) return refuse('EGeneral:Permission denied')
      return answer(new URLSearchParams(body), key)
    })

  get('Time', () => {
    const now = clockOf(state, 'kraken')
    return result({ unixtime: Math.floor(now / 1000), rfc1123: new Date(now).toUTCString() })
  })
  get('Assets', () => result(assets(marketsOf(state, 'kraken'))))
  get('AssetPairs', () =>
    result(Object.fromEntries(marketsOf(state, 'kraken').map((symbol) => [krakenId(symbol), pair(symbol)]))),
  )
  get('Ticker', (c) => {
    const asked = c.req.query('pair')?.split(',')
    const symbols = marketsOf(state, 'kraken').filter((symbol) => !asked || asked.includes(krakenId(symbol)))
    if (asked && symbols.length < asked.length) return refuse('EQuery:Unknown asset pair')
    return result(
      Object.fromEntries(symbols.map((symbol) => [krakenId(symbol), ticker(state.prices.get(symbol) ?? '0')])),
    )
  })
  get('OHLC', (c) => ohlc(state, c))
  post('BalanceEx', (_, { balances }) => {
    const rows = Object.entries(balances).map(([asset, { free, used }]) => [
      krakenAsset(asset),
      { balance: used === '0' ? free : sum(free, used), hold_trade: used },
    ])
    return result(Object.fromEntries(rows))
  })
  post('TradesHistory', tradesHistory)
  // Any key may ask about itself.
  post('GetApiKeyInfo', (_, key) => result(keyInfo(key, clockOf(state, 'kraken'))), false)
  return app
}

/** HMAC-SHA512, in base64, of the path and of SHA256(nonce + body); the nonce must grow with every call of a key. */
function authenticate(state: State, c: KrakenContext, path: string, body: string): Key | Response {
  const key = findKey(state, 'kraken', c.req.header('api-key'))
  if (!key) return refuse('EAPI:Invalid key')
  const nonce = new URLSearchParams(body).get('nonce') ?? ''
  const digest = createHash('sha256')
    .update(nonce + body)
    .digest()
  const expected = createHmac('sha512', Buffer.from(key.verifier, 'base64'))
    .update(path)
    .update(digest)
    .digest('base64')
  if (!isSame(c.req.header('api-sign') ?? '', expected)) return refuse('EAPI:Invalid signature')
  if (!isAllowedFrom(key, c.env?.incoming?.socket.remoteAddress ?? '127.0.0.1'))
    return refuse('EGeneral:Permission denied')
  if (!/^\d{1,20}$/.test(nonce) || BigInt(nonce) <= key.last_nonce) return refuse('EAPI:Invalid nonce')
  key.last_nonce = BigInt(nonce)
  return key
}

/** The newest first, 50 at a time from `ofs` on; `start` is exclusive, `end` inclusive, both in seconds. */
function tradesHistory(form: URLSearchParams, key: Key): Response {
  const start = Number(form.get('start') ?? 0)
  const end = Number(form.get('end') ?? Number.POSITIVE_INFINITY)
  const found = key.trades.filter(({ at_ms }) => at_ms / 1000 > start && at_ms / 1000 <= end).toReversed()
  const from = Number(form.get('ofs') ?? 0)
  const rows = found.slice(from, from + pageRows).map((trade) => [trade.id, tradeRow(trade)])
  return result({ trades: Object.fromEntries(rows), count: found.length })
}

/** Kraken's names of the permissions that we tell apart. */
const permissionNames: Record<Permission, string[]> = {
  read: ['query-funds', 'query-open-trades', 'query-closed-trades'],
  trade: ['modify-trades', 'close-trades'],
  withdraw: ['withdraw-funds'],
}

const tradeRow = (trade: Trade) => ({
  ordertxid: `O${trade.id.slice(1)}`,
  postxid: 'TKH2SE-M7IF5-CFI7LT',
  pair: krakenId(trade.symbol),
  time: trade.at_ms / 1000,
  type: trade.side,
  ordertype: 'limit',
  price: trade.price,
  cost: multiply(trade.price, trade.amount),
  fee: trade.fee,
  vol: trade.amount,
  margin: '0.00000',
  misc: '',
  maker: false,
  ...trade.raw,
})

const keyInfo = (key: Key, now: number) => ({
  apiKeyName: 'stand-in',
  apiKey: key.api_key,
  nonce: key.last_nonce.toString(),
  nonceWindow: 0,
  permissions: key.permissions.flatMap((permission) => permissionNames[permission]),
  validUntil: '0',
  queryFrom: '0',
  queryTo: '0',
  createdTime: String(Math.floor(key.created_ms / 1000)),
  modifiedTime: String(Math.floor(key.created_ms / 1000)),
  ipAllowlist: key.allowed_ips,
  lastUsed: String(Math.floor(now / 1000)),
})

/** The last 720 of an interval, whatever `since` asks for; times are in seconds. */
function ohlc(state: State, c: KrakenContext): Response {
  const { pair: asked, interval = '1', since = '0' } = c.req.query()
  const symbol = marketsOf(state, 'kraken').find((name) => krakenId(name) === asked)
  if (!symbol) return refuse('EQuery:Unknown asset pair')
  const spanMs = Number(interval) * 60_000
  const from = Math.max(Number(since) * 1000 + 1, state.now() - 720 * spanMs)
  const rows = candlesOf(state, symbol, spanMs, from, state.now())
  const row = ([start, price]: [number, string]) => [start / 1000, price, price, price, price, price, '1.00000000', 1]
  return result({ [krakenId(symbol)]: rows.map(row), last: Math.floor(state.now() / 1000) })
}

const assets = (symbols: string[]) => {
  const names = new Set(symbols.flatMap((symbol) => Object.values(partsOf(symbol))))
  const row = (name: string) => ({ aclass: 'currency', altname: krakenAltname(name), decimals: 10, status: 'enabled' })
  return Object.fromEntries([...names].map((name) => [krakenAsset(name), row(name)]))
}

const pair = (symbol: string) => {
  const { base, quote } = partsOf(symbol)
  return {
    altname: krakenAltname(base) + krakenAltname(quote),
    wsname: `${krakenAltname(base)}/${krakenAltname(quote)}`,
    aclass_base: 'currency',
    base: krakenAsset(base),
    aclass_quote: 'currency',
    quote: krakenAsset(quote),
    lot: 'unit',
    pair_decimals: 5,
    lot_decimals: 8,
    lot_multiplier: 1,
    leverage_buy: [],
    leverage_sell: [],
    fees: [[0, 0.4]],
    fees_maker: [[0, 0.25]],
    fee_volume_currency: 'ZUSD',
    ordermin: '0.0001',
    costmin: '0.5',
    tick_size: '0.00001',
    status: 'online',
  }
}

const ticker = (price: string) => ({
  a: [price, '1', '1.000'],
  b: [price, '1', '1.000'],
  c: [price, '0.10000000'],
  v: ['100.0', '1000.0'],
  p: [price, price],
  t: [10, 100],
  l: [price, price],
  h: [price, price],
  o: price,
})
