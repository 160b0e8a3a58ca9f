/** A change that has to be paid first: it waits with its invoice, and is forgotten after a day. */

import { schedule } from './due.ts'
import { change, emit } from './events.ts'
import { collect, finalize, voidInvoice } from './finalize.ts'
import { addItem } from './invoice-items.ts'
import { draftInvoice } from './invoices.ts'
import { cardOf } from './payments.ts'
import type { State } from './state.ts'
import { type InvoiceItem, type InvoiceLine, nulls, type Subscription } from './wire.ts'

const waitsFor = 23 * 3600

/** The invoice is made and tried; the subscription stays as it is until that is paid. A change that waited before is dropped. */
export function holdUpdate(
  state: State,
  subscription: Subscription,
  next: Subscription,
  cost: { prorations: InvoiceItem[]; lines: InvoiceLine[] },
): void {
  dropUpdate(state, subscription)
  const { latest_invoice } = subscription
  const period = { start: state.now(), end: state.now() }
  const invoice = draftInvoice(state, subscription, {
    reason: 'subscription_update',
    lines: cost.lines,
    items: cost.prorations,
    period,
  })
  for (const item of cost.prorations) addItem(state, item)
  const isReset = next.billing_cycle_anchor !== subscription.billing_cycle_anchor
  state.pendingUpdates.set(subscription.id, {
    invoice: invoice.id,
    items: next.items.data,
    billing_cycle_anchor: next.billing_cycle_anchor,
  })
  subscription.pending_update = {
    ...nulls('cancel_at_period_end discount discounts metadata trial_end trial_from_plan'),
    billing_cycle_anchor: isReset ? next.billing_cycle_anchor : null,
    expires_at: state.now() + waitsFor,
    subscription_items: next.items.data,
  }
  schedule(state, state.now() + waitsFor, 'expire_update', subscription.id)
  finalize(state, invoice)
  emit(state, 'customer.subscription.updated', subscription, { previous: { pending_update: null, latest_invoice } })
  collect(state, invoice, cardOf(state, subscription))
}

export function expireUpdate(state: State, id: string): void {
  const subscription = state.subscriptions.get(id)
  if (!subscription?.pending_update || subscription.pending_update.expires_at > state.now()) return
  dropUpdate(state, subscription)
  emit(state, 'customer.subscription.pending_update_expired', subscription)
}

function dropUpdate(state: State, subscription: Subscription): void {
  const held = state.pendingUpdates.get(subscription.id)
  if (!held) return
  state.pendingUpdates.delete(subscription.id)
  const invoice = state.invoices.get(held.invoice)
  if (invoice?.status === 'open') voidInvoice(state, invoice)
  change(state, 'customer.subscription.updated', subscription, { pending_update: null })
}
