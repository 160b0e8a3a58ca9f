/** What the button on the checkout page does, and how sessions end. */
import { complete, type Paid, pendingIntent, pendingOf } from './complete-checkout.ts'
import { asOf, schedule } from './due.ts'
import { emit } from './events.ts'
import { settleInvoiceDebit } from './pay-invoice.ts'
import { cancelIntent, failAuthentication, settleDebit, tryIntent } from './payments.ts'
import { invalid } from './refusals.ts'
import type { State } from './state.ts'
import { type Way, ways } from './ways.ts'
import type { Session } from './wire.ts'

function assertOpen(session: Session): void {
  if (session.status !== 'open') throw invalid(`This checkout session is ${session.status}.`)
}

/** Tries to complete an open session. A declined one stays open, as on Stripe's page. */
export function paySession(state: State, session: Session, way: Way): Paid {
  assertOpen(session)
  return asOf(state, session.customer, () => trySession(state, session, way))
}

function trySession(state: State, session: Session, way: Way): Paid {
  const { outcome } = ways[way]
  const isFree = session.amount_total === 0
  // A trial asks for 3-D Secure, too; a declined card cannot be kept for later.
  if (outcome === 'ok' || outcome === 'processing') return complete(state, session, way, outcome)
  if (isFree) return outcome
  const intent = pendingIntent(state, session)
  tryIntent(state, intent, outcome)
  return outcome
}

/** The answer on the page of 3-D Secure. */
export function answerSession(state: State, session: Session, way: Way, ok: boolean): Paid {
  assertOpen(session)
  const intent = state.intents.get(session.payment_intent ?? '') ?? pendingOf(state, session)
  if (ok) return asOf(state, session.customer, () => complete(state, session, way, 'ok'))
  if (intent) failAuthentication(state, intent)
  return 'declined'
}

/** How the bank debit of a completed session went. */
export function settleSession(state: State, session: Session, ok: boolean): void {
  if (session.status !== 'complete' || session.payment_status !== 'unpaid')
    throw invalid('This session does not wait for a bank debit.')
  const invoice = state.invoices.get(session.invoice ?? '')
  const intent = state.intents.get(session.payment_intent ?? '')
  asOf(state, session.customer, () => {
    if (invoice) settleInvoiceDebit(state, invoice, ok)
    else if (intent) settleDebit(state, intent, ok)
  })
  if (ok) session.payment_status = 'paid'
  emit(state, `checkout.session.async_payment_${ok ? 'succeeded' : 'failed'}`, session)
}

export function expireSession(state: State, session: Session): void {
  assertOpen(session)
  const tried = pendingOf(state, session)
  if (tried) cancelIntent(state, tried)
  session.url = null
  session.status = 'expired'
  emit(state, 'checkout.session.expired', session)
}

export function expireDue(state: State, id: string): void {
  const session = state.sessions.get(id)
  if (session?.status === 'open') expireSession(state, session)
}

/** Clients name the end of a session by their own clock, which does not move with ours. */
export const planExpiry = (state: State, { id, expires_at }: Session) =>
  schedule(state, state.now() + expires_at - state.realNow(), 'expire_session', id)
