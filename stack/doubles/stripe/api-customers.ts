/** /v1/customers and /v1/billing_portal/sessions. */
import { z } from 'zod'
import { balanceRoutes } from './api-balance.ts'
import { attach, chooseMethod } from './api-payment-methods.ts'
import { moveBalance } from './balance.ts'
import { deleteCustomer, livingCustomer, newCustomer, newPortal } from './customers.ts'
import { end } from './discounts.ts'
import { asOf } from './due.ts'
import { change, emit } from './events.ts'
import { listPage } from './lists.ts'
import { defined, expand, ignored, integer, mergeMetadata, metadata, none, page, text, unset } from './params.ts'
import { invalid, missing, need } from './refusals.ts'
import type { Route } from './routes.ts'
import type { State } from './state.ts'
import { refuseFull } from './test-clocks.ts'
import { type Customer, nulls } from './wire.ts'

const word = unset.or(text).optional()
const address = unset
  .or(
    z.strictObject({
      city: word,
      country: word,
      line1: word,
      line2: word,
      postal_code: word,
      state: word,
    }),
  )
  .optional()
const given = {
  email: word,
  name: word,
  description: word,
  metadata: metadata.optional(),
  phone: word,
  address,
  /** Negative is credit. */
  balance: integer.optional(),
  preferred_locales: ignored,
  tax_exempt: z.enum(['none', 'exempt', 'reverse']).optional(),
  invoice_settings: z
    .strictObject({ default_payment_method: word, custom_fields: ignored, footer: ignored })
    .optional(),
  expand,
}
const newParams = z.strictObject({ ...given, payment_method: text.optional(), test_clock: text.optional() })
type Given = z.infer<typeof newParams>

export function customerRoutes(route: Route, state: State): void {
  route('POST', '/v1/customers', newParams, (wanted) => {
    const { email = null, name = null, description = null, metadata, test_clock } = wanted
    if (test_clock !== undefined) refuseFull(state, test_clock)
    const customer = newCustomer(state, { email, name, description, metadata: mergeMetadata({}, metadata) })
    customer.test_clock = test_clock ?? null
    state.customers.set(customer.id, customer)
    if (wanted.payment_method !== undefined) attach(state, wanted.payment_method, customer.id)
    Object.assign(customer, changesOf(state, customer, wanted))
    emit(state, 'customer.created', customer)
    setBalance(state, customer, wanted.balance)
    return customer
  })
  route('POST', '/v1/customers/:id', z.strictObject(given), (wanted, id) => {
    const customer = livingCustomer(state, id)
    asOf(state, id, () => setBalance(state, customer, wanted.balance))
    return change(state, 'customer.updated', customer, changesOf(state, customer, wanted))
  })
  // One that was deleted still answers, with nothing but that.
  route('GET', '/v1/customers/:id', none, (_, id) => need(state.customers, 'customer', id))
  route(
    'GET',
    '/v1/customers',
    z.strictObject({ ...page, email: text.optional(), test_clock: text.optional() }),
    (query) => {
      const living = [...state.customers.values()].filter((customer): customer is Customer => !customer.deleted)
      // Customers of a test clock are only shown with it.
      return listPage(
        '/v1/customers',
        living,
        query,
        ({ email, test_clock }) =>
          (query.email === undefined || email === query.email) && test_clock === (query.test_clock ?? null),
      )
    },
  )
  route('DELETE', '/v1/customers/:id', none, (_, id) => deleteCustomer(state, id))
  route('DELETE', '/v1/customers/:id/discount', none, (_, id) => {
    const customer = livingCustomer(state, id)
    if (!customer.discount) throw missing('discount', id)
    const { discount } = customer
    customer.discount = null
    end(state, discount.id)
    return { ...discount, deleted: true }
  })
  balanceRoutes(route, state)
  portalRoutes(route, state)
}

function changesOf(state: State, customer: Customer, wanted: Omit<Given, 'payment_method' | 'test_clock'>) {
  const { email, name, description, phone, tax_exempt, address, metadata, invoice_settings } = wanted
  const method = invoice_settings?.default_payment_method
  if (typeof method === 'string') chooseMethod(state, customer.id, method)
  return {
    ...defined({ email, name, description, phone, tax_exempt }),
    ...(address === undefined ? {} : { address: address && { ...noAddress, ...defined(address) } }),
    ...(method === undefined
      ? {}
      : { invoice_settings: { ...customer.invoice_settings, default_payment_method: method } }),
    metadata: mergeMetadata(customer.metadata, metadata),
  }
}

const noAddress = nulls('city country line1 line2 postal_code state')

/** What the balance is set to is told as an adjustment. */
function setBalance(state: State, customer: Customer, balance: number | undefined): void {
  if (balance === undefined || balance === customer.balance) return
  const currency = customer.currency ?? 'usd'
  moveBalance(state, customer, { amount: balance - customer.balance, currency, type: 'adjustment' })
}

const newSession = z.strictObject({
  customer: text,
  return_url: z.url().optional(),
  configuration: ignored,
  locale: ignored,
  expand,
})

function portalRoutes(route: Route, state: State): void {
  route('POST', '/v1/billing_portal/sessions', newSession, ({ customer, return_url }) => {
    livingCustomer(state, customer, 'customer')
    if (return_url !== undefined && !/^https?:/.test(return_url))
      throw invalid('Not a valid URL', { code: 'url_invalid', param: 'return_url' })
    const portal = newPortal(state, customer, return_url ?? null)
    state.portals.set(portal.id, portal)
    return portal
  })
}
