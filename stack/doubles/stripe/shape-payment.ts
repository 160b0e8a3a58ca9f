/** Payment intents and charges, in full. */
import { newId } from './ids.ts'
import type { State } from './state.ts'
import type { Charge, Metadata, PaymentIntent } from './wire.ts'

export type NewIntent = {
  amount: number
  currency: string
  customer: string | null
  description: string | null
  metadata: Metadata
}

export function newIntent(state: State, given: NewIntent): PaymentIntent {
  const id = newId('pi_3', 23)
  return {
    ...unmodelledIntent,
    ...given,
    id,
    object: 'payment_intent',
    amount_received: 0,
    client_secret: newId(`${id}_secret_`),
    created: state.now(),
    status: 'requires_payment_method',
  }
}

const unmodelledIntent = {
  allowed_payment_method_types: null,
  amount_capturable: 0,
  application: null,
  application_fee_amount: null,
  automatic_payment_methods: null,
  canceled_at: null,
  cancellation_reason: null,
  capture_method: 'automatic_async',
  confirmation_method: 'automatic',
  customer_account: null,
  excluded_payment_method_types: null,
  last_payment_error: null,
  latest_charge: null,
  livemode: false,
  managed_payments: null,
  next_action: null,
  on_behalf_of: null,
  payment_method: null,
  payment_method_configuration_details: null,
  payment_method_options: {},
  payment_method_types: ['card', 'sepa_debit'],
  payment_record: null,
  processing: null,
  receipt_email: null,
  review: null,
  setup_future_usage: null,
  shipping: null,
  source: null,
  statement_descriptor: null,
  statement_descriptor_suffix: null,
  transfer_data: null,
  transfer_group: null,
} satisfies Partial<PaymentIntent>

export const newCharge = (state: State, intent: PaymentIntent, status: 'succeeded' | 'pending' | 'failed'): Charge => ({
  ...unmodelledCharge,
  id: newId(status === 'pending' ? 'py_3' : 'ch_3', 23),
  object: 'charge',
  amount: intent.amount,
  amount_captured: status === 'succeeded' ? intent.amount : 0,
  amount_refunded: 0,
  billing_details: { address: null, email: null, name: null, phone: null, tax_id: null },
  captured: status !== 'failed',
  created: state.now(),
  currency: intent.currency,
  customer: intent.customer,
  description: intent.description,
  disputed: false,
  failure_code: status === 'failed' ? 'card_declined' : null,
  failure_message: status === 'failed' ? 'Your card was declined.' : null,
  metadata: intent.metadata,
  paid: status === 'succeeded',
  payment_intent: intent.id,
  refunded: false,
  status,
})

const unmodelledCharge = {
  application: null,
  application_fee: null,
  application_fee_amount: null,
  balance_transaction: null,
  calculated_statement_descriptor: 'PALISADE',
  failure_balance_transaction: null,
  fraud_details: {},
  livemode: false,
  on_behalf_of: null,
  outcome: null,
  payment_method: null,
  payment_method_details: null,
  receipt_email: null,
  receipt_number: null,
  receipt_url: null,
  review: null,
  shipping: null,
  source: null,
  source_transfer: null,
  statement_descriptor: null,
  statement_descriptor_suffix: null,
  transfer_data: null,
  transfer_group: null,
} satisfies Partial<Charge>
