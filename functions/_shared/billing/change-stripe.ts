/** Does at Stripe what must change there because something changed here: see private.stripe_changes. */
import type Stripe from 'stripe'
import { describeFailure } from '../failure.ts'
import type { ClaimedChange } from './billing-database.ts'
import { findPaused, isOurs, resume } from './resume-subscription.ts'
import { expireSession, type ShopWorld, setEmail } from './start-checkout.ts'
import { createStripeReader, isMissing } from './stripe-reader.ts'
import { reference } from './stripe-shapes.ts'

export type ChangeWorld = ShopWorld & {
  /** Epoch milliseconds. */
  now(): number
  log(line: Record<string, unknown>): void
}
export type ChangeCounts = Record<'done' | 'waiting' | 'superseded', number>

const batchSize = 5
/** Below the 60 s that pg_net waits. */
const budgetMs = 40_000

/** Each is on its own: one that fails is tried again later, and says nothing of the others. */
export async function changeStripe(world: ChangeWorld): Promise<ChangeCounts> {
  const until = world.now() + budgetMs
  const counts = { done: 0, waiting: 0, superseded: 0 }
  while (world.now() < until) {
    const changes = await world.database.claimChanges(batchSize)
    if (changes.length === 0) break
    for (const outcome of await Promise.all(changes.map((change) => changeOne(change, world)))) counts[outcome] += 1
  }
  return counts
}

async function changeOne(change: ClaimedChange, world: ChangeWorld) {
  const { customer_id, kind, wanted } = change
  const subscriptions: string[] = []
  try {
    await unlessGone(customer_id, world, () => act(change, subscriptions, world))
    return await world.database.finishChange(change, null, subscriptions)
  } catch (error) {
    const why = describeFailure(error)
    world.log({ level: 'warn', message: 'a change was not made at Stripe', customer_id, kind, wanted, cause: why })
    return world.database.finishChange(change, why, subscriptions.length > 0 ? subscriptions : null)
  }
}

/**
 * A customer that was deleted at Stripe has neither subscriptions nor an address. One whom Stripe does not know is an error: the key
 * is of another account, where they may go on paying.
 */
async function unlessGone(customer: string, { stripe }: ChangeWorld, ask: () => Promise<void>): Promise<void> {
  try {
    await ask()
  } catch (error) {
    if (!isMissing(error) || !(await isDeleted(customer, stripe))) throw error
  }
}

async function isDeleted(id: string, stripe: Stripe): Promise<boolean> {
  const found = await createStripeReader(stripe).customer(id)
  return typeof found === 'object' && found !== null && 'deleted' in found && found.deleted === true
}

async function act(change: ClaimedChange, subscriptions: string[], world: ChangeWorld): Promise<void> {
  const { customer_id, kind, email } = change
  if (kind === 'email') {
    // Whoever has none that is confirmed by now tells it when there is one.
    if (email !== null) await setEmail(customer_id, email, world.stripe)
  } else if (kind === 'resumption') await resumeWithCard(customer_id, subscriptions, world)
  else await changeSubscriptions(change, subscriptions, world)
}

/** Nothing when it goes on already, or waits for the payment of its invoice. */
async function resumeWithCard(customer: string, subscriptions: string[], world: ChangeWorld): Promise<void> {
  const paused = await findPaused(customer, world)
  if (!paused || paused.payUrl !== null || (paused.card === null && !paused.hasCard)) return
  subscriptions.push(paused.subscription.id)
  await resume(paused, world)
}

/** First nothing more can be bought, then what was bought ends. What another product sold to the same customer is none of ours. */
async function changeSubscriptions(
  { customer_id: customer, wanted }: ClaimedChange,
  subscriptions: string[],
  world: ChangeWorld,
): Promise<void> {
  const areClosed = wanted === 'undo' || (await closePages(customer, world))
  const products = await world.database.ourProducts()
  const mine: Stripe.Subscription[] = []
  for await (const one of world.stripe.subscriptions.list({ customer, limit: 100 }))
    if (isOurs(one, products) && !['canceled', 'incomplete_expired'].includes(one.status)) mine.push(one)
  // All are named before the first may fail.
  subscriptions.push(...mine.map(({ id }) => id))
  for (const one of mine) {
    if (wanted === 'undo') await goOn(one, world.stripe)
    else await endSubscription(one, wanted === 'now', world.stripe)
  }
  if (!areClosed) throw Object.assign(new Error('a checkout is being completed'), { code: 'checkout_in_progress' })
}

/** False when one is being paid at this moment, and must be looked at again. */
async function closePages(customer: string, world: ChangeWorld): Promise<boolean> {
  let areClosed = true
  for await (const { id, metadata } of world.stripe.checkout.sessions.list({ customer, status: 'open', limit: 100 }))
    if (metadata?.palisade_user_id !== undefined) areClosed = (await expireSession(id, world)) && areClosed
  return areClosed
}

/** What tells ours from a cancellation by the customer, which no reinstatement takes back. */
const mark = 'palisade_ended_with_account'

/** Only a period that is paid for, or a trial, has an end to wait for; what is owed or paused ends at once. */
async function endSubscription(subscription: Stripe.Subscription, isNow: boolean, stripe: Stripe): Promise<void> {
  const { id, status } = subscription
  if (isNow || (status !== 'active' && status !== 'trialing')) await stripe.subscriptions.cancel(id)
  else if (!endsByItself(subscription)) {
    // A change that is planned, as of a downgrade in the portal, keeps Stripe from taking an end.
    const schedule = reference.parse(subscription.schedule)
    if (schedule !== null) await stripe.subscriptionSchedules.release(schedule)
    await stripe.subscriptions.update(id, { cancel_at_period_end: true, metadata: { [mark]: 'true' } })
  }
}

function endsByItself({ cancel_at_period_end, cancel_at, items }: Stripe.Subscription): boolean {
  const ends = items.data.map(({ current_period_end }) => current_period_end)
  return cancel_at_period_end || (cancel_at !== null && cancel_at <= Math.min(...ends))
}

async function goOn({ id, cancel_at, cancel_at_period_end, metadata }: Stripe.Subscription, stripe: Stripe) {
  if (metadata[mark] === undefined) return
  const isEnding = cancel_at_period_end || cancel_at !== null
  await stripe.subscriptions.update(id, {
    ...(isEnding && { cancel_at_period_end: false }),
    metadata: { [mark]: '' },
  })
}
