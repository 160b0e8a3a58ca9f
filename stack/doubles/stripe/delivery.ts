/** Brings events to the webhook endpoints: several at a time, in no promised order, again when the answer is not 2xx. */
import { signatureHeader } from './signature.ts'
import type { State } from './state.ts'
import type { Event } from './wire.ts'

export const deliveryModes = ['normal', 'hold', 'drop', 'duplicate', 'shuffle'] as const
export type DeliveryMode = (typeof deliveryModes)[number]
export type Delivery = {
  event: Event
  endpoint: string
  state: 'waiting' | 'held' | 'delivered' | 'failed' | 'dropped'
  attempts: number
  status: number | null
}

const atOnce = 16
/** Stripe tries for three days; here a function that is not there must not be asked for ever. */
const retryMs = [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000]
const answerMs = 30_000
const shuffleMs = 50
const kept = 20_000

/** What happens to a new event depends on the mode: it is sent, kept back, thrown away, sent twice or mixed with others. */
export function deliver(state: State, event: Event): void {
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
  if (state.deliveries.length > 2 * kept) state.deliveries.splice(0, kept)
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
