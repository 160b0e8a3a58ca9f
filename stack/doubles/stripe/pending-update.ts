/** A change that waits until its invoice is paid. */
import { change, emit } from './events.ts'
import { planAhead } from './plan-ahead.ts'
import type { State } from './state.ts'
import { subscriptionOf } from './subscription-status.ts'
import type { Invoice } from './wire.ts'

export function isHeldBy(state: State, invoice: Invoice): boolean {
  const subscription = subscriptionOf(state, invoice)
  return subscription !== undefined && state.pendingUpdates.get(subscription.id)?.invoice === invoice.id
}

/** Its invoice is paid. */
export function applyUpdate(state: State, invoice: Invoice): void {
  const subscription = subscriptionOf(state, invoice)
  const held = state.pendingUpdates.get(subscription?.id ?? '')
  if (!subscription || !held) return
  state.pendingUpdates.delete(subscription.id)
  const { billing_cycle_anchor, items } = held
  change(state, 'customer.subscription.updated', subscription, {
    billing_cycle_anchor,
    items: { ...subscription.items, data: items },
    pending_update: null,
  })
  emit(state, 'customer.subscription.pending_update_applied', subscription)
  planAhead(state, subscription)
}
