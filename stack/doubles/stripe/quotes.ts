/** Quotes: an offer that is finalised, and becomes a subscription or an invoice when it is accepted. */
import { fill } from './amounts.ts'
import { customerOf } from './customers.ts'
import { discountsOf, type Wanted } from './discounts.ts'
import { schedule } from './due.ts'
import { emit } from './events.ts'
import { finalizeLater } from './finalize.ts'
import { addItem, itemOfLine, lineOfItem } from './invoice-items.ts'
import { newInvoice } from './invoices.ts'
import { cardOf } from './payments.ts'
import { invalid } from './refusals.ts'
import type { State } from './state.ts'
import { subscribe } from './subscribe.ts'
import { type Customer, type Invoice, type LineItem, type Metadata, newId, nulls, type Quote } from './wire.ts'

type NewQuote = {
  customer: Customer
  items: LineItem[]
  discounts: Wanted[]
  description: string | null
  expires_at: number
  metadata: Metadata
  subscription_metadata: Metadata
  trial_period_days: number | null
}

export function createQuote(state: State, given: NewQuote): Quote {
  const quote = newQuote(state, given)
  state.quotes.set(quote.id, quote)
  state.quoteItems.set(quote.id, given.items)
  schedule(state, quote.expires_at, 'expire_quote', quote.id)
  emit(state, 'quote.created', quote)
  return quote
}

export function finalizeQuote(state: State, quote: Quote): Quote {
  if (quote.status !== 'draft')
    throw invalid(`A quote that is ${quote.status} cannot be finalized.`, { code: 'status_transition_invalid' })
  state.counters.quote += 1
  quote.status = 'open'
  quote.number = `QT-${String(state.counters.quote).padStart(4, '0')}`
  quote.status_transitions.finalized_at = state.now()
  emit(state, 'quote.finalized', quote)
  return quote
}

export function cancelQuote(state: State, quote: Quote): Quote {
  if (quote.status !== 'draft' && quote.status !== 'open')
    throw invalid(`A quote that is ${quote.status} cannot be canceled.`, { code: 'status_transition_invalid' })
  quote.status = 'canceled'
  quote.status_transitions.canceled_at = state.now()
  emit(state, 'quote.canceled', quote)
  return quote
}

export function expireQuote(state: State, id: string): void {
  const quote = state.quotes.get(id)
  if ((quote?.status === 'draft' || quote?.status === 'open') && quote.expires_at <= state.now())
    cancelQuote(state, quote)
}

/** What recurs becomes a subscription, with what does not on its first invoice; what does not alone becomes an invoice. */
export function acceptQuote(state: State, quote: Quote): Quote {
  if (quote.status !== 'open')
    throw invalid(`A quote that is ${quote.status} cannot be accepted.`, { code: 'status_transition_invalid' })
  const items = state.quoteItems.get(quote.id) ?? []
  const recurring = items.flatMap(({ price, quantity }) =>
    price?.recurring ? [{ price, quantity: quantity ?? 1 }] : [],
  )
  const once = items.filter(({ price }) => !price?.recurring)
  quote.status = 'accepted'
  quote.status_transitions.accepted_at = state.now()
  if (recurring.length > 0) acceptRecurring(state, quote, recurring, once)
  else quote.invoice = invoiceQuote(state, quote, once).id
  emit(state, 'quote.accepted', quote)
  return quote
}

type Recurring = { price: NonNullable<LineItem['price']>; quantity: number }[]

function acceptRecurring(state: State, quote: Quote, items: Recurring, once: LineItem[]): void {
  const customer = quote.customer ?? ''
  const days = quote.subscription_data.trial_period_days
  const { subscription, invoice } = subscribe(
    state,
    {
      customer,
      items,
      trial_end: days === null ? undefined : state.now() + days * 86_400,
      missing_payment_method: 'create_invoice',
      metadata: quote.subscription_data.metadata ?? {},
      discounts: quote.discounts.map((discount) => ({ discount })),
      reason: 'quote_accept',
      extras: ({ id }) => once.map((item) => itemOfLine(state, item, customer, id)),
    },
    cardOf(state, { customer }),
  )
  quote.subscription = subscription.id
  quote.invoice = invoice.id
}

/** A draft that is finalised by itself. */
function invoiceQuote(state: State, quote: Quote, once: LineItem[]): Invoice {
  const customer = customerOf(state, quote.customer ?? '')
  const period = { start: state.now(), end: state.now() }
  const invoice = newInvoice(state, { customer, currency: quote.currency ?? 'usd', reason: 'quote_accept', period })
  invoice.parent = { quote_details: { quote: quote.id }, subscription_details: null, type: 'quote_details' }
  invoice.discounts = quote.discounts
  const items = once.map((item) => ({ ...itemOfLine(state, item, customer.id, null), invoice: invoice.id }))
  for (const item of items) addItem(state, item)
  fill(state, invoice, items.map(lineOfItem))
  state.invoices.set(invoice.id, invoice)
  emit(state, 'invoice.created', invoice)
  finalizeLater(state, invoice)
  return invoice
}

const noDetails = { amount_discount: 0, amount_shipping: 0, amount_tax: 0 }

function newQuote(state: State, given: NewQuote): Quote {
  const { customer, items, discounts } = given
  const id = newId('qt_1', 23)
  const currency = items[0]?.currency ?? 'usd'
  const total = (some: LineItem[]) => some.reduce((sum, { amount_total }) => sum + amount_total, 0)
  const first = items.find(({ price }) => price?.recurring)?.price?.recurring
  const recurring = items.filter(({ price }) => price?.recurring)
  const of = (some: LineItem[]) => ({
    amount_subtotal: total(some),
    amount_total: total(some),
    total_details: noDetails,
  })
  return {
    ...nulls('application application_fee_amount application_fee_percent customer_account footer from_quote header'),
    ...nulls('invoice number on_behalf_of subscription subscription_schedule transfer_data'),
    id,
    object: 'quote',
    amount_subtotal: total(items),
    amount_total: total(items),
    automatic_tax: { enabled: false, ...nulls('liability provider status') },
    collection_method: 'charge_automatically',
    computed: {
      recurring: first ? { ...of(recurring), interval: first.interval, interval_count: first.interval_count } : null,
      upfront: of(items),
    },
    created: state.now(),
    currency,
    customer: customer.id,
    default_tax_rates: [],
    description: given.description,
    discounts: discountsOf(state, discounts, { customer: customer.id }, currency),
    expires_at: given.expires_at,
    invoice_settings: { ...nulls('custom_fields days_until_due description footer'), issuer: { type: 'self' } },
    livemode: false,
    metadata: given.metadata,
    status: 'draft',
    status_transitions: nulls('accepted_at canceled_at finalized_at'),
    subscription_data: {
      billing_mode: { flexible: { proration_discounts: state.settings.proration_discounts }, type: 'flexible' },
      ...nulls('description effective_date'),
      metadata: given.subscription_metadata,
      trial_period_days: given.trial_period_days,
    },
    test_clock: customer.test_clock ?? null,
    total_details: noDetails,
  }
}
