/** /v1/payment_methods and /v1/setup_intents. */
import { z } from 'zod'
import { livingCustomer } from './customers.ts'
import { change, emit } from './events.ts'
import { listPage } from './lists.ts'
import { boolean, expand, ignored, mergeMetadata, metadata, none, page, text } from './params.ts'
import { createMethod, testCard } from './payment-methods.ts'
import { invalid, need, Refusal } from './refusals.ts'
import type { Route } from './routes.ts'
import type { State } from './state.ts'
import { newId, nulls, type PaymentMethod, type SetupIntent } from './wire.ts'

const types = z.enum(['card', 'sepa_debit'])
const newMethod = z.strictObject({
  type: types,
  card: z.strictObject({ token: text }).optional(),
  sepa_debit: z.strictObject({ iban: text.min(15).max(34) }).optional(),
  billing_details: ignored,
  metadata: metadata.optional(),
  expand,
})

/** Stripe's ready-made test cards may be named in the place of a payment method. */
export function methodOf(state: State, id: string, param = 'payment_method'): PaymentMethod {
  const card = id.startsWith('pm_card_') ? testCard(id) : undefined
  if (card) return createMethod(state, { type: 'card', customer: null, ...card })
  return need(state.paymentMethods, 'PaymentMethod', id, param)
}

export function attach(state: State, id: string, customer: string): PaymentMethod {
  const method = methodOf(state, id)
  if (method.customer !== null && method.customer !== customer)
    throw invalid('The payment method you provided has already been attached to a customer.')
  if (state.methodOutcomes.get(method.id) === 'declined' && method.card?.last4 === '0002')
    throw new Refusal(402, 'Your card was declined.', {
      type: 'card_error',
      code: 'card_declined',
      decline_code: 'generic_decline',
    })
  method.customer = customer
  emit(state, 'payment_method.attached', method)
  return method
}

/** What the customer pays with from now on. */
export function chooseMethod(state: State, customer: string, id: string): void {
  const method = need(state.paymentMethods, 'PaymentMethod', id, 'invoice_settings[default_payment_method]')
  if (method.customer !== customer)
    throw invalid('The customer does not have a payment method with this id.', {
      code: 'resource_missing',
      param: 'invoice_settings[default_payment_method]',
    })
  state.cards.set(customer, state.methodOutcomes.get(id) ?? 'ok')
}

export function methodRoutes(route: Route, state: State): void {
  const path = '/v1/payment_methods'
  const find = (id: string) => need(state.paymentMethods, 'PaymentMethod', id)
  route('POST', path, newMethod, (given) => addMethod(state, given))
  route('GET', `${path}/:id`, none, (_, id) => find(id))
  route('POST', `${path}/:id/attach`, z.strictObject({ customer: text, expand }), ({ customer }, id) => {
    livingCustomer(state, customer, 'customer')
    return attach(state, id, customer)
  })
  route('POST', `${path}/:id/detach`, none, (_, id) => {
    const method = find(id)
    const owner = state.customers.get(method.customer ?? '')
    if (!owner || owner.deleted) throw invalid('The payment method is not attached to a customer.')
    if (owner.invoice_settings.default_payment_method === id) {
      owner.invoice_settings.default_payment_method = null
      state.cards.delete(owner.id)
    }
    return change(state, 'payment_method.detached', method, { customer: null })
  })
  const listed = z.strictObject({ ...page, customer: text.optional(), type: types.optional() })
  const list = (query: z.infer<typeof listed>, customer: string | undefined) =>
    listPage(
      path,
      state.paymentMethods.values(),
      query,
      (method) => method.customer === customer && (query.type === undefined || method.type === query.type),
    )
  route('GET', path, listed, (query) => {
    if (query.customer === undefined)
      throw invalid('Missing required param: customer.', { code: 'parameter_missing', param: 'customer' })
    return list(query, query.customer)
  })
  route('GET', '/v1/customers/:id/payment_methods', listed, (query, id) => {
    livingCustomer(state, id)
    return list(query, id)
  })
  setupRoutes(route, state)
}

function addMethod(
  state: State,
  { type, card, sepa_debit, metadata: given }: z.infer<typeof newMethod>,
): PaymentMethod {
  const metadata = mergeMetadata({}, given)
  if (type === 'sepa_debit') {
    if (!sepa_debit)
      throw invalid('Missing required param: sepa_debit.', { code: 'parameter_missing', param: 'sepa_debit' })
    return createMethod(state, {
      type,
      outcome: 'processing',
      customer: null,
      last4: sepa_debit.iban.slice(-4),
      metadata,
    })
  }
  const known = testCard(card?.token ?? '')
  if (!card || !known)
    throw invalid(`No such token: '${card?.token ?? ''}'`, { code: 'resource_missing', param: 'card[token]' })
  return createMethod(state, { type, customer: null, ...known, metadata })
}

const setupParams = {
  customer: text.optional(),
  description: text.optional(),
  metadata: metadata.optional(),
  payment_method: text.optional(),
  expand,
}
const newSetup = z.strictObject({
  ...setupParams,
  confirm: boolean.default(false),
  usage: z.enum(['off_session', 'on_session']).default('off_session'),
  automatic_payment_methods: ignored,
  return_url: ignored,
})
const confirmed = z.strictObject({ payment_method: text.optional(), return_url: ignored, expand })

function setupRoutes(route: Route, state: State): void {
  const path = '/v1/setup_intents'
  const find = (id: string) => need(state.setupIntents, 'setupintent', id, 'intent')
  route('POST', path, newSetup, (given) => {
    if (given.customer !== undefined) livingCustomer(state, given.customer, 'customer')
    const method = given.payment_method === undefined ? null : methodOf(state, given.payment_method).id
    const made = newSetupIntent(state, {
      ...given,
      metadata: mergeMetadata({}, given.metadata),
      payment_method: method,
    })
    state.setupIntents.set(made.id, made)
    emit(state, 'setup_intent.created', made)
    return given.confirm ? confirm(state, made) : made
  })
  route('GET', `${path}/:id`, none, (_, id) => find(id))
  route('POST', `${path}/:id/confirm`, confirmed, ({ payment_method }, id) => {
    const known = find(id)
    if (payment_method !== undefined) known.payment_method = methodOf(state, payment_method).id
    return confirm(state, known)
  })
  route('POST', `${path}/:id/cancel`, none, (_, id) => {
    const known = find(id)
    if (known.status === 'succeeded' || known.status === 'canceled')
      throw invalid(`This setup intent has ${known.status} already.`, { code: 'setup_intent_unexpected_state' })
    return change(state, 'setup_intent.canceled', known, { status: 'canceled' })
  })
  route('GET', path, z.strictObject({ ...page, customer: text.optional() }), (query) =>
    listPage(
      path,
      state.setupIntents.values(),
      query,
      ({ customer }) => query.customer === undefined || customer === query.customer,
    ),
  )
}

/** The card is kept, declined, or asks its owner first. */
function confirm(state: State, intent: SetupIntent): SetupIntent {
  if (intent.status === 'succeeded' || intent.status === 'canceled')
    throw invalid(`This setup intent has ${intent.status} already.`, { code: 'setup_intent_unexpected_state' })
  const method = state.paymentMethods.get(intent.payment_method ?? '')
  if (!method)
    throw invalid('You must provide a payment method.', { code: 'parameter_missing', param: 'payment_method' })
  const outcome = state.methodOutcomes.get(method.id) ?? 'ok'
  if (outcome === 'declined') {
    const failed = { last_setup_error: { type: 'card_error', code: 'card_declined' } as const }
    change(state, 'setup_intent.setup_failed', intent, {
      ...failed,
      status: 'requires_payment_method',
      payment_method: null,
    })
    throw new Refusal(402, 'Your card was declined.', { type: 'card_error', code: 'card_declined' })
  }
  if (outcome === 'requires_action') {
    const next_action = { type: 'use_stripe_sdk', use_stripe_sdk: { type: 'three_d_secure_redirect' } }
    return change(state, 'setup_intent.requires_action', intent, { status: 'requires_action', next_action })
  }
  if (intent.customer !== null && method.customer === null) attach(state, method.id, intent.customer)
  return change(state, 'setup_intent.succeeded', intent, { status: 'succeeded', next_action: null })
}

type NewSetup = {
  customer?: string | undefined
  description?: string | undefined
  metadata: Record<string, string>
  payment_method: string | null
  usage: string
}

function newSetupIntent(state: State, given: NewSetup): SetupIntent {
  const id = newId('seti_1', 23)
  return {
    ...nulls('allowed_payment_method_types application automatic_payment_methods cancellation_reason'),
    ...nulls('excluded_payment_method_types last_setup_error latest_attempt mandate next_action on_behalf_of'),
    ...nulls('payment_method_configuration_details single_use_mandate'),
    id,
    object: 'setup_intent',
    client_secret: newId(`${id}_secret_`),
    created: state.now(),
    customer: given.customer ?? null,
    description: given.description ?? null,
    livemode: false,
    metadata: given.metadata,
    payment_method: given.payment_method,
    payment_method_options: {},
    payment_method_types: ['card', 'sepa_debit'],
    status: given.payment_method === null ? 'requires_payment_method' : 'requires_confirmation',
    usage: given.usage,
  }
}
