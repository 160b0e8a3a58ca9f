/** Invoices as they are drafted: what is on one, and what each line looks like. */

import { fill } from './amounts.ts'
import type { Period } from './catalogue.ts'
import { customerOf } from './customers.ts'
import { dropUsed, runningDiscounts } from './discounts.ts'
import { emit } from './events.ts'
import { isOf, lineOfItem, take, waitingFor } from './invoice-items.ts'
import { listOf } from './lists.ts'
import type { State } from './state.ts'
import { isProration } from './taxes.ts'
import {
  type Customer,
  type Invoice,
  type InvoiceItem,
  type InvoiceLine,
  newId,
  nulls,
  type Subscription,
} from './wire.ts'

type Draft = {
  reason: Invoice['billing_reason']
  lines: InvoiceLine[]
  period: Period
  /** What goes on it though it does not wait: the prorations of a change that is not made yet. */
  items?: InvoiceItem[]
}

/** A draft with these lines, and with the prorations and other items that waited for it. */
export function draftInvoice(state: State, subscription: Subscription, draft: Draft): Invoice {
  const { reason, lines, period, items } = draft
  const customer = customerOf(state, subscription.customer)
  const invoice = newInvoice(state, { subscription, customer, currency: subscription.currency, reason, period })
  const waiting = items ?? waitingOf(state, subscription)
  invoice.discounts = runningDiscounts(state, subscription, customer)
  take(state, waiting, invoice.id)
  fill(state, invoice, [...waiting.map(lineOfItem), ...lines])
  noteDebits(state, invoice)
  state.invoices.set(invoice.id, invoice)
  subscription.latest_invoice = invoice.id
  dropUsed(state, subscription, customer, invoice)
  emit(state, 'invoice.created', invoice)
  return invoice
}

/** What waits for a subscription's next invoice: its own items, and those of its customer that are of none. */
export const waitingOf = (state: State, { id, customer, currency }: Subscription): InvoiceItem[] =>
  waitingFor(state, customer, (item) => item.currency === currency && (isOf(item, id) || isOf(item, null)))

/** A later credit is a share of what was charged. */
function noteDebits(state: State, invoice: Invoice): void {
  for (const line of invoice.lines.data) {
    const item = line.parent?.subscription_item_details?.subscription_item
    if (item !== undefined && (line.amount >= 0 || !isProration(line)))
      state.debits.set(item, { invoice: invoice.id, id: line.id })
  }
}

type NewInvoice = {
  subscription?: Subscription
  customer: Customer
  currency: string
  reason: Invoice['billing_reason']
  period: Period
}

export function newInvoice(state: State, given: NewInvoice): Invoice {
  const { subscription, customer } = given
  const id = newId('in_1', 23)
  return {
    ...nulls('automatically_finalizes_at effective_at ending_balance hosted_invoice_url next_payment_attempt'),
    ...nulls('number'),
    ...unmodelledInvoice,
    id,
    object: 'invoice',
    amount_due: 0,
    amount_paid: 0,
    amount_remaining: 0,
    attempt_count: 0,
    attempted: false,
    auto_advance: true,
    billing_reason: given.reason,
    collection_method: subscription?.collection_method ?? 'charge_automatically',
    created: state.now(),
    currency: given.currency,
    customer: customer.id,
    customer_address: customer.address ?? null,
    customer_email: customer.email,
    customer_name: customer.name ?? null,
    customer_tax_exempt: customer.tax_exempt ?? 'none',
    default_tax_rates: subscription?.default_tax_rates ?? [],
    discounts: [],
    lines: listOf(`/v1/invoices/${id}/lines`, []),
    metadata: {},
    parent: subscription
      ? {
          quote_details: null,
          subscription_details: { metadata: subscription.metadata, subscription: subscription.id },
          type: 'subscription_details',
        }
      : null,
    period_end: given.period.end,
    period_start: given.period.start,
    starting_balance: customer.balance,
    status: 'draft',
    status_transitions: { finalized_at: null, marked_uncollectible_at: null, paid_at: null, voided_at: null },
    subtotal: 0,
    test_clock: customer.test_clock ?? null,
    total: 0,
  }
}

const unmodelledInvoice = {
  ...nulls('account_tax_ids application custom_fields customer_account customer_phone'),
  ...nulls('customer_shipping default_payment_method default_source description due_date footer from_invoice'),
  ...nulls('invoice_pdf last_finalization_error latest_revision on_behalf_of receipt_number rendering'),
  ...nulls('shipping_cost shipping_details statement_descriptor subtotal_excluding_tax'),
  ...nulls('total_excluding_tax webhooks_delivered_at'),
  account_country: 'US',
  account_name: 'Palisade',
  amount_overpaid: 0,
  amount_shipping: 0,
  automatic_tax: { disabled_reason: null, enabled: false, liability: null, provider: null, status: null },
  customer_tax_ids: [],
  issuer: { type: 'self' },
  livemode: false,
  payment_settings: { default_mandate: null, payment_method_options: null, payment_method_types: null },
  post_payment_credit_notes_amount: 0,
  pre_payment_credit_notes_amount: 0,
  total_discount_amounts: [],
  total_pretax_credit_amounts: [],
  total_taxes: [],
} satisfies Partial<Invoice>
