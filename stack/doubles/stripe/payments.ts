/** Money that moves: a payment intent, tried with a card or a bank debit, and the charges of its tries. */
import { emit } from './events.ts'
import { newId } from './ids.ts'
import { type NewIntent, newCharge, newIntent } from './shape-payment.ts'
import type { State } from './state.ts'
import type { PaymentIntent } from './wire.ts'

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
