/** Parts of amounts: exact until each is rounded once, and together the whole. */

/**
 * That part of the whole of an amount: exact until it is rounded once, half a unit away from zero, as Stripe rounds each line
 * of an invoice.
 */
export function shareOf(amount: number, part: number, whole: number): number {
  const [doubled, divisor] = [2n * BigInt(amount) * BigInt(part), BigInt(whole)]
  return Number((doubled + (doubled < 0n ? -divisor : divisor)) / (2n * divisor))
}

/** Percentages have up to four decimals. */
export const ofPercent = (amount: number, percent: number) => shareOf(amount, Math.round(percent * 10_000), 1_000_000)

/** Divides an amount in proportion to others; the parts add up to it. */
export function spread(amount: number, over: readonly number[]): number[] {
  const whole = sum(over)
  if (whole === 0) return over.map(() => 0)
  let [before, seen] = [0, 0]
  return over.map((part) => {
    seen += part
    const until = shareOf(amount, seen, whole)
    const own = until - before
    before = until
    return own
  })
}

export const sum = (amounts: readonly number[]) => amounts.reduce((total, amount) => total + amount, 0)
