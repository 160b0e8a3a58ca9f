/** Events: what happened, with the object as it was at that moment; and how they come to the webhook endpoints. */

import { createHmac } from 'node:crypto'
import type { Delivery, State } from './state.ts'
import { type Endpoint, type Event, newId } from './wire.ts'

type Extra = { previous?: Record<string, unknown> } & Partial<
  Pick<Event, 'account' | 'api_version' | 'livemode' | 'created'>
>

const eventsKept = 20_000

export function emit(state: State, type: string, object: unknown, { previous, ...extra }: Extra = {}): Event {
  const event: Event = {
    id: newId('evt_1', 23),
    object: 'event',
    api_version: state.settings.api_version,
    created: state.now(),
    data: {
      // A copy: the object lives on, the event does not change.
      object: structuredClone(object),
      ...(previous ? { previous_attributes: structuredClone(previous) } : {}),
    },
    livemode: false,
    pending_webhooks: 0,
    request: state.request ?? { id: null, idempotency_key: null },
    type,
    ...extra,
  }
  state.events.set(event.id, event)
  state.isDirty = true
  if (state.events.size > 2 * eventsKept)
    for (const oldest of [...state.events.keys()].slice(0, eventsKept)) state.events.delete(oldest)
  deliver(state, event)
  return event
}

/** Changes an object and tells it, with what the changed attributes were; says nothing when nothing changed. */
export function change<T extends object>(state: State, type: string, object: T, changes: Partial<T>): T {
  const changed: Record<string, unknown> = { ...changes }
  const previous = Object.fromEntries(
    Object.entries(object).filter(([name, value]) => name in changed && !isSame(value, changed[name])),
  )
  Object.assign(object, changes)
  if (Object.keys(previous).length > 0) emit(state, type, object, { previous })
  return object
}

const isSame = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b)

const atOnce = 16
/** Stripe tries for three days; here a function that is not there must not be asked for ever. */
const retryMs = [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000]
const answerMs = 30_000
const shuffleMs = 50
const deliveriesKept = 20_000

/**
 * Several at a time, in no promised order, again when the answer is not 2xx. What happens to a new event depends on the
 * mode: it is sent, deliveriesKept back, thrown away, sent twice or mixed with others.
 */
function deliver(state: State, event: Event): void {
  const { mode } = state.delivery
  const interested = [...state.endpoints.values()].filter(
    ({ endpoint }) =>
      endpoint.status === 'enabled' &&
      (endpoint.enabled_events.includes('*') || endpoint.enabled_events.includes(event.type)),
  )
  event.pending_webhooks = interested.length
  for (const { endpoint } of interested) {
    const first = note(state, event, endpoint.id, mode === 'hold' ? 'held' : mode === 'drop' ? 'dropped' : 'waiting')
    if (mode === 'normal' || mode === 'duplicate') enqueue(state, first)
    if (mode === 'duplicate') enqueue(state, note(state, event, endpoint.id, 'waiting'))
    if (mode === 'shuffle') mix(state, first)
  }
}

export function note(state: State, event: Event, endpoint: string, first: Delivery['state']): Delivery {
  const delivery: Delivery = { event, endpoint, state: first, attempts: 0, status: null }
  state.deliveries.push(delivery)
  if (state.deliveries.length > 2 * deliveriesKept) state.deliveries.splice(0, deliveriesKept)
  return delivery
}

function enqueue(state: State, delivery: Delivery): void {
  state.delivery.waiting.push(delivery)
  // After the request that caused it: Stripe never calls back before it has answered.
  setImmediate(() => work(state))
}

/** Collects for a moment, then sends in a drawn order. */
function mix(state: State, delivery: Delivery): void {
  const { buffer } = state.delivery
  buffer.push(delivery)
  if (buffer.length > 1) return
  setTimeout(() => {
    for (const mixed of shuffled(buffer.splice(0), state.delivery.random)) enqueue(state, mixed)
  }, shuffleMs).unref()
}

export function shuffled<T>(items: T[], random: () => number): T[] {
  const drawn = [...items]
  for (let i = drawn.length - 1; i > 0; i -= 1) {
    const j = Math.floor(random() * (i + 1))
    const [a, b] = [drawn[i], drawn[j]]
    if (a !== undefined && b !== undefined) [drawn[i], drawn[j]] = [b, a]
  }
  return drawn
}

function work(state: State): void {
  while (state.delivery.running < atOnce && !state.stopped) {
    const delivery = state.delivery.waiting.shift()
    if (!delivery) return
    if (delivery.state !== 'waiting') continue
    state.delivery.running += 1
    void attempt(state, delivery)
      .then((ok) => (ok ? undefined : retryLater(state, delivery)))
      .finally(() => {
        state.delivery.running -= 1
        work(state)
      })
  }
}

function retryLater(state: State, delivery: Delivery): void {
  const delay = retryMs[delivery.attempts - 1]
  if (delay === undefined || delivery.state !== 'waiting') {
    if (delivery.state === 'waiting') delivery.state = 'failed'
    return
  }
  setTimeout(() => enqueue(state, delivery), delay).unref()
}

/** One try. The time in the signature is the real one: a receiver's clock does not move with ours. */
export async function attempt(state: State, delivery: Delivery): Promise<boolean> {
  const target = state.endpoints.get(delivery.endpoint)
  if (!target) return false
  const { api_version } = target.endpoint
  const body = payloadOf(api_version === null ? delivery.event : { ...delivery.event, api_version })
  const headers = {
    'content-type': 'application/json; charset=utf-8',
    'stripe-signature': signatureHeader(body, target.secrets, state.realNow()),
    'user-agent': 'Stripe/1.0 (stand-in of Palisade)',
  }
  delivery.attempts += 1
  try {
    const signal = AbortSignal.timeout(answerMs)
    const answer = await fetch(target.endpoint.url, { method: 'POST', headers, body, signal, redirect: 'manual' })
    await answer.arrayBuffer()
    delivery.status = answer.status
    if (!answer.ok) return false
    delivery.state = 'delivered'
    delivery.event.pending_webhooks = Math.max(0, delivery.event.pending_webhooks - 1)
    return true
  } catch {
    delivery.status = null
    return false
  }
}

/** Indented, as Stripe's are: a receiver that checks a re-serialised body fails here, too. */
const payloadOf = (event: Event) => JSON.stringify(event, null, 2)

export const isBusy = ({ delivery, deliveries }: State) =>
  delivery.running > 0 || deliveries.some(({ state }) => state === 'waiting')

/** By it a receiver knows that Stripe sent a webhook: one v1 for every secret that is valid now. */
function signatureHeader(payload: string, secrets: readonly string[], at: number): string {
  const signed = secrets.map((secret) => createHmac('sha256', secret).update(`${at}.${payload}`).digest('hex'))
  return [`t=${at}`, ...signed.map((signature) => `v1=${signature}`)].join(',')
}

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
