/** The end of a subscription, planned or taken back, and going on after a pause. */
import { change, emit } from './events.ts'
import { draftInvoice, finalize } from './invoices.ts'
import { tryInvoice } from './pay-invoice.ts'
import { nextBoundary } from './periods.ts'
import { invalid } from './refusals.ts'
import { cardOf } from './renew.ts'
import type { State } from './state.ts'
import { itemLine, nextRenewal, planAhead } from './subscribe.ts'
import { isOver } from './subscription-status.ts'
import type { Subscription } from './wire.ts'

type Ending = { cancel_at_period_end?: boolean; cancel_at?: number | null }

/** Ends it later, or takes that back. */
export function planEnd(state: State, subscription: Subscription, { cancel_at_period_end, cancel_at }: Ending): void {
  if (isOver(subscription)) throw invalid('This subscription has ended already.')
  const atEnd = cancel_at_period_end ?? (cancel_at === undefined ? subscription.cancel_at_period_end : false)
  const at = cancel_at === undefined ? (atEnd ? nextRenewal(subscription) : null) : cancel_at
  const ends = atEnd || at !== null
  change(state, 'customer.subscription.updated', subscription, {
    cancel_at_period_end: atEnd,
    cancel_at: at,
    canceled_at: ends ? (subscription.canceled_at ?? state.now()) : null,
    cancellation_details: {
      comment: null,
      feedback: null,
      feedback_option: null,
      reason: ends ? 'cancellation_requested' : null,
    },
  })
  planAhead(state, subscription)
}

/** Goes on after a trial that ended without a card: a new period from now. */
export function resume(state: State, subscription: Subscription): void {
  if (subscription.status !== 'paused') throw invalid('Only a paused subscription can be resumed.')
  const now = state.now()
  subscription.billing_cycle_anchor = now
  for (const item of subscription.items.data) {
    item.current_period_start = now
    item.current_period_end = nextBoundary(now, now, item.price)
  }
  const lines = subscription.items.data.map((item) => itemLine(state, subscription, item))
  const invoice = draftInvoice(state, subscription, {
    reason: 'subscription_cycle',
    lines,
    period: { start: now, end: now },
  })
  finalize(state, invoice)
  change(state, 'customer.subscription.updated', subscription, { status: 'active' })
  emit(state, 'customer.subscription.resumed', subscription)
  if (invoice.amount_due > 0) tryInvoice(state, invoice, cardOf(state, subscription))
  planAhead(state, subscription)
}
