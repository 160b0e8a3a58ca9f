/**
 * Coinbase's Advanced Trade REST as far as reading an account needs it, with keys of its developer platform: every call
 * carries an ES256 token of two minutes for exactly this method and path. Shapes are those of docs.cdp.coinbase.com;
 * that one plain 401 answers wrong keys, wrong clocks and wrong addresses alike is the real one's way, too.
 */
import { createPublicKey } from 'node:crypto'
import { type Context, Hono } from 'hono'
import { decodeProtectedHeader, jwtVerify } from 'jose'
import { coinbaseId, partsOf } from './markets.ts'
import {
  type Bindings,
  candlesOf,
  clockOf,
  findKey,
  isAllowedFrom,
  type Key,
  marketsOf,
  receive,
  type State,
  type Trade,
} from './state.ts'

type CoinbaseContext = Context<{ Bindings: Bindings }>

const host = 'api.coinbase.com'
const brokerage = '/api/v3/brokerage'
const unauthorized = () => new Response('Unauthorized\n', { status: 401 })
const denied = () =>
  Response.json(
    { error: 'PERMISSION_DENIED', error_details: 'Missing required scopes', message: 'Missing required scopes' },
    { status: 403 },
  )
const tooMany = () =>
  Response.json({ errors: [{ id: 'rate_limit_exceeded', message: 'Too many requests' }] }, { status: 429 })
const moods = {
  down: () => new Response('upstream connect error', { status: 503 }),
  rate_limited: tooMany,
  banned: tooMany,
}

export function coinbaseApi(state: State) {
  const app = new Hono<{ Bindings: Bindings }>()
  const get = (path: string, answer: (c: CoinbaseContext) => Response | Promise<Response>) =>
    app.get(path, async (c) => {
      const mood = await receive(state, 'coinbase', { method: 'GET', path }, keyNameOf(c))
      return mood ? moods[mood]() : answer(c)
    })
  const getSigned = (path: string, answer: (c: CoinbaseContext, key: Key) => Response, needsView = true) =>
    get(path, async (c) => {
      const key = await authenticate(state, c, path)
      if (!key) return unauthorized()
      return needsView && !key.permissions.includes('read') ? denied() : answer(c, key)
    })

  get('/v2/time', () => {
    const now = clockOf(state, 'coinbase')
    return Response.json({ data: { iso: isoOf(now), epoch: Math.floor(now / 1000) } })
  })
  const coins = ['BTC', 'ETH', 'SOL', 'USDT', 'USDC']
  get('/v2/currencies', () => Response.json({ data: ['USD', 'EUR'].map((id) => ({ id, name: id, min_size: '0.01' })) }))
  get('/v2/currencies/crypto', () =>
    Response.json({ data: coins.map((code) => ({ asset_id: `asset-${code}`, code, name: code, type: 'crypto' })) }),
  )
  get('/v2/exchange-rates', () => Response.json({ data: { currency: 'USD', rates: { USD: '1.0' } } }))
  get(`${brokerage}/market/products`, (c) => {
    const asked = c.req.queries('product_ids')
    const isSpot = (c.req.query('product_type') ?? 'SPOT') === 'SPOT'
    const found = marketsOf(state, 'coinbase').filter(
      (symbol) => isSpot && (!asked || asked.includes(coinbaseId(symbol))),
    )
    const products = found.map((symbol) => product(symbol, state.prices.get(symbol) ?? '0'))
    return Response.json({ products, num_products: products.length })
  })
  get(`${brokerage}/market/products/:id/candles`, (c) => candles(state, c))
  getSigned(`${brokerage}/transaction_summary`, () =>
    Response.json({ fee_tier: { pricing_tier: 'Intro', taker_fee_rate: '0.012', maker_fee_rate: '0.006' } }),
  )
  getSigned(`${brokerage}/key_permissions`, (_, key) => Response.json(keyPermissions(key)), false)
  getSigned(`${brokerage}/accounts`, accounts)
  getSigned(`${brokerage}/orders/historical/fills`, fills)
  return app
}

function keyNameOf(c: CoinbaseContext): string | undefined {
  try {
    return decodeProtectedHeader(c.req.header('authorization')?.replace('Bearer ', '') ?? '').kid
  } catch {
    return undefined
  }
}

async function authenticate(state: State, c: CoinbaseContext, path: string): Promise<Key | undefined> {
  const token = c.req.header('authorization')?.replace('Bearer ', '') ?? ''
  const key = findKey(state, 'coinbase', keyNameOf(c))
  if (!key || !isAllowedFrom(key, c.env?.incoming?.socket.remoteAddress ?? '127.0.0.1')) return undefined
  try {
    const { payload } = await jwtVerify(token, createPublicKey(key.verifier), {
      algorithms: ['ES256'],
      issuer: ['cdp', 'coinbase-cloud'],
      subject: key.api_key,
      requiredClaims: ['exp', 'nbf'],
      currentDate: new Date(clockOf(state, 'coinbase', key.api_key)),
      clockTolerance: 5,
    })
    return payload.uri === `${c.req.method} ${host}${path}` ? key : undefined
  } catch {
    return undefined
  }
}

/** A page of a list, and the cursor of the next one: here the place in the list, for the caller an opaque word. */
function page<T>(rows: T[], cursor: string | undefined, limit: number): { rows: T[]; cursor: string } {
  const from = cursor ? Number(Buffer.from(cursor, 'base64url').toString()) : 0
  const next = from + limit
  return {
    rows: rows.slice(from, next),
    cursor: next < rows.length ? Buffer.from(String(next)).toString('base64url') : '',
  }
}

function accounts(c: CoinbaseContext, key: Key): Response {
  const all = Object.entries(key.balances).map(account)
  const { rows, cursor } = page(all, c.req.query('cursor'), Math.min(Number(c.req.query('limit') ?? 49), 250))
  return Response.json({ accounts: rows, has_next: cursor !== '', cursor, size: rows.length })
}

const spans: Record<string, number> = { ONE_MINUTE: 60_000, ONE_HOUR: 3_600_000, ONE_DAY: 86_400_000 }

/** From `start` to `end` in seconds, the newest first; more than 350 at once are refused. */
function candles(state: State, c: CoinbaseContext): Response {
  const { start, end, granularity = '' } = c.req.query()
  const [from, until, span] = [Number(start) * 1000, Number(end) * 1000, spans[granularity] ?? Number.NaN]
  const symbol = marketsOf(state, 'coinbase').find((name) => coinbaseId(name) === c.req.param('id'))
  if (!symbol) return Response.json({ error: 'NOT_FOUND', message: 'Product not found' }, { status: 404 })
  if (!((until - from) / span <= 350))
    return Response.json(
      { error: 'INVALID_ARGUMENT', message: 'number of candles requested should be less than 350' },
      { status: 400 },
    )
  const row = ([at, price]: [number, string]) => ({
    start: String(at / 1000),
    ...{ low: price, high: price, open: price, close: price, volume: '1' },
  })
  return Response.json({ candles: candlesOf(state, symbol, span, from, until).toReversed().map(row) })
}

/** The newest first. */
function fills(c: CoinbaseContext, key: Key): Response {
  const { start_sequence_timestamp: start, end_sequence_timestamp: end, cursor, limit } = c.req.query()
  const [from, until] = [Date.parse(start ?? '1970-01-01'), Date.parse(end ?? '2999-01-01')]
  const products = c.req.queries('product_ids') ?? c.req.queries('product_id')
  const found = key.trades
    .filter(({ at_ms, symbol }) => at_ms >= from && at_ms <= until && (products?.includes(coinbaseId(symbol)) ?? true))
    .toReversed()
  const part = page(found, cursor, Math.min(Number(limit ?? 100), 1000))
  return Response.json({ fills: part.rows.map(fill), cursor: part.cursor })
}

const isoOf = (ms: number) => new Date(ms).toISOString()

const account = ([currency, { free, used }]: [string, { free: string; used: string }]) => ({
  uuid: `5a0b2c4e-0000-4000-8000-${Buffer.from(currency).toString('hex').padStart(12, '0')}`,
  name: `${currency} Wallet`,
  currency,
  available_balance: { value: free, currency },
  default: true,
  active: true,
  type: ['USD', 'EUR'].includes(currency) ? 'ACCOUNT_TYPE_FIAT' : 'ACCOUNT_TYPE_CRYPTO',
  ready: true,
  hold: { value: used, currency },
})

const keyPermissions = (key: Key) => ({
  can_view: key.permissions.includes('read'),
  can_trade: key.permissions.includes('trade'),
  can_transfer: key.permissions.includes('withdraw'),
  portfolio_uuid: '5a0b2c4e-0000-4000-8000-000000000001',
  portfolio_type: 'DEFAULT',
})

const fill = (trade: Trade) => ({
  entry_id: `entry-${trade.id}`,
  trade_id: trade.id,
  order_id: `order-${trade.id}`,
  trade_time: isoOf(trade.at_ms),
  trade_type: 'FILL',
  price: trade.price,
  size: trade.amount,
  commission: trade.fee,
  product_id: coinbaseId(trade.symbol),
  sequence_timestamp: isoOf(trade.at_ms),
  liquidity_indicator: 'TAKER',
  size_in_quote: false,
  side: trade.side.toUpperCase(),
  ...trade.raw,
})

const product = (symbol: string, price: string) => ({
  product_id: coinbaseId(symbol),
  price,
  price_percentage_change_24h: '0',
  volume_24h: '1000',
  base_increment: '0.00000001',
  quote_increment: '0.01',
  quote_min_size: '1',
  quote_max_size: '10000000',
  base_min_size: '0.00000001',
  base_max_size: '10000',
  base_name: partsOf(symbol).base,
  quote_name: partsOf(symbol).quote,
  is_disabled: false,
  status: 'online',
  trading_disabled: false,
  product_type: 'SPOT',
  quote_currency_id: partsOf(symbol).quote,
  base_currency_id: partsOf(symbol).base,
  price_increment: '0.01',
  alias: '',
  alias_to: [],
})
