/** Where periods end: counted from an anchor, in days, weeks, months or years. */
import type { Price } from './wire.ts'

const seconds = { day: 86_400, week: 7 * 86_400 }

/** Counted from an anchor, so that the 31st comes back after February. The first boundary after that moment. */
export function nextBoundary(anchor: number, after: number, { recurring }: Pick<Price, 'recurring'>): number {
  const { interval, interval_count: count } = recurring ?? { interval: 'month' as const, interval_count: 1 }
  if (interval === 'day' || interval === 'week') {
    const step = seconds[interval] * count
    return anchor + (Math.floor((after - anchor) / step) + 1) * step
  }
  const months = interval === 'year' ? 12 * count : count
  const guess = Math.floor((after - anchor) / (32 * 86_400 * months))
  for (let n = Math.max(guess, after < anchor ? 0 : 1); ; n += 1) {
    const boundary = addMonths(anchor, n * months)
    if (boundary > after) return boundary
  }
}

/** Where the period begins that ends there. */
export function previousBoundary(end: number, { recurring }: Pick<Price, 'recurring'>): number {
  const { interval, interval_count: count } = recurring ?? { interval: 'month' as const, interval_count: 1 }
  if (interval === 'day' || interval === 'week') return end - seconds[interval] * count
  return addMonths(end, interval === 'year' ? -12 * count : -count)
}

/** The same day and time of a later month, or that month's last day. */
export function addMonths(from: number, months: number): number {
  const date = new Date(from * 1000)
  const lastDay = new Date(Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + months + 1, 0)).getUTCDate()
  const day = Math.min(date.getUTCDate(), lastDay)
  const midnight = Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + months, day)
  return Math.floor((midnight + (date.getTime() % 86_400_000)) / 1000)
}

/** The full period that a part of one belongs to. */
export function wholePeriod(
  anchor: number,
  { start, end }: { start: number; end: number },
  price: Pick<Price, 'recurring'>,
) {
  if (start < anchor) return { start: previousBoundary(end, price), end }
  let from = anchor
  for (let next = nextBoundary(anchor, from, price); next <= start; next = nextBoundary(anchor, from, price))
    from = next
  return { start: from, end }
}
