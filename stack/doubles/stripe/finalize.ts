/** What becomes of a draft: open, with the payment that it waits for, then void or written off; or it cannot be finalised. */

import { fill } from './amounts.ts'
import { leastCharge, moveBalance } from './balance.ts'
import { customerOf } from './customers.ts'
import { schedule } from './due.ts'
import { change, emit } from './events.ts'
import { addPayment, paymentOf } from './invoice-payments.ts'
import { markPaid, tryInvoice } from './pay-invoice.ts'
import { cancelIntent, createIntent, type Outcome } from './payments.ts'
import { invalid } from './refusals.ts'
import type { FinalizationFailure, State } from './state.ts'
import { subscriptionOf } from './subscription-status.ts'
import type { Customer, Invoice } from './wire.ts'

/** Open from now on; what costs nothing is paid at once. Says whether it could be finalised. */
export function finalize(state: State, invoice: Invoice): boolean {
  const failure = failureFor(state, invoice.customer)
  if (failure) {
    failFinalization(state, invoice, failure)
    return false
  }
  const customer = customerOf(state, invoice.customer ?? '')
  invoice.starting_balance = customer.balance
  fill(state, invoice, invoice.lines.data)
  useBalance(state, invoice, customer)
  customer.next_invoice_sequence = (customer.next_invoice_sequence ?? 1) + 1
  state.counters.invoice += 1
  Object.assign(invoice, {
    ending_balance: customer.balance,
    effective_at: state.now(),
    hosted_invoice_url: `${state.url}/i/${invoice.id}`,
    invoice_pdf: `${state.url}/i/${invoice.id}/pdf`,
    number: `${customer.invoice_prefix}-${String(state.counters.invoice).padStart(4, '0')}`,
    automatically_finalizes_at: null,
    last_finalization_error: null,
    status: 'open',
  })
  invoice.status_transitions.finalized_at = state.now()
  if (invoice.amount_due > 0) preparePayment(state, invoice, customer.id)
  emit(state, 'invoice.finalized', invoice)
  if (invoice.amount_due === 0) markPaid(state, invoice)
  return true
}

/** What is less than can be charged is owed until the next invoice; what is less than nothing is credit for it. */
function useBalance(state: State, invoice: Invoice, customer: Customer): void {
  const { starting_balance, total, currency, id } = invoice
  const left = starting_balance + total
  const isTooSmall = left > 0 && left < leastCharge(currency)
  const ending = isTooSmall ? left : Math.min(0, left)
  if (isTooSmall) invoice.amount_due = invoice.amount_remaining = 0
  if (ending === starting_balance) return
  const type = isTooSmall ? 'invoice_too_small' : 'applied_to_invoice'
  moveBalance(state, customer, { amount: ending - starting_balance, currency, type, invoice: id })
}

function preparePayment(state: State, invoice: Invoice, customer: string): void {
  if (state.settings.invoice_payments === 'charge') return
  const { amount_due: amount, currency } = invoice
  const description = invoice.parent?.subscription_details ? 'Subscription' : `Payment for Invoice`
  const intent = createIntent(state, { amount, currency, customer, description, metadata: {} })
  addPayment(state, invoice, { payment_intent: intent.id, type: 'payment_intent' })
}

/** The failure that was ordered for this customer, or for anybody; it is used up. */
export function failureFor(state: State, customer: string | null): FinalizationFailure | undefined {
  const failure = state.finalizationFailures.find(
    (one) => one.left > 0 && (one.customer === undefined || one.customer === customer),
  )
  if (failure) failure.left -= 1
  return failure
}

export const cannotFinalize = ({ code, message }: Pick<FinalizationFailure, 'code' | 'message'>) =>
  invalid(message, { code })

/** It stays a draft, says why, and waits for somebody to mend it. */
function failFinalization(state: State, invoice: Invoice, { code, message }: FinalizationFailure): void {
  Object.assign(invoice, {
    last_finalization_error: { code, message, type: 'invalid_request_error' },
    automatically_finalizes_at: null,
  })
  emit(state, 'invoice.finalization_failed', invoice)
}

/** Asks for the money of an open invoice, unless its subscription's collection is paused. */
export function collect(state: State, invoice: Invoice, outcome: Outcome): void {
  if (invoice.status !== 'open') return
  const pause = subscriptionOf(state, invoice)?.pause_collection?.behavior
  if (pause === 'void') voidInvoice(state, invoice)
  else if (pause === 'mark_uncollectible') writeOff(state, invoice)
  else if (invoice.collection_method === 'charge_automatically') tryInvoice(state, invoice, outcome)
}

/** A draft that is finalised by itself after an hour, when there is somebody to do it for. */
export function finalizeLater(state: State, invoice: Invoice): void {
  invoice.automatically_finalizes_at = state.now() + state.settings.draft_seconds
  schedule(state, invoice.automatically_finalizes_at, 'finalize_invoice', invoice.id)
}

/** The credit that it used is the customer's again. */
export function voidInvoice(state: State, invoice: Invoice): void {
  if (invoice.status === 'draft') throw invalid('A draft is not voided but deleted.', { code: 'invoice_not_editable' })
  if (invoice.status === 'paid' || invoice.status === 'void')
    throw invalid(`This invoice is ${invoice.status} already.`, { code: 'invoice_not_editable' })
  const found = paymentOf(state, invoice)
  invoice.status = 'void'
  invoice.next_payment_attempt = null
  invoice.status_transitions.voided_at = state.now()
  const used = (invoice.ending_balance ?? 0) - invoice.starting_balance
  const customer = state.customers.get(invoice.customer ?? '')
  if (used !== 0 && customer && !customer.deleted)
    moveBalance(state, customer, {
      amount: -used,
      currency: invoice.currency,
      type: 'unapplied_from_invoice',
      invoice: invoice.id,
    })
  if (found) {
    cancelIntent(state, found.intent)
    found.payment.status = 'canceled'
    found.payment.status_transitions.canceled_at = state.now()
  }
  emit(state, 'invoice.voided', invoice)
}

export function writeOff(state: State, invoice: Invoice): void {
  if (invoice.status !== 'open') throw invalid('Only an open invoice can be marked as uncollectible.')
  change(state, 'invoice.updated', invoice, { status: 'uncollectible', next_payment_attempt: null })
  invoice.status_transitions.marked_uncollectible_at = state.now()
  emit(state, 'invoice.marked_uncollectible', invoice)
}
