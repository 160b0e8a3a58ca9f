/** Kraken's answers, as docs.kraken.com shows them. */
import { multiply } from './decimals.ts'
import { krakenAltname, krakenAsset, krakenId, partsOf, symbolsOf } from './markets.ts'
import type { Key, Permission, Trade } from './state.ts'

/** Kraken's names of the permissions that we tell apart. */
const permissionNames: Record<Permission, string[]> = {
  read: ['query-funds', 'query-open-trades', 'query-closed-trades'],
  trade: ['modify-trades', 'close-trades'],
  withdraw: ['withdraw-funds'],
}

export const tradeRow = (trade: Trade) => ({
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
})

export const keyInfo = (key: Key, now: number) => ({
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

export const assets = () => {
  const names = new Set(symbolsOf.kraken.flatMap((symbol) => Object.values(partsOf(symbol))))
  const row = (name: string) => ({ aclass: 'currency', altname: krakenAltname(name), decimals: 10, status: 'enabled' })
  return Object.fromEntries([...names].map((name) => [krakenAsset(name), row(name)]))
}

export const pair = (symbol: string) => {
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

export const ticker = (price: string) => ({
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
