/** Customers and portal sessions, in full; and the customer of an id, who may be gone. */

import { asOf } from './due.ts'
import { emit } from './events.ts'
import { invalid, missing, need } from './refusals.ts'
import type { State } from './state.ts'
import { endSubscription } from './subscription-status.ts'
import { type Customer, type DeletedCustomer, type Metadata, newId, nulls, type Portal } from './wire.ts'

export const newCustomer = (
  state: State,
  given: { email: string | null; name: string | null; description: string | null; metadata: Metadata },
): Customer => ({
  ...nulls('address currency customer_account default_source discount phone shipping test_clock'),
  id: newId('cus', 14),
  object: 'customer',
  balance: 0,
  created: state.now(),
  delinquent: false,
  description: given.description,
  email: given.email,
  invoice_prefix: newId('', 8).slice(1).toUpperCase(),
  invoice_settings: { custom_fields: null, default_payment_method: null, footer: null, rendering_options: null },
  livemode: false,
  metadata: given.metadata,
  name: given.name,
  next_invoice_sequence: 1,
  preferred_locales: [],
  tax_exempt: 'none',
})

export function newPortal(state: State, customer: string, return_url: string | null): Portal {
  const id = newId('bps_1', 23)
  return {
    ...nulls('customer_account flow locale on_behalf_of'),
    id,
    object: 'billing_portal.session',
    configuration: 'bpc_1PalisadeStandIn',
    created: state.now(),
    customer,
    livemode: false,
    return_url,
    url: `${state.url}/p/session/${id}`,
  }
}

export function livingCustomer(state: State, id: string, param = 'id'): Customer {
  const customer = need(state.customers, 'customer', id, param)
  if (customer.deleted) throw missing('customer', id, param)
  return customer
}

export function customerOf(state: State, id: string): Customer {
  const customer = state.customers.get(id)
  if (!customer || customer.deleted) throw invalid(`No such customer: '${id}'`, { code: 'resource_missing' })
  return customer
}

/** Subscriptions end with their customer. */
export function deleteCustomer(state: State, id: string): DeletedCustomer {
  const customer = livingCustomer(state, id)
  for (const subscription of state.subscriptions.values())
    if (subscription.customer === id)
      asOf(state, id, () => endSubscription(state, subscription, 'cancellation_requested'))
  state.cards.delete(id)
  state.waitingItems.delete(id)
  const deleted: DeletedCustomer = { id, object: 'customer', deleted: true }
  state.customers.set(id, deleted)
  emit(state, 'customer.deleted', customer)
  return deleted
}
