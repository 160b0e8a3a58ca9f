/** Cards and bank accounts as objects, and how each answers when it is charged. */
import type { CardOutcome, State } from './state.ts'
import { type Metadata, newId, nulls, type PaymentMethod } from './wire.ts'

/** Stripe's own test cards, by their tokens and their ready-made payment methods. */
const testCards: Record<string, { last4: string; outcome: CardOutcome }> = {
  visa: { last4: '4242', outcome: 'ok' },
  mastercard: { last4: '4444', outcome: 'ok' },
  chargeDeclined: { last4: '0002', outcome: 'declined' },
  chargeCustomerFail: { last4: '0341', outcome: 'declined' },
  authenticationRequired: { last4: '3184', outcome: 'requires_action' },
}

/** `tok_visa`, `pm_card_visa` and the like. */
export const testCard = (name: string) => testCards[name.replace(/^(tok|pm_card)_/, '')]

type NewMethod = {
  type: 'card' | 'sepa_debit'
  outcome: CardOutcome
  customer: string | null
  last4?: string
  metadata?: Metadata
}

export function createMethod(state: State, { type, outcome, customer, last4 = '4242', metadata = {} }: NewMethod) {
  const method: PaymentMethod = {
    id: newId('pm_1', 23),
    object: 'payment_method',
    allow_redisplay: 'unspecified',
    billing_details: nulls('address email name phone tax_id'),
    ...(type === 'card' ? { card: newCard(last4) } : { sepa_debit: newDebit(last4) }),
    created: state.now(),
    customer,
    customer_account: null,
    livemode: false,
    metadata,
    type,
  }
  state.paymentMethods.set(method.id, method)
  state.methodOutcomes.set(method.id, outcome)
  return method
}

const newCard = (last4: string): NonNullable<PaymentMethod['card']> => ({
  ...nulls('fingerprint generated_from networks regulated_status wallet'),
  brand: 'visa',
  checks: { ...nulls('address_line1_check address_postal_code_check'), cvc_check: 'pass' },
  country: 'US',
  display_brand: 'visa',
  exp_month: 12,
  exp_year: 2040,
  funding: 'credit',
  last4,
  three_d_secure_usage: { supported: true },
})

const newDebit = (last4: string): NonNullable<PaymentMethod['sepa_debit']> => ({
  ...nulls('bank_code branch_code fingerprint generated_from'),
  country: 'DE',
  last4,
})

/** What that customer pays with now, by card or by debit. A card that is declined at its first use is not kept. */
export function methodFor(state: State, customer: string | null, outcome: CardOutcome): PaymentMethod {
  const type = outcome === 'processing' ? 'sepa_debit' : 'card'
  const known = state.customers.get(customer ?? '')
  const usual = known && !known.deleted ? known.invoice_settings.default_payment_method : null
  for (const id of [usual, state.usualMethods.get(`${customer} ${type}`)]) {
    const found = state.paymentMethods.get(id ?? '')
    if (found?.type === type && found.customer === customer) return found
  }
  const isKept = customer !== null && outcome !== 'declined'
  const made = createMethod(state, { type, outcome, customer: isKept ? customer : null })
  if (isKept) state.usualMethods.set(`${customer} ${type}`, made.id)
  return made
}
