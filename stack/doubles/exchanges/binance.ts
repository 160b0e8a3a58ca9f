/**
 * Binance's spot REST as far as reading an account needs it. Shapes, codes and statuses are those of its public
 * documentation ("REST API", "Errors", wallet "Get API Key Permission").
 */
import { createHmac } from 'node:crypto'
import { type Context, Hono } from 'hono'
import { multiply } from './decimals.ts'
import { binanceId, partsOf } from './markets.ts'
import {
  type Bindings,
  candlesOf,
  clockOf,
  findKey,
  isAllowedFrom,
  isOpen,
  isSame,
  type Key,
  marketsOf,
  receive,
  type State,
  type Trade,
} from './state.ts'

type BinanceContext = Context<{ Bindings: Bindings }>

const refuse = (status: number, code: number, msg: string, headers: Record<string, string> = {}) =>
  Response.json({ code, msg }, { status, headers })

const missing = (name: string) =>
  refuse(400, -1102, `Mandatory parameter '${name}' was not sent, was empty/null, or malformed.`)

const limited = 'Too many requests; current limit is 6000 request weight per 1 MINUTE.'
const moods = {
  down: () => new Response('<html><head><title>502 Bad Gateway</title></head></html>', { status: 502 }),
  rate_limited: () => refuse(429, -1003, limited, { 'retry-after': '7' }),
  banned: () => refuse(418, -1003, 'Way too many requests; IP banned.', { 'retry-after': '120' }),
}

export function binanceApi(state: State) {
  const app = new Hono<{ Bindings: Bindings }>()
  const get = (path: string, answer: (c: BinanceContext) => Response) =>
    app.get(path, async (c) => {
      const mood = await receive(state, 'binance', { method: 'GET', path }, c.req.header('x-mbx-apikey'))
      return mood ? moods[mood]() : answer(c)
    })
  const getSigned = (path: string, answer: (c: BinanceContext, key: Key) => Response) =>
    get(path, (c) => {
      const key = authenticate(state, c)
      return key instanceof Response ? key : answer(c, key)
    })

  get('/api/v3/time', () => Response.json({ serverTime: clockOf(state, 'binance') }))
  get('/api/v3/exchangeInfo', () => {
    const symbols = marketsOf(state, 'binance').map((symbol) => market(symbol, isOpen(state, 'binance', symbol)))
    return Response.json({ timezone: 'UTC', serverTime: clockOf(state, 'binance'), symbols })
  })
  get('/api/v3/ticker/24hr', (c) => {
    const asked = c.req.query('symbols')
    const found = marketsOf(state, 'binance').filter(
      (symbol) => asked === undefined || asked.includes(`"${binanceId(symbol)}"`),
    )
    return Response.json(
      found.map((symbol) => ticker(symbol, state.prices.get(symbol) ?? '0', clockOf(state, 'binance'))),
    )
  })
  get('/api/v3/klines', (c) => klines(state, c))
  getSigned('/api/v3/account', (_, key) =>
    Response.json({
      canTrade: key.permissions.includes('trade'),
      canWithdraw: key.permissions.includes('withdraw'),
      canDeposit: true,
      updateTime: clockOf(state, 'binance'),
      accountType: 'SPOT',
      balances: Object.entries(key.balances).map(([asset, { free, used }]) => ({ asset, free, locked: used })),
      permissions: ['SPOT'],
    }),
  )
  getSigned('/api/v3/myTrades', (c, key) => myTrades(state, c, key))
  getSigned('/sapi/v1/account/apiRestrictions', (_, key) =>
    Response.json({
      ipRestrict: key.allowed_ips.length > 0,
      createTime: key.created_ms,
      enableReading: true,
      enableWithdrawals: key.permissions.includes('withdraw'),
      enableInternalTransfer: false,
      enableMargin: false,
      enableFutures: false,
      permitsUniversalTransfer: false,
      enableVanillaOptions: false,
      enableSpotAndMarginTrading: key.permissions.includes('trade'),
    }),
  )
  return app
}

/** HMAC-SHA256 in hex of the query as it was sent, without its last parameter `signature`. */
function authenticate(state: State, c: BinanceContext): Key | Response {
  const apiKey = c.req.header('x-mbx-apikey') ?? ''
  if (!/^[A-Za-z0-9]{64}$/.test(apiKey)) return refuse(401, -2014, 'API-key format invalid.')
  const key = findKey(state, 'binance', apiKey)
  if (!key) return refuse(401, -2008, 'Invalid Api-Key ID.')
  // One answer for a wrong address and a missing permission, as Binance has it.
  const address = c.env?.incoming?.socket.remoteAddress ?? '127.0.0.1'
  if (!isAllowedFrom(key, address) || !key.permissions.includes('read'))
    return refuse(401, -2015, 'Invalid API-key, IP, or permissions for action.')

  const [signed = '', signature] = new URL(c.req.url).search.slice(1).split('&signature=')
  const timestamp = Number(c.req.query('timestamp') || Number.NaN)
  if (Number.isNaN(timestamp)) return missing('timestamp')
  if (!signature) return missing('signature')
  const late = clockOf(state, 'binance', apiKey) - timestamp
  if (late < -1000) return refuse(400, -1021, "Timestamp for this request was 1000ms ahead of the server's time.")
  if (late > Number(c.req.query('recvWindow') ?? 5000))
    return refuse(400, -1021, 'Timestamp for this request is outside of the recvWindow.')
  const expected = createHmac('sha256', key.verifier).update(signed).digest('hex')
  if (!isSame(signature, expected)) return refuse(400, -1022, 'Signature for this request is not valid.')
  return key
}

/** From `fromId` or `startTime` on the oldest come first, else the newest; ids count per symbol. */
function myTrades(state: State, c: BinanceContext, key: Key): Response {
  const { symbol, fromId, startTime, endTime, limit } = c.req.query()
  if (!symbol) return missing('symbol')
  const known = marketsOf(state, 'binance').find((name) => binanceId(name) === symbol)
  if (!known) return refuse(400, -1121, 'Invalid symbol.')
  if (startTime && endTime && Number(endTime) - Number(startTime) > 86_400_000)
    return refuse(400, -1127, 'More than 24 hours between startTime and endTime.')
  const found = key.trades
    .filter((trade) => trade.symbol === known && Number(trade.id) >= Number(fromId ?? 0))
    .filter(({ at_ms }) => at_ms >= Number(startTime ?? 0) && at_ms <= Number(endTime ?? Number.POSITIVE_INFINITY))
  const rows = Math.min(Number(limit ?? 500), 1000)
  const page = fromId || startTime ? found.slice(0, rows) : found.slice(-rows)
  return Response.json(page.map(tradeRow))
}

const tradeRow = (trade: Trade) => ({
  symbol: binanceId(trade.symbol),
  id: Number(trade.id),
  orderId: Number(trade.id) + 1_000_000,
  orderListId: -1,
  price: trade.price,
  qty: trade.amount,
  quoteQty: multiply(trade.price, trade.amount),
  commission: trade.fee,
  commissionAsset: trade.fee_asset,
  time: trade.at_ms,
  isBuyer: trade.side === 'buy',
  isMaker: false,
  isBestMatch: true,
  ...trade.raw,
})

const spans: Record<string, number> = { '1m': 60_000, '1h': 3_600_000, '1d': 86_400_000 }

/** From `startTime` on, the oldest first; also of markets that trade no more. */
function klines(state: State, c: BinanceContext): Response {
  const { symbol, interval = '', startTime, limit } = c.req.query()
  const known = marketsOf(state, 'binance').find((name) => binanceId(name) === symbol)
  if (!known) return refuse(400, -1121, 'Invalid symbol.')
  const span = spans[interval]
  if (!span) return refuse(400, -1120, 'Invalid interval.')
  const found = candlesOf(state, known, span, Number(startTime ?? 0), state.now())
  const row = ([start, price]: [number, string]) => [
    start,
    price,
    price,
    price,
    price,
    '1.00000000',
    start + span - 1,
    price,
    1,
    '1.00000000',
    price,
    '0',
  ]
  return Response.json(found.slice(0, Math.min(Number(limit ?? 500), 1000)).map(row))
}

const market = (symbol: string, isTrading: boolean) => ({
  symbol: binanceId(symbol),
  status: isTrading ? 'TRADING' : 'BREAK',
  baseAsset: partsOf(symbol).base,
  baseAssetPrecision: 8,
  quoteAsset: partsOf(symbol).quote,
  quotePrecision: 8,
  quoteAssetPrecision: 8,
  orderTypes: ['LIMIT', 'MARKET'],
  isSpotTradingAllowed: true,
  isMarginTradingAllowed: false,
  filters: [
    { filterType: 'PRICE_FILTER', minPrice: '0.00000100', maxPrice: '1000000.00000000', tickSize: '0.00000100' },
    { filterType: 'LOT_SIZE', minQty: '0.00000001', maxQty: '9000.00000000', stepSize: '0.00000001' },
  ],
  permissions: [],
  permissionSets: [['SPOT']],
})

const ticker = (symbol: string, price: string, now: number) => ({
  symbol: binanceId(symbol),
  lastPrice: price,
  bidPrice: price,
  askPrice: price,
  openPrice: price,
  highPrice: price,
  lowPrice: price,
  volume: '1000.00000000',
  quoteVolume: '1000.00000000',
  openTime: now - 86_400_000,
  closeTime: now,
  count: 1000,
})
