/** A subscription whose costs reached its threshold: it is billed at once, and not at the end of its period. */
import { nextBoundary } from './calendar.ts'
import { emit } from './events.ts'
import { collect, finalize } from './finalize.ts'
import { draftInvoice } from './invoices.ts'
import { cardOf } from './payments.ts'
import { planAhead } from './plan-ahead.ts'
import { invalid } from './refusals.ts'
import type { State } from './state.ts'
import { itemLine } from './subscription-lines.ts'
import type { Invoice, Subscription } from './wire.ts'

/** With a reset every item begins a new period, in full; without one only what waits is billed. */
export function reachThreshold(state: State, subscription: Subscription): Invoice {
  const { billing_thresholds: thresholds, latest_invoice } = subscription
  if (!thresholds) throw invalid('This subscription has no threshold.')
  const now = state.now()
  const before = structuredClone(subscription.items)
  if (thresholds.reset_billing_cycle_anchor) {
    subscription.billing_cycle_anchor = now
    for (const item of subscription.items.data) {
      item.current_period_start = now
      item.current_period_end = nextBoundary(now, now, item.price)
    }
  }
  const lines = thresholds.reset_billing_cycle_anchor
    ? subscription.items.data.map((item) => itemLine(state, subscription, item))
    : []
  const period = { start: now, end: now }
  const invoice = draftInvoice(state, subscription, { reason: 'subscription_threshold', lines, period })
  invoice.threshold_reason = { amount_gte: thresholds.amount_gte, item_reasons: [] }
  finalize(state, invoice)
  collect(state, invoice, cardOf(state, subscription))
  emit(state, 'customer.subscription.updated', subscription, { previous: { items: before, latest_invoice } })
  planAhead(state, subscription)
  return invoice
}
