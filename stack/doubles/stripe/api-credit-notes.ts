/** /v1/credit_notes. */
import { z } from 'zod'
import { creditInvoice, voidNote } from './credit-notes.ts'
import { asOf } from './due.ts'
import { change } from './events.ts'
import { listOf, listPage } from './lists.ts'
import { defined, expand, integer, mergeMetadata, metadata, none, page, text } from './params.ts'
import { need } from './refusals.ts'
import type { Route } from './routes.ts'
import type { State } from './state.ts'

const amount = integer.pipe(z.number().min(0))
const line = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('invoice_line_item'),
    invoice_line_item: text,
    amount: amount.optional(),
    quantity: amount.optional(),
  }),
  z.strictObject({
    type: z.literal('custom_line_item'),
    description: text,
    quantity: amount.default(1),
    unit_amount: amount,
  }),
])
const newParams = z.strictObject({
  invoice: text,
  amount: amount.optional(),
  lines: z.array(line).min(1).optional(),
  refund_amount: amount.default(0),
  credit_amount: amount.default(0),
  out_of_band_amount: amount.default(0),
  refunds: z
    .array(z.strictObject({ type: z.literal('refund').optional(), refund: text, amount_refunded: amount }))
    .default([]),
  reason: z.enum(['duplicate', 'fraudulent', 'order_change', 'product_unsatisfactory']).optional(),
  memo: text.optional(),
  email_type: z.enum(['credit_note', 'none']).optional(),
  metadata: metadata.optional(),
  expand,
})

export function creditNoteRoutes(route: Route, state: State): void {
  const path = '/v1/credit_notes'
  const find = (id: string) => need(state.creditNotes, 'credit note', id)
  route('POST', path, newParams, ({ invoice: id, reason = null, memo = null, metadata, ...given }) => {
    const invoice = need(state.invoices, 'invoice', id, 'invoice')
    const wanted = {
      ...given,
      amount: given.amount,
      lines: given.lines,
      reason,
      memo,
      metadata: mergeMetadata({}, metadata),
    }
    return asOf(state, invoice.customer, () => creditInvoice(state, invoice, wanted))
  })
  route('GET', `${path}/:id`, none, (_, id) => find(id))
  route('GET', `${path}/:id/lines`, z.strictObject({ ...page }), ({ limit }, id) => {
    const { data } = find(id).lines
    return listOf(`${path}/${id}/lines`, data.slice(0, limit), data.length > limit)
  })
  const changed = z.strictObject({ memo: text.optional(), metadata: metadata.optional(), expand })
  route('POST', `${path}/:id`, changed, ({ memo, metadata }, id) => {
    const known = find(id)
    const changes = { ...defined({ memo }), metadata: mergeMetadata(known.metadata ?? {}, metadata) }
    return change(state, 'credit_note.updated', known, changes)
  })
  route('POST', `${path}/:id/void`, none, (_, id) => {
    const known = find(id)
    return asOf(state, known.customer, () => voidNote(state, known))
  })
  route('GET', path, z.strictObject({ ...page, customer: text.optional(), invoice: text.optional() }), (query) =>
    listPage(
      path,
      state.creditNotes.values(),
      query,
      ({ customer, invoice }) =>
        (query.customer === undefined || customer === query.customer) &&
        (query.invoice === undefined || invoice === query.invoice),
    ),
  )
}
