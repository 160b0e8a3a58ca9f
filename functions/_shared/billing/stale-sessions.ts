/** Sessions that must not be completed any more when another checkout of a plan begins: two of them would be two trials. */
import Stripe from 'stripe'
import type { PreparedCheckout, ShopWorld } from './billing-world.ts'
import { readObjects } from './read-objects.ts'
import { createStripeReader } from './stripe-reader.ts'

/**
 * False when one of them was completed already: what it bought is applied then, and the checkout must be decided anew. Stripe is
 * asked for open sessions, too, for one whose expiry failed the last time.
 */
export async function expireOthers(
  { mode, stale_sessions, checkout_id }: PreparedCheckout,
  customer: string,
  world: ShopWorld,
): Promise<boolean> {
  const open = mode === 'subscription' ? await openPlanSessions(customer, checkout_id, world) : []
  let isUnchanged = true
  for (const id of new Set([...stale_sessions, ...open])) isUnchanged = (await expireSession(id, world)) && isUnchanged
  return isUnchanged
}

/** Not this checkout's own, which who asked at the same time has made already. */
async function openPlanSessions(customer: string, checkoutId: string, { stripe }: ShopWorld): Promise<string[]> {
  const { data } = await stripe.checkout.sessions.list({ customer, status: 'open', limit: 100 })
  return data
    .filter(({ mode, metadata }) => mode === 'subscription' && metadata?.palisade_checkout_id !== checkoutId)
    .map(({ id }) => id)
}

/** False for a session that was completed. */
export async function expireSession(id: string, world: ShopWorld): Promise<boolean> {
  try {
    await world.stripe.checkout.sessions.expire(id)
    return true
  } catch (error) {
    if (!(error instanceof Stripe.errors.StripeInvalidRequestError)) throw error
    return applyCompleted(id, world)
  }
}

async function applyCompleted(id: string, { stripe, store, livemode }: ShopWorld): Promise<boolean> {
  const context = { reader: createStripeReader(stripe), readAt: await store.databaseTime(), livemode }
  const subject = { type: 'checkout.session', object: 'checkout.session', object_id: id, payload: undefined }
  const readings = await readObjects(subject, context)
  const isComplete = readings.some((reading) => reading.object === 'checkout_session' && reading.status === 'complete')
  if (isComplete) await store.applyReadings(readings)
  return !isComplete
}
