/** Binance's answers, as its documents show them. */
import { multiply } from './decimals.ts'
import { binanceId, partsOf } from './markets.ts'
import type { Trade } from './state.ts'

export const tradeRow = (trade: Trade) => ({
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
})

export const market = (symbol: string) => ({
  symbol: binanceId(symbol),
  status: 'TRADING',
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

export const ticker = (symbol: string, price: string, now: number) => ({
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
