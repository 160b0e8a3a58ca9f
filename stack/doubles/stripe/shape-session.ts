/** A checkout session, in full: most of it is what the stand-in does not model, and null. */
import { newId } from './ids.ts'
import type { State } from './state.ts'
import type { Customer, Metadata, Session } from './wire.ts'

export type NewSession = {
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
    ...unmodelled,
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

const unmodelled = {
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
