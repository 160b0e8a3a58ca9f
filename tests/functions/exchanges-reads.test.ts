/** We only read: of the hundreds of things that ccxt can do, a few can be reached, and no request goes elsewhere. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { readMethods } from '../../functions/_shared/exchanges/connect.ts'
import { loadExchange } from '../../functions/_shared/exchanges/load-exchange.ts'
import { readHoldings } from '../../functions/_shared/exchanges/read-holdings.ts'
import { readTradesSince } from '../../functions/_shared/exchanges/read-trades.ts'
import { testConnection } from '../../functions/_shared/exchanges/test-connection.ts'
import { readPrices } from '../../functions/_shared/portfolio/price-paths.ts'
import { root } from '../../stack/config.ts'
import { createWorld, names } from './exchanges-world.ts'

const folder = 'functions/_shared/exchanges'
const sources = readdirSync(join(root, 'functions'), { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts') && !name.endsWith('.d.ts'))
  .map((name) => ({ file: `functions/${name}`, text: readFileSync(join(root, 'functions', name), 'utf8') }))
const withoutComments = (text: string) => text.replaceAll(/\/\*[\s\S]*?\*\/|(?<![:'"`])\/\/.*/g, '')

/** The list to review: each of them reads. Kept apart from the code, so that a method added there fails here. */
const reads = [
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
]
/** Words that are something else here: a setting that names the read behind Coinbase's `fetchBalance`, what ccxt makes of a row,
 * our own `symbol`, and JavaScript's. */
const settings = [
  'parseTrade',
  'symbol',
  'v3PrivateGetBrokerageAccounts',
  'now',
  'fetch',
  'keys',
  'values',
  'number',
  'currency',
  'constructor',
]

/** Every method of ccxt's three classes, those of single addresses (`sapiPostAssetTransfer`) among them. */
async function methodsOfCcxt(): Promise<Set<string>> {
  const found = new Set<string>()
  for (const name of names) {
    const Exchange = await loadExchange(name)
    for (
      let object: object | null = new Exchange({});
      object && object !== Object.prototype;
      object = Object.getPrototypeOf(object)
    ) {
      for (const [method, { value }] of Object.entries(Object.getOwnPropertyDescriptors(object))) {
        if (typeof value === 'function') found.add(method)
      }
    }
  }
  return found
}

/** The words after a dot or as a whole string, by which a method could be called. */
const calledIn = (text: string) =>
  [...withoutComments(text).matchAll(/\.(\w+)|['"`](\w+)['"`]/g)].map(([, after, quoted]) => after ?? quoted ?? '')

const callsBeyond = (text: string, methods: Set<string>) =>
  calledIn(text).filter((word) => methods.has(word) && !reads.includes(word) && !settings.includes(word))

test('nothing but the loader imports ccxt, and only its folder loads exchanges', () => {
  const importing = sources.filter(({ text }) => /['"`](?:npm:)?ccxt[/'"`@]/.test(withoutComments(text)))
  const reflecting = sources.filter(({ text }) => /Reflect\.(apply|construct)|loadExchange\(/.test(text))

  expect(importing.map(({ file }) => file)).toEqual([`${folder}/load-exchange.ts`])
  expect(reflecting.map(({ file }) => file).sort()).toEqual([`${folder}/connect.ts`, `${folder}/load-exchange.ts`])
})

test('of the methods of ccxt, only those that are allowed occur in the folder', async () => {
  const methods = await methodsOfCcxt()
  const beyond = sources
    .filter(({ file }) => file.startsWith(folder))
    .flatMap(({ file, text }) => callsBeyond(text, methods).map((word) => `${file}: ${word}`))

  expect(methods.size).toBeGreaterThan(1_000)
  expect(beyond).toEqual([])
  expect([...readMethods].sort()).toEqual([...reads].sort())
  const offence = "await connection.call(z.unknown(), 'createOrder'); exchange.withdraw(); x.sapiPostAssetTransfer()"
  expect(callsBeyond(offence, methods)).toEqual(['createOrder', 'withdraw', 'sapiPostAssetTransfer'])
})

test('a method that is not allowed cannot be called, whatever the types say', async () => {
  const { makeKey, connect, calls } = createWorld()
  const connection = await connect('binance', await makeKey('binance', { permissions: ['read', 'trade', 'withdraw'] }))

  const refused: unknown = Reflect.apply(connection.call, connection, [
    {},
    'createOrder',
    'BTC/USDT',
    'market',
    'buy',
    1,
  ])

  await expect(refused).rejects.toMatchObject({ detail: 'binance has no createOrder' })
  expect(await calls()).toEqual([])
  expect(Object.keys(connection).sort()).toEqual(['call', 'exchange', 'needsSymbol', 'now'])
})

test('everything together asks for these addresses and no other', async () => {
  const { makeKey, connect, calls } = createWorld()
  for (const exchange of names) {
    const connection = await connect(exchange, await makeKey(exchange, { balances: { BTC: '1' } }))
    await testConnection(connection)
    await readHoldings(connection)
    await readPrices(connection, ['BTC'], 'EUR')
    await readTradesSince(connection, null, { assets: ['BTC'] }).next()
  }

  const asked = new Set((await calls()).map(({ method, path }) => `${method} ${path}`))

  expect([...asked].sort()).toEqual([
    'GET /0/public/AssetPairs',
    'GET /0/public/Assets',
    'GET /0/public/Ticker',
    'GET /0/public/Time',
    'GET /api/v3/account',
    'GET /api/v3/brokerage/accounts',
    'GET /api/v3/brokerage/key_permissions',
    'GET /api/v3/brokerage/market/products',
    'GET /api/v3/brokerage/orders/historical/fills',
    'GET /api/v3/brokerage/transaction_summary',
    'GET /api/v3/exchangeInfo',
    'GET /api/v3/myTrades',
    'GET /api/v3/ticker/24hr',
    'GET /sapi/v1/account/apiRestrictions',
    'GET /v2/currencies',
    'GET /v2/currencies/crypto',
    'GET /v2/exchange-rates',
    'GET /v2/time',
    'POST /0/private/BalanceEx',
    'POST /0/private/GetApiKeyInfo',
    'POST /0/private/TradesHistory',
  ])
})
