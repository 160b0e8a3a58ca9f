/** What an invoice is paid by: a payment intent, or in the older way a charge. */
import type { State } from './state.ts'
import { type Invoice, type InvoicePayment, newId, type PaymentIntent } from './wire.ts'

/** What pays an invoice; nothing when nothing was due. */
export function paymentOf(
  state: State,
  { id }: Invoice,
): { payment: InvoicePayment; intent: PaymentIntent } | undefined {
  const payment = state.invoicePayments.get(state.paymentsOfInvoices.get(id) ?? '')
  const intent = state.intents.get(payment?.payment.payment_intent ?? '')
  return payment && intent && { payment, intent }
}

export function addPayment(state: State, invoice: Invoice, by: InvoicePayment['payment']): InvoicePayment {
  const payment = newInvoicePayment(state, invoice, by)
  state.invoicePayments.set(payment.id, payment)
  state.paymentsOfInvoices.set(invoice.id, payment.id)
  return payment
}

const newInvoicePayment = (state: State, invoice: Invoice, payment: InvoicePayment['payment']): InvoicePayment => ({
  id: newId('inpay_1', 23),
  object: 'invoice_payment',
  amount_paid: null,
  amount_requested: invoice.amount_due,
  created: state.now(),
  currency: invoice.currency,
  invoice: invoice.id,
  is_default: true,
  livemode: false,
  payment,
  status: 'open',
  status_transitions: { canceled_at: null, paid_at: null },
})
