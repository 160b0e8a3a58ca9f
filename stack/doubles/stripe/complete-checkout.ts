/** A checkout that comes to its end: the customer, the payment or the subscription, and the event that says so. */
import { emit } from './events.ts'
import { cancelIntent, createIntent, tryIntent } from './payments.ts'
import { newCustomer } from './shape-customer.ts'
import type { State } from './state.ts'
import { subscribe } from './subscribe.ts'
import { type Way, ways } from './ways.ts'
import type { PaymentIntent, Session } from './wire.ts'

export type Paid = 'complete' | 'declined' | 'requires_action'

export const pendingOf = (state: State, { id }: Session): PaymentIntent | undefined =>
  state.intents.get(state.sessionIntents.get(id) ?? '')

/** The intent that the tries of one session share; a subscription has its own one in the end. */
export function pendingIntent(state: State, session: Session): PaymentIntent {
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

export function complete(state: State, session: Session, way: Way, outcome: 'ok' | 'processing'): Paid {
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
