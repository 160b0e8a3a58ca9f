/** Tries to be paid, and what they mean for an invoice and its subscription. */
import { schedule } from './due.ts'
import { emit } from './events.ts'
import { failAuthentication, type Outcome, settleDebit, tryIntent } from './payments.ts'
import type { State } from './state.ts'
import { followInvoice } from './subscription-status.ts'
import type { Invoice, InvoicePayment, PaymentIntent } from './wire.ts'

/** What pays an invoice; nothing when nothing was due. */
export function paymentOf(
  state: State,
  { id }: Invoice,
): { payment: InvoicePayment; intent: PaymentIntent } | undefined {
  const payment = state.invoicePayments.get(state.paymentsOfInvoices.get(id) ?? '')
  const intent = state.intents.get(payment?.payment.payment_intent ?? '')
  return payment && intent && { payment, intent }
}

/** One try to be paid. Whether the subscription goes on is decided by followInvoice. */
export function tryInvoice(state: State, invoice: Invoice, outcome: Outcome): PaymentIntent['status'] {
  const found = paymentOf(state, invoice)
  if (!found || invoice.status === 'paid') return 'succeeded'
  invoice.attempted = true
  invoice.attempt_count += 1
  tryIntent(state, found.intent, outcome)
  return noteTry(state, invoice)
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
  const payment = paymentOf(state, invoice)?.payment
  Object.assign(invoice, {
    status: 'paid',
    attempted: true,
    amount_paid: invoice.amount_due,
    amount_remaining: 0,
    next_payment_attempt: null,
  })
  invoice.status_transitions.paid_at = now
  if (payment) {
    payment.amount_paid = invoice.amount_due
    payment.status = 'paid'
    payment.status_transitions.paid_at = now
    emit(state, 'invoice_payment.paid', payment)
  }
  followInvoice(state, invoice, 'paid')
  emit(state, 'invoice.paid', invoice)
  emit(state, 'invoice.payment_succeeded', invoice)
}

/** Plans the next try, or says that there is none. */
function markUnpaid(state: State, invoice: Invoice, needsAction: boolean): void {
  const renews = invoice.billing_reason !== 'subscription_create'
  const days = renews ? state.settings.dunning_days[invoice.attempt_count - 1] : undefined
  const next_payment_attempt = days === undefined ? null : state.now() + days * 86_400
  invoice.next_payment_attempt = next_payment_attempt
  emit(state, 'invoice.payment_failed', invoice)
  if (needsAction) emit(state, 'invoice.payment_action_required', invoice)
  emit(state, 'invoice.updated', invoice, { previous: { attempt_count: invoice.attempt_count - 1 } })
  if (next_payment_attempt !== null) schedule(state, next_payment_attempt, 'retry_invoice', invoice.id)
  followInvoice(state, invoice, renews && next_payment_attempt === null ? 'given_up' : 'failed')
}

/** What somebody did on the page of 3-D Secure. */
export function answerChallenge(state: State, invoice: Invoice, ok: boolean): void {
  const intent = paymentOf(state, invoice)?.intent
  if (intent?.status !== 'requires_action') return
  if (ok) tryIntent(state, intent, 'ok')
  else failAuthentication(state, intent)
  if (ok) markPaid(state, invoice)
}

export function settleInvoiceDebit(state: State, invoice: Invoice, ok: boolean): void {
  const intent = paymentOf(state, invoice)?.intent
  if (intent?.status !== 'processing') return
  settleDebit(state, intent, ok)
  noteTry(state, invoice)
}
