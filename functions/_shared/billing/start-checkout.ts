/** A page of Stripe's where a plan or a credit pack is paid. What may be bought, at what price and with what trial, SQL decides. */
import Stripe from 'stripe'
import { AppError } from '../errors.ts'
import type { Buyer, PreparedCheckout, ShopWorld, Wanted } from './billing-world.ts'
import { customerOf, forgetCustomer, isCustomerMissing } from './shop-customer.ts'
import { expireSession, settleOthers } from './stale-sessions.ts'

const attempts = 3

/** Begins anew when something changed under it: another checkout, a customer that is gone, a session that was paid meanwhile. */
export async function startCheckout(buyer: Buyer, wanted: Wanted, world: ShopWorld): Promise<string> {
  for (let attempt = 1; attempt <= attempts; attempt += 1) {
    const url = await tryCheckout(buyer, wanted, world)
    if (url !== undefined) return url
  }
  throw new AppError('billing_unavailable')
}

async function tryCheckout(buyer: Buyer, wanted: Wanted, world: ShopWorld): Promise<string | undefined> {
  const prepared = await world.store.prepareCheckout(buyer, wanted)
  if (prepared.url !== null) return prepared.url
  const session = await orFail(prepared, world, async () => {
    const customer = await customerOf(buyer.userId, prepared, world)
    return unlessMissing(customer, world, async () =>
      (await settleOthers(prepared, customer, world))
        ? createSession(buyer.userId, customer, prepared, wanted, world)
        : undefined,
    )
  })
  if (!session) return undefined
  const url = session.url ?? ''
  if (await world.store.noteCheckout(prepared.checkout_id, session.id, url)) return url
  await expireSession(session.id, world)
  return undefined
}

/**
 * Stripe keeps what it answered under an idempotency key, errors too, for a day: the next try must not be the same request. Where
 * it answered nothing, or that the same request is running, the key is what finds the session again.
 */
async function orFail<T>({ checkout_id }: PreparedCheckout, world: ShopWorld, ask: () => Promise<T>): Promise<T> {
  try {
    return await ask()
  } catch (error) {
    const status = error instanceof Stripe.errors.StripeError ? error.statusCode : undefined
    if (status !== undefined && status !== 409) await world.store.failCheckout(checkout_id)
    throw error
  }
}

/** Undefined when Stripe has the customer no more, which is known here then. */
async function unlessMissing<T>(customer: string, world: ShopWorld, ask: () => Promise<T>): Promise<T | undefined> {
  try {
    return await ask()
  } catch (error) {
    if (!isCustomerMissing(error)) throw error
    await forgetCustomer(customer, error, world)
    return undefined
  }
}

/** Asked twice at once, Stripe makes one session: both have the key of one checkout. */
function createSession(
  userId: string,
  customer: string,
  prepared: PreparedCheckout,
  { return_urls }: Wanted,
  world: ShopWorld,
): Promise<Stripe.Checkout.Session> {
  const { checkout_id, stripe_price_id: price, mode, trial_days, expires_at } = prepared
  const metadata = { palisade_user_id: userId, palisade_checkout_id: checkout_id }
  const trial = trial_days > 0 ? { trial_period_days: trial_days } : {}
  const params = {
    ...{ mode, customer, metadata, client_reference_id: userId, expires_at, ...return_urls },
    line_items: [{ price, quantity: 1 }],
    ...(mode === 'subscription'
      ? { subscription_data: { metadata, ...trial } }
      : { payment_intent_data: { metadata } }),
  }
  // With the customer in the key: another one after the first was deleted is another request.
  return world.stripe.checkout.sessions.create(params, { idempotencyKey: `checkout:${checkout_id}:${customer}` })
}
