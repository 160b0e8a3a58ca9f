/** What an account holds, and what it is worth by the piece. */
import { z } from 'zod'
import type { Connection } from './connect.ts'
import { add, decimal, isZero } from './decimals.ts'

export type Holding = { asset: string; amount: string }
export type Price = { asset: string; price: string }

const page = z.object({
  total: z.record(z.string(), decimal.nullish()),
  /** Coinbase shows 250 wallets at a time. */
  info: z
    .looseObject({ has_next: z.boolean().catch(false), cursor: z.string().catch('') })
    .catch({ has_next: false, cursor: '' }),
})

/** Everything that is not zero, free or bound in orders, by ccxt's name of the asset (BTC, never XXBT). */
export async function readHoldings(connection: Connection): Promise<Holding[]> {
  const totals = new Map<string, string>()
  let params: object = {}
  for (;;) {
    const { total, info } = await connection.call(page, 'fetchBalance', params)
    for (const [asset, amount] of Object.entries(total)) {
      if (amount) totals.set(asset, add(totals.get(asset) ?? '0', amount))
    }
    if (!info.has_next || info.cursor === '') break
    params = { cursor: info.cursor }
  }
  return [...totals].flatMap(([asset, amount]) => (isZero(amount) ? [] : [{ asset, amount }]))
}

const markets = z.record(
  z.string(),
  z.looseObject({ symbol: z.string(), spot: z.boolean().nullish(), active: z.boolean().nullish() }),
)
const tickers = z.record(z.string(), z.looseObject({ last: decimal.nullish() }))

/** `symbol` is `BTC/USDT`. One that is not active trades no more, or not now, and shows what was. */
export type Market = { symbol: string; base: string; quote: string; active: boolean }

/** An exchange's spot markets. */
export async function readMarkets(connection: Connection): Promise<Market[]> {
  const all = await connection.call(markets, 'loadMarkets')
  return Object.values(all).flatMap(({ symbol, spot, active }) => {
    const [base = '', quote = ''] = symbol.split('/')
    return spot === false || symbol.includes(':') ? [] : [{ symbol, base, quote, active: active !== false }]
  })
}

/** Their symbols. */
async function readSymbols(connection: Connection): Promise<string[]> {
  return (await readMarkets(connection)).map(({ symbol }) => symbol)
}

/** Last prices in `quote`. An asset without a market in it is left out: Binance, for one, has none in dollars but in USDT. */
export async function readPrices(connection: Connection, assets: string[], quote: string): Promise<Price[]> {
  const listed = new Set(await readSymbols(connection))
  const priced = assets.filter((asset) => asset !== quote && listed.has(`${asset}/${quote}`))
  const itself = assets.includes(quote) ? [{ asset: quote, price: '1' }] : []
  if (priced.length === 0) return itself
  const symbols = priced.map((asset) => `${asset}/${quote}`)
  const found = await connection.call(tickers, 'fetchTickers', symbols)
  const prices = priced.flatMap((asset) => {
    const price = found[`${asset}/${quote}`]?.last
    return price ? [{ asset, price }] : []
  })
  return [...itself, ...prices]
}
