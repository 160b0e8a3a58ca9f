/** Lots, profit and loss by a calculation of its own: whole numbers of 10^-18, straight from the oldest trade to the newest. */
import fc from 'fast-check'
import { minute, type Trade } from './portfolio-support.ts'

const one = 10n ** 18n

export const digits = (text: string): bigint => {
  const [, sign, whole, fraction = ''] = /^(-?)(\d+)(?:\.(\d+))?$/.exec(text) ?? []
  const value = BigInt(whole ?? '') * one + BigInt(fraction.padEnd(18, '0'))
  return sign === '-' ? -value : value
}
export const text = (value: bigint): string => {
  const [size, sign] = value < 0n ? [-value, '-'] : [value, '']
  const fraction = String(size % one)
    .padStart(18, '0')
    .replace(/0+$/, '')
  return `${sign}${size / one}${fraction && `.${fraction}`}`
}
/** Exact until the end: factors of 10^-18 each, cut off to 18 decimals once. */
const product = (...factors: bigint[]): bigint =>
  factors.reduce((all, one) => all * one, 1n) / one ** BigInt(factors.length - 1)

type Move = { asset: string; id: string; at: string; amount: bigint; value: bigint | null }

/** A trade told as an accountant does: what was paid with its fees, and what was got after them. */
function movesOf(trade: Trade): Move[] {
  const [amount, price, fee] = [digits(trade.amount), digits(trade.price), digits(trade.fee ?? '0')]
  const rate = trade.quote === 'USD' ? one : trade.quote_price === undefined ? null : digits(trade.quote_price)
  const isThird = fee !== 0n && trade.fee_asset !== trade.base && trade.fee_asset !== trade.quote
  const feeRate = trade.fee_asset === 'USD' ? one : trade.fee_price === undefined ? null : digits(trade.fee_price)
  const third = isThird && feeRate !== null ? fee * feeRate * one : 0n
  const baseFee = trade.fee_asset === trade.base ? fee : 0n
  const quoteFee = trade.fee_asset === trade.quote ? fee * one : 0n
  // In units of 10^-36, as amount times price is; values in 10^-54.
  const money = trade.side === 'buy' ? amount * price + quoteFee : amount * price - quoteFee
  const base = trade.side === 'buy' ? amount - baseFee : -(amount + baseFee)
  const cut = (value: bigint) => value / one ** 2n
  const of = { id: trade.id, at: trade.executed_at }
  const moves: Move[] = []
  const worth = rate === null ? null : money * rate
  if (trade.base !== 'USD') {
    const value = worth === null ? null : trade.side === 'buy' ? cut(worth + third) : cut(-worth + third)
    moves.push({ ...of, asset: trade.base, amount: base, value })
  }
  if (trade.quote !== 'USD') {
    const paid = trade.side === 'buy' ? -money : money
    const value =
      trade.base === 'USD'
        ? cut(-base * one ** 2n + third)
        : worth === null
          ? null
          : cut(trade.side === 'buy' ? -worth : worth)
    moves.push({ ...of, asset: trade.quote, amount: paid / one, value })
  }
  if (isThird && trade.fee_asset && trade.fee_asset !== 'USD')
    moves.push({ ...of, asset: trade.fee_asset, amount: -fee, value: feeRate === null ? null : -product(fee, feeRate) })
  return moves.filter((move) => move.amount !== 0n)
}

type Lot = { id: string; asset: string; at: string; amount: bigint; left: bigint; cost: bigint | null }
/** A part of what a trade sold: what it cost and brought, and since when it was there; null where nobody knows. */
export type Sale = {
  id: string
  asset: string
  at: string
  cost: bigint | null
  profit: bigint | null
  since: string | null
}
const costOf = (lot: Lot, left: bigint) => (lot.cost === null ? null : (lot.cost * left) / lot.amount)

export function calculate(trades: Trade[]) {
  const moves = [...trades].sort(inOrder).flatMap(movesOf)
  const lots: Lot[] = []
  const sales: Sale[] = []
  const totals: Record<string, [bigint, bigint, bigint, bigint]> = {}
  for (const { asset, id, at, amount, value } of moves) {
    totals[asset] ??= [0n, 0n, 0n, 0n]
    const total = totals[asset]
    if (amount > 0n) lots.push({ id, asset, at, amount, left: amount, cost: value })
    let gone = amount < 0n ? -amount : 0n
    while (gone > 0n) {
      const lot = lots.find((lot) => lot.asset === asset && lot.left > 0n)
      const part = lot && lot.left < gone ? lot.left : gone
      const before = lot && costOf(lot, lot.left)
      const after = lot && costOf(lot, lot.left - part)
      const cost = typeof before === 'bigint' && typeof after === 'bigint' ? before - after : null
      const proceeds = value === null ? null : (-value * gone) / -amount - (-value * (gone - part)) / -amount
      if (cost !== null && proceeds !== null) total[0] += proceeds - cost
      if (cost === null) total[1] += part
      if (cost === null) total[2] += proceeds ?? 0n
      if (proceeds === null) total[3] += part
      const profit = cost !== null && proceeds !== null ? proceeds - cost : null
      sales.push({ id, asset, at, cost, profit, since: lot?.at ?? null })
      if (lot) lot.left -= part
      gone -= part
    }
  }
  const open = lots.filter((lot) => lot.left > 0n)
  return {
    sales,
    lots: open
      .map(
        (lot) => `${text(lot.left)}/${text(lot.amount)} ${lot.asset} for ${lot.cost === null ? '?' : text(lot.cost)}`,
      )
      .sort(),
    positions: Object.fromEntries(Object.entries(totals).map(([asset, total]) => [asset, total.map(text)])),
  }
}

export const inOrder = (a: Trade, b: Trade): number =>
  a.executed_at.localeCompare(b.executed_at) || a.id.length - b.id.length || (a.id < b.id ? -1 : 1)

const decimal = (max: number, decimals: number) =>
  fc.bigInt({ min: 1n, max: BigInt(max) * 10n ** BigInt(decimals) }).map((n) => text(n * 10n ** BigInt(18 - decimals)))

/** Trades of few assets and moments, so that lots run out, times are equal and fees are paid in everything. */
export const someTrades = fc
  .uniqueArray(
    fc.record({
      id: fc.integer({ min: 1, max: 200 }).map(String),
      executed_at: fc.integer({ min: 0, max: 15 }).map(minute),
      side: fc.constantFrom('buy' as const, 'sell' as const),
      market: fc.constantFrom(...(['BTC/USD', 'BTC/USD', 'ETH/USD', 'ETH/BTC', 'BNB/USD', 'USD/TRY'] as const)),
      amount: fc.oneof(decimal(3, 2), decimal(3, 8)),
      price: fc.oneof(decimal(50, 0), decimal(50, 8)),
      fee: fc.option(
        fc.record({ asset: fc.constantFrom('BTC', 'ETH', 'BNB', 'USD'), share: fc.integer({ min: -3, max: 9 }) }),
      ),
      quote_price: fc.option(decimal(90, 6), { nil: undefined }),
      fee_price: fc.option(decimal(90, 6), { nil: undefined }),
    }),
    { selector: (made) => made.id, minLength: 1, maxLength: 25 },
  )
  .map((all) =>
    all.map(({ market, fee, quote_price, fee_price, ...rest }): Trade => {
      const [base = '', quote = ''] = market.split('/')
      const paid = fee && { fee: text((digits(rest.amount) * BigInt(fee.share)) / 100n), fee_asset: fee.asset }
      return { ...rest, base, quote, ...paid, ...(quote_price && { quote_price }), ...(fee_price && { fee_price }) }
    }),
  )
