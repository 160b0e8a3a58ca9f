/** A new subscription and its first invoice. */

import { nextBoundary } from './calendar.ts'
import { newSubscriptionItem } from './catalogue.ts'
import { customerOf } from './customers.ts'
import { discountsOf, type Wanted } from './discounts.ts'
import { schedule } from './due.ts'
import { emit } from './events.ts'
import { cannotFinalize, collect, failureFor, finalize } from './finalize.ts'
import { addItem } from './invoice-items.ts'
import { draftInvoice } from './invoices.ts'
import { listOf } from './lists.ts'
import type { Outcome } from './payments.ts'
import { planAhead } from './plan-ahead.ts'
import { invalid } from './refusals.ts'
import type { State } from './state.ts'
import { firstLine, type Stub } from './subscription-lines.ts'
import {
  type Invoice,
  type InvoiceItem,
  type Metadata,
  newId,
  nulls,
  type Price,
  type Subscription,
  type TaxRate,
} from './wire.ts'

type Order = Stub & {
  customer: string
  items: { price: Price; quantity: number; tax_rates?: TaxRate[]; discounts?: Wanted[] }[]
  trial_end: number | undefined
  missing_payment_method: 'create_invoice' | 'pause' | 'cancel'
  metadata: Metadata
  discounts?: Wanted[]
  default_tax_rates?: TaxRate[]
  default_payment_method?: string | null
  proration_discounts?: 'included' | 'itemized' | undefined
  reason?: Invoice['billing_reason']
  /** One-off lines of the first invoice. */
  extras?: (subscription: Subscription) => InvoiceItem[]
  /** Whether the first invoice waits for the customer, without a try. */
  waits?: boolean
}

const day = 86_400

export function subscribe(
  state: State,
  order: Order,
  outcome: Outcome,
): { subscription: Subscription; invoice: Invoice } {
  customerOf(state, order.customer)
  const failure = failureFor(state, order.customer)
  if (failure) throw cannotFinalize(failure)
  const { trial_end = null } = order
  const subscription = newSubscription(state, order)
  subscription.items.data = order.items.map(({ price, quantity, tax_rates = [] }) => {
    const start = state.now()
    const period = { start, end: trial_end ?? firstBoundary(subscription, start, price) }
    return newSubscriptionItem(state, { subscription: subscription.id, price, quantity, period, tax_rates })
  })
  redeemOrder(state, subscription, order)
  state.subscriptions.set(subscription.id, subscription)
  for (const extra of order.extras?.(subscription) ?? []) addItem(state, extra)
  return { subscription, invoice: firstInvoice(state, subscription, order, outcome) }
}

const firstBoundary = ({ billing_cycle_anchor: anchor }: Subscription, start: number, price: Price) =>
  anchor > start ? anchor : nextBoundary(start, start, price)

/** In the future, and before a period that began now would end. */
export function anchorOf(state: State, anchor: number | undefined, prices: Price[]): number | undefined {
  if (anchor === undefined) return undefined
  const now = state.now()
  const natural = Math.min(...prices.map((price) => nextBoundary(now, now, price)))
  if (anchor <= now || anchor > natural)
    throw invalid('billing_cycle_anchor must be in the future and no later than the next natural billing date.', {
      param: 'billing_cycle_anchor',
    })
  return anchor
}

function redeemOrder(state: State, subscription: Subscription, { customer, discounts = [], items }: Order): void {
  const owner = { customer, subscription: subscription.id }
  subscription.discounts = discountsOf(state, discounts, owner, subscription.currency)
  for (const [i, item] of subscription.items.data.entries())
    item.discounts = discountsOf(
      state,
      items[i]?.discounts ?? [],
      { ...owner, subscription_item: item.id },
      subscription.currency,
    )
}

function firstInvoice(state: State, subscription: Subscription, order: Order, outcome: Outcome): Invoice {
  const isTrial = subscription.status === 'trialing'
  const lines = subscription.items.data.flatMap((item) => firstLine(state, subscription, item, order))
  const period = { start: state.now(), end: state.now() }
  const invoice = draftInvoice(state, subscription, { reason: order.reason ?? 'subscription_create', lines, period })
  emit(state, 'customer.subscription.created', subscription)
  finalize(state, invoice)
  if (order.waits !== true) collect(state, invoice, outcome)
  // Nothing was due: no payment made it active.
  if (subscription.status === 'incomplete' && invoice.status === 'open')
    schedule(state, state.now() + 23 * 3600, 'expire_incomplete', subscription.id)
  planAhead(state, subscription)
  if (isTrial)
    schedule(state, Math.max(state.now(), (subscription.trial_end ?? 0) - 3 * day), 'trial_will_end', subscription.id)
  return invoice
}

function newSubscription(state: State, order: Order): Subscription {
  const id = newId('sub_1', 23)
  const now = state.now()
  const { customer, metadata, trial_end = null, billing_cycle_anchor, missing_payment_method } = order
  const proration_discounts = order.proration_discounts ?? state.settings.proration_discounts
  return {
    ...nulls('cancel_at canceled_at ended_at latest_invoice pause_collection'),
    ...unmodelledSubscription,
    id,
    object: 'subscription',
    billing_cycle_anchor: billing_cycle_anchor ?? trial_end ?? now,
    billing_mode: { flexible: { proration_discounts }, type: 'flexible' },
    cancel_at_period_end: false,
    cancellation_details: { comment: null, feedback: null, feedback_option: null, reason: null },
    collection_method: 'charge_automatically',
    created: now,
    currency: order.items[0]?.price.currency ?? 'usd',
    customer,
    default_payment_method: order.default_payment_method ?? null,
    default_tax_rates: order.default_tax_rates ?? [],
    discounts: [],
    items: listOf(`/v1/subscription_items?subscription=${id}`, []),
    livemode: false,
    metadata,
    start_date: now,
    status: trial_end === null ? 'incomplete' : 'trialing',
    test_clock: customerOf(state, customer).test_clock ?? null,
    trial_end,
    trial_settings: { end_behavior: { billing_cycle_anchor: null, missing_payment_method } },
    trial_start: trial_end === null ? null : now,
  }
}

const unmodelledSubscription = {
  ...nulls('application application_fee_percent billing_cycle_anchor_config billing_thresholds'),
  ...nulls('customer_account days_until_due default_source description'),
  ...nulls('managed_payments next_pending_invoice_item_invoice on_behalf_of pending_invoice_item_interval'),
  ...nulls('pending_setup_intent pending_update schedule transfer_data'),
  automatic_tax: { disabled_reason: null, enabled: false, liability: null },
  billing_schedules: [],
  invoice_settings: {
    account_tax_ids: null,
    custom_fields: null,
    description: null,
    footer: null,
    issuer: { type: 'self' },
  },
  payment_settings: { payment_method_options: null, payment_method_types: null, save_default_payment_method: 'off' },
} satisfies Partial<Subscription>
