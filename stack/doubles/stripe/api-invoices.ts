/** /v1/invoices and /v1/invoice_payments. */
import { z } from 'zod'
import { asOf } from './due.ts'
import { finalize, voidInvoice, writeOff } from './invoices.ts'
import { listOf, listPage } from './lists.ts'
import { expand, ignored, mergeMetadata, metadata, none, page, text } from './params.ts'
import { paymentOf, tryInvoice } from './pay-invoice.ts'
import { cardOf } from './payments.ts'
import { invalid, need, Refusal } from './refusals.ts'
import type { Route } from './routes.ts'
import type { State } from './state.ts'
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
  route(
    'POST',
    `${path}/:id`,
    z.strictObject({ metadata: metadata.optional(), auto_advance: ignored, expand }),
    ({ metadata }, id) => {
      const invoice = find(id)
      invoice.metadata = mergeMetadata(invoice.metadata ?? {}, metadata)
      return invoice
    },
  )
  actionRoutes(route, state, find)
  paymentRoutes(route, state)
}

function actionRoutes(route: Route, state: State, find: (id: string) => Invoice): void {
  route('POST', `${path}/:id/finalize`, z.strictObject({ auto_advance: ignored, expand }), (_, id) => {
    const invoice = find(id)
    if (invoice.status !== 'draft')
      throw invalid('This invoice is finalized already.', { code: 'invoice_not_editable' })
    asOf(state, invoice.customer, () => finalize(state, invoice))
    return invoice
  })
  route('POST', `${path}/:id/pay`, z.strictObject({ off_session: ignored, payment_method: ignored, expand }), (_, id) =>
    asOf(state, find(id).customer, () => payNow(state, find(id))),
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

/** With the card that the customer has. */
function payNow(state: State, invoice: Invoice): Invoice {
  if (invoice.status === 'draft') finalize(state, invoice)
  if (invoice.status === 'paid') throw invalid('Invoice is already paid', { code: 'invoice_already_paid' })
  if (invoice.status === 'void') throw invalid('This invoice is void.', { code: 'invoice_not_editable' })
  const status: PaymentIntent['status'] = tryInvoice(
    state,
    invoice,
    cardOf(state, { customer: invoice.customer ?? '' }),
  )
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

const paymentFilters = z.strictObject({
  ...page,
  invoice: text.optional(),
  status: z.enum(['open', 'paid', 'canceled']).optional(),
  payment: z.strictObject({ type: z.literal('payment_intent'), payment_intent: text.optional() }).optional(),
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
