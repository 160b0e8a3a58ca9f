/** Invoices: a draft, then open, then paid, void or written off; with the payment intent that pays them. */

import type { Period } from './catalogue.ts'
import { customerOf } from './customers.ts'
import { change, emit } from './events.ts'
import { listOf } from './lists.ts'
import { markPaid, paymentOf } from './pay-invoice.ts'
import { cancelIntent, createIntent } from './payments.ts'
import { invalid } from './refusals.ts'
import type { State } from './state.ts'
import {
  type Customer,
  type Invoice,
  type InvoiceLine,
  type InvoicePayment,
  type Metadata,
  newId,
  type Price,
  type Subscription,
} from './wire.ts'

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

export function newInvoice(
  state: State,
  given: {
    subscription: Subscription
    customer: Customer
    reason: Invoice['billing_reason']
    period: Period
    id?: string
  },
): Invoice {
  const { subscription, customer } = given
  const id = given.id ?? newId('in_1', 23)
  return {
    ...unmodelledInvoice,
    id,
    object: 'invoice',
    amount_due: 0,
    amount_paid: 0,
    amount_remaining: 0,
    attempt_count: 0,
    attempted: false,
    auto_advance: true,
    automatically_finalizes_at: null,
    billing_reason: given.reason,
    collection_method: subscription.collection_method,
    created: state.now(),
    currency: subscription.currency,
    customer: customer.id,
    customer_email: customer.email,
    customer_name: customer.name ?? null,
    effective_at: null,
    ending_balance: null,
    hosted_invoice_url: null,
    lines: listOf(`/v1/invoices/${id}/lines`, []),
    metadata: {},
    next_payment_attempt: null,
    number: null,
    parent: {
      quote_details: null,
      subscription_details: { metadata: subscription.metadata, subscription: subscription.id },
      type: 'subscription_details',
    },
    period_end: given.period.end,
    period_start: given.period.start,
    starting_balance: customer.balance,
    status: 'draft',
    status_transitions: { finalized_at: null, marked_uncollectible_at: null, paid_at: null, voided_at: null },
    subtotal: 0,
    total: 0,
  }
}

const unmodelledInvoice = {
  account_country: 'US',
  account_name: 'Palisade',
  account_tax_ids: null,
  amount_overpaid: 0,
  amount_shipping: 0,
  application: null,
  automatic_tax: { disabled_reason: null, enabled: false, liability: null, provider: null, status: null },
  custom_fields: null,
  customer_account: null,
  customer_address: null,
  customer_phone: null,
  customer_shipping: null,
  customer_tax_exempt: 'none',
  customer_tax_ids: [],
  default_payment_method: null,
  default_source: null,
  default_tax_rates: [],
  description: null,
  discounts: [],
  due_date: null,
  footer: null,
  from_invoice: null,
  invoice_pdf: null,
  issuer: { type: 'self' },
  last_finalization_error: null,
  latest_revision: null,
  livemode: false,
  on_behalf_of: null,
  payment_settings: { default_mandate: null, payment_method_options: null, payment_method_types: null },
  post_payment_credit_notes_amount: 0,
  pre_payment_credit_notes_amount: 0,
  receipt_number: null,
  rendering: null,
  shipping_cost: null,
  shipping_details: null,
  statement_descriptor: null,
  subtotal_excluding_tax: null,
  test_clock: null,
  total_discount_amounts: [],
  total_excluding_tax: null,
  total_pretax_credit_amounts: [],
  total_taxes: [],
  webhooks_delivered_at: null,
} satisfies Partial<Invoice>

const newInvoicePayment = (state: State, invoice: Invoice, payment_intent: string): InvoicePayment => ({
  id: newId('inpay_1', 23),
  object: 'invoice_payment',
  amount_paid: null,
  amount_requested: invoice.amount_due,
  created: state.now(),
  currency: invoice.currency,
  invoice: invoice.id,
  is_default: true,
  livemode: false,
  payment: { payment_intent, type: 'payment_intent' },
  status: 'open',
  status_transitions: { canceled_at: null, paid_at: null },
})

type NewLine = {
  subscription: string
  item: string
  price: Price
  quantity: number
  amount: number
  period: Period
  description: string
  proration: boolean
  metadata: Metadata
}

export const newLine = (given: NewLine): InvoiceLine => ({
  id: newId('il_1', 23),
  object: 'line_item',
  amount: given.amount,
  currency: given.price.currency,
  description: given.description,
  discount_amounts: [],
  discountable: !given.proration,
  discounts: [],
  invoice: null,
  livemode: false,
  metadata: given.metadata,
  parent: {
    invoice_item_details: null,
    subscription_item_details: {
      invoice_item: given.proration ? newId('ii_1', 23) : null,
      proration: given.proration,
      proration_details: { credited_items: null },
      subscription: given.subscription,
      subscription_item: given.item,
    },
    type: 'subscription_item_details',
  },
  period: given.period,
  pretax_credit_amounts: [],
  pricing: {
    price_details: { price: given.price.id, product: given.price.product },
    type: 'price_details',
    unit_amount_decimal: given.price.unit_amount_decimal,
  },
  quantity: given.quantity,
  quantity_decimal: String(given.quantity),
  subscription: given.subscription,
  subtotal: given.amount,
  taxes: [],
})
