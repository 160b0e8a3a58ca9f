/** /v1/subscriptions and /v1/subscription_items. */
import { z } from 'zod'
import { changeItems, planEnd, resume } from './change-subscription.ts'
import { livingCustomer } from './customers.ts'
import { asOf } from './due.ts'
import { change } from './events.ts'
import { listOf, listPage } from './lists.ts'
import { boolean, expand, ignored, integer, mergeMetadata, metadata, none, page, text, unset } from './params.ts'
import { cardOf } from './payments.ts'
import { invalid, missing, need } from './refusals.ts'
import type { Route } from './routes.ts'
import type { State } from './state.ts'
import { subscribe } from './subscribe.ts'
import { endSubscription, isOver } from './subscription-status.ts'
import type { Subscription } from './wire.ts'

const path = '/v1/subscriptions'

export function subscriptionRoutes(route: Route, state: State): void {
  const find = (id: string) => need(state.subscriptions, 'subscription', id)
  route('POST', path, newParams, (given) => asOf(state, given.customer, () => create(state, given)))
  route('POST', `${path}/:id`, changedParams, (given, id) => {
    const subscription = find(id)
    return asOf(state, subscription.customer, () => update(state, subscription, given))
  })
  route('GET', `${path}/:id`, none, (_, id) => find(id))
  route('DELETE', `${path}/:id`, ended, (_, id) => {
    const subscription = find(id)
    if (isOver(subscription)) throw missing('subscription', id)
    asOf(state, subscription.customer, () => endSubscription(state, subscription, 'cancellation_requested'))
    return subscription
  })
  route('POST', `${path}/:id/resume`, resumed, (_, id) => {
    const subscription = find(id)
    asOf(state, subscription.customer, () => resume(state, subscription))
    return subscription
  })
  listRoutes(route, state)
}

const priceOf = (state: State, id: string, i: number) => need(state.prices, 'price', id, `items[${i}][price]`)

/** Paid with the card that the customer has; without one the first invoice stays open. */
function create(state: State, given: z.infer<typeof newParams>): Subscription {
  const { customer, items, metadata, trial_period_days: days, trial_end, trial_settings } = given
  livingCustomer(state, customer, 'customer')
  const order = {
    customer,
    items: items.map(({ price, quantity = 1 }, i) => ({ price: priceOf(state, price, i), quantity })),
    trial_end: trial_end ?? (days === undefined ? undefined : state.now() + days * 86_400),
    missing_payment_method: trial_settings?.end_behavior.missing_payment_method ?? ('create_invoice' as const),
    metadata: mergeMetadata({}, metadata),
  }
  return subscribe(state, order, cardOf(state, { customer })).subscription
}

function update(state: State, subscription: Subscription, given: z.infer<typeof changedParams>): Subscription {
  const { pause_collection: pause, cancel_at, cancel_at_period_end } = given
  if (cancel_at !== undefined && cancel_at !== null && cancel_at <= state.now())
    throw invalid('cancel_at must be in the future.', { param: 'cancel_at' })
  const items = given.items?.map(({ price, ...item }, i) =>
    price === undefined ? item : { ...item, price: priceOf(state, price, i) },
  )
  if (items) changeItems(state, subscription, items, given.proration_behavior)
  if (cancel_at !== undefined) planEnd(state, subscription, { cancel_at })
  else if (cancel_at_period_end !== undefined) planEnd(state, subscription, { cancel_at_period_end })
  const paused = pause && { behavior: pause.behavior, resumes_at: pause.resumes_at ?? null }
  return change(state, 'customer.subscription.updated', subscription, {
    metadata: mergeMetadata(subscription.metadata, given.metadata),
    pause_collection: paused === undefined ? subscription.pause_collection : paused,
  })
}

function listRoutes(route: Route, state: State): void {
  const filters = {
    customer: text.optional(),
    status: text.optional(),
    price: text.optional(),
    collection_method: ignored,
  }
  route('GET', '/v1/subscriptions', z.strictObject({ ...page, ...filters }), (query) =>
    listPage('/v1/subscriptions', state.subscriptions.values(), query, (subscription) => {
      const { customer, items } = subscription
      const hasPrice = query.price === undefined || items.data.some(({ price }) => price.id === query.price)
      return (
        (query.customer === undefined || customer === query.customer) &&
        hasPrice &&
        fitsStatus(subscription, query.status)
      )
    }),
  )
  route('GET', '/v1/subscription_items', z.strictObject({ ...page, subscription: text }), ({ subscription, limit }) => {
    const { data } = need(state.subscriptions, 'subscription', subscription, 'subscription').items
    return listOf('/v1/subscription_items', data.slice(0, limit), data.length > limit)
  })
}

/** Without a status the list leaves out what was canceled. */
function fitsStatus(subscription: Subscription, status: string | undefined): boolean {
  if (status === undefined) return subscription.status !== 'canceled'
  if (status === 'all') return true
  if (status === 'ended') return isOver(subscription)
  return subscription.status === status
}

const quantity = integer.pipe(z.number().min(1)).optional()
const proration_behavior = z.enum(['create_prorations', 'always_invoice', 'none']).default('create_prorations')
const missing_payment_method = z.enum(['create_invoice', 'pause', 'cancel'])
const trial_settings = z.strictObject({ end_behavior: z.strictObject({ missing_payment_method }) }).optional()
const newParams = z.strictObject({
  customer: text,
  items: z
    .array(z.strictObject({ price: text, quantity }))
    .min(1)
    .max(20),
  metadata: metadata.optional(),
  trial_period_days: integer.pipe(z.number().min(1).max(730)).optional(),
  trial_end: integer.optional(),
  trial_settings,
  off_session: ignored,
  payment_behavior: ignored,
  expand,
})
const changedParams = z.strictObject({
  items: z
    .array(z.strictObject({ id: text.optional(), price: text.optional(), quantity, deleted: boolean.optional() }))
    .optional(),
  proration_behavior,
  cancel_at_period_end: boolean.optional(),
  cancel_at: unset.or(integer).optional(),
  metadata: metadata.optional(),
  pause_collection: unset
    .or(
      z.strictObject({
        behavior: z.enum(['keep_as_draft', 'mark_uncollectible', 'void']),
        resumes_at: integer.optional(),
      }),
    )
    .optional(),
  payment_behavior: ignored,
  expand,
})

const ended = z.strictObject({ invoice_now: ignored, prorate: ignored, cancellation_details: ignored, expand })
const resumed = z.strictObject({ billing_cycle_anchor: ignored, proration_behavior: ignored, expand })
