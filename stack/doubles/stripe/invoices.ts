/** Invoices: a draft, then open, then paid, void or written off; with the payment intent that pays them. */

import { change, emit } from './events.ts'
import { markPaid, paymentOf } from './pay-invoice.ts'
import { cancelIntent, createIntent } from './payments.ts'
import { invalid } from './refusals.ts'
import type { Period } from './shape-catalogue.ts'
import { newInvoice, newInvoicePayment } from './shape-invoice.ts'
import type { State } from './state.ts'
import type { Customer, Invoice, InvoiceLine, Subscription } from './wire.ts'

export function customerOf(state: State, id: string): Customer {
  const customer = state.customers.get(id)
  if (!customer || customer.deleted) throw invalid(`No such customer: '${id}'`, { code: 'resource_missing' })
  return customer
}

/** A draft with these lines and with the prorations that waited for it. */
export function draftInvoice(
  state: State,
  subscription: Subscription,
  { reason, lines, period }: { reason: Invoice['billing_reason']; lines: InvoiceLine[]; period: Period },
): Invoice {
  const customer = customerOf(state, subscription.customer)
  const invoice = newInvoice(state, { subscription, customer, reason, period })
  const waiting = state.pendingLines.get(subscription.id) ?? []
  state.pendingLines.delete(subscription.id)
  fill(invoice, [...waiting, ...lines])
  state.invoices.set(invoice.id, invoice)
  subscription.latest_invoice = invoice.id
  emit(state, 'invoice.created', invoice)
  return invoice
}

export function fill(invoice: Invoice, lines: InvoiceLine[]): void {
  invoice.lines.data = lines.map((line) => ({ ...line, invoice: invoice.id }))
  invoice.total = invoice.subtotal = lines.reduce((sum, { amount }) => sum + amount, 0)
  // A negative balance is credit of the customer's.
  invoice.amount_due = Math.max(0, invoice.total + invoice.starting_balance)
  invoice.amount_remaining = invoice.amount_due
}

/** Open from now on; what costs nothing is paid at once. */
export function finalize(state: State, invoice: Invoice): void {
  const customer = customerOf(state, invoice.customer ?? '')
  invoice.starting_balance = customer.balance
  fill(invoice, invoice.lines.data)
  customer.balance = Math.min(0, invoice.starting_balance + invoice.total)
  customer.next_invoice_sequence = (customer.next_invoice_sequence ?? 1) + 1
  state.counters.invoice += 1
  Object.assign(invoice, {
    ending_balance: customer.balance,
    effective_at: state.now(),
    hosted_invoice_url: `${state.url}/i/${invoice.id}`,
    number: `${customer.invoice_prefix}-${String(state.counters.invoice).padStart(4, '0')}`,
    automatically_finalizes_at: null,
    status: 'open',
  })
  invoice.status_transitions.finalized_at = state.now()
  if (invoice.amount_due > 0) preparePayment(state, invoice, customer.id)
  emit(state, 'invoice.finalized', invoice)
  if (invoice.amount_due === 0) markPaid(state, invoice)
}

function preparePayment(state: State, invoice: Invoice, customer: string): void {
  const { amount_due: amount, currency } = invoice
  const intent = createIntent(state, { amount, currency, customer, description: 'Subscription', metadata: {} })
  const payment = newInvoicePayment(state, invoice, intent.id)
  state.invoicePayments.set(payment.id, payment)
  state.paymentsOfInvoices.set(invoice.id, payment.id)
}

export function voidInvoice(state: State, invoice: Invoice): void {
  close(state, invoice, 'void')
  invoice.status_transitions.voided_at = state.now()
  emit(state, 'invoice.voided', invoice)
}

export function writeOff(state: State, invoice: Invoice): void {
  if (invoice.status !== 'open') throw invalid('Only an open invoice can be marked as uncollectible.')
  change(state, 'invoice.updated', invoice, { status: 'uncollectible', next_payment_attempt: null })
  invoice.status_transitions.marked_uncollectible_at = state.now()
  emit(state, 'invoice.marked_uncollectible', invoice)
}

function close(state: State, invoice: Invoice, status: 'void'): void {
  if (invoice.status === 'paid' || invoice.status === 'void')
    throw invalid(`This invoice is ${invoice.status} already.`, { code: 'invoice_not_editable' })
  const found = paymentOf(state, invoice)
  invoice.status = status
  invoice.next_payment_attempt = null
  if (!found) return
  cancelIntent(state, found.intent)
  found.payment.status = 'canceled'
  found.payment.status_transitions.canceled_at = state.now()
}
