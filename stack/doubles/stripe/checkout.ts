/** A checkout session: made, tried by the button on its page, completed with its payment or subscription, expired. */

import { newCustomer } from './customers.ts'
import { asOf, schedule } from './due.ts'
import { emit } from './events.ts'
import { settleInvoiceDebit } from './pay-invoice.ts'
import { cancelIntent, createIntent, failAuthentication, settleDebit, tryIntent, type Way, ways } from './payments.ts'
import { invalid } from './refusals.ts'
import type { State } from './state.ts'
import { subscribe } from './subscribe.ts'
import { type Customer, type Metadata, newId, type PaymentIntent, type Session } from './wire.ts'

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
  else if ((session.amount_total ?? 0) > 0) {
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

function beginSubscription(state: State, session: Session, customer: string, outcome: 'ok' | 'processing'): void {
  const tried = pendingOf(state, session)
  if (tried) cancelIntent(state, tried)
  const order = state.sessionOrders.get(session.id)
  const items = (state.sessionItems.get(session.id) ?? []).flatMap(({ price, quantity }) =>
    price ? [{ price, quantity: quantity ?? 1 }] : [],
  )
  const days = order?.trial_days
  const trial_end = order?.trial_end ?? (days === undefined ? undefined : state.now() + days * 86_400)
  const missing_payment_method = order?.missing_payment_method ?? 'create_invoice'
  const metadata = order?.subscription_metadata ?? {}
  const { subscription, invoice } = subscribe(
    state,
    { customer, items, trial_end, missing_payment_method, metadata },
    outcome,
  )
  session.subscription = subscription.id
  session.invoice = invoice.id
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
}

export function newSession(state: State, given: NewSession): Session {
  const id = newId('cs_test_a1', 56)
  return {
    ...unmodelledSession,
    id,
    object: 'checkout.session',
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
  adaptive_pricing: null,
  after_expiration: null,
  allow_promotion_codes: null,
  allowed_payment_method_types: null,
  automatic_tax: { enabled: false, liability: null, provider: null, status: null },
  billing_address_collection: null,
  client_secret: null,
  collected_information: null,
  consent: null,
  consent_collection: null,
  currency_conversion: null,
  custom_fields: [],
  custom_text: { after_submit: null, shipping_address: null, submit: null, terms_of_service_acceptance: null },
  customer_account: null,
  discounts: [],
  integration_identifier: null,
  invoice: null,
  invoice_creation: null,
  livemode: false,
  locale: null,
  managed_payments: null,
  origin_context: null,
  payment_intent: null,
  payment_link: null,
  payment_method_configuration_details: null,
  payment_method_options: {},
  payment_method_types: ['card', 'sepa_debit'],
  permissions: null,
  recovered_from: null,
  saved_payment_method_options: null,
  setup_intent: null,
  shipping_address_collection: null,
  shipping_cost: null,
  shipping_options: [],
  submit_type: null,
  subscription: null,
  ui_mode: 'hosted_page',
  wallet_options: null,
} satisfies Partial<Session>
