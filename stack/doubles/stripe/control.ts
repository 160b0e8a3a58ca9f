/** Our own API to the stand-in, for tests and the demo: the clock, cards, banks, deliveries and failures. */
import { Hono } from 'hono'
import { z } from 'zod'
import { livingCustomer } from './api-customers.ts'
import { answerSession, paySession, settleSession } from './checkout.ts'
import { deliveryControl } from './control-delivery.ts'
import { resetState } from './create-state.ts'
import { advanceCustomer, advanceTo, leadOf } from './due.ts'
import { dueHandlers } from './due-handlers.ts'
import { defined } from './params.ts'
import { chargeOfIntent, dispute, moveDispute, moveRefund } from './refunds.ts'
import { errorBody, need, Refusal } from './refusals.ts'
import { cardOutcomes, type State } from './state.ts'
import { wayNames, ways } from './ways.ts'

/** Declares a verb: what its body looks like, and what it does. */
export type Verb = <T>(path: string, body: z.ZodType<T>, act: (input: T, id: string) => unknown) => void

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
    const now = () => state.now() + leadOf(state, customer)
    const seconds = 'to' in by ? Math.min(Math.max(0, by.to - now()), farAway) : by.seconds
    if (customer === undefined) advanceTo(state, state.now() + seconds, dueHandlers)
    else advanceCustomer(state, customer, seconds, dueHandlers)
    return { now: now() }
  })
  app.get('/clock', (c) => c.json({ now: state.now() + leadOf(state, c.req.query('customer')) }))
  verb('/settings', settings, (given) => Object.assign(state.settings, defined(given)))
  verb('/fail', failure, ({ next, ...how }) => {
    state.failures = state.failures.filter(({ left }) => left > 0)
    state.failures.push({ left: next, ...how })
  })
  verb('/slow', z.strictObject({ ms: z.int().min(0).max(60_000) }), ({ ms }) => {
    state.slow_ms = ms
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
    card: z.enum(wayNames).default('ok'),
    authenticate: z.enum(['ok', 'failed']).optional(),
  })
  verb('/complete/:id', completion, ({ card, authenticate }, id) => {
    const session = need(state.sessions, 'checkout.session', id)
    const asked = paySession(state, session, card)
    const isAnswered = asked === 'requires_action' && authenticate !== undefined
    const result = isAnswered ? answerSession(state, session, card, authenticate === 'ok') : asked
    return { result, outcome: ways[card].outcome, session }
  })
  const outcome = z.enum(['succeeded', 'failed'])
  verb('/async/:id', z.strictObject({ outcome }), (given, id) => {
    const session = need(state.sessions, 'checkout.session', id)
    settleSession(state, session, given.outcome === 'succeeded')
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
    payment_intent: z.string(),
    amount: z.int().positive().optional(),
    reason: z.string().default('fraudulent'),
    status: open.default('needs_response'),
  })
  verb('/disputes', newDispute, ({ payment_intent, ...given }) => {
    need(state.intents, 'payment_intent', payment_intent)
    return dispute(state, chargeOfIntent(state, payment_intent), { ...given, amount: given.amount })
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
