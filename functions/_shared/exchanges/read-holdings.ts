/** What an account holds, and which markets there are for it. */
import { z } from 'zod'
import type { Connection } from './connect.ts'
import { decimal, isZero } from './decimals.ts'

/**
 * `name` is what the exchange calls it, which is not always the asset: a balance that earns has a name of its own, so several
 * rows can be of one asset. What a margin account owes is negative.
 */
export type Holding = { asset: string; amount: string; name: string }
/** A row whose amount is no number. */
export type SkippedHolding = { id: string; reason: 'not_readable'; content: object }

const page = z.object({
  total: z.record(z.string(), z.unknown()),
  /** Coinbase shows 250 wallets at a time. */
  info: z
    .looseObject({ has_next: z.boolean().catch(false), cursor: z.string().catch('') })
    .catch({ has_next: false, cursor: '' }),
})

/** Everything that is not zero, free or bound in orders, by ccxt's name of the asset (BTC, never XXBT). */
export async function readHoldings(
  connection: Connection,
): Promise<{ holdings: Holding[]; skipped: SkippedHolding[] }> {
  const told: [string, unknown][] = []
  let params: object = {}
  for (;;) {
    const { total, info } = await connection.call(page, 'fetchBalance', params)
    told.push(...Object.entries(total))
    if (!info.has_next || info.cursor === '') break
    params = { cursor: info.cursor }
  }
  const unwrap = await readWrappers(connection)
  const holdings: Holding[] = []
  const skipped: SkippedHolding[] = []
  for (const [key, value] of told) {
    const name = plainText(key)
    const { data: amount } = decimal.safeParse(value)
    if (amount === undefined)
      skipped.push({ id: name, reason: 'not_readable', content: { asset: name, amount: plainText(value ?? '') } })
    else if (!isZero(amount)) holdings.push({ asset: unwrap(name), amount, name })
  }
  return { holdings, skipped }
}

/** What JSON and Postgres take, whatever an exchange says. */
const plainText = (value: unknown): string =>
  String(value).slice(0, 200).toWellFormed().replaceAll('\0', '\uFFFD') || '?'

/** The asset behind any name that an exchange has for a balance. */
export async function readWrappers(connection: Connection): Promise<(name: string) => string> {
  const listed = new Set((await readMarkets(connection)).flatMap(({ base, quote }) => [base, quote]))
  return (name) => unwrapAsset(connection.exchange, name, listed)
}

/** Kraken: rewards (B, F, M), staked (S), bonded to parachains (P), tokenized (T), and money that is on hold. */
const krakenWrapper = /^(.+)\.(?:B|F|HOLD|M|P|S|T)$/
/** Names that ccxt knows only when they stand alone. */
const krakenNames: Record<string, string> = { XBT: 'BTC', XDG: 'DOGE' }

/**
 * The asset behind a balance that earns or is staked: BTC of Kraken's BTC.F, DOT of its DOT28.S (bonded for 28 days), BTC of
 * Binance's LDBTC. Any other name is the asset itself.
 */
function unwrapAsset(exchange: string, name: string, listed: ReadonlySet<string>): string {
  // LDO is a coin, and no O that earns.
  const inside = exchange === 'binance' && !listed.has(name) ? /^LD(.+)$/.exec(name)?.[1] : undefined
  // Of a coin whose name has had another meaning once, as LDSHIB2, the name ends with a number.
  const earning = inside && [inside, inside.replace(/\d$/, '')].find((asset) => listed.has(asset))
  if (earning) return earning
  if (exchange !== 'kraken' && exchange !== 'coinbase') return name
  const wrapped = (exchange === 'kraken' ? krakenWrapper.exec(name)?.[1] : undefined) ?? name
  // Ether that was staked before it could be taken back.
  if (wrapped === 'ETH2') return 'ETH'
  if (wrapped === name || listed.has(wrapped)) return wrapped
  const unbonded = wrapped.replace(/\d\d$/, '')
  return krakenNames[unbonded] ?? (listed.has(unbonded) ? unbonded : wrapped)
}

const markets = z.record(
  z.string(),
  z.looseObject({ symbol: z.string(), spot: z.boolean().nullish(), active: z.boolean().nullish() }),
)

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
