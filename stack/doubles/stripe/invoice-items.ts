/** Invoice items: prorations and what a shop adds by hand. They wait for an invoice, or are made for one that is a draft. */

import { newLine, pricingOf } from './lines.ts'
import type { State } from './state.ts'
import { type InvoiceItem, type InvoiceLine, type LineItem, newId } from './wire.ts'

type NewItem = Pick<
  InvoiceItem,
  | 'amount'
  | 'currency'
  | 'customer'
  | 'description'
  | 'discountable'
  | 'discounts'
  | 'invoice'
  | 'metadata'
  | 'parent'
  | 'period'
  | 'pricing'
  | 'quantity'
  | 'tax_rates'
> & { proration_details?: NonNullable<InvoiceItem['proration_details']> }

export const newInvoiceItem = (state: State, { proration_details, ...given }: NewItem): InvoiceItem => ({
  ...given,
  id: newId('ii_1', 23),
  object: 'invoiceitem',
  customer_account: null,
  date: state.now(),
  livemode: false,
  proration: proration_details !== undefined,
  ...(proration_details ? { proration_details } : {}),
  quantity_decimal: String(given.quantity),
  test_clock: null,
})

/** Stores it; without an invoice it waits for the next one. */
export function addItem(state: State, item: InvoiceItem): void {
  state.invoiceItems.set(item.id, item)
  if (item.invoice === null)
    state.waitingItems.set(item.customer, [...(state.waitingItems.get(item.customer) ?? []), item.id])
  const charged = item.parent?.subscription_details?.subscription_item
  if (item.invoice === null && item.proration && item.amount >= 0 && charged !== undefined)
    state.debits.set(charged, { invoice: null, id: item.id })
}

export const isOf = (item: InvoiceItem, subscription: string | null) =>
  (item.parent?.subscription_details?.subscription ?? null) === subscription

/** What waits for an invoice of that customer. */
export const waitingFor = (state: State, customer: string, fits: (item: InvoiceItem) => boolean): InvoiceItem[] =>
  (state.waitingItems.get(customer) ?? []).flatMap((id) => {
    const item = state.invoiceItems.get(id)
    return item && fits(item) ? [item] : []
  })

/** Puts them on that invoice. */
export function take(state: State, items: InvoiceItem[], invoice: string): void {
  for (const item of items) {
    item.invoice = invoice
    forget(state, item)
  }
}

export function forget(state: State, { customer, id }: InvoiceItem): void {
  const left = (state.waitingItems.get(customer) ?? []).filter((other) => other !== id)
  if (left.length > 0) state.waitingItems.set(customer, left)
  else state.waitingItems.delete(customer)
}

/** What a subscription that ended is not charged any more. */
export function dropProrations(state: State, customer: string, subscription: string): void {
  const dropped = waitingFor(state, customer, (item) => item.proration && isOf(item, subscription))
  for (const item of dropped) {
    forget(state, item)
    state.invoiceItems.delete(item.id)
  }
}

export function lineOfItem(item: InvoiceItem): InvoiceLine {
  const of = item.parent?.subscription_details
  const { credited_items } = item.proration_details ?? { credited_items: null }
  const proration_details = item.proration_details
    ? { credited_items: credited_items?.invoice_line_item_details ?? null }
    : null
  const common = { proration: item.proration, proration_details, subscription: of?.subscription ?? null }
  const isRecurring = of?.subscription_item !== undefined
  return newLine({
    amount: item.amount,
    currency: item.currency,
    description: item.description,
    discount_amounts: item.proration_details?.discount_amounts ?? [],
    discountable: item.discountable,
    discounts: item.discounts ?? [],
    metadata: item.metadata ?? {},
    parent: {
      invoice_item_details: isRecurring ? null : { ...common, invoice_item: item.id },
      subscription_item_details: isRecurring
        ? { ...common, invoice_item: item.id, subscription_item: of.subscription_item ?? '' }
        : null,
      type: isRecurring ? 'subscription_item_details' : 'invoice_item_details',
    },
    period: item.period,
    pricing: item.pricing && {
      ...(item.pricing.price_details ? { price_details: item.pricing.price_details } : {}),
      type: 'price_details',
      unit_amount_decimal: item.pricing.unit_amount_decimal,
    },
    quantity: item.quantity,
    subscription: of?.subscription ?? null,
  })
}

/** A one-off line of a checkout or a quote. */
export function itemOfLine(state: State, line: LineItem, customer: string, subscription: string | null): InvoiceItem {
  return newInvoiceItem(state, {
    amount: line.amount_subtotal,
    currency: line.currency,
    customer,
    description: line.description,
    discountable: true,
    discounts: [],
    invoice: null,
    metadata: {},
    parent: subscription === null ? null : { subscription_details: { subscription }, type: 'subscription_details' },
    period: { start: state.now(), end: state.now() },
    pricing: line.price && pricingOf(line.price),
    quantity: line.quantity ?? 1,
    tax_rates: [],
  })
}
