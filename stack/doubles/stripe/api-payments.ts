/** /v1/payment_intents, /v1/charges, /v1/refunds and /v1/disputes. */
import { z } from 'zod'
import { change } from './events.ts'
import { listPage } from './lists.ts'
import { expand, ignored, integer, mergeMetadata, metadata, none, page, text } from './params.ts'
import { chargeOfIntent, moveDispute, moveRefund, refund } from './refunds.ts'
import { invalid, need } from './refusals.ts'
import type { Route } from './routes.ts'
import type { State } from './state.ts'

const paid = { payment_intent: text.optional(), charge: text.optional() }
type Paid = { payment_intent: string | null; charge: string | null }
const fits = (query: { payment_intent?: string | undefined; charge?: string | undefined }, item: Paid) =>
  (query.payment_intent === undefined || item.payment_intent === query.payment_intent) &&
  (query.charge === undefined || item.charge === query.charge)

const newRefund = z.strictObject({
  ...paid,
  amount: integer.optional(),
  reason: z.enum(['duplicate', 'fraudulent', 'requested_by_customer']).optional(),
  metadata: metadata.optional(),
  expand,
})

export function paymentRoutes(route: Route, state: State): void {
  const ofCustomer = z.strictObject({ ...page, customer: text.optional() })
  route('GET', '/v1/payment_intents/:id', none, (_, id) => need(state.intents, 'payment_intent', id, 'intent'))
  route('GET', '/v1/payment_intents', ofCustomer, (query) =>
    listPage(
      '/v1/payment_intents',
      state.intents.values(),
      query,
      ({ customer }) => query.customer === undefined || customer === query.customer,
    ),
  )
  route('GET', '/v1/charges/:id', none, (_, id) => need(state.charges, 'charge', id, 'charge'))
  route('GET', '/v1/charges', ofCustomer.extend({ payment_intent: text.optional() }), (query) =>
    listPage(
      '/v1/charges',
      state.charges.values(),
      query,
      ({ customer, payment_intent }) =>
        (query.customer === undefined || customer === query.customer) &&
        (query.payment_intent === undefined || payment_intent === query.payment_intent),
    ),
  )
  refundRoutes(route, state)
  disputeRoutes(route, state)
}

function refundRoutes(route: Route, state: State): void {
  const find = (id: string) => need(state.refunds, 'refund', id)
  route('POST', '/v1/refunds', newRefund, ({ payment_intent, charge, amount, reason = null, metadata }) => {
    if (payment_intent !== undefined) need(state.intents, 'payment_intent', payment_intent, 'payment_intent')
    if (payment_intent === undefined && charge === undefined)
      throw invalid('One of the following params should be provided for this request: payment_intent or charge.', {
        code: 'parameter_missing',
        param: 'payment_intent',
      })
    const paidBy =
      payment_intent === undefined
        ? need(state.charges, 'charge', charge ?? '', 'charge')
        : chargeOfIntent(state, payment_intent)
    return refund(state, paidBy, { amount, reason, metadata: mergeMetadata({}, metadata) })
  })
  route('GET', '/v1/refunds/:id', none, (_, id) => find(id))
  route('POST', '/v1/refunds/:id', z.strictObject({ metadata: metadata.optional(), expand }), ({ metadata }, id) => {
    const known = find(id)
    return change(state, 'refund.updated', known, { metadata: mergeMetadata(known.metadata ?? {}, metadata) })
  })
  route('POST', '/v1/refunds/:id/cancel', none, (_, id) => {
    const known = find(id)
    if (known.status !== 'requires_action') throw invalid('Only a refund that requires action can be canceled.')
    return moveRefund(state, known, 'canceled')
  })
  route('GET', '/v1/refunds', z.strictObject({ ...page, ...paid }), (query) =>
    listPage('/v1/refunds', state.refunds.values(), query, (item) => fits(query, item)),
  )
}

function disputeRoutes(route: Route, state: State): void {
  const find = (id: string) => need(state.disputes, 'dispute', id)
  route('GET', '/v1/disputes/:id', none, (_, id) => find(id))
  route(
    'POST',
    '/v1/disputes/:id',
    z.strictObject({ metadata: metadata.optional(), evidence: ignored, submit: ignored, expand }),
    ({ metadata }, id) => {
      const known = find(id)
      return change(state, 'charge.dispute.updated', known, { metadata: mergeMetadata(known.metadata, metadata) })
    },
  )
  // Who closes a dispute through the API gives it up.
  route('POST', '/v1/disputes/:id/close', none, (_, id) => moveDispute(state, find(id), 'lost'))
  route('GET', '/v1/disputes', z.strictObject({ ...page, ...paid }), (query) =>
    listPage('/v1/disputes', state.disputes.values(), query, (item) => fits(query, item)),
  )
}
