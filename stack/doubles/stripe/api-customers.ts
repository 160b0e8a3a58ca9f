/** /v1/customers and /v1/billing_portal/sessions. */
import { z } from 'zod'
import { livingCustomer, newCustomer, newPortal } from './customers.ts'
import { asOf } from './due.ts'
import { change, emit } from './events.ts'
import { listPage } from './lists.ts'
import { defined, expand, ignored, mergeMetadata, metadata, none, page, text, unset } from './params.ts'
import { invalid, need } from './refusals.ts'
import type { Route } from './routes.ts'
import type { State } from './state.ts'
import { endSubscription } from './subscription-status.ts'
import type { Customer } from './wire.ts'

const word = unset.or(text).optional()
const given = {
  email: word,
  name: word,
  description: word,
  metadata: metadata.optional(),
  phone: ignored,
  address: ignored,
  preferred_locales: ignored,
  tax_exempt: ignored,
  invoice_settings: ignored,
  expand,
}

export function customerRoutes(route: Route, state: State): void {
  route(
    'POST',
    '/v1/customers',
    z.strictObject(given),
    ({ email = null, name = null, description = null, metadata }) => {
      const customer = newCustomer(state, { email, name, description, metadata: mergeMetadata({}, metadata) })
      state.customers.set(customer.id, customer)
      emit(state, 'customer.created', customer)
      return customer
    },
  )
  route('POST', '/v1/customers/:id', z.strictObject(given), ({ email, name, description, metadata }, id) => {
    const customer = livingCustomer(state, id)
    const changes = { ...defined({ email, name, description }), metadata: mergeMetadata(customer.metadata, metadata) }
    return change(state, 'customer.updated', customer, changes)
  })
  // One that was deleted still answers, with nothing but that.
  route('GET', '/v1/customers/:id', none, (_, id) => need(state.customers, 'customer', id))
  route('GET', '/v1/customers', z.strictObject({ ...page, email: text.optional(), test_clock: ignored }), (query) => {
    const living = [...state.customers.values()].filter((customer): customer is Customer => !customer.deleted)
    return listPage('/v1/customers', living, query, ({ email }) => query.email === undefined || email === query.email)
  })
  route('DELETE', '/v1/customers/:id', none, (_, id) => {
    const customer = livingCustomer(state, id)
    for (const subscription of state.subscriptions.values())
      if (subscription.customer === id)
        asOf(state, id, () => endSubscription(state, subscription, 'cancellation_requested'))
    state.cards.delete(id)
    const deleted = { id, object: 'customer', deleted: true } as const
    state.customers.set(id, deleted)
    emit(state, 'customer.deleted', customer)
    return deleted
  })
  portalRoutes(route, state)
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
