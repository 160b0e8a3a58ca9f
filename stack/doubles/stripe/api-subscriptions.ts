/** /v1/subscriptions and /v1/subscription_items. */
import { z } from 'zod'
import { cancel, changeItems, planEnd, resume } from './change-subscription.ts'
import { livingCustomer } from './customers.ts'
import { discountsOf, end, type Wanted } from './discounts.ts'
import { asOf, schedule } from './due.ts'
import { change } from './events.ts'
import { newInvoiceItem } from './invoice-items.ts'
import { pricingOf } from './lines.ts'
import { listOf, listPage } from './lists.ts'
import { ignored, mergeMetadata, none, page, text } from './params.ts'
import { cardOf } from './payments.ts'
import { invalid, missing, need, Refusal } from './refusals.ts'
import type { Route } from './routes.ts'
import type { State } from './state.ts'
import { anchorOf, subscribe } from './subscribe.ts'
import { changedParams, ended, type extras, newParams, resumed } from './subscription-params.ts'
import { isOver } from './subscription-status.ts'
import { ratesOf } from './tax-rates.ts'
import type { InvoiceItem, Subscription } from './wire.ts'
import { productName } from './words.ts'

const path = '/v1/subscriptions'

export function subscriptionRoutes(route: Route, state: State): void {
  const find = (id: string) => need(state.subscriptions, 'subscription', id)
  route('POST', path, newParams, (given) => asOf(state, given.customer, () => create(state, given)))
  route('POST', `${path}/:id`, changedParams, (given, id) => {
    const subscription = find(id)
    return asOf(state, subscription.customer, () => update(state, subscription, given))
  })
  route('GET', `${path}/:id`, none, (_, id) => find(id))
  route('DELETE', `${path}/:id`, ended, (given, id) => {
    const subscription = find(id)
    if (isOver(subscription)) throw missing('subscription', id)
    asOf(state, subscription.customer, () => cancel(state, subscription, given))
    return subscription
  })
  route('POST', `${path}/:id/resume`, resumed, ({ payment_behavior }, id) => {
    const subscription = find(id)
    asOf(state, subscription.customer, () =>
      resume(state, subscription, payment_behavior === 'resume_on_payment_success'),
    )
    return subscription
  })
  route('DELETE', `${path}/:id/discount`, none, (_, id) => {
    const subscription = find(id)
    const [first] = subscription.discounts
    if (first === undefined) throw missing('discount', id)
    changeDiscounts(state, subscription, [])
    return { ...state.discounts.get(first), deleted: true }
  })
  listRoutes(route, state)
}

const priceOf = (state: State, id: string, i: number) => need(state.prices, 'price', id, `items[${i}][price]`)

/** Paid with the card that the customer has; without one the first invoice stays open. */
function create(state: State, given: z.infer<typeof newParams>): Subscription {
  const { customer, items, metadata, trial_period_days: days, trial_end, trial_settings } = given
  livingCustomer(state, customer, 'customer')
  const wanted = items.map(({ price, quantity = 1, tax_rates, discounts }, i) => ({
    price: priceOf(state, price, i),
    quantity,
    tax_rates: ratesOf(state, tax_rates ?? []),
    discounts: discounts ?? [],
  }))
  const method = given.default_payment_method && methodOfCustomer(state, given.default_payment_method, customer)
  const order = {
    customer,
    items: wanted,
    trial_end: trial_end ?? (days === undefined ? undefined : state.now() + days * 86_400),
    missing_payment_method: trial_settings?.end_behavior.missing_payment_method ?? ('create_invoice' as const),
    metadata: mergeMetadata({}, metadata),
    discounts: given.discounts ?? [],
    billing_cycle_anchor: anchorOf(
      state,
      given.billing_cycle_anchor,
      wanted.map(({ price }) => price),
    ),
    stub: given.proration_behavior,
    default_tax_rates: ratesOf(state, given.default_tax_rates ?? []),
    default_payment_method: method ?? null,
    proration_discounts: given.billing_mode?.flexible?.proration_discounts,
    extras: ({ id }: Subscription) => extrasOf(state, given.add_invoice_items ?? [], customer, id),
    waits: given.payment_behavior === 'default_incomplete',
  }
  const outcome = cardOf(state, { customer, default_payment_method: order.default_payment_method })
  const isFree =
    order.trial_end !== undefined || wanted.every(({ price, quantity }) => !price.unit_amount || quantity === 0)
  if (given.payment_behavior === 'error_if_incomplete' && outcome !== 'ok' && !isFree)
    throw new Refusal(402, 'Your card was declined.', { type: 'card_error', code: 'card_declined' })
  const { subscription } = subscribe(state, order, outcome)
  setThresholds(subscription, given.billing_thresholds)
  return subscription
}

function methodOfCustomer(state: State, id: string, customer: string): string {
  const method = need(state.paymentMethods, 'PaymentMethod', id, 'default_payment_method')
  if (method.customer !== customer)
    throw invalid('The customer does not have a payment method with this id.', {
      code: 'resource_missing',
      param: 'default_payment_method',
    })
  return id
}

/** One-off lines of the next invoice. */
function extrasOf(state: State, given: z.infer<typeof extras>, customer: string, subscription: string): InvoiceItem[] {
  return given.map(({ price: id, quantity, tax_rates }, i) => {
    const price = need(state.prices, 'price', id, `add_invoice_items[${i}][price]`)
    if (price.recurring) throw invalid('The price has to be of the type `one_time`.', { param: 'add_invoice_items' })
    return newInvoiceItem(state, {
      amount: (price.unit_amount ?? 0) * quantity,
      currency: price.currency,
      customer,
      description: productName(state, price),
      discountable: true,
      discounts: [],
      invoice: null,
      metadata: {},
      parent: { subscription_details: { subscription }, type: 'subscription_details' },
      period: { start: state.now(), end: state.now() },
      pricing: pricingOf(price),
      quantity,
      tax_rates: ratesOf(state, tax_rates ?? []),
    })
  })
}

type Thresholds = z.infer<typeof newParams>['billing_thresholds']

function setThresholds(subscription: Subscription, given: Thresholds): void {
  if (given === undefined) return
  subscription.billing_thresholds = given && {
    amount_gte: given.amount_gte ?? null,
    reset_billing_cycle_anchor: given.reset_billing_cycle_anchor ?? false,
  }
}

function update(state: State, subscription: Subscription, given: z.infer<typeof changedParams>): Subscription {
  const { cancel_at, cancel_at_period_end } = given
  if (cancel_at !== undefined && cancel_at !== null && cancel_at <= state.now())
    throw invalid('cancel_at must be in the future.', { param: 'cancel_at' })
  if (given.payment_behavior === 'pending_if_incomplete') refuseBesideItems(given)
  if (given.default_payment_method) methodOfCustomer(state, given.default_payment_method, subscription.customer)
  changeDiscounts(state, subscription, given.discounts)
  setThresholds(subscription, given.billing_thresholds)
  if (given.default_tax_rates !== undefined)
    subscription.default_tax_rates = ratesOf(state, given.default_tax_rates ?? [])
  if (given.default_payment_method !== undefined) subscription.default_payment_method = given.default_payment_method
  updateItems(state, subscription, given)
  if (cancel_at !== undefined) planEnd(state, subscription, { cancel_at })
  else if (cancel_at_period_end !== undefined) planEnd(state, subscription, { cancel_at_period_end })
  return change(state, 'customer.subscription.updated', subscription, {
    metadata: mergeMetadata(subscription.metadata, given.metadata),
    pause_collection: pauseOf(state, subscription, given.pause_collection),
  })
}

function updateItems(state: State, subscription: Subscription, given: z.infer<typeof changedParams>): void {
  const items = given.items?.map(({ price, tax_rates, discounts, ...item }, i) => ({
    ...item,
    ...(price === undefined ? {} : { price: priceOf(state, price, i) }),
    ...(tax_rates === undefined ? {} : { tax_rates: ratesOf(state, tax_rates ?? []) }),
    ...(discounts === undefined ? {} : { discounts: discounts ?? [] }),
  }))
  const resets = given.billing_cycle_anchor?.type === 'now'
  const extras = extrasOf(state, given.add_invoice_items ?? [], subscription.customer, subscription.id)
  if (!items && !resets && extras.length === 0) return
  const how = { proration: given.proration_behavior, behavior: given.payment_behavior, resets, extras }
  changeItems(state, subscription, items ?? [], how)
}

function pauseOf(state: State, subscription: Subscription, pause: z.infer<typeof changedParams>['pause_collection']) {
  if (pause === undefined) return subscription.pause_collection
  if (pause?.resumes_at !== undefined) schedule(state, pause.resumes_at, 'resume_collection', subscription.id)
  return pause && { behavior: pause.behavior, resumes_at: pause.resumes_at ?? null }
}

/** A change that may have to wait is one of what is sold, and of nothing else. */
function refuseBesideItems(given: z.infer<typeof changedParams>): void {
  const allowed = ['items', 'proration_behavior', 'payment_behavior', 'billing_cycle_anchor', 'expand', 'off_session']
  const other = Object.entries(given).find(([name, value]) => value !== undefined && !allowed.includes(name))
  if (other)
    throw invalid(`You cannot set \`payment_behavior=pending_if_incomplete\` together with ${other[0]}.`, {
      param: other[0],
    })
}

/** Those that are not named any more are gone. */
function changeDiscounts(state: State, subscription: Subscription, given: Wanted[] | null | undefined): void {
  if (given === undefined) return
  const { discounts: before, currency, customer } = subscription
  const after = discountsOf(state, given, { customer, subscription: subscription.id }, currency)
  for (const id of before) if (!after.includes(id)) end(state, id)
  change(state, 'customer.subscription.updated', subscription, { discounts: after })
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
