/** A page of Stripe's where a plan or a credit pack is paid. What may be bought, at what price and with what trial, SQL decides. */
import Stripe from 'stripe'
import type { Asker } from '../auth/identify-caller.ts'
import { AppError } from '../errors.ts'
import type { BillingDatabase, PreparedCheckout, Wanted } from './billing-database.ts'
import { readObjects } from './read-objects.ts'
import { customerReading, subscriptionReading } from './readings.ts'
import { createStripeReader } from './stripe-reader.ts'

export type ShopWorld = {
  database: BillingDatabase
  stripe: Stripe
  livemode: boolean
}

const attempts = 3

/** Begins anew when something changed under it: another checkout, a customer that is gone, a session that was paid meanwhile. */
export async function startCheckout(buyer: Asker, wanted: Wanted, world: ShopWorld): Promise<string> {
  for (let attempt = 1; attempt <= attempts; attempt += 1) {
    const url = await tryCheckout(buyer, wanted, world)
    if (url !== undefined) return url
  }
  throw new AppError('billing_unavailable')
}

async function tryCheckout(buyer: Asker, wanted: Wanted, world: ShopWorld): Promise<string | undefined> {
  const prepared = await world.database.prepareCheckout(buyer, wanted)
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
  if (await world.database.noteCheckout(prepared.checkout_id, session.id, url)) return url
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
    if (status !== undefined && status !== 409) await world.database.failCheckout(checkout_id)
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

/**
 * A user's customer at Stripe: one at a time, made with the first purchase, and known by the metadata that we write. Whoever asks
 * at the same time gets the same customer: of Stripe by the key, and of SQL, which keeps the first.
 */
async function customerOf(
  userId: string,
  { customer_id, customer_key }: PreparedCheckout,
  { database, stripe }: ShopWorld,
): Promise<string> {
  if (customer_id !== null) return customer_id
  const { id } = await stripe.customers.create(
    { metadata: { palisade_user_id: userId } },
    { idempotencyKey: customer_key },
  )
  const linked = await database.linkCustomer(userId, id)
  // Not with the creation: an address that changed in between would make the key another request's.
  const email = await database.emailOf(userId)
  if (email !== null && linked === id) await setEmail(id, email, stripe)
  return linked
}

/** Stripe refuses some addresses that Auth takes, and asks for one itself when it has none. */
export async function setEmail(id: string, email: string, stripe: Stripe): Promise<void> {
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
  { database, stripe, livemode }: ShopWorld,
): Promise<void> {
  const origin = { read_at: await database.databaseTime(), deleted: false }
  const raw = await createStripeReader(stripe).customer(id)
  const reading = raw === undefined ? undefined : customerReading(raw, origin, livemode)
  if (!reading?.deleted) throw new AppError('billing_unavailable', { cause })
  await database.applyReadings([reading])
}

/**
 * What must be settled before another checkout of a plan begins: two that are completed would be two subscriptions and two trials.
 *
 * False when something was bought that was not known here: it is applied then, and the checkout must be decided anew. After this
 * no earlier session can be completed, and all that the customer has at Stripe is known, however late its events are.
 */
async function settleOthers(
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
async function areSubscriptionsKnown(customer: string, { database, stripe }: ShopWorld): Promise<boolean> {
  const origin = { read_at: await database.databaseTime(), deleted: false }
  const { data } = await stripe.subscriptions.list({ customer, status: 'all', limit: 100 })
  const outcomes = await database.applyReadings(data.map((raw) => subscriptionReading(raw, origin)))
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

async function isOver(id: string, { database, stripe, livemode }: ShopWorld): Promise<boolean> {
  const context = { reader: createStripeReader(stripe), readAt: await database.databaseTime(), livemode }
  const subject = { type: 'checkout.session', object: 'checkout.session', object_id: id, payload: undefined }
  const readings = await readObjects(subject, context)
  const session = readings.find((reading) => reading.object === 'checkout_session')
  if (session?.status === 'complete') await database.applyReadings(readings)
  return session === undefined || session.status === 'expired'
}
