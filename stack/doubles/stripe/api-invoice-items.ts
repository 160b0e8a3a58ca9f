/** /v1/invoiceitems. */
import { z } from 'zod'
import { fill } from './amounts.ts'
import { livingCustomer } from './customers.ts'
import { discountsOf } from './discounts.ts'
import { asOf } from './due.ts'
import { emit } from './events.ts'
import { addItem, forget, lineOfItem, newInvoiceItem } from './invoice-items.ts'
import { pricingOf } from './lines.ts'
import { listPage } from './lists.ts'
import {
  boolean,
  currency,
  discounts,
  expand,
  integer,
  mergeMetadata,
  metadata,
  none,
  page,
  rates,
  text,
  unset,
} from './params.ts'
import { invalid, need } from './refusals.ts'
import type { Route } from './routes.ts'
import type { State } from './state.ts'
import { ratesOf } from './tax-rates.ts'
import type { Invoice, InvoiceItem } from './wire.ts'

const period = z.strictObject({ start: integer, end: integer }).optional()
const changeable = {
  description: unset.or(text).optional(),
  discountable: boolean.optional(),
  metadata: metadata.optional(),
  period,
  tax_rates: rates,
  expand,
}
const newParams = z.strictObject({
  ...changeable,
  customer: text,
  amount: integer.optional(),
  currency: currency.optional(),
  discounts,
  invoice: text.optional(),
  price_data: z.strictObject({ currency, product: text, unit_amount: integer }).optional(),
  pricing: z.strictObject({ price: text }).optional(),
  quantity: integer.pipe(z.number().min(0)).optional(),
  subscription: text.optional(),
  unit_amount_decimal: z
    .string()
    .regex(/^-?\d{1,12}$/)
    .transform(Number)
    .optional(),
})
const changedParams = z.strictObject({ ...changeable, amount: integer.optional(), quantity: integer.optional() })

export function invoiceItemRoutes(route: Route, state: State): void {
  const path = '/v1/invoiceitems'
  const find = (id: string) => need(state.invoiceItems, 'invoiceitem', id)
  route('POST', path, newParams, (given) => asOf(state, given.customer, () => create(state, given)))
  route('GET', `${path}/:id`, none, (_, id) => find(id))
  route('POST', `${path}/:id`, changedParams, (given, id) => {
    const item = find(id)
    return asOf(state, item.customer, () => update(state, item, given))
  })
  route('DELETE', `${path}/:id`, none, (_, id) => {
    const item = find(id)
    const draft = draftOf(state, item)
    forget(state, item)
    state.invoiceItems.delete(id)
    if (draft) refill(state, draft, item, false)
    emit(state, 'invoiceitem.deleted', item)
    return { id, object: 'invoiceitem', deleted: true }
  })
  const filters = { customer: text.optional(), invoice: text.optional(), pending: boolean.optional() }
  route('GET', path, z.strictObject({ ...page, ...filters }), (query) => {
    const items = [...state.invoiceItems.values()].map((item) => ({ item, id: item.id, created: item.date }))
    const { data, ...rest } = listPage(
      path,
      items,
      query,
      ({ item }) =>
        (query.customer === undefined || item.customer === query.customer) &&
        (query.invoice === undefined || item.invoice === query.invoice) &&
        (query.pending === undefined || query.pending === (item.invoice === null)),
    )
    return { ...rest, data: data.map(({ item }) => item) }
  })
}

function create(state: State, given: z.infer<typeof newParams>): InvoiceItem {
  const customer = livingCustomer(state, given.customer, 'customer')
  const invoice = given.invoice === undefined ? undefined : openDraft(state, given.invoice, customer.id)
  const subscription =
    given.subscription === undefined
      ? undefined
      : need(state.subscriptions, 'subscription', given.subscription, 'subscription')
  const cost = costOf(state, given)
  for (const other of [invoice?.currency, subscription?.currency])
    if (other !== undefined && other !== cost.currency)
      throw invalid(`This is in ${other}, not in ${cost.currency}.`, { param: 'currency' })
  const item = newInvoiceItem(state, {
    ...cost,
    customer: customer.id,
    description: given.description ?? null,
    discountable: given.discountable ?? cost.amount >= 0,
    discounts: [],
    invoice: invoice?.id ?? null,
    metadata: mergeMetadata({}, given.metadata),
    parent: subscription
      ? { subscription_details: { subscription: subscription.id }, type: 'subscription_details' }
      : null,
    period: given.period ?? { start: state.now(), end: state.now() },
    tax_rates: ratesOf(state, given.tax_rates ?? []),
  })
  item.discounts = discountsOf(
    state,
    given.discounts ?? null,
    { customer: customer.id, invoice_item: item.id },
    item.currency,
  )
  item.test_clock = customer.test_clock ?? null
  addItem(state, item)
  if (invoice) refill(state, invoice, item, true)
  emit(state, 'invoiceitem.created', item)
  return item
}

type Cost = Pick<InvoiceItem, 'amount' | 'currency' | 'quantity' | 'pricing'>

/** An amount, a price so many times, or so much of a product. */
function costOf(state: State, given: z.infer<typeof newParams>): Cost {
  const { amount, currency, pricing, price_data, unit_amount_decimal: unit, quantity = 1 } = given
  const ways = [amount, pricing, price_data, unit].filter((way) => way !== undefined)
  if (ways.length !== 1)
    throw invalid('You must pass one of amount, pricing, price_data and unit_amount_decimal.', {
      code: 'parameter_missing',
      param: 'amount',
    })
  if (pricing) {
    const price = need(state.prices, 'price', pricing.price, 'pricing[price]')
    if (price.recurring) throw invalid('The price has to be of the type `one_time`.', { param: 'pricing[price]' })
    return {
      amount: (price.unit_amount ?? 0) * quantity,
      currency: price.currency,
      quantity,
      pricing: pricingOf(price),
    }
  }
  if (price_data) {
    need(state.products, 'product', price_data.product, 'price_data[product]')
    return { amount: price_data.unit_amount * quantity, currency: price_data.currency, quantity, pricing: null }
  }
  if (currency === undefined)
    throw invalid('Missing required param: currency.', { code: 'parameter_missing', param: 'currency' })
  if (amount !== undefined && given.quantity !== undefined)
    throw invalid('An amount has no quantity.', { param: 'quantity' })
  const pricingOfUnit = { type: 'price_details', unit_amount_decimal: String(unit ?? amount) } as const
  return { amount: amount ?? (unit ?? 0) * quantity, currency, quantity, pricing: pricingOfUnit }
}

function openDraft(state: State, id: string, customer: string): Invoice {
  const invoice = need(state.invoices, 'invoice', id, 'invoice')
  if (invoice.customer !== customer) throw invalid('The invoice is of another customer.', { param: 'invoice' })
  if (invoice.status !== 'draft')
    throw invalid('This invoice is no longer editable.', { code: 'invoice_not_editable', param: 'invoice' })
  return invoice
}

/** The draft that it is on; what was finalised is not changed. */
function draftOf(state: State, { invoice: id }: InvoiceItem): Invoice | undefined {
  const invoice = state.invoices.get(id ?? '')
  if (invoice && invoice.status !== 'draft')
    throw invalid('This invoice item is on an invoice that is no longer editable.', { code: 'invoice_not_editable' })
  return invoice
}

function update(state: State, item: InvoiceItem, given: z.infer<typeof changedParams>): InvoiceItem {
  const draft = draftOf(state, item)
  if (given.quantity !== undefined) {
    const unit = Number(item.pricing?.unit_amount_decimal ?? item.amount)
    Object.assign(item, {
      quantity: given.quantity,
      quantity_decimal: String(given.quantity),
      amount: unit * given.quantity,
    })
  }
  if (given.amount !== undefined) item.amount = given.amount
  if (given.description !== undefined) item.description = given.description
  if (given.discountable !== undefined) item.discountable = given.discountable
  if (given.period) item.period = given.period
  if (given.tax_rates !== undefined) item.tax_rates = ratesOf(state, given.tax_rates ?? [])
  item.metadata = mergeMetadata(item.metadata ?? {}, given.metadata)
  if (draft) refill(state, draft, item, true)
  return item
}

function refill(state: State, invoice: Invoice, item: InvoiceItem, isOn: boolean): void {
  const others = invoice.lines.data.filter(
    ({ parent }) => (parent?.invoice_item_details ?? parent?.subscription_item_details)?.invoice_item !== item.id,
  )
  fill(state, invoice, isOn ? [...others, lineOfItem(item)] : others)
  emit(state, 'invoice.updated', invoice)
}
