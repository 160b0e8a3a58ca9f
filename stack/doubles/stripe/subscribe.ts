/** A new subscription and its first invoice. */
import { schedule } from './due.ts'
import { emit } from './events.ts'
import { customerOf, draftInvoice, finalize } from './invoices.ts'
import { tryInvoice } from './pay-invoice.ts'
import type { Outcome } from './payments.ts'
import { nextBoundary } from './periods.ts'
import { newSubscriptionItem, type Period } from './shape-catalogue.ts'
import { newLine } from './shape-invoice-line.ts'
import { newSubscription } from './shape-subscription.ts'
import type { State } from './state.ts'
import type { Invoice, InvoiceLine, Metadata, Price, Subscription, SubscriptionItem } from './wire.ts'
import { lineName, productName } from './words.ts'

export type Order = {
  customer: string
  items: { price: Price; quantity: number }[]
  trial_end: number | undefined
  missing_payment_method: 'create_invoice' | 'pause' | 'cancel'
  metadata: Metadata
}

const day = 86_400

export function subscribe(
  state: State,
  order: Order,
  outcome: Outcome,
): { subscription: Subscription; invoice: Invoice } {
  customerOf(state, order.customer)
  const { customer, metadata, missing_payment_method, trial_end = null } = order
  const subscription = newSubscription(state, {
    customer,
    currency: order.items[0]?.price.currency ?? 'usd',
    metadata,
    trial_end,
    missing_payment_method,
    collection_method: 'charge_automatically',
  })
  subscription.items.data = order.items.map(({ price, quantity }) => {
    const start = state.now()
    const period = { start, end: trial_end ?? nextBoundary(start, start, price) }
    return newSubscriptionItem(state, { subscription: subscription.id, price, quantity, period })
  })
  state.subscriptions.set(subscription.id, subscription)
  return { subscription, invoice: firstInvoice(state, subscription, outcome) }
}

function firstInvoice(state: State, subscription: Subscription, outcome: Outcome): Invoice {
  const isTrial = subscription.status === 'trialing'
  const lines = subscription.items.data.map((item) => itemLine(state, subscription, item, isTrial))
  const period = { start: state.now(), end: state.now() }
  const invoice = draftInvoice(state, subscription, { reason: 'subscription_create', lines, period })
  emit(state, 'customer.subscription.created', subscription)
  finalize(state, invoice)
  if (invoice.status !== 'paid') tryInvoice(state, invoice, outcome)
  // Nothing was due: no payment made it active.
  if (subscription.status === 'incomplete' && invoice.status === 'open')
    schedule(state, state.now() + 23 * 3600, 'expire_incomplete', subscription.id)
  planAhead(state, subscription)
  if (isTrial)
    schedule(state, Math.max(state.now(), (subscription.trial_end ?? 0) - 3 * day), 'trial_will_end', subscription.id)
  return invoice
}

/** What an item costs for its current period; in a trial nothing. */
export function itemLine(
  state: State,
  subscription: Subscription,
  item: SubscriptionItem,
  isTrial = false,
): InvoiceLine {
  const quantity = item.quantity ?? 1
  return newLine({
    subscription: subscription.id,
    item: item.id,
    price: item.price,
    quantity,
    amount: isTrial ? 0 : (item.price.unit_amount ?? 0) * quantity,
    period: periodOf(item),
    description: isTrial
      ? `Trial period for ${productName(state, item.price)}`
      : `${quantity} × ${lineName(state, item.price)}`,
    proration: false,
    metadata: subscription.metadata,
  })
}

export const periodOf = (item: SubscriptionItem): Period => ({
  start: item.current_period_start,
  end: item.current_period_end,
})

/** The end of the current period of the item whose turn comes first. */
export const nextRenewal = ({ items }: Subscription) =>
  Math.min(...items.data.map(({ current_period_end }) => current_period_end))

export function planAhead(state: State, subscription: Subscription): void {
  const at = Math.min(nextRenewal(subscription), subscription.cancel_at ?? Number.POSITIVE_INFINITY)
  schedule(state, at, 'renew', subscription.id)
  const upcoming = at - state.settings.upcoming_days * day
  if (upcoming > state.now()) schedule(state, upcoming, 'upcoming', subscription.id)
}
