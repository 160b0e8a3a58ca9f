/** The few markets of the stand-in exchanges, each named as its exchange names it, and what they cost at first. */

/** `BASE/QUOTE` and the last price as a decimal string. */
export const defaultPrices: Record<string, string> = {
  'BTC/USD': '64250.50',
  'BTC/USDT': '64230.10',
  'BTC/USDC': '64248.20',
  'BTC/EUR': '59180.40',
  'ETH/USD': '3120.75',
  'ETH/USDT': '3119.60',
  'ETH/USDC': '3120.55',
  'ETH/EUR': '2874.30',
  'ETH/BTC': '0.04857',
  'SOL/USD': '148.32',
  'SOL/USDT': '148.27',
  'SOL/EUR': '136.61',
  'USDT/USD': '1.0003',
  'USDC/USD': '1.0000',
  'USDC/USDT': '0.9997',
  'EUR/USDT': '1.0853',
  'BTC/GBP': '50120.00',
  'USD/CAD': '1.25',
  'USDT/TRY': '40',
  'DOT/BTC': '0.00008',
  'LDO/USDT': '0.95',
  '币安人生/USDT': '0.25',
}

const listed = (symbols: string) => symbols.split(' ')

export const symbolsOf = {
  // Binance has no dollars: its quotes are stablecoins and euros.
  binance: listed(
    'BTC/USDT BTC/USDC BTC/EUR ETH/USDT ETH/USDC ETH/EUR ETH/BTC SOL/USDT SOL/EUR USDC/USDT EUR/USDT USDT/TRY DOT/BTC LDO/USDT 币安人生/USDT',
  ),
  coinbase: listed('BTC/USD BTC/USDC BTC/EUR BTC/GBP ETH/USD ETH/USDC ETH/EUR ETH/BTC SOL/USD SOL/EUR USDT/USD'),
  kraken: listed(
    'BTC/USD BTC/USDT BTC/EUR ETH/USD ETH/USDT ETH/EUR ETH/BTC SOL/USD SOL/EUR DOT/BTC USDT/USD USDC/USD USD/CAD',
  ),
}

/** A market that trades no more is still shown by its exchange (closed), or is not (gone): trades that were made there stay. */
export const listings = ['open', 'closed', 'gone'] as const
export type Listing = (typeof listings)[number]

export const partsOf = (symbol: string): { base: string; quote: string } => {
  const [base = '', quote = ''] = symbol.split('/')
  return { base, quote }
}

export const binanceId = (symbol: string) => symbol.replace('/', '')
export const coinbaseId = (symbol: string) => symbol.replace('/', '-')

/** Kraken's old assets have an X (coins) or Z (money) in front, and bitcoin is XBT. */
const krakenAssets: Record<string, string> = {
  ...{ BTC: 'XXBT', ETH: 'XETH', ICN: 'XICN' },
  ...{ USD: 'ZUSD', EUR: 'ZEUR', CAD: 'ZCAD' },
}
export const krakenAsset = (asset: string): string => krakenAssets[asset] ?? asset
export const krakenAltname = (asset: string): string => (asset === 'BTC' ? 'XBT' : asset)

/** Old pairs join the old names of the assets (XXBTZUSD), newer ones the plain names (SOLUSD); USDTZUSD is neither. */
export function krakenId(symbol: string): string {
  const { base, quote } = partsOf(symbol)
  if (symbol === 'USDT/USD') return 'USDTZUSD'
  const areOld = base in krakenAssets && quote in krakenAssets
  return areOld ? krakenAsset(base) + krakenAsset(quote) : krakenAltname(base) + krakenAltname(quote)
}
