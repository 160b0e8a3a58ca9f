/** A subscription, in full. */
import { newId } from './ids.ts'
import { listOf } from './lists.ts'
import type { State } from './state.ts'
import type { Metadata, Subscription } from './wire.ts'

export type NewSubscription = {
  customer: string
  currency: string
  metadata: Metadata
  trial_end: number | null
  missing_payment_method: 'create_invoice' | 'pause' | 'cancel'
  collection_method: 'charge_automatically'
}

export function newSubscription(state: State, given: NewSubscription): Subscription {
  const id = newId('sub_1', 23)
  const now = state.now()
  return {
    ...unmodelled,
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

const unmodelled = {
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
