/** Money that moves: a payment intent, tried with a card or a bank debit, and the charges of its tries. */
import { emit } from './events.ts'
import type { CardOutcome, State } from './state.ts'
import { type Charge, type Metadata, newId, type PaymentIntent, type Subscription } from './wire.ts'

/** `processing` is a bank debit: it says days later how it went. */
export type Outcome = 'ok' | 'declined' | 'requires_action' | 'processing'

export function createIntent(state: State, given: NewIntent): PaymentIntent {
  const intent = newIntent(state, given)
  state.intents.set(intent.id, intent)
  emit(state, 'payment_intent.created', intent)
  return intent
}

/** Tries to pay it; the intent says afterwards how that went. */
export function tryIntent(state: State, intent: PaymentIntent, outcome: Outcome): void {
  intent.payment_method = newId('pm_1', 23)
  if (outcome === 'ok') succeed(state, intent)
  else if (outcome === 'processing') startDebit(state, intent)
  else if (outcome === 'declined') decline(state, intent)
  else askForAuthentication(state, intent)
}

function askForAuthentication(state: State, intent: PaymentIntent): void {
  intent.status = 'requires_action'
  intent.last_payment_error = null
  intent.next_action = { type: 'use_stripe_sdk', use_stripe_sdk: { type: 'three_d_secure_redirect' } }
  emit(state, 'payment_intent.requires_action', intent)
}

function succeed(state: State, intent: PaymentIntent): void {
  const charge = newCharge(state, intent, 'succeeded')
  state.charges.set(charge.id, charge)
  markSucceeded(intent, charge.id)
  emit(state, 'charge.succeeded', charge)
  emit(state, 'payment_intent.succeeded', intent)
}

function markSucceeded(intent: PaymentIntent, charge: string): void {
  intent.latest_charge = charge
  intent.amount_received = intent.amount
  intent.status = 'succeeded'
  intent.next_action = null
  intent.last_payment_error = null
}

function decline(state: State, intent: PaymentIntent): void {
  const charge = newCharge(state, intent, 'failed')
  state.charges.set(charge.id, charge)
  markFailed(intent, charge.id, 'card_declined', 'Your card was declined.')
  emit(state, 'charge.failed', charge)
  emit(state, 'payment_intent.payment_failed', intent)
}

function markFailed(
  intent: PaymentIntent,
  charge: string,
  code: 'card_declined' | 'payment_intent_authentication_failure',
  message: string,
): void {
  intent.latest_charge = charge
  intent.status = 'requires_payment_method'
  intent.next_action = null
  intent.last_payment_error = { type: 'card_error', code, message, decline_code: 'generic_decline', charge }
}

/** The customer did not pass 3-D Secure. No charge was tried. */
export function failAuthentication(state: State, intent: PaymentIntent): void {
  intent.status = 'requires_payment_method'
  intent.next_action = null
  intent.last_payment_error = {
    type: 'card_error',
    code: 'payment_intent_authentication_failure',
    message: 'The customer did not pass 3-D Secure.',
  }
  emit(state, 'payment_intent.payment_failed', intent)
}

function startDebit(state: State, intent: PaymentIntent): void {
  const charge = newCharge(state, intent, 'pending')
  state.charges.set(charge.id, charge)
  intent.latest_charge = charge.id
  intent.status = 'processing'
  emit(state, 'charge.pending', charge)
  emit(state, 'payment_intent.processing', intent)
}

/** How a bank debit went in the end. */
export function settleDebit(state: State, intent: PaymentIntent, ok: boolean): void {
  const charge = state.charges.get(intent.latest_charge ?? '')
  if (!charge || intent.status !== 'processing') return
  charge.status = ok ? 'succeeded' : 'failed'
  charge.paid = ok
  charge.amount_captured = ok ? charge.amount : 0
  if (ok) markSucceeded(intent, charge.id)
  else markFailed(intent, charge.id, 'card_declined', 'The bank returned the debit.')
  emit(state, ok ? 'charge.succeeded' : 'charge.failed', charge)
  emit(state, ok ? 'payment_intent.succeeded' : 'payment_intent.payment_failed', intent)
}

export function cancelIntent(state: State, intent: PaymentIntent): void {
  if (intent.status === 'succeeded' || intent.status === 'canceled') return
  intent.status = 'canceled'
  intent.canceled_at = state.now()
  emit(state, 'payment_intent.canceled', intent)
}

/** How the customer's card answers now; without one it is as if it were declined. */
export const cardOf = (state: State, { customer }: Pick<Subscription, 'customer'>) =>
  state.cards.get(customer) ?? 'declined'

/** The ways to pay that the pages and /control offer. How the payment goes now, and how the card answers at later ones. */
export const ways = {
  ok: { label: 'Card 4242 4242 4242 4242: is paid', outcome: 'ok', later: 'ok' },
  declined: { label: 'Card 4000 0000 0000 0002: is declined', outcome: 'declined', later: 'declined' },
  requires_action: {
    label: 'Card 4000 0025 0000 3155: asks for 3-D Secure once',
    outcome: 'requires_action',
    later: 'ok',
  },
  always_requires_action: {
    label: 'Card 4000 0027 6000 3184: asks for 3-D Secure at every payment',
    outcome: 'requires_action',
    later: 'requires_action',
  },
  declined_later: { label: 'Card 4000 0000 0000 0341: is paid now, declined later', outcome: 'ok', later: 'declined' },
  bank_debit: { label: 'Bank debit: the money arrives days later, or does not', outcome: 'processing', later: 'ok' },
} as const satisfies Record<string, { label: string; outcome: Outcome; later: CardOutcome }>
export type Way = keyof typeof ways
export const wayNames = [
  'ok',
  'declined',
  'requires_action',
  'always_requires_action',
  'declined_later',
  'bank_debit',
] as const

type NewIntent = {
  amount: number
  currency: string
  customer: string | null
  description: string | null
  metadata: Metadata
}

function newIntent(state: State, given: NewIntent): PaymentIntent {
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

const newCharge = (state: State, intent: PaymentIntent, status: 'succeeded' | 'pending' | 'failed'): Charge => ({
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
