/** Prorations: what is left of a period, given back or charged, net of discounts or with them listed. */
import { discountOf, fill } from './amounts.ts'
import { wholePeriod } from './calendar.ts'
import type { Period } from './catalogue.ts'
import { customerOf } from './customers.ts'
import { runningDiscounts } from './discounts.ts'
import { newInvoiceItem } from './invoice-items.ts'
import { newInvoice } from './invoices.ts'
import { pricingOf } from './lines.ts'
import { shareOf } from './shares.ts'
import type { State } from './state.ts'
import { itemLine, periodOf } from './subscription-lines.ts'
import type { InvoiceItem, Subscription, SubscriptionItem } from './wire.ts'
import { productName } from './words.ts'

type Taken = { amount: number; discount: string }
/** An amount before its discounts, those, and the period that it is for. */
type Charged = {
  amount: number
  discounts: Taken[]
  period: Period
  credited: { invoice: string; line: string } | null
}

/**
 * The rest of what was charged for the current period, given back: of the line that charged it, as flexible billing does. What
 * was never charged is worth its price.
 */
export function creditFor(state: State, subscription: Subscription, item: SubscriptionItem): InvoiceItem {
  const charged = debitOf(state, item) ?? priced(state, subscription, item)
  return proration(state, subscription, item, -1, charged)
}

/** The rest of the current period of an item as it is now. */
export const debitFor = (state: State, subscription: Subscription, item: SubscriptionItem): InvoiceItem =>
  proration(state, subscription, item, 1, priced(state, subscription, item))

function debitOf(state: State, item: SubscriptionItem): Charged | undefined {
  const { invoice = null, id } = state.debits.get(item.id) ?? {}
  const billed = state.invoices.get(invoice ?? '')
  if (billed?.status === 'void') return undefined
  const line = billed?.lines.data.find((one) => one.id === id)
  const waiting = state.invoiceItems.get(id ?? '')
  const found = line ?? waiting
  if (!found || found.period.end !== item.current_period_end) return undefined
  const isListed = line ? line.discount_amounts : waiting?.proration_details?.discount_amounts
  const credited = line && invoice !== null ? { invoice, line: line.id } : null
  return { amount: found.amount, discounts: isListed ?? [], period: found.period, credited }
}

/** A whole period at its price, with the discounts that run. */
function priced(state: State, subscription: Subscription, item: SubscriptionItem): Charged {
  const customer = customerOf(state, subscription.customer)
  const period = periodOf(item)
  const { currency } = subscription
  const preview = newInvoice(state, { subscription, customer, currency, reason: 'upcoming', period })
  preview.discounts = runningDiscounts(state, subscription, customer)
  const { data } = subscription.items
  fill(
    state,
    preview,
    data.map((one) => itemLine(state, subscription, one)),
  )
  const line = preview.lines.data[data.indexOf(item)]
  const whole = wholePeriod(subscription.billing_cycle_anchor, period, item.price)
  return { amount: line?.amount ?? 0, discounts: line?.discount_amounts ?? [], period: whole, credited: null }
}

function proration(
  state: State,
  subscription: Subscription,
  item: SubscriptionItem,
  sign: 1 | -1,
  { amount, discounts, period, credited }: Charged,
): InvoiceItem {
  const now = state.now()
  const share = (of: number) => sign * shareOf(of, Math.max(0, period.end - now), period.end - period.start)
  const isItemized = subscription.billing_mode.flexible?.proration_discounts === 'itemized'
  const quantity = item.quantity ?? 1
  return newInvoiceItem(state, {
    amount: share(isItemized ? amount : amount - discountOf({ discount_amounts: discounts })),
    currency: subscription.currency,
    customer: subscription.customer,
    description: `${sign < 0 ? 'Unused' : 'Remaining'} time on ${quantity} × ${productName(state, item.price)}`,
    discountable: false,
    discounts: discounts.map(({ discount }) => discount),
    invoice: null,
    metadata: subscription.metadata,
    parent: {
      subscription_details: { subscription: subscription.id, subscription_item: item.id },
      type: 'subscription_details',
    },
    period: { start: now, end: period.end },
    pricing: pricingOf(item.price),
    proration_details: {
      credited_items: credited && {
        invoice_line_item_details: { invoice: credited.invoice, invoice_line_items: [credited.line] },
        type: 'invoice_line_items',
      },
      discount_amounts: discounts.map((taken) => ({ ...taken, amount: isItemized ? share(taken.amount) : 0 })),
    },
    quantity,
    tax_rates: item.tax_rates ?? [],
  })
}
