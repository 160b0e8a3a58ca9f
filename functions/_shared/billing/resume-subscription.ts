/** A subscription that Stripe has paused, such as after a trial that ended without a card, goes on once there is something to pay with. */
import Stripe from 'stripe'
import { z } from 'zod'
import { subscriptionReading } from './readings.ts'
import type { ShopWorld } from './start-checkout.ts'
import { reference } from './stripe-shapes.ts'

export type Paused = {
  subscription: Stripe.Subscription
  /** Whether the subscription or the customer has a way to pay. */
  hasCard: boolean
  /** A card that the customer gave for this subscription, and that nothing is paid with yet. */
  card: string | null
  /** Where the invoice is paid that it waits for. */
  payUrl: string | null
}
export type Resumed = { state: string; url: string | null }

/** Ours by the mark that we write, or by what is sold: another product may be sold to the same customer. */
export const isOurs = ({ metadata, items }: Stripe.Subscription, products: Set<string>): boolean =>
  metadata.palisade_user_id !== undefined ||
  items.data.some(({ price }) => products.has(reference.parse(price.product) ?? ''))

/** The latest that is paused; undefined when there is none. */
export async function findPaused(customer: string, { database, stripe }: ShopWorld): Promise<Paused | undefined> {
  const products = await database.ourProducts()
  const expand = ['data.latest_invoice', 'data.customer']
  const { data } = await stripe.subscriptions.list({ customer, status: 'paused', limit: 100, expand })
  const subscription = data.find((one) => isOurs(one, products))
  if (!subscription) return undefined
  const hasCard = waysToPay.parse(subscription)
  const card = hasCard ? null : await cardGivenFor(subscription.id, customer, stripe)
  return { subscription, hasCard, card, payUrl: payUrlOf(subscription) }
}

const payer = z.object({ default_source: reference, invoice_settings: z.object({ default_payment_method: reference }) })
const waysToPay = z
  .object({ default_payment_method: reference, default_source: reference, customer: z.unknown() })
  .transform(({ default_payment_method, default_source, customer }) => {
    const { data } = payer.safeParse(customer)
    const ways = [default_payment_method, default_source, data?.invoice_settings.default_payment_method]
    return [...ways, data?.default_source].some((way) => typeof way === 'string')
  })

const openInvoice = z.object({ status: z.literal('open'), hosted_invoice_url: z.string() })
const payUrlOf = ({ latest_invoice }: Stripe.Subscription): string | null =>
  openInvoice.safeParse(latest_invoice).data?.hosted_invoice_url ?? null

/** Of the page that we sent them to: Stripe keeps the card with the customer, and pays nothing with it by itself. */
async function cardGivenFor(subscription: string, customer: string, stripe: Stripe): Promise<string | null> {
  const expand = ['data.setup_intent']
  const { data } = await stripe.checkout.sessions.list({ customer, status: 'complete', limit: 100, expand })
  const session = data.find(
    ({ mode, metadata }) => mode === 'setup' && metadata?.palisade_subscription_id === subscription,
  )
  return givenCard.safeParse(session?.setup_intent).data?.payment_method ?? null
}
const givenCard = z.object({ payment_method: reference })

/** A page that takes a card, which pays nothing: what it was for, it says by our mark. */
export async function askForCard(
  userId: string,
  { subscription }: Paused,
  urls: { success_url: string; cancel_url: string },
  { stripe }: ShopWorld,
): Promise<Resumed> {
  const { id, currency, status, customer } = subscription
  const metadata = { palisade_user_id: userId, palisade_subscription_id: id }
  const session = await stripe.checkout.sessions.create({
    ...{ mode: 'setup', customer: reference.parse(customer) ?? '', currency, metadata, client_reference_id: userId },
    ...{ setup_intent_data: { metadata }, ...urls },
  })
  return { state: status, url: session.url }
}

/**
 * Goes on with a new period from now, once that is paid for; what Stripe says is applied at once. Asked twice, it is one request:
 * the key is that of the card and of the invoice before.
 */
export async function resume({ subscription, card }: Paused, { database, stripe }: ShopWorld): Promise<Resumed> {
  const { id } = subscription
  if (card !== null) await stripe.subscriptions.update(id, { default_payment_method: card })
  const origin = { read_at: await database.databaseTime(), deleted: false }
  const resumed = await askToResume(subscription, card, stripe)
  await database.applyReadings([subscriptionReading(resumed, origin)])
  return { state: resumed.status, url: resumed.status === 'paused' ? payUrlOf(resumed) : null }
}

/** One whose card is declined stays paused, with an invoice that can be paid by hand. */
async function askToResume({ id, latest_invoice }: Stripe.Subscription, card: string | null, stripe: Stripe) {
  const expand = ['latest_invoice']
  const idempotencyKey = `resume:${id}:${reference.parse(latest_invoice) ?? ''}:${card ?? ''}`
  try {
    return await stripe.subscriptions.resume(
      id,
      { payment_behavior: 'resume_on_payment_success', expand },
      { idempotencyKey },
    )
  } catch (error) {
    if (!(error instanceof Stripe.errors.StripeCardError)) throw error
    return stripe.subscriptions.retrieve(id, { expand })
  }
}
