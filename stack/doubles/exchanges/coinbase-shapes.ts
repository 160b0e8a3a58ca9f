/** Coinbase's answers, as docs.cdp.coinbase.com shows them. */
import { coinbaseId, partsOf } from './markets.ts'
import type { Key, Trade } from './state.ts'

export const isoOf = (ms: number) => new Date(ms).toISOString()

export const account = ([currency, { free, used }]: [string, { free: string; used: string }]) => ({
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

export const keyPermissions = (key: Key) => ({
  can_view: key.permissions.includes('read'),
  can_trade: key.permissions.includes('trade'),
  can_transfer: key.permissions.includes('withdraw'),
  portfolio_uuid: '5a0b2c4e-0000-4000-8000-000000000001',
  portfolio_type: 'DEFAULT',
})

export const fill = (trade: Trade) => ({
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
})

export const product = (symbol: string, price: string) => ({
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
