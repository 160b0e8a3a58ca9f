/** What happens to subscriptions and their invoices when its time has come. */

import { fill } from './amounts.ts'
import { nextBoundary } from './calendar.ts'
import { expireDue } from './checkout.ts'
import { customerOf } from './customers.ts'
import { runningDiscounts } from './discounts.ts'
import type { DueHandlers } from './due.ts'
import { change, emit } from './events.ts'
import { collect, finalize, finalizeLater, voidInvoice } from './finalize.ts'
import { expireUpdate } from './hold-update.ts'
import { lineOfItem } from './invoice-items.ts'
import { draftInvoice, newInvoice, waitingOf } from './invoices.ts'
import { tryInvoice } from './pay-invoice.ts'
import { cardOf } from './payments.ts'
import { nextRenewal, planAhead } from './plan-ahead.ts'
import { expireQuote } from './quotes.ts'
import type { State } from './state.ts'
import { itemLine } from './subscription-lines.ts'
import { endSubscription, isOver, subscriptionOf } from './subscription-status.ts'
import type { Invoice, Subscription } from './wire.ts'

function renew(state: State, id: string): void {
  const subscription = state.subscriptions.get(id)
  if (!subscription || isOver(subscription) || subscription.status === 'incomplete') return
  const now = state.now()
  const ends = nextRenewal(subscription)
  const isOrdered = (subscription.cancel_at ?? now + 1) <= now || (subscription.cancel_at_period_end && ends <= now)
  if (isOrdered) endSubscription(state, subscription, 'cancellation_requested')
  else if (ends > now || subscription.status === 'paused') return
  else if (subscription.status !== 'trialing' || trialGoesOn(state, subscription)) roll(state, subscription)
}

/** Without a card a trial ends as the subscription says; with one it goes on. */
function trialGoesOn(state: State, subscription: Subscription): boolean {
  const missing = subscription.trial_settings?.end_behavior.missing_payment_method
  if (state.cards.has(subscription.customer) || missing === 'create_invoice') return true
  if (missing === 'cancel') endSubscription(state, subscription, 'cancellation_requested')
  else {
    change(state, 'customer.subscription.updated', subscription, { status: 'paused' })
    emit(state, 'customer.subscription.paused', subscription)
  }
  return false
}

/** The next period of every item whose period is over, on one draft. */
function roll(state: State, subscription: Subscription): void {
  const now = state.now()
  const start = nextRenewal(subscription)
  const before = structuredClone(subscription.items)
  const wasTrial = subscription.status === 'trialing'
  const over = subscription.items.data.filter(({ current_period_end }) => current_period_end <= now)
  const first = over[0] && { ...over[0] }
  for (const item of over) {
    item.current_period_start = item.current_period_end
    item.current_period_end = nextBoundary(subscription.billing_cycle_anchor, item.current_period_start, item.price)
  }
  if (wasTrial) subscription.status = 'active'
  const lines = over.map((item) => itemLine(state, subscription, item))
  const period = { start: first?.current_period_start ?? start, end: start }
  const latest_invoice = subscription.latest_invoice
  const invoice = draftInvoice(state, subscription, { reason: 'subscription_cycle', lines, period })
  const previous = { items: before, latest_invoice, ...(wasTrial ? { status: 'trialing' } : {}) }
  emit(state, 'customer.subscription.updated', subscription, { previous })
  planAhead(state, subscription)
  // Drafts of a subscription that nobody pays for stay drafts.
  if (subscription.status === 'unpaid') invoice.auto_advance = false
  else finalizeLater(state, invoice)
}

function finalizeDue(state: State, id: string): void {
  const invoice = state.invoices.get(id)
  if (invoice?.status !== 'draft' || invoice.auto_advance === false || customerIsGone(state, invoice)) return
  const subscription = subscriptionOf(state, invoice)
  if (subscription?.pause_collection?.behavior === 'keep_as_draft') {
    invoice.auto_advance = false
    return
  }
  if (finalize(state, invoice)) collect(state, invoice, cardFor(state, invoice))
}

/** How the card of the subscription answers, or that of the customer who is billed by hand. */
const cardFor = (state: State, invoice: Invoice) =>
  cardOf(state, subscriptionOf(state, invoice) ?? { customer: invoice.customer ?? '' })

const customerIsGone = (state: State, { customer }: Invoice) => state.customers.get(customer ?? '')?.deleted === true

function retryDue(state: State, id: string): void {
  const invoice = state.invoices.get(id)
  const subscription = invoice && subscriptionOf(state, invoice)
  if (invoice?.status !== 'open' || (subscription && isOver(subscription)) || customerIsGone(state, invoice)) return
  if (invoice.next_payment_attempt === null || invoice.next_payment_attempt > state.now()) return
  tryInvoice(state, invoice, cardFor(state, invoice))
}

/** A pause that was to last until now. */
function resumeCollection(state: State, id: string): void {
  const subscription = state.subscriptions.get(id)
  const resumes_at = subscription?.pause_collection?.resumes_at ?? Number.POSITIVE_INFINITY
  if (!subscription || isOver(subscription) || resumes_at > state.now()) return
  change(state, 'customer.subscription.updated', subscription, { pause_collection: null })
}

function trialWillEnd(state: State, id: string): void {
  const subscription = state.subscriptions.get(id)
  if (subscription?.status === 'trialing') emit(state, 'customer.subscription.trial_will_end', subscription)
}

/** An invoice that does not exist yet: its event's object has no id. */
function upcoming(state: State, id: string): void {
  const subscription = state.subscriptions.get(id)
  if (!subscription || isOver(subscription) || subscription.cancel_at_period_end) return
  if (nextRenewal(subscription) - state.now() > state.settings.upcoming_days * 86_400) return
  const end = nextRenewal(subscription)
  const customer = customerOf(state, subscription.customer)
  const { currency } = subscription
  const period = { start: state.now(), end }
  const preview: Invoice = newInvoice(state, { subscription, customer, currency, reason: 'upcoming', period })
  preview.discounts = runningDiscounts(state, subscription, customer)
  const renewing = subscription.items.data.filter(({ current_period_end }) => current_period_end <= end)
  fill(state, preview, [
    ...waitingOf(state, subscription).map(lineOfItem),
    ...renewing.map((item) => itemLine(state, subscription, item)),
  ])
  const { id: _id, ...rest } = preview
  emit(state, 'invoice.upcoming', rest)
}

/** A first invoice that nobody paid for 23 hours. */
function expireIncomplete(state: State, id: string): void {
  const subscription = state.subscriptions.get(id)
  if (subscription?.status !== 'incomplete') return
  const invoice = state.invoices.get(subscription.latest_invoice ?? '')
  if (invoice?.status === 'open') voidInvoice(state, invoice)
  change(state, 'customer.subscription.updated', subscription, { status: 'incomplete_expired', ended_at: state.now() })
}

/** Who does what falls due. */
export const dueHandlers: DueHandlers = {
  expire_session: expireDue,
  renew,
  trial_will_end: trialWillEnd,
  upcoming,
  finalize_invoice: finalizeDue,
  retry_invoice: retryDue,
  expire_incomplete: expireIncomplete,
  expire_update: expireUpdate,
  resume_collection: resumeCollection,
  expire_quote: expireQuote,
}
