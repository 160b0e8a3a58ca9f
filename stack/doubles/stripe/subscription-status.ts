/** How a subscription follows its invoices, and how it ends. */
import { change, emit } from './events.ts'
import { dropProrations } from './invoice-items.ts'
import type { State } from './state.ts'
import type { Invoice, Subscription } from './wire.ts'

export const isOver = ({ status }: Subscription) => status === 'canceled' || status === 'incomplete_expired'

export const subscriptionOf = (state: State, invoice: Invoice): Subscription | undefined =>
  state.subscriptions.get(invoice.parent?.subscription_details?.subscription ?? '')

type Fate = 'paid' | 'processing' | 'failed' | 'given_up'

export function followInvoice(state: State, invoice: Invoice, fate: Fate): void {
  const subscription = subscriptionOf(state, invoice)
  // What a shop bills by hand is no matter of the plan.
  if (!subscription || isOver(subscription) || invoice.billing_reason === 'manual') return
  const { status } = subscription
  const set = (next: Subscription['status']) =>
    change(state, 'customer.subscription.updated', subscription, { status: next })
  if (fate === 'paid' && ['incomplete', 'past_due', 'unpaid'].includes(status)) {
    if (!owesMore(state, subscription, invoice)) set('active')
  } else if (fate === 'processing' && status === 'incomplete') set('active')
  else if (fate === 'failed' && status !== 'incomplete' && status !== 'unpaid') set('past_due')
  else if (fate === 'given_up') giveUp(state, subscription)
}

/** Whether another invoice of it is still open: then it stays as it is. */
const owesMore = (state: State, { id, latest_invoice }: Subscription, paid: Invoice) =>
  paid.id !== latest_invoice &&
  [...state.invoices.values()].some(
    (invoice) =>
      invoice.status === 'open' && invoice.id !== paid.id && invoice.parent?.subscription_details?.subscription === id,
  )

/** After the last try, as the settings say. */
function giveUp(state: State, subscription: Subscription): void {
  const { after_dunning } = state.settings
  if (after_dunning === 'cancel') endSubscription(state, subscription, 'payment_failed')
  else change(state, 'customer.subscription.updated', subscription, { status: after_dunning })
}

type Reason = NonNullable<Subscription['cancellation_details']>['reason']

export function endSubscription(state: State, subscription: Subscription, reason: Reason): void {
  if (isOver(subscription)) return
  const now = state.now()
  subscription.status = 'canceled'
  subscription.canceled_at ??= now
  subscription.ended_at = now
  subscription.cancellation_details = { comment: null, feedback: null, feedback_option: null, reason }
  dropProrations(state, subscription.customer, subscription.id)
  emit(state, 'customer.subscription.deleted', subscription)
}
