/** The stand-in exchanges refuse what the real ones refuse. Requests are signed here by hand, by the exchanges' documents. */
import { createHash, createHmac, createPrivateKey } from 'node:crypto'
import { SignJWT } from 'jose'
import { beforeEach, expect, test } from 'vitest'
import { z } from 'zod'
import { createWorld } from '../functions/exchanges-world.ts'
import { target } from '../target.ts'

const binanceAnswer = z.union([
  z.looseObject({ code: z.number().optional() }),
  z.array(z.looseObject({ id: z.number() })),
])
const krakenAnswer = z.object({
  error: z.array(z.string()),
  result: z
    .looseObject({ trades: z.record(z.string(), z.unknown()).optional(), count: z.number().optional() })
    .optional(),
})
const fillsAnswer = z.object({ fills: z.array(z.unknown()), cursor: z.string() })

type Key = { api_key: string; api_secret: string }
let world = createWorld()
beforeEach(() => {
  world = createWorld()
})

async function binance(
  key: Key,
  path: string,
  query: Record<string, string | number> = {},
  over: { signature?: string } = {},
) {
  const text = new URLSearchParams({ timestamp: String(Date.now()), ...strings(query) }).toString()
  const signature = over.signature ?? createHmac('sha256', key.api_secret).update(text).digest('hex')
  const headers = { 'x-mbx-apikey': key.api_key }
  const answer = await world.send(`/binance${path}?${text}&signature=${signature}`, { headers })
  const body = binanceAnswer.parse(await answer.json())
  return {
    status: answer.status,
    code: Array.isArray(body) ? undefined : body.code,
    rows: Array.isArray(body) ? body : [],
  }
}

let nonces = Date.now()
async function kraken(
  key: Key,
  name: string,
  form: Record<string, string | number> = {},
  over: { sign?: string } = {},
) {
  nonces += 1
  const body = new URLSearchParams({ nonce: String(nonces), ...strings(form) }).toString()
  const nonce = new URLSearchParams(body).get('nonce') ?? ''
  const digest = createHash('sha256')
    .update(nonce + body)
    .digest()
  const hmac = createHmac('sha512', Buffer.from(key.api_secret, 'base64')).update(`/0/private/${name}`).update(digest)
  const headers = { 'api-key': key.api_key, 'api-sign': over.sign ?? hmac.digest('base64') }
  const answer = await world.send(`/kraken/0/private/${name}`, { method: 'POST', headers, body })
  const { error, result } = krakenAnswer.parse(await answer.json())
  return { status: answer.status, error: error[0], result }
}

async function coinbase(key: Key, path: string, over: { uri?: string; atS?: number; lifeS?: number } = {}) {
  const atS = over.atS ?? Math.floor(Date.now() / 1000)
  const claims = {
    sub: key.api_key,
    iss: 'cdp',
    uri: over.uri ?? `GET api.coinbase.com${path.split('?')[0]}`,
    nbf: atS,
  }
  const token = await new SignJWT({ ...claims, exp: atS + (over.lifeS ?? 120) })
    .setProtectedHeader({ alg: 'ES256', kid: key.api_key })
    .sign(createPrivateKey(key.api_secret))
  const answer = await world.send(`/coinbase${path}`, { headers: { authorization: `Bearer ${token}` } })
  const text = await answer.text()
  return { status: answer.status, text }
}

const strings = (values: Record<string, string | number>) =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [name, String(value)]))

test('Binance: keys, signatures, clocks and addresses are refused by their codes', async () => {
  const key = await world.makeKey('binance')
  const other = await world.makeKey('binance')
  const elsewhere = await world.makeKey('binance', { allowed_ips: ['192.0.2.1'] })
  const account = '/api/v3/account'

  const codes = [
    await binance({ ...key, api_key: 'short' }, account),
    await binance({ ...key, api_key: 'x'.repeat(64) }, account),
    await binance(elsewhere, account),
    await binance({ ...key, api_secret: other.api_secret }, account),
    await binance(key, account, {}, { signature: '' }),
    await binance(key, account, { timestamp: Date.now() - 6_000 }),
    await binance(key, account, { timestamp: Date.now() + 3_000 }),
    await binance(key, '/api/v3/myTrades'),
    await binance(key, '/api/v3/myTrades', { symbol: 'NOSUCH' }),
    await binance(key, account),
  ].map(({ status, code }) => `${status} ${code ?? 'ok'}`)

  expect(codes).toEqual([
    '401 -2014',
    '401 -2008',
    '401 -2015',
    '400 -1022',
    '400 -1102',
    '400 -1021',
    '400 -1021',
    '400 -1102',
    '400 -1121',
    '200 ok',
  ])
})

test('Binance: a longer recvWindow forgives a late clock, and a changed query does not fit its signature', async () => {
  const key = await world.makeKey('binance')
  const late = await binance(key, '/api/v3/account', { timestamp: Date.now() - 6_000, recvWindow: 10_000 })
  const text = `symbol=BTCUSDT&timestamp=${Date.now()}`
  const signature = createHmac('sha256', key.api_secret).update(text).digest('hex')

  const changed = await binance(key, '/api/v3/myTrades', { symbol: 'ETHUSDT' }, { signature })

  expect(late.status).toBe(200)
  expect(changed.code).toBe(-1022)
})

test('Kraken: keys, signatures and nonces are refused in a list of errors, with status 200', async () => {
  const key = await world.makeKey('kraken')
  const other = await world.makeKey('kraken')
  const elsewhere = await world.makeKey('kraken', { allowed_ips: ['192.0.2.1'] })
  const trading = await world.makeKey('kraken', { permissions: ['trade'] })
  const nonce = Date.now() + 60_000

  const answers = [
    await kraken({ ...key, api_key: 'nobody' }, 'BalanceEx'),
    await kraken({ ...key, api_secret: other.api_secret }, 'BalanceEx'),
    await kraken(key, 'BalanceEx', {}, { sign: '' }),
    await kraken(elsewhere, 'BalanceEx'),
    await kraken(trading, 'BalanceEx'),
    await kraken(key, 'BalanceEx', { nonce }),
    await kraken(key, 'BalanceEx', { nonce }),
    await kraken(key, 'BalanceEx', { nonce: nonce - 1 }),
    await kraken(key, 'BalanceEx', { nonce: nonce + 1 }),
  ].map(({ status, error }) => `${status} ${error ?? 'ok'}`)

  expect(answers).toEqual([
    '200 EAPI:Invalid key',
    '200 EAPI:Invalid signature',
    '200 EAPI:Invalid signature',
    '200 EGeneral:Permission denied',
    '200 EGeneral:Permission denied',
    '200 ok',
    '200 EAPI:Invalid nonce',
    '200 EAPI:Invalid nonce',
    '200 ok',
  ])
})

test('Coinbase: a token is for one method and path, for two minutes, and of its own key', async () => {
  const key = await world.makeKey('coinbase')
  const other = await world.makeKey('coinbase')
  const trading = await world.makeKey('coinbase', { permissions: ['trade'] })
  const elsewhere = await world.makeKey('coinbase', { allowed_ips: ['192.0.2.1'] })
  const accounts = '/api/v3/brokerage/accounts'
  const nowS = Math.floor(Date.now() / 1000)

  const answers = [
    await coinbase({ ...key, api_secret: other.api_secret }, accounts),
    await coinbase({ ...key, api_key: 'organizations/x/apiKeys/y' }, accounts),
    await coinbase(key, accounts, { uri: 'GET api.coinbase.com/api/v3/brokerage/key_permissions' }),
    await coinbase(key, accounts, { uri: `GET 127.0.0.1${accounts}` }),
    await coinbase(key, accounts, { atS: nowS - 300 }),
    await coinbase(key, accounts, { atS: nowS + 300 }),
    await coinbase(elsewhere, accounts),
    await coinbase(trading, accounts),
    await coinbase(key, accounts),
  ]

  expect(answers.map(({ status }) => status)).toEqual([401, 401, 401, 401, 401, 401, 401, 403, 200])
  expect(answers[0]?.text).toBe('Unauthorized\n')
})

test('a revoked key is unknown, and what one key is told does not concern another', async () => {
  const [key, other] = [await world.makeKey('binance'), await world.makeKey('binance')]
  await world.setMood('binance', { api_key: other.api_key, down: true })
  const before = await binance(key, '/api/v3/account')

  await world.changeKey('binance', key.api_key, { revoked: true })
  const after = await binance(key, '/api/v3/account')

  expect([before.status, after.code]).toEqual([200, -2008])
})

test('each exchange slows its callers down in its own way', async () => {
  for (const exchange of ['binance', 'coinbase', 'kraken'] as const)
    await world.setMood(exchange, { rate_limited: true })
  const get = async (path: string) => world.send(path)

  const limited = [
    await get('/binance/api/v3/time'),
    await get('/coinbase/v2/time'),
    await get('/kraken/0/public/Time'),
  ]
  await world.setMood('binance', { banned: true })
  const banned = await get('/binance/api/v3/time')

  expect(limited.map(({ status }) => status)).toEqual([429, 429, 200])
  expect(limited[0]?.headers.get('retry-after')).toBe('7')
  expect(await limited[2]?.json()).toEqual({ error: ['EAPI:Rate limit exceeded'] })
  expect(banned.status).toBe(418)
})

test('trades come in the pages of their exchange', async () => {
  const at = Date.now() - 100_000
  const trades = Array.from({ length: 120 }, (_, i) => ({
    symbol: 'BTC/EUR',
    side: 'buy',
    amount: '0.1',
    price: '60000',
    at_ms: at + i,
  }))
  const [b, c, k] = [await world.makeKey('binance'), await world.makeKey('coinbase'), await world.makeKey('kraken')]
  await world.addTrades('binance', b.api_key, trades)
  await world.addTrades('coinbase', c.api_key, trades)
  await world.addTrades('kraken', k.api_key, trades)

  const fromId = await binance(b, '/api/v3/myTrades', { symbol: 'BTCEUR', fromId: 200, limit: 50 })
  const fills = fillsAnswer.parse(
    JSON.parse((await coinbase(c, '/api/v3/brokerage/orders/historical/fills?limit=100')).text),
  )
  const history = await kraken(k, 'TradesHistory', { ofs: 100 })

  expect(fromId.rows.map(({ id }) => id)).toEqual(Array.from({ length: 20 }, (_, i) => 200 + i))
  expect([fills.fills.length, fills.cursor === '']).toEqual([100, false])
  expect([Object.keys(history.result?.trades ?? {}).length, history.result?.count]).toEqual([20, 120])
})

test('a path that trades or withdraws is not there', async () => {
  const key = await world.makeKey('binance', { permissions: ['read', 'trade', 'withdraw'] })
  const headers = { 'x-mbx-apikey': key.api_key }

  const answers = [
    await world.send('/binance/api/v3/order', { method: 'POST', headers }),
    await world.send('/binance/sapi/v1/capital/withdraw/apply', { method: 'POST', headers }),
    await world.send('/kraken/0/private/Withdraw', { method: 'POST' }),
    await world.send('/coinbase/api/v3/brokerage/orders', { method: 'POST' }),
  ]

  expect(answers.map(({ status }) => status)).toEqual([404, 404, 404, 404])
})

test('control refuses what it does not understand', async () => {
  const bad = await world.send('/control/keys', { method: 'POST', body: '{"exchange":"mtgox"}' })
  const nobody = await world.send('/control/keys', { method: 'PATCH', body: '{"exchange":"kraken","api_key":"none"}' })

  expect([bad.status, nobody.status]).toEqual([400, 404])
})

test.skipIf(!target().own)('the stack runs them beside its other parts', async () => {
  const port = (target().own?.port ?? 0) + 7

  const answer = await fetch(`http://127.0.0.1:${port}/kraken/0/public/Time`)

  expect(await answer.json()).toMatchObject({ error: [], result: { unixtime: expect.any(Number) } })
})
