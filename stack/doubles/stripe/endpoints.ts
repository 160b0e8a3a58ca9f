/** Where webhooks go. */
import { newId } from './ids.ts'
import type { State } from './state.ts'
import type { Endpoint } from './wire.ts'

export type Webhook = { url: string; secrets: string[] }

export function addEndpoint(state: State, url: string, secrets: string[], enabled_events = ['*']): Endpoint {
  const endpoint: Endpoint = {
    id: newId('we_1', 23),
    object: 'webhook_endpoint',
    // Null: the account's version, which the settings say.
    api_version: null,
    application: null,
    created: state.now(),
    description: null,
    enabled_events,
    livemode: false,
    metadata: {},
    status: 'enabled',
    url,
  }
  state.endpoints.set(endpoint.id, { endpoint, secrets })
  return endpoint
}
