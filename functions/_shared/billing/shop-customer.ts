/** A user's customer at Stripe: one at a time, made with the first purchase, and known by the metadata that we write. */
import Stripe from 'stripe'
import { AppError } from '../errors.ts'
import type { PreparedCheckout, ShopWorld } from './billing-world.ts'
import { customerReading } from './read-customer.ts'
import { createStripeReader } from './stripe-reader.ts'

/** Whoever asks at the same time gets the same customer: of Stripe by the key, and of SQL, which keeps the first. */
export async function customerOf(
  userId: string,
  { customer_id, customer_key }: PreparedCheckout,
  { store, stripe }: ShopWorld,
): Promise<string> {
  if (customer_id !== null) return customer_id
  const { id } = await stripe.customers.create(
    { metadata: { palisade_user_id: userId } },
    { idempotencyKey: customer_key },
  )
  const linked = await store.linkCustomer(userId, id)
  // Not with the creation: an address that changed in between would make the key another request's.
  const email = await store.emailOf(userId)
  if (email !== null && linked === id) await setEmail(id, email, stripe)
  return linked
}

/** Stripe refuses some addresses that Auth takes, and asks for one itself when it has none. */
async function setEmail(id: string, email: string, stripe: Stripe): Promise<void> {
  try {
    await stripe.customers.update(id, { email })
  } catch (error) {
    if (!(error instanceof Stripe.errors.StripeInvalidRequestError && error.param === 'email')) throw error
  }
}

export const isCustomerMissing = (error: unknown): boolean =>
  error instanceof Stripe.errors.StripeInvalidRequestError &&
  error.code === 'resource_missing' &&
  error.param === 'customer'

/**
 * The customer was deleted in Stripe, and the event that says so is not here yet. Only what Stripe says of it counts: one that was
 * deleted still answers, and one that is unknown is none of this key's account, whose subscriptions may go on in another.
 */
export async function forgetCustomer(
  id: string,
  cause: unknown,
  { store, stripe, livemode }: ShopWorld,
): Promise<void> {
  const origin = { read_at: await store.databaseTime(), deleted: false }
  const raw = await createStripeReader(stripe).customer(id)
  const reading = raw === undefined ? undefined : customerReading(raw, origin, livemode)
  if (!reading?.deleted) throw new AppError('billing_unavailable', { cause })
  await store.applyReadings([reading])
}
