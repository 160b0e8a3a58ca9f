/** A user's customer at Stripe: one at a time, made with the first purchase, and known by the metadata that we write. */
import Stripe from 'stripe'
import type { PreparedCheckout, ShopWorld } from './billing-world.ts'
import { customerReading } from './read-customer.ts'

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
  // Not with the creation: an address that changed in between would make the key another request's.
  const email = await store.emailOf(userId)
  if (email !== null) await stripe.customers.update(id, { email })
  return store.linkCustomer(userId, id)
}

export const isCustomerMissing = (error: unknown): boolean =>
  error instanceof Stripe.errors.StripeInvalidRequestError &&
  error.code === 'resource_missing' &&
  error.param === 'customer'

/** The customer was deleted in Stripe, and the event that says so is not here yet. */
export async function forgetCustomer(id: string, { store, livemode }: ShopWorld): Promise<void> {
  const origin = { read_at: await store.databaseTime(), deleted: true }
  await store.applyReadings([customerReading({ id }, origin, livemode)])
}
