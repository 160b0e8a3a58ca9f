/** Tries to be paid, and what they mean for an invoice and its subscription. */
import { schedule } from './due.ts'
import { emit } from './events.ts'
import { addPayment, paymentOf } from './invoice-payments.ts'
import {
  cancelIntent,
  chargeWithoutIntent,
  failAuthentication,
  type Outcome,
  settleDebit,
  tryIntent,
} from './payments.ts'
import { applyUpdate, isHeldBy } from './pending-update.ts'
import type { State } from './state.ts'
import { followInvoice, subscriptionOf } from './subscription-status.ts'
import type { Invoice, PaymentIntent } from './wire.ts'

/** One try to be paid. Whether the subscription goes on is decided by followInvoice. */
export function tryInvoice(state: State, invoice: Invoice, outcome: Outcome): PaymentIntent['status'] {
  if (invoice.status === 'paid') return 'succeeded'
  const found = paymentOf(state, invoice)
  if (!found && state.settings.invoice_payments === 'charge') return tryCharge(state, invoice, outcome)
  if (!found) return 'succeeded'
  invoice.attempted = true
  invoice.attempt_count += 1
  // What is on its way already is not asked for again.
  if (found.intent.status === 'processing') return 'processing'
  // Credit notes may have made it less.
  if (found.intent.status !== 'succeeded') found.intent.amount = invoice.amount_remaining
  tryIntent(state, found.intent, outcome)
  return noteTry(state, invoice)
}

/** An older way to be paid: by a charge alone, which is paid or declined at once. */
function tryCharge(state: State, invoice: Invoice, outcome: Outcome): PaymentIntent['status'] {
  invoice.attempted = true
  invoice.attempt_count += 1
  const { amount_remaining: amount, currency, customer } = invoice
  const charge = chargeWithoutIntent(state, { amount, currency, customer }, outcome === 'ok')
  if (!charge.paid) {
    markUnpaid(state, invoice, false)
    return 'requires_payment_method'
  }
  addPayment(state, invoice, { charge: charge.id, type: 'charge' })
  markPaid(state, invoice)
  return 'succeeded'
}

/** Tells what the try of the intent means for the invoice and its subscription. */
function noteTry(state: State, invoice: Invoice): PaymentIntent['status'] {
  const intent = paymentOf(state, invoice)?.intent
  if (!intent) return 'succeeded'
  if (intent.status === 'succeeded') markPaid(state, invoice)
  else if (intent.status === 'processing') followInvoice(state, invoice, 'processing')
  else markUnpaid(state, invoice, intent.status === 'requires_action')
  return intent.status
}

export function markPaid(state: State, invoice: Invoice): void {
  const now = state.now()
  const payment = state.invoicePayments.get(state.paymentsOfInvoices.get(invoice.id) ?? '')
  Object.assign(invoice, {
    status: 'paid',
    attempted: true,
    amount_paid: invoice.amount_due,
    amount_remaining: 0,
    next_payment_attempt: null,
  })
  invoice.status_transitions.paid_at = now
  if (payment?.status === 'open') {
    payment.amount_paid = invoice.amount_due
    payment.status = 'paid'
    payment.status_transitions.paid_at = now
    emit(state, 'invoice_payment.paid', payment)
  }
  if (isHeldBy(state, invoice)) applyUpdate(state, invoice)
  followInvoice(state, invoice, 'paid')
  emit(state, 'invoice.paid', invoice)
  emit(state, 'invoice.payment_succeeded', invoice)
}

/** Plans the next try, or says that there is none. */
function markUnpaid(state: State, invoice: Invoice, needsAction: boolean): void {
  // A first invoice is tried again only when its subscription began meanwhile, as with a debit that failed days later.
  const status = subscriptionOf(state, invoice)?.status
  const isHeld = isHeldBy(state, invoice)
  const renews = !isHeld && status !== 'incomplete' && invoice.auto_advance !== false
  const days = renews ? state.settings.dunning_days[invoice.attempt_count - 1] : undefined
  const next_payment_attempt = days === undefined ? null : state.now() + days * 86_400
  invoice.next_payment_attempt = next_payment_attempt
  emit(state, 'invoice.payment_failed', invoice)
  if (needsAction) emit(state, 'invoice.payment_action_required', invoice)
  emit(state, 'invoice.updated', invoice, { previous: { attempt_count: invoice.attempt_count - 1 } })
  if (next_payment_attempt !== null) schedule(state, next_payment_attempt, 'retry_invoice', invoice.id)
  if (!isHeld) followInvoice(state, invoice, renews && next_payment_attempt === null ? 'given_up' : 'failed')
}

/** What somebody did on the page of 3-D Secure. */
export function answerChallenge(state: State, invoice: Invoice, ok: boolean): void {
  const intent = paymentOf(state, invoice)?.intent
  if (intent?.status !== 'requires_action') return
  if (ok) tryIntent(state, intent, 'ok')
  else failAuthentication(state, intent)
  if (ok) markPaid(state, invoice)
}

/** Paid somewhere else: what Stripe would have asked for is not asked for any more. */
export function markPaidElsewhere(state: State, invoice: Invoice): void {
  const found = paymentOf(state, invoice)
  if (found) {
    cancelIntent(state, found.intent)
    found.payment.status = 'canceled'
    found.payment.status_transitions.canceled_at = state.now()
  }
  invoice.amount_paid_off_stripe = invoice.amount_due
  markPaid(state, invoice)
}

export function settleInvoiceDebit(state: State, invoice: Invoice, ok: boolean): void {
  const intent = paymentOf(state, invoice)?.intent
  if (intent?.status !== 'processing') return
  settleDebit(state, intent, ok)
  noteTry(state, invoice)
}
