/** Money that moves: a payment intent, tried with a card or a bank debit, and the charges of its tries. */
import { emit } from './events.ts'
import { settleMoney } from './money.ts'
import { methodFor } from './payment-methods.ts'
import type { CardOutcome, State } from './state.ts'
import { type Charge, type Metadata, newId, nulls, type PaymentIntent } from './wire.ts'

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
  intent.payment_method = methodFor(state, intent.customer, outcome).id
  if (outcome === 'ok') succeed(state, intent)
  else if (outcome === 'processing') startDebit(state, intent)
  else if (outcome === 'declined') decline(state, intent)
  else askForAuthentication(state, intent)
}

/** As before there were payment intents. */
export function chargeWithoutIntent(
  state: State,
  given: Pick<PaymentIntent, 'amount' | 'currency' | 'customer'>,
  ok: boolean,
): Charge {
  const payment_method = methodFor(state, given.customer, ok ? 'ok' : 'declined').id
  const bill = { ...given, id: null, description: null, metadata: {}, payment_method }
  const charge = newCharge(state, bill, ok ? 'succeeded' : 'failed')
  if (ok) charge.balance_transaction = settleMoney(state, { ...charge, type: 'charge', source: charge.id }).id
  state.charges.set(charge.id, charge)
  emit(state, ok ? 'charge.succeeded' : 'charge.failed', charge)
  return charge
}

function askForAuthentication(state: State, intent: PaymentIntent): void {
  intent.status = 'requires_action'
  intent.last_payment_error = null
  intent.next_action = { type: 'use_stripe_sdk', use_stripe_sdk: { type: 'three_d_secure_redirect' } }
  emit(state, 'payment_intent.requires_action', intent)
}

function succeed(state: State, intent: PaymentIntent): void {
  const charge = newCharge(state, intent, 'succeeded')
  charge.balance_transaction = settleMoney(state, { ...charge, type: 'charge', source: charge.id }).id
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
  if (ok) charge.balance_transaction = settleMoney(state, { ...charge, type: 'payment', source: charge.id }).id
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

type Payer = { customer: string; default_payment_method?: string | null }

/** How the customer's card answers now, or the subscription's own one; without one it is as if it were declined. */
export const cardOf = (state: State, { customer, default_payment_method }: Payer): CardOutcome =>
  state.methodOutcomes.get(default_payment_method ?? '') ?? state.cards.get(customer) ?? 'declined'

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
  bank_debit: {
    label: 'Bank debit: the money arrives days later, or does not',
    outcome: 'processing',
    later: 'processing',
  },
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
  ...nulls('allowed_payment_method_types application application_fee_amount automatic_payment_methods'),
  ...nulls('canceled_at cancellation_reason customer_account excluded_payment_method_types'),
  ...nulls('last_payment_error latest_charge managed_payments next_action on_behalf_of payment_method'),
  ...nulls('payment_method_configuration_details payment_record processing receipt_email review'),
  ...nulls('setup_future_usage shipping source statement_descriptor statement_descriptor_suffix'),
  ...nulls('transfer_data transfer_group'),
  amount_capturable: 0,
  capture_method: 'automatic_async',
  confirmation_method: 'automatic',
  livemode: false,
  payment_method_options: {},
  payment_method_types: ['card', 'sepa_debit'],
} satisfies Partial<PaymentIntent>

type Bill = Pick<PaymentIntent, 'amount' | 'currency' | 'customer' | 'description' | 'metadata' | 'payment_method'> & {
  id: string | null
}

const newCharge = (state: State, intent: Bill, status: 'succeeded' | 'pending' | 'failed'): Charge => ({
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
  payment_method: intent.payment_method,
  refunded: false,
  status,
})

const unmodelledCharge = {
  ...nulls('application application_fee application_fee_amount balance_transaction'),
  ...nulls('failure_balance_transaction on_behalf_of outcome payment_method_details'),
  ...nulls('receipt_email receipt_number receipt_url review shipping source source_transfer'),
  ...nulls('statement_descriptor statement_descriptor_suffix transfer_data transfer_group'),
  calculated_statement_descriptor: 'PALISADE',
  fraud_details: {},
  livemode: false,
} satisfies Partial<Charge>
