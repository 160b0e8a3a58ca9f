/** What must be settled before another checkout of a plan begins: two that are completed would be two subscriptions and two trials. */
import Stripe from 'stripe'
import type { PreparedCheckout, ShopWorld } from './billing-world.ts'
import { readObjects } from './read-objects.ts'
import { subscriptionReading } from './read-subscription.ts'
import { createStripeReader } from './stripe-reader.ts'

/**
 * False when something was bought that was not known here: it is applied then, and the checkout must be decided anew. After this
 * no earlier session can be completed, and all that the customer has at Stripe is known, however late its events are.
 */
export async function settleOthers(
  { mode, stale_sessions, checkout_id }: PreparedCheckout,
  customer: string,
  world: ShopWorld,
): Promise<boolean> {
  if (mode !== 'subscription') return true
  // Stripe is asked for open sessions, too, for one whose expiry failed the last time.
  const open = await openPlanSessions(customer, checkout_id, world)
  let isUnchanged = true
  for (const id of new Set([...stale_sessions, ...open])) isUnchanged = (await expireSession(id, world)) && isUnchanged
  return isUnchanged && (await areSubscriptionsKnown(customer, world))
}

/** Also those of sessions that are over for long, and those that somebody made by hand. */
async function areSubscriptionsKnown(customer: string, { stripe, store }: ShopWorld): Promise<boolean> {
  const origin = { read_at: await store.databaseTime(), deleted: false }
  const { data } = await stripe.subscriptions.list({ customer, status: 'all', limit: 100 })
  const outcomes = await store.applyReadings(data.map((raw) => subscriptionReading(raw, origin)))
  return outcomes.every(({ outcome }) => outcome !== 'changed')
}

/** Not this checkout's own, which who asked at the same time has made already. Every page: packs may have many open ones. */
async function openPlanSessions(customer: string, checkoutId: string, { stripe }: ShopWorld): Promise<string[]> {
  const ids: string[] = []
  for await (const { id, mode, metadata } of stripe.checkout.sessions.list({ customer, status: 'open', limit: 100 }))
    if (mode === 'subscription' && metadata?.palisade_checkout_id !== checkoutId) ids.push(id)
  return ids
}

/** False for a session that was completed, which is applied then, and for one that Stripe is about to complete. */
export async function expireSession(id: string, world: ShopWorld): Promise<boolean> {
  try {
    await world.stripe.checkout.sessions.expire(id)
    return true
  } catch (error) {
    if (!(error instanceof Stripe.errors.StripeInvalidRequestError)) throw error
    return isOver(id, world)
  }
}

async function isOver(id: string, { stripe, store, livemode }: ShopWorld): Promise<boolean> {
  const context = { reader: createStripeReader(stripe), readAt: await store.databaseTime(), livemode }
  const subject = { type: 'checkout.session', object: 'checkout.session', object_id: id, payload: undefined }
  const readings = await readObjects(subject, context)
  const session = readings.find((reading) => reading.object === 'checkout_session')
  if (session?.status === 'complete') await store.applyReadings(readings)
  return session === undefined || session.status === 'expired'
}
