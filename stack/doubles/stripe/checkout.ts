/** A checkout session: made, tried by the button on its page, completed with its payment or subscription, expired. */

import { newCustomer } from './customers.ts'
import { discountsOf, redeemable, type Wanted } from './discounts.ts'
import { asOf, schedule } from './due.ts'
import { emit } from './events.ts'
import { itemOfLine } from './invoice-items.ts'
import { settleInvoiceDebit } from './pay-invoice.ts'
import { cancelIntent, createIntent, failAuthentication, settleDebit, tryIntent, type Way, ways } from './payments.ts'
import { invalid } from './refusals.ts'
import { ofPercent, spread, sum } from './shares.ts'
import type { State } from './state.ts'
import { subscribe } from './subscribe.ts'
import { ratesOf } from './tax-rates.ts'
import { type Customer, type Metadata, newId, nulls, type PaymentIntent, type Session } from './wire.ts'

function assertOpen(session: Session): void {
  if (session.status !== 'open') throw invalid(`This checkout session is ${session.status}.`)
}

/** Tries to complete an open session. A declined one stays open, as on Stripe's page. */
export function paySession(state: State, session: Session, way: Way): Paid {
  assertOpen(session)
  return asOf(state, session.customer, () => trySession(state, session, way))
}

function trySession(state: State, session: Session, way: Way): Paid {
  const { outcome } = ways[way]
  const isFree = session.amount_total === 0
  // A trial asks for 3-D Secure, too; a declined card cannot be kept for later.
  if (outcome === 'ok' || outcome === 'processing') return complete(state, session, way, outcome)
  if (isFree) return outcome
  const intent = pendingIntent(state, session)
  tryIntent(state, intent, outcome)
  return outcome
}

/** The answer on the page of 3-D Secure. */
export function answerSession(state: State, session: Session, way: Way, ok: boolean): Paid {
  assertOpen(session)
  const intent = state.intents.get(session.payment_intent ?? '') ?? pendingOf(state, session)
  if (ok) return asOf(state, session.customer, () => complete(state, session, way, 'ok'))
  if (intent) failAuthentication(state, intent)
  return 'declined'
}

/** How the bank debit of a completed session went. */
export function settleSession(state: State, session: Session, ok: boolean): void {
  if (session.status !== 'complete' || session.payment_status !== 'unpaid')
    throw invalid('This session does not wait for a bank debit.')
  const invoice = state.invoices.get(session.invoice ?? '')
  const intent = state.intents.get(session.payment_intent ?? '')
  asOf(state, session.customer, () => {
    if (invoice) settleInvoiceDebit(state, invoice, ok)
    else if (intent) settleDebit(state, intent, ok)
  })
  if (ok) session.payment_status = 'paid'
  emit(state, `checkout.session.async_payment_${ok ? 'succeeded' : 'failed'}`, session)
}

export function expireSession(state: State, session: Session): void {
  assertOpen(session)
  const tried = pendingOf(state, session)
  if (tried) cancelIntent(state, tried)
  session.url = null
  session.status = 'expired'
  emit(state, 'checkout.session.expired', session)
}

export function expireDue(state: State, id: string): void {
  const session = state.sessions.get(id)
  if (session?.status === 'open') expireSession(state, session)
}

/** Clients name the end of a session by their own clock, which does not move with ours. */
export const planExpiry = (state: State, { id, expires_at }: Session) =>
  schedule(state, state.now() + expires_at - state.realNow(), 'expire_session', id)

type Paid = 'complete' | 'declined' | 'requires_action'

const pendingOf = (state: State, { id }: Session): PaymentIntent | undefined =>
  state.intents.get(state.sessionIntents.get(id) ?? '')

/** The intent that the tries of one session share; a subscription has its own one in the end. */
function pendingIntent(state: State, session: Session): PaymentIntent {
  const existing = pendingOf(state, session)
  if (existing) return existing
  const order = state.sessionOrders.get(session.id)
  const intent = createIntent(state, {
    amount: session.amount_total ?? 0,
    currency: session.currency ?? 'usd',
    customer: session.customer,
    description: order?.intent_description ?? null,
    metadata: order?.intent_metadata ?? {},
  })
  state.sessionIntents.set(session.id, intent.id)
  return intent
}

function complete(state: State, session: Session, way: Way, outcome: 'ok' | 'processing'): Paid {
  const customer = ensureCustomer(state, session)
  if (customer !== null) state.cards.set(customer, ways[way].later)
  if (session.mode === 'subscription') beginSubscription(state, session, customer ?? '', outcome)
  else redeemForSession(state, session)
  if (session.mode === 'payment' && (session.amount_total ?? 0) > 0) {
    const intent = pendingIntent(state, session)
    session.payment_intent = intent.id
    tryIntent(state, intent, outcome)
  }
  session.status = 'complete'
  session.url = null
  const isFree = session.amount_total === 0
  session.payment_status = isFree ? 'no_payment_required' : outcome === 'ok' ? 'paid' : 'unpaid'
  emit(state, 'checkout.session.completed', session)
  return 'complete'
}

function redeemForSession(state: State, session: Session): void {
  const discount = state.sessionOrders.get(session.id)?.discount
  const owner = { customer: session.customer, checkout_session: session.id }
  if (discount) discountsOf(state, [wantedOf(discount)], owner, session.currency)
}

function beginSubscription(state: State, session: Session, customer: string, outcome: 'ok' | 'processing'): void {
  const tried = pendingOf(state, session)
  if (tried) cancelIntent(state, tried)
  const order = state.sessionOrders.get(session.id)
  const items = (state.sessionItems.get(session.id) ?? []).flatMap(({ price, quantity }) =>
    price?.recurring ? [{ price, quantity: quantity ?? 1 }] : [],
  )
  const once = (state.sessionItems.get(session.id) ?? []).filter(({ price }) => !price?.recurring)
  const days = order?.trial_days
  const anchor = order?.billing_cycle_anchor
  const { subscription, invoice } = subscribe(
    state,
    {
      customer,
      items,
      trial_end: order?.trial_end ?? (days === undefined ? undefined : state.now() + days * 86_400),
      missing_payment_method: order?.missing_payment_method ?? 'create_invoice',
      metadata: order?.subscription_metadata ?? {},
      discounts: order?.discount ? [wantedOf(order.discount)] : [],
      default_tax_rates: ratesOf(state, order?.tax_rates ?? []),
      // One that passed while the page was open begins in full.
      billing_cycle_anchor: anchor !== undefined && anchor > state.now() ? anchor : undefined,
      stub: order?.proration_behavior ?? 'create_prorations',
      extras: ({ id }) => once.map((item) => itemOfLine(state, item, customer, id)),
    },
    outcome,
  )
  session.subscription = subscription.id
  session.invoice = invoice.id
}

const wantedOf = ({ coupon, promotion_code }: { coupon: string; promotion_code: string | null }) =>
  promotion_code === null ? { coupon } : { promotion_code }

/** What somebody types on the page, where codes are allowed. */
export function enterCode(state: State, session: Session, text: string): void {
  assertOpen(session)
  if (!session.allow_promotion_codes) throw invalid('This session takes no promotion codes.')
  const code = [...state.promotionCodes.values()].find(
    (one) => one.active && (one.id === text || one.code.toLowerCase() === text.toLowerCase()),
  )
  if (!code) throw invalid('This promotion code is invalid.', { param: 'promotion_code' })
  takeOff(state, session, { promotion_code: code.id })
}

/** What a session costs less with that coupon. It is redeemed when the session completes. */
export function takeOff(state: State, session: Session, wanted: Wanted): void {
  const order = state.sessionOrders.get(session.id)
  const { currency, customer } = session
  const { coupon, code } = redeemable(state, wanted, { customer, currency })
  const { minimum_amount: least } = code?.restrictions ?? { minimum_amount: null }
  if (least !== null && (session.amount_subtotal ?? 0) < least)
    throw invalid('This promotion code is for a larger amount.', { param: 'promotion_code' })
  if (order) order.discount = { coupon: coupon.id, promotion_code: code?.id ?? null }
  const items = state.sessionItems.get(session.id) ?? []
  const covered = items.filter(({ price }) => coupon.applies_to?.products.includes(price?.product ?? '') ?? true)
  const left = covered.map(({ amount_subtotal }) => amount_subtotal)
  const off =
    coupon.percent_off === null
      ? spread(Math.min(coupon.amount_off ?? 0, sum(left)), left)
      : left.map((amount) => ofPercent(amount, coupon.percent_off ?? 0))
  for (const [i, item] of covered.entries()) {
    item.amount_discount = off[i] ?? 0
    item.amount_total = item.amount_subtotal - item.amount_discount + (item.amount_tax ?? 0)
  }
  session.discounts = [{ coupon: coupon.id, promotion_code: code?.id ?? null }]
  if (session.amount_total === 0 && session.amount_subtotal === 0) return
  session.amount_total = sum(items.map(({ amount_total }) => amount_total))
  session.total_details = { amount_discount: sum(off), amount_shipping: 0, amount_tax: 0 }
}

/** A session without a customer makes one when its mode needs one, or when it was asked to. */
function ensureCustomer(state: State, session: Session): string | null {
  const email = session.customer_email ?? null
  if (session.customer === null && (session.mode === 'subscription' || session.customer_creation === 'always')) {
    const customer = newCustomer(state, { email, name: null, description: null, metadata: {} })
    state.customers.set(customer.id, customer)
    emit(state, 'customer.created', customer)
    session.customer = customer.id
  }
  const known = state.customers.get(session.customer ?? '')
  session.customer_details = {
    address: null,
    business_name: null,
    individual_name: null,
    phone: null,
    tax_exempt: 'none',
    tax_ids: [],
    email: known && !known.deleted ? known.email : email,
    name: known && !known.deleted ? (known.name ?? null) : null,
  }
  return session.customer
}

type NewSession = {
  mode: 'payment' | 'subscription'
  amount: number
  currency: string
  customer: Customer | undefined
  customer_email: string | null
  client_reference_id: string | null
  success_url: string
  cancel_url: string | null
  expires_at: number
  metadata: Metadata
  payment_method_collection: 'always' | 'if_required'
  customer_creation: 'always' | 'if_required' | null
  allow_promotion_codes: boolean | null
}

export function newSession(state: State, given: NewSession): Session {
  const id = newId('cs_test_a1', 56)
  return {
    ...unmodelledSession,
    id,
    object: 'checkout.session',
    allow_promotion_codes: given.allow_promotion_codes,
    amount_subtotal: given.amount,
    amount_total: given.amount,
    cancel_url: given.cancel_url,
    client_reference_id: given.client_reference_id,
    created: state.now(),
    currency: given.currency,
    customer: given.customer?.id ?? null,
    customer_creation: given.customer_creation,
    customer_details: null,
    customer_email: given.customer_email,
    expires_at: given.expires_at,
    metadata: given.metadata,
    mode: given.mode,
    payment_method_collection: given.payment_method_collection,
    payment_status: 'unpaid',
    status: 'open',
    success_url: given.success_url,
    total_details: { amount_discount: 0, amount_shipping: 0, amount_tax: 0 },
    url: `${state.url}/c/pay/${id}`,
  }
}

/** Most of a session is what the stand-in does not model. */
const unmodelledSession = {
  ...nulls('adaptive_pricing after_expiration allow_promotion_codes allowed_payment_method_types'),
  ...nulls('billing_address_collection client_secret collected_information consent consent_collection'),
  ...nulls('currency_conversion customer_account integration_identifier invoice invoice_creation locale'),
  ...nulls('managed_payments origin_context payment_intent payment_link payment_method_configuration_details'),
  ...nulls('permissions recovered_from saved_payment_method_options setup_intent shipping_address_collection'),
  ...nulls('shipping_cost submit_type subscription wallet_options'),
  automatic_tax: { enabled: false, liability: null, provider: null, status: null },
  custom_fields: [],
  custom_text: { after_submit: null, shipping_address: null, submit: null, terms_of_service_acceptance: null },
  discounts: [],
  livemode: false,
  payment_method_options: {},
  payment_method_types: ['card', 'sepa_debit'],
  shipping_options: [],
  ui_mode: 'hosted_page',
} satisfies Partial<Session>
