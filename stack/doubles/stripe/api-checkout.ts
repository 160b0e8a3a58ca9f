/** /v1/checkout/sessions. */
import { z } from 'zod'
import { previousBoundary } from './calendar.ts'
import { newLineItem, newPrice } from './catalogue.ts'
import { expireSession, newSession, planExpiry, takeOff } from './checkout.ts'
import { livingCustomer } from './customers.ts'
import { listOf, listPage } from './lists.ts'
import { boolean, expand, ignored, integer, mergeMetadata, metadata, none, page, text } from './params.ts'
import { invalid, need } from './refusals.ts'
import type { Route } from './routes.ts'
import { shareOf, sum } from './shares.ts'
import type { State } from './state.ts'
import { anchorOf } from './subscribe.ts'
import type { LineItem, Session } from './wire.ts'

export function checkoutRoutes(route: Route, state: State): void {
  const path = '/v1/checkout/sessions'
  route('POST', path, newParams, (given) => createSession(state, given))
  route('GET', `${path}/:id`, none, (_, id) => need(state.sessions, 'checkout.session', id))
  route('POST', `${path}/:id`, z.strictObject({ metadata: metadata.optional(), expand }), ({ metadata }, id) => {
    const session = need(state.sessions, 'checkout.session', id)
    session.metadata = mergeMetadata(session.metadata ?? {}, metadata)
    return session
  })
  route('POST', `${path}/:id/expire`, none, (_, id) => {
    const session = need(state.sessions, 'checkout.session', id)
    expireSession(state, session)
    return session
  })
  route('GET', `${path}/:id/line_items`, z.strictObject({ ...page }), ({ limit }, id) => {
    need(state.sessions, 'checkout.session', id)
    const items = state.sessionItems.get(id) ?? []
    return listOf(`${path}/${id}/line_items`, items.slice(0, limit), items.length > limit)
  })
  const filters = {
    customer: text.optional(),
    payment_intent: text.optional(),
    subscription: text.optional(),
    status: z.enum(['open', 'complete', 'expired']).optional(),
  }
  route('GET', path, z.strictObject({ ...page, ...filters }), (query) =>
    listPage(path, state.sessions.values(), query, (session) =>
      (['customer', 'payment_intent', 'subscription', 'status'] as const).every(
        (name) => query[name] === undefined || session[name] === query[name],
      ),
    ),
  )
}

function createSession(state: State, given: NewParams): Session {
  const items = given.line_items.map((item, i) => lineOf(state, item, i))
  const currency = items[0]?.currency ?? 'usd'
  checkItems(given, items)
  if (given.customer !== undefined && given.customer_email !== undefined)
    throw invalid('You may only specify one of these parameters: customer, customer_email.')
  const now = state.realNow()
  const expires_at = given.expires_at ?? now + 86_400
  // Stripe's least is 30 minutes; a client's clock may be a little off.
  if (expires_at < now + 29 * 60 || expires_at > now + 86_400 + 60)
    throw invalid('The `expires_at` timestamp must be between 30 minutes and 24 hours from now.', {
      param: 'expires_at',
    })
  if (given.discounts && given.allow_promotion_codes !== undefined)
    throw invalid('You may only specify one of these parameters: allow_promotion_codes, discounts.')
  const customer = given.customer === undefined ? undefined : livingCustomer(state, given.customer, 'customer')
  const whole = sum(items.map(({ amount_total }) => amount_total))
  const data = given.subscription_data
  const recurring = items.flatMap(({ price }) => (price?.recurring ? [price] : []))
  const anchor = anchorOf(state, data?.billing_cycle_anchor, recurring)
  if (anchor !== undefined && (data?.trial_period_days ?? data?.trial_end) !== undefined)
    throw invalid('A trial has no billing_cycle_anchor.', { param: 'subscription_data[billing_cycle_anchor]' })
  const isTrial = data?.trial_period_days !== undefined || data?.trial_end !== undefined
  const session = newSession(state, {
    mode: given.mode,
    amount: isTrial ? 0 : anchor === undefined ? whole : untilAnchor(state, items, anchor, data?.proration_behavior),
    currency,
    customer,
    customer_email: given.customer_email ?? null,
    client_reference_id: given.client_reference_id ?? null,
    success_url: given.success_url,
    cancel_url: given.cancel_url ?? null,
    expires_at,
    metadata: mergeMetadata({}, given.metadata),
    payment_method_collection: given.payment_method_collection,
    allow_promotion_codes: given.allow_promotion_codes ?? null,
    customer_creation: customer
      ? null
      : (given.customer_creation ?? (given.mode === 'subscription' ? 'always' : 'if_required')),
  })
  state.sessions.set(session.id, session)
  state.sessionItems.set(session.id, items)
  noteOrder(state, session, given)
  const [discount] = given.discounts ?? []
  if (discount) takeOff(state, session, discount)
  planExpiry(state, session)
  return session
}

/** The part of each price before the anchor, and in full what does not recur. */
function untilAnchor(state: State, items: LineItem[], anchor: number, stub: 'create_prorations' | 'none' | undefined) {
  const parts = items.map(({ price, amount_total }) => {
    if (!price?.recurring) return amount_total
    const whole = anchor - previousBoundary(anchor, price)
    return stub === 'none' ? 0 : shareOf(amount_total, anchor - state.now(), whole)
  })
  return sum(parts)
}

function noteOrder(state: State, { id }: Session, { subscription_data, payment_intent_data }: NewParams): void {
  state.sessionOrders.set(id, {
    trial_days: subscription_data?.trial_period_days,
    trial_end: subscription_data?.trial_end,
    missing_payment_method: subscription_data?.trial_settings?.end_behavior.missing_payment_method ?? 'create_invoice',
    subscription_metadata: mergeMetadata({}, subscription_data?.metadata),
    intent_metadata: mergeMetadata({}, payment_intent_data?.metadata),
    intent_description: payment_intent_data?.description ?? null,
    discount: undefined,
    billing_cycle_anchor: subscription_data?.billing_cycle_anchor,
    proration_behavior: subscription_data?.proration_behavior ?? 'create_prorations',
    tax_rates: subscription_data?.default_tax_rates ?? [],
  })
}

function lineOf(state: State, item: z.infer<typeof lineItem>, i: number): LineItem {
  const param = `line_items[${i}][price]`
  if (item.price === undefined) return inlineLine(state, item, param)
  const price = need(state.prices, 'price', item.price, param)
  if (!price.active) throw invalid('The price specified is inactive.', { param })
  const name = state.products.get(price.product)?.name ?? price.id
  return newLineItem(price, item.quantity, name, (price.unit_amount ?? 0) * item.quantity)
}

function inlineLine(state: State, { price_data: data, quantity }: z.infer<typeof lineItem>, param: string): LineItem {
  if (!data) throw invalid('You must specify either `price` or `price_data`.', { code: 'parameter_missing', param })
  const { unit_amount, currency, recurring = null } = data
  const plain = { lookup_key: null, nickname: null, metadata: {}, active: false }
  const price = newPrice(state, { ...plain, product: data.product ?? 'prod_inline', currency, unit_amount, recurring })
  state.prices.set(price.id, price)
  return newLineItem(price, quantity, data.product_data?.name ?? 'Item', unit_amount * quantity)
}

function checkItems({ mode, subscription_data, payment_intent_data }: NewParams, items: LineItem[]): void {
  const recurring = items.filter(({ price }) => price?.recurring)
  if (mode === 'payment' && recurring.length > 0)
    throw invalid('You specified `payment` mode but passed a recurring price.', { param: 'line_items' })
  if (mode === 'subscription' && recurring.length === 0)
    throw invalid('You must provide at least one recurring price in `subscription` mode.', { param: 'mode' })
  if (new Set(items.map(({ currency }) => currency)).size > 1)
    throw invalid('All prices must have the same currency.', { param: 'line_items' })
  if (mode === 'payment' && subscription_data)
    throw invalid('You can not pass `subscription_data` in `payment` mode.', { param: 'subscription_data' })
  if (mode === 'subscription' && payment_intent_data)
    throw invalid('You can not pass `payment_intent_data` in `subscription` mode.', { param: 'payment_intent_data' })
}

const address = z
  .string()
  .max(5000)
  .regex(/^https?:\/\//, 'Not a valid URL')
const price_data = z.strictObject({
  currency: text,
  unit_amount: integer.pipe(z.number().min(0)),
  product: text.optional(),
  product_data: z.strictObject({ name: text, description: text.optional(), metadata: metadata.optional() }).optional(),
  recurring: z
    .strictObject({ interval: z.enum(['day', 'week', 'month', 'year']), interval_count: integer.default(1) })
    .optional(),
})
const lineItem = z.strictObject({
  price: text.optional(),
  price_data: price_data.optional(),
  quantity: integer.pipe(z.number().min(1)).default(1),
})
const missing_payment_method = z.enum(['create_invoice', 'pause', 'cancel'])
const trial_settings = z.strictObject({ end_behavior: z.strictObject({ missing_payment_method }) }).optional()

const newParams = z.strictObject({
  mode: z.enum(['payment', 'subscription']),
  line_items: z.array(lineItem).min(1).max(100),
  success_url: address,
  cancel_url: address.optional(),
  customer: text.optional(),
  customer_email: text.optional(),
  customer_creation: z.enum(['always', 'if_required']).optional(),
  client_reference_id: text.max(200).optional(),
  expires_at: integer.optional(),
  metadata: metadata.optional(),
  payment_method_collection: z.enum(['always', 'if_required']).default('always'),
  subscription_data: z
    .strictObject({
      metadata: metadata.optional(),
      trial_period_days: integer.pipe(z.number().min(1).max(730)).optional(),
      trial_end: integer.optional(),
      trial_settings,
      default_tax_rates: z.array(text).optional(),
      billing_cycle_anchor: integer.optional(),
      proration_behavior: z.enum(['create_prorations', 'none']).optional(),
      description: ignored,
      billing_mode: ignored,
    })
    .optional(),
  payment_intent_data: z
    .strictObject({
      metadata: metadata.optional(),
      description: text.optional(),
      receipt_email: ignored,
      setup_future_usage: ignored,
      statement_descriptor: ignored,
    })
    .optional(),
  allow_promotion_codes: boolean.optional(),
  discounts: z
    .array(z.strictObject({ coupon: text.optional(), promotion_code: text.optional() }))
    .max(1)
    .optional(),
  adaptive_pricing: ignored,
  branding_settings: ignored,
  name_collection: ignored,
  origin_context: ignored,
  phone_number_collection: ignored,
  wallet_options: ignored,
  automatic_tax: ignored,
  billing_address_collection: ignored,
  consent_collection: ignored,
  custom_text: ignored,
  customer_update: ignored,
  locale: ignored,
  saved_payment_method_options: ignored,
  submit_type: ignored,
  tax_id_collection: ignored,
  ui_mode: z.literal('hosted_page').optional(),
  expand,
})
type NewParams = z.infer<typeof newParams>
