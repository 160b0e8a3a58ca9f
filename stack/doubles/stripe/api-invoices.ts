/** /v1/invoices and /v1/invoice_payments. */
import { z } from 'zod'
import { fill } from './amounts.ts'
import { methodOf } from './api-payment-methods.ts'
import { livingCustomer } from './customers.ts'
import { discountsOf } from './discounts.ts'
import { asOf } from './due.ts'
import { emit } from './events.ts'
import { cannotFinalize, finalize, finalizeLater, voidInvoice, writeOff } from './finalize.ts'
import { isOf, lineOfItem, take, waitingFor } from './invoice-items.ts'
import { paymentOf } from './invoice-payments.ts'
import { newInvoice } from './invoices.ts'
import { listOf, listPage } from './lists.ts'
import {
  boolean,
  currency,
  defined,
  discounts,
  expand,
  ignored,
  integer,
  mergeMetadata,
  metadata,
  none,
  page,
  rates,
  text,
} from './params.ts'
import { markPaidElsewhere, tryInvoice } from './pay-invoice.ts'
import { cardOf } from './payments.ts'
import { invalid, need, Refusal } from './refusals.ts'
import type { Route } from './routes.ts'
import type { State } from './state.ts'
import { subscriptionOf } from './subscription-status.ts'
import { ratesOf } from './tax-rates.ts'
import type { Invoice, PaymentIntent } from './wire.ts'

const path = '/v1/invoices'
const statuses = z.enum(['draft', 'open', 'paid', 'uncollectible', 'void']).optional()

export function invoiceRoutes(route: Route, state: State): void {
  const find = (id: string) => need(state.invoices, 'invoice', id)
  route('GET', `${path}/:id`, none, (_, id) => find(id))
  route('GET', `${path}/:id/lines`, z.strictObject({ ...page }), ({ limit, starting_after }, id) => {
    const { data } = find(id).lines
    const from = starting_after === undefined ? 0 : data.findIndex((line) => line.id === starting_after) + 1
    return listOf(`${path}/${id}/lines`, data.slice(from, from + limit), data.length > from + limit)
  })
  const filters = {
    customer: text.optional(),
    subscription: text.optional(),
    status: statuses,
    collection_method: ignored,
  }
  route('GET', path, z.strictObject({ ...page, ...filters }), (query) =>
    listPage(path, state.invoices.values(), query, ({ customer, status, parent }) => {
      const subscription = parent?.subscription_details?.subscription
      return (
        (query.customer === undefined || customer === query.customer) &&
        (query.status === undefined || status === query.status) &&
        (query.subscription === undefined || subscription === query.subscription)
      )
    }),
  )
  route('POST', path, newParams, (given) => asOf(state, given.customer, () => create(state, given)))
  route('POST', `${path}/:id`, changedParams, (given, id) => {
    const invoice = find(id)
    return asOf(state, invoice.customer, () => update(state, invoice, given))
  })
  route('DELETE', `${path}/:id`, none, (_, id) => {
    const invoice = find(id)
    if (invoice.status !== 'draft' || invoice.parent?.subscription_details)
      throw invalid('Only drafts that no subscription made can be deleted.', { code: 'invoice_not_editable' })
    state.invoices.delete(id)
    for (const item of state.invoiceItems.values()) if (item.invoice === id) state.invoiceItems.delete(item.id)
    emit(state, 'invoice.deleted', invoice)
    return { id, object: 'invoice', deleted: true }
  })
  actionRoutes(route, state, find)
  paymentRoutes(route, state)
}

function actionRoutes(route: Route, state: State, find: (id: string) => Invoice): void {
  const finalized = z.strictObject({ auto_advance: boolean.optional(), expand })
  route('POST', `${path}/:id/finalize`, finalized, ({ auto_advance }, id) => {
    const invoice = find(id)
    if (invoice.status !== 'draft')
      throw invalid('This invoice is finalized already.', { code: 'invoice_not_editable' })
    if (auto_advance !== undefined) invoice.auto_advance = auto_advance
    asOf(state, invoice.customer, () => finalizeNow(state, invoice))
    return invoice
  })
  const paid = z.strictObject({
    off_session: boolean.optional(),
    paid_out_of_band: boolean.optional(),
    payment_method: text.optional(),
    expand,
  })
  route('POST', `${path}/:id/pay`, paid, (given, id) =>
    asOf(state, find(id).customer, () => payNow(state, find(id), given)),
  )
  route('POST', `${path}/:id/void`, none, (_, id) => {
    const invoice = find(id)
    asOf(state, invoice.customer, () => voidInvoice(state, invoice))
    return invoice
  })
  route('POST', `${path}/:id/mark_uncollectible`, none, (_, id) => {
    const invoice = find(id)
    asOf(state, invoice.customer, () => writeOff(state, invoice))
    return invoice
  })
}

function finalizeNow(state: State, invoice: Invoice): void {
  if (finalize(state, invoice)) return
  const { code = 'invoice_not_editable', message = '' } = invoice.last_finalization_error ?? {}
  throw cannotFinalize({ code, message })
}

type Payment = { paid_out_of_band?: boolean | undefined; payment_method?: string | undefined }

/** With the card that the customer has, with another one, or without Stripe. */
function payNow(state: State, invoice: Invoice, { paid_out_of_band, payment_method }: Payment): Invoice {
  if (invoice.status === 'draft') finalizeNow(state, invoice)
  if (invoice.status === 'paid') throw invalid('Invoice is already paid', { code: 'invoice_already_paid' })
  if (invoice.status === 'void') throw invalid('This invoice is void.', { code: 'invoice_not_editable' })
  if (paid_out_of_band) {
    markPaidElsewhere(state, invoice)
    return invoice
  }
  const customer = invoice.customer ?? ''
  const method = payment_method === undefined ? undefined : methodOf(state, payment_method).id
  const payer = subscriptionOf(state, invoice) ?? { customer }
  const outcome = cardOf(state, method === undefined ? payer : { customer, default_payment_method: method })
  const status: PaymentIntent['status'] = tryInvoice(state, invoice, outcome)
  const payment_intent = paymentOf(state, invoice)?.intent
  if (status === 'requires_action')
    throw new Refusal(402, 'This payment needs more of the customer.', {
      type: 'card_error',
      code: 'invoice_payment_intent_requires_action',
      payment_intent,
    })
  if (status !== 'succeeded' && status !== 'processing')
    throw new Refusal(402, 'Your card was declined.', {
      type: 'card_error',
      code: 'card_declined',
      decline_code: 'generic_decline',
      payment_intent,
    })
  return invoice
}

const changeable = {
  auto_advance: boolean.optional(),
  default_tax_rates: rates,
  description: text.optional(),
  discounts,
  metadata: metadata.optional(),
  expand,
}
const newParams = z.strictObject({
  ...changeable,
  customer: text,
  subscription: text.optional(),
  currency: currency.optional(),
  collection_method: z.enum(['charge_automatically', 'send_invoice']).default('charge_automatically'),
  days_until_due: integer.pipe(z.number().min(0)).optional(),
  pending_invoice_items_behavior: z.enum(['include', 'exclude']).default('exclude'),
})
const changedParams = z.strictObject(changeable)

/** By hand: a draft with what waits for it, when that is wanted; it stays one unless it advances by itself. */
function create(state: State, given: z.infer<typeof newParams>): Invoice {
  const customer = livingCustomer(state, given.customer, 'customer')
  const { subscription: id, collection_method, days_until_due } = given
  const subscription = id === undefined ? undefined : need(state.subscriptions, 'subscription', id, 'subscription')
  if (subscription && subscription.customer !== customer.id)
    throw invalid('The subscription is of another customer.', { param: 'subscription' })
  if ((collection_method === 'send_invoice') !== (days_until_due !== undefined))
    throw invalid('days_until_due belongs to the collection method `send_invoice`.', { param: 'days_until_due' })
  const currency = subscription?.currency ?? given.currency ?? customer.currency ?? 'usd'
  const period = { start: state.now(), end: state.now() }
  const of = subscription ? { subscription } : {}
  const invoice = newInvoice(state, { ...of, customer, currency, reason: 'manual', period })
  const includes = subscription !== undefined || given.pending_invoice_items_behavior === 'include'
  const waiting = includes
    ? waitingFor(
        state,
        customer.id,
        (item) => item.currency === currency && (!subscription || isOf(item, subscription.id)),
      )
    : []
  Object.assign(invoice, {
    auto_advance: given.auto_advance ?? false,
    collection_method,
    description: given.description ?? null,
    metadata: mergeMetadata({}, given.metadata),
    due_date: days_until_due === undefined ? null : state.now() + days_until_due * 86_400,
    default_tax_rates: ratesOf(state, given.default_tax_rates ?? []),
  })
  invoice.discounts = discountsOf(
    state,
    given.discounts ?? null,
    { customer: customer.id, invoice: invoice.id },
    currency,
  )
  take(state, waiting, invoice.id)
  fill(state, invoice, waiting.map(lineOfItem))
  state.invoices.set(invoice.id, invoice)
  emit(state, 'invoice.created', invoice)
  if (invoice.auto_advance) finalizeLater(state, invoice)
  return invoice
}

function update(state: State, invoice: Invoice, given: z.infer<typeof changedParams>): Invoice {
  const { default_tax_rates, discounts, auto_advance, description, metadata } = given
  const isChanged = default_tax_rates !== undefined || discounts !== undefined
  if (isChanged && invoice.status !== 'draft')
    throw invalid('This invoice is no longer editable.', { code: 'invoice_not_editable' })
  Object.assign(invoice, defined({ auto_advance, description }), {
    metadata: mergeMetadata(invoice.metadata ?? {}, metadata),
  })
  if (default_tax_rates !== undefined) invoice.default_tax_rates = ratesOf(state, default_tax_rates ?? [])
  const owner = { customer: invoice.customer, invoice: invoice.id }
  if (discounts !== undefined) invoice.discounts = discountsOf(state, discounts, owner, invoice.currency)
  if (isChanged) fill(state, invoice, invoice.lines.data)
  if (auto_advance && invoice.status === 'draft') finalizeLater(state, invoice)
  emit(state, 'invoice.updated', invoice)
  return invoice
}

const paymentFilters = z.strictObject({
  ...page,
  invoice: text.optional(),
  status: z.enum(['open', 'paid', 'canceled']).optional(),
  payment: z
    .strictObject({ type: z.enum(['payment_intent', 'payment_record']), payment_intent: text.optional() })
    .optional(),
})

function paymentRoutes(route: Route, state: State): void {
  route('GET', '/v1/invoice_payments/:id', none, (_, id) => need(state.invoicePayments, 'invoice_payment', id))
  route('GET', '/v1/invoice_payments', paymentFilters, (query) =>
    listPage('/v1/invoice_payments', state.invoicePayments.values(), query, ({ invoice, status, payment }) => {
      const intent = query.payment?.payment_intent
      return (
        (query.invoice === undefined || invoice === query.invoice) &&
        (query.status === undefined || status === query.status) &&
        (intent === undefined || payment.payment_intent === intent)
      )
    }),
  )
}
