/** A new subscription and its first invoice. */

import { newSubscriptionItem, type Period } from './catalogue.ts'
import { customerOf } from './customers.ts'
import { schedule } from './due.ts'
import { emit } from './events.ts'
import { draftInvoice, finalize, newLine } from './invoices.ts'
import { listOf } from './lists.ts'
import { tryInvoice } from './pay-invoice.ts'
import type { Outcome } from './payments.ts'
import type { State } from './state.ts'
import {
  type Invoice,
  type InvoiceLine,
  type Metadata,
  newId,
  type Price,
  type Subscription,
  type SubscriptionItem,
} from './wire.ts'
import { lineName, productName } from './words.ts'

type Order = {
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

const seconds = { day: 86_400, week: 7 * 86_400 }

/** Counted from an anchor, so that the 31st comes back after February. The first boundary after that moment. */
export function nextBoundary(anchor: number, after: number, { recurring }: Pick<Price, 'recurring'>): number {
  const { interval, interval_count: count } = recurring ?? { interval: 'month' as const, interval_count: 1 }
  if (interval === 'day' || interval === 'week') {
    const step = seconds[interval] * count
    return anchor + (Math.floor((after - anchor) / step) + 1) * step
  }
  const months = interval === 'year' ? 12 * count : count
  const guess = Math.floor((after - anchor) / (32 * 86_400 * months))
  for (let n = Math.max(guess, after < anchor ? 0 : 1); ; n += 1) {
    const boundary = addMonths(anchor, n * months)
    if (boundary > after) return boundary
  }
}

/** The same day and time of a later month, or that month's last day. */
function addMonths(from: number, months: number): number {
  const date = new Date(from * 1000)
  const lastDay = new Date(Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + months + 1, 0)).getUTCDate()
  const day = Math.min(date.getUTCDate(), lastDay)
  const midnight = Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + months, day)
  return Math.floor((midnight + (date.getTime() % 86_400_000)) / 1000)
}

type NewSubscription = {
  customer: string
  currency: string
  metadata: Metadata
  trial_end: number | null
  missing_payment_method: 'create_invoice' | 'pause' | 'cancel'
  collection_method: 'charge_automatically'
}

function newSubscription(state: State, given: NewSubscription): Subscription {
  const id = newId('sub_1', 23)
  const now = state.now()
  return {
    ...unmodelledSubscription,
    id,
    object: 'subscription',
    billing_cycle_anchor: given.trial_end ?? now,
    cancel_at: null,
    cancel_at_period_end: false,
    canceled_at: null,
    cancellation_details: { comment: null, feedback: null, feedback_option: null, reason: null },
    collection_method: given.collection_method,
    created: now,
    currency: given.currency,
    customer: given.customer,
    ended_at: null,
    items: listOf(`/v1/subscription_items?subscription=${id}`, []),
    latest_invoice: null,
    livemode: false,
    metadata: given.metadata,
    pause_collection: null,
    start_date: now,
    status: given.trial_end === null ? 'incomplete' : 'trialing',
    trial_end: given.trial_end,
    trial_settings: {
      end_behavior: { billing_cycle_anchor: null, missing_payment_method: given.missing_payment_method },
    },
    trial_start: given.trial_end === null ? null : now,
  }
}

const unmodelledSubscription = {
  application: null,
  application_fee_percent: null,
  automatic_tax: { disabled_reason: null, enabled: false, liability: null },
  billing_cycle_anchor_config: null,
  billing_mode: { flexible: { proration_discounts: 'included' }, type: 'flexible' },
  billing_schedules: [],
  billing_thresholds: null,
  customer_account: null,
  days_until_due: null,
  default_payment_method: null,
  default_source: null,
  default_tax_rates: [],
  description: null,
  discounts: [],
  invoice_settings: {
    account_tax_ids: null,
    custom_fields: null,
    description: null,
    footer: null,
    issuer: { type: 'self' },
  },
  managed_payments: null,
  next_pending_invoice_item_invoice: null,
  on_behalf_of: null,
  payment_settings: { payment_method_options: null, payment_method_types: null, save_default_payment_method: 'off' },
  pending_invoice_item_interval: null,
  pending_setup_intent: null,
  pending_update: null,
  schedule: null,
  test_clock: null,
  transfer_data: null,
} satisfies Partial<Subscription>
