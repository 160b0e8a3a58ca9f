/** Customers and portal sessions, in full. */
import { newId } from './ids.ts'
import type { State } from './state.ts'
import type { Customer, Metadata, Portal } from './wire.ts'

export const newCustomer = (
  state: State,
  given: { email: string | null; name: string | null; description: string | null; metadata: Metadata },
): Customer => ({
  id: newId('cus', 14),
  object: 'customer',
  address: null,
  balance: 0,
  created: state.now(),
  currency: null,
  customer_account: null,
  default_source: null,
  delinquent: false,
  description: given.description,
  discount: null,
  email: given.email,
  invoice_prefix: newId('', 8).slice(1).toUpperCase(),
  invoice_settings: { custom_fields: null, default_payment_method: null, footer: null, rendering_options: null },
  livemode: false,
  metadata: given.metadata,
  name: given.name,
  next_invoice_sequence: 1,
  phone: null,
  preferred_locales: [],
  shipping: null,
  tax_exempt: 'none',
  test_clock: null,
})

export function newPortal(state: State, customer: string, return_url: string | null): Portal {
  const id = newId('bps_1', 23)
  return {
    id,
    object: 'billing_portal.session',
    configuration: 'bpc_1PalisadeStandIn',
    created: state.now(),
    customer,
    customer_account: null,
    flow: null,
    livemode: false,
    locale: null,
    on_behalf_of: null,
    return_url,
    url: `${state.url}/p/session/${id}`,
  }
}
