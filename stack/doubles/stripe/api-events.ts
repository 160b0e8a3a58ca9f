/** /v1/events and /v1/webhook_endpoints. */
import { z } from 'zod'
import { addEndpoint } from './events.ts'
import { listPage } from './lists.ts'
import { boolean, expand, ignored, mergeMetadata, metadata, none, page, text } from './params.ts'
import { need } from './refusals.ts'
import type { Route } from './routes.ts'
import type { State } from './state.ts'
import { newId } from './wire.ts'

const enabled_events = z.array(text).min(1)
const newEndpoint = z.strictObject({
  url: z.url(),
  enabled_events,
  api_version: text.optional(),
  description: text.optional(),
  metadata: metadata.optional(),
  connect: ignored,
  expand,
})
const changed = newEndpoint
  .partial()
  .omit({ api_version: true, connect: true })
  .extend({ disabled: boolean.optional() })

export function eventRoutes(route: Route, state: State): void {
  route('GET', '/v1/events/:id', none, (_, id) => need(state.events, 'event', id))
  const query = z.strictObject({
    ...page,
    type: text.optional(),
    types: z.array(text).max(20).optional(),
    delivery_success: boolean.optional(),
  })
  route('GET', '/v1/events', query, ({ type, types, delivery_success, ...asked }) =>
    listPage(
      '/v1/events',
      state.events.values(),
      asked,
      (event) =>
        (type === undefined || isOfType(event.type, type)) &&
        (types === undefined || types.some((one) => isOfType(event.type, one))) &&
        (delivery_success === undefined || (event.pending_webhooks === 0) === delivery_success),
    ),
  )
  endpointRoutes(route, state)
}

/** `charge.*` names them all. */
const isOfType = (type: string, asked: string) =>
  asked.endsWith('*') ? type.startsWith(asked.slice(0, -1)) : type === asked

function endpointRoutes(route: Route, state: State): void {
  const path = '/v1/webhook_endpoints'
  const find = (id: string) => need(state.endpoints, 'webhook_endpoint', id).endpoint
  route('POST', path, newEndpoint, ({ url, enabled_events, api_version, description = null, metadata }) => {
    const secret = newId('whsec', 32)
    const made = addEndpoint(state, url, [secret], enabled_events)
    Object.assign(made, {
      description,
      metadata: mergeMetadata({}, metadata),
      api_version: api_version ?? made.api_version,
    })
    // Shown once, as at Stripe.
    return { ...made, secret }
  })
  route('POST', `${path}/:id`, changed, ({ disabled, url, enabled_events, metadata }, id) => {
    const endpoint = find(id)
    endpoint.metadata = mergeMetadata(endpoint.metadata, metadata)
    if (url !== undefined) endpoint.url = url
    if (enabled_events !== undefined) endpoint.enabled_events = enabled_events
    if (disabled !== undefined) endpoint.status = disabled ? 'disabled' : 'enabled'
    return endpoint
  })
  route('GET', `${path}/:id`, none, (_, id) => find(id))
  route('GET', path, z.strictObject({ ...page }), (query) =>
    listPage(
      path,
      [...state.endpoints.values()].map(({ endpoint }) => endpoint),
      query,
    ),
  )
  route('DELETE', `${path}/:id`, none, (_, id) => {
    find(id)
    state.endpoints.delete(id)
    return { id, object: 'webhook_endpoint', deleted: true }
  })
}
