/** Our own API to the stand-in, for tests and the demo: the clock, cards, banks, deliveries and failures. */

import { setTimeout as sleep } from 'node:timers/promises'
import { Hono } from 'hono'
import { z } from 'zod'
import { answerSession, enterCode, paySession, settleSession } from './checkout.ts'
import { livingCustomer } from './customers.ts'
import { advanceCustomer, advanceTo, asOf, clockOf, leadOf } from './due.ts'
import { attempt, emit, isBusy, note, shuffled } from './events.ts'
import { defined } from './params.ts'
import { settleInvoiceDebit } from './pay-invoice.ts'
import { wayNames, ways } from './payments.ts'
import { chargeOfIntent, dispute, moveDispute, moveRefund } from './refunds.ts'
import { errorBody, invalid, need, Refusal } from './refusals.ts'
import { dueHandlers } from './renew.ts'
import { cardOutcomes, type Delivery, deliveryModes, resetState, type State } from './state.ts'
import { reachThreshold } from './threshold.ts'
import type { Event } from './wire.ts'

/** Declares a verb: what its body looks like, and what it does. */
type Verb = <T>(path: string, body: z.ZodType<T>, act: (input: T, id: string) => unknown) => void

const farAway = 20 * 366 * 86_400
const advance = z.union([
  z.strictObject({ seconds: z.int().min(0).max(farAway), customer: z.string().optional() }),
  z.strictObject({ to: z.int(), customer: z.string().optional() }),
])
const settings = z
  .strictObject({
    dunning_days: z.array(z.number().positive()).max(20),
    after_dunning: z.enum(['cancel', 'unpaid', 'past_due']),
    draft_seconds: z.int().min(0),
    upcoming_days: z.int().min(0),
    portal_cancels: z.enum(['at_period_end', 'at']),
    refund_status: z.enum(['succeeded', 'pending', 'requires_action']),
    proration_discounts: z.enum(['included', 'itemized']),
    invoice_payments: z.enum(['payment_intent', 'charge']),
    stub_is_proration: z.boolean(),
    settlement: z.strictObject({ currency: z.string().length(3), rate: z.number().positive() }).nullable(),
    api_version: z.string().min(1),
  })
  .partial()
const failure = z
  .strictObject({
    next: z.int().min(1).default(1),
    status: z.int().min(400).max(599).default(500),
    path_prefix: z.string().default('/v1/'),
    after: z.boolean().default(false),
    saved: z.boolean().default(false),
  })
  .refine(({ status, saved }) => !saved || status !== 429, { path: ['saved'], message: 'Stripe never saves a 429.' })

const finalizationFailure = z.strictObject({
  next: z.int().min(1).default(1),
  customer: z.string().optional(),
  code: z.string().default('customer_tax_location_invalid'),
  message: z.string().default("The customer's location is not known well enough to calculate taxes."),
})

export function controlApi(state: State) {
  const app = new Hono()
  const verb: Verb = (path, body, act) =>
    app.post(path, async (c) => {
      const { data, error } = body.safeParse(await c.req.json().catch(() => ({})))
      if (error) return c.json({ message: z.prettifyError(error) }, 400)
      return Response.json((await act(data, c.req.param('id') ?? '')) ?? {})
    })
  app.onError((error) => {
    if (!(error instanceof Refusal)) throw error
    return Response.json({ message: error.message, ...errorBody(error) }, { status: error.status })
  })
  verb('/advance', advance, ({ customer, ...by }) => {
    if (customer !== undefined) livingCustomer(state, customer)
    if (clockOf(state, customer)) throw invalid('The time of this customer is moved by a test clock.')
    const now = () => state.now() + leadOf(state, customer)
    const seconds = 'to' in by ? Math.min(Math.max(0, by.to - now()), farAway) : by.seconds
    if (customer === undefined) advanceTo(state, state.now() + seconds, dueHandlers)
    else advanceCustomer(state, customer, seconds, dueHandlers)
    return { now: now() }
  })
  app.get('/clock', (c) => {
    const customer = c.req.query('customer')
    return c.json({ now: clockOf(state, customer)?.frozen_time ?? state.now() + leadOf(state, customer) })
  })
  verb('/settings', settings, (given) => Object.assign(state.settings, defined(given)))
  verb('/fail', failure, ({ next, ...how }) => {
    state.failures = state.failures.filter(({ left }) => left > 0)
    state.failures.push({ left: next, ...how })
  })
  verb('/slow', z.strictObject({ ms: z.int().min(0).max(60_000) }), ({ ms }) => {
    state.slow_ms = ms
  })
  verb('/finalization', finalizationFailure, ({ next, ...how }) => {
    state.finalizationFailures = state.finalizationFailures.filter(({ left }) => left > 0)
    state.finalizationFailures.push({ left: next, ...how, customer: how.customer })
  })
  verb('/subscriptions/:id/threshold', z.strictObject({}), (_, id) => {
    const subscription = need(state.subscriptions, 'subscription', id)
    return asOf(state, subscription.customer, () => reachThreshold(state, subscription))
  })
  customerControl(state, verb)
  moneyControl(state, verb)
  deliveryControl(state, app, verb)
  app.delete('/', (c) => {
    resetState(state)
    return c.body(null, 204)
  })
  return app
}

/** What the customer does: cards, and the buttons of the checkout page. */
function customerControl(state: State, verb: Verb): void {
  verb(
    '/customers/:id/card',
    z.strictObject({ outcome: z.enum(cardOutcomes).or(z.literal('none')) }),
    ({ outcome }, id) => {
      livingCustomer(state, id)
      if (outcome === 'none') state.cards.delete(id)
      else state.cards.set(id, outcome)
      return { customer: id, outcome }
    },
  )
  const completion = z.strictObject({
    promotion_code: z.string().optional(),
    card: z.enum(wayNames).default('ok'),
    authenticate: z.enum(['ok', 'failed']).optional(),
  })
  verb('/complete/:id', completion, ({ card, authenticate, promotion_code }, id) => {
    const session = need(state.sessions, 'checkout.session', id)
    if (promotion_code !== undefined) enterCode(state, session, promotion_code)
    const asked = paySession(state, session, card)
    const isAnswered = asked === 'requires_action' && authenticate !== undefined
    const result = isAnswered ? answerSession(state, session, card, authenticate === 'ok') : asked
    return { result, outcome: ways[card].outcome, session }
  })
  const outcome = z.enum(['succeeded', 'failed'])
  verb('/async/:id', z.strictObject({ outcome }), (given, id) => {
    const ok = given.outcome === 'succeeded'
    const invoice = state.invoices.get(id)
    if (invoice) return asOf(state, invoice.customer, () => settleInvoiceDebit(state, invoice, ok)) ?? invoice
    const session = need(state.sessions, 'checkout.session', id)
    settleSession(state, session, ok)
    return session
  })
}

/** What banks do: refunds that fail, and disputes. */
function moneyControl(state: State, verb: Verb): void {
  const refundStatus = z.enum(['succeeded', 'failed', 'pending', 'requires_action', 'canceled'])
  verb('/refunds/:id', z.strictObject({ status: refundStatus }), ({ status }, id) =>
    moveRefund(state, need(state.refunds, 'refund', id), status),
  )
  const open = z.enum(['needs_response', 'warning_needs_response', 'under_review', 'warning_under_review'])
  const newDispute = z.strictObject({
    payment_intent: z.string().optional(),
    charge: z.string().optional(),
    amount: z.int().positive().optional(),
    currency: z.string().length(3).optional(),
    charged: z.int().positive().optional(),
    reason: z.string().default('fraudulent'),
    status: open.default('needs_response'),
  })
  verb('/disputes', newDispute, ({ payment_intent, charge, amount, currency, charged, reason, status }) => {
    if (charge === undefined) need(state.intents, 'payment_intent', payment_intent ?? '')
    const of =
      charge === undefined ? chargeOfIntent(state, payment_intent ?? '') : need(state.charges, 'charge', charge)
    return dispute(state, of, { amount, currency, charged, reason, status })
  })
  const moved = z.enum([...open.options, 'appeal_needs_response', 'appeal_under_review'])
  verb('/disputes/:id', z.strictObject({ status: moved }), ({ status }, id) =>
    moveDispute(state, need(state.disputes, 'dispute', id), status),
  )
  const end = z.enum(['won', 'lost', 'warning_closed', 'prevented'])
  verb('/disputes/:id/close', z.strictObject({ status: end }), ({ status }, id) =>
    moveDispute(state, need(state.disputes, 'dispute', id), status),
  )
}

const seed = z.int().optional()
const order = z.enum(['given', 'reverse', 'shuffle']).default('given')
const release = z.strictObject({ ids: z.array(z.string()).optional(), order, seed })
const made = z.strictObject({
  type: z.string().min(1),
  object: z.record(z.string(), z.unknown()),
  account: z.string().optional(),
  api_version: z.string().optional(),
  livemode: z.boolean().optional(),
  created: z.int().optional(),
})

/** How events are delivered, when, in which order, and events of one's own making. */
function deliveryControl(state: State, app: Hono, verb: Verb): void {
  verb('/delivery', z.strictObject({ mode: z.enum(deliveryModes), seed }), ({ mode, seed }) => {
    state.delivery.mode = mode
    state.delivery.random = seed === undefined ? Math.random : seeded(seed)
    return { mode }
  })
  verb('/deliver', release, async ({ ids, order, seed }) => {
    const chosen = ids ? ids.flatMap((id) => again(state, need(state.events, 'event', id))) : held(state)
    const random = seed === undefined ? state.delivery.random : seeded(seed)
    const queue = order === 'given' ? chosen : order === 'reverse' ? chosen.reverse() : shuffled(chosen, random)
    const delivered = []
    // One after the other: the order is what was asked for. What fails stays held.
    for (const delivery of queue) {
      await attempt(state, delivery)
      delivered.push({ id: delivery.event.id, type: delivery.event.type, status: delivery.status })
    }
    return { delivered }
  })
  verb(
    '/settled',
    z.strictObject({ timeout_ms: z.int().min(0).max(60_000).default(10_000) }),
    async ({ timeout_ms }) => {
      for (const until = Date.now() + timeout_ms; isBusy(state) && Date.now() < until; ) await sleep(10)
      return { settled: !isBusy(state) }
    },
  )
  verb('/events', made, ({ type, object, ...extra }) => {
    const given = Object.fromEntries(Object.entries(extra).filter(([, value]) => value !== undefined))
    return emit(state, type, object, given)
  })
  app.get('/events', (c) => {
    const byEvent = Map.groupBy(state.deliveries, ({ event }) => event)
    return c.json({ events: [...state.events.values()].map((event) => summary(event, byEvent.get(event) ?? [])) })
  })
}

const held = ({ deliveries }: State) => deliveries.filter((delivery) => delivery.state === 'held')

/** What is held of an event, or a new delivery of it to every endpoint, as when it is sent again from the Dashboard. */
function again(state: State, event: Event): Delivery[] {
  const waiting = held(state).filter((delivery) => delivery.event === event)
  return waiting.length > 0 ? waiting : [...state.endpoints.keys()].map((id) => note(state, event, id, 'held'))
}

const identity = z.object({ object: z.string().optional(), id: z.string().optional() }).catch({})

function summary(event: Event, deliveries: Delivery[]) {
  const { object, id: object_id = null } = identity.parse(event.data.object)
  const { id, type, created } = event
  return {
    id,
    type,
    created,
    object,
    object_id,
    deliveries: deliveries.map(({ state, attempts, status }) => ({ state, attempts, status })),
  }
}

/** The same numbers for the same seed (mulberry32). */
function seeded(seed: number): () => number {
  let a = seed | 0
  return () => {
    a = (a + 0x6d2b79f5) | 0
    let t = Math.imul(a ^ (a >>> 15), 1 | a)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}
