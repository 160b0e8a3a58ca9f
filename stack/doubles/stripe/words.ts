/** What pages and invoices write for people: money, products, and statuses in words. */
import type { State } from './state.ts'
import type { Price } from './wire.ts'

export const money = (amount: number, currency: string) => {
  const format = new Intl.NumberFormat('en', { style: 'currency', currency })
  return format.format(amount / 10 ** (format.resolvedOptions().maximumFractionDigits ?? 2))
}

export const productName = (state: State, price: Price) => state.products.get(price.product)?.name ?? price.id

/** As on an invoice: `Premium (at $12.00 / month)`. */
export function lineName(state: State, price: Price): string {
  const { interval, interval_count = 1 } = price.recurring ?? {}
  const per = interval === undefined ? '' : ` / ${interval_count === 1 ? interval : `${interval_count} ${interval}s`}`
  return `${productName(state, price)} (at ${money(price.unit_amount ?? 0, price.currency)}${per})`
}

const words: Record<string, string> = {
  active: 'Active',
  trialing: 'Trial',
  past_due: 'Payment overdue',
  unpaid: 'Not paid',
  incomplete: 'First payment open',
  incomplete_expired: 'Never paid',
  paused: 'Paused',
  canceled: 'Canceled',
  open: 'Open',
  paid: 'Paid',
  void: 'Void',
  uncollectible: 'Given up',
  ok: 'Is paid',
  declined: 'Is declined',
  requires_action: 'Asks for 3-D Secure',
  processing: 'Is a bank debit',
}

/** A status of a subscription or an invoice, or how a card answers. */
export const inWords = (status: string | null) => words[status ?? ''] ?? status ?? ''
