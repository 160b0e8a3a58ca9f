/** A page of Stripe's where a plan or a credit pack is paid. What may be bought, at what price and with what trial, SQL decides. */
import type Stripe from 'stripe'
import { AppError } from '../errors.ts'
import type { Buyer, PreparedCheckout, ShopWorld, Wanted } from './billing-world.ts'
import { customerOf, forgetCustomer, isCustomerMissing } from './shop-customer.ts'
import { expireOthers, expireSession } from './stale-sessions.ts'

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
  const customer = await customerOf(buyer.userId, prepared, world)
  if (!(await expireOthers(prepared, customer, world))) return undefined
  const session = await createSession(buyer.userId, customer, prepared, wanted, world)
  if (!session) return undefined
  const url = session.url ?? ''
  if (await world.store.noteCheckout(prepared.checkout_id, session.id, url)) return url
  await expireSession(session.id, world)
  return undefined
}

/** Asked twice at once, Stripe makes one session: both have the key of one checkout. */
async function createSession(
  userId: string,
  customer: string,
  prepared: PreparedCheckout,
  { return_urls }: Wanted,
  world: ShopWorld,
): Promise<Stripe.Checkout.Session | undefined> {
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
  try {
    // With the customer in the key: another one after the first was deleted is another request.
    return await world.stripe.checkout.sessions.create(params, {
      idempotencyKey: `checkout:${checkout_id}:${customer}`,
    })
  } catch (error) {
    if (!isCustomerMissing(error)) throw error
    await forgetCustomer(customer, world)
    return undefined
  }
}
