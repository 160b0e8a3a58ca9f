/** What Stripe said of an object at a time: the one form in which the database takes it. Amounts in the smallest unit, times in Unix seconds. */
import { z } from 'zod'
import { checkoutSessionReading, invoiceReading } from './read-payments.ts'
import { creditNoteReading, disputeReading, refundReading } from './read-returns.ts'
import { common, metadata, type Origin, reference, seconds } from './stripe-shapes.ts'

export type Reading =
  | ReturnType<typeof checkoutSessionReading>
  | ReturnType<typeof creditNoteReading>
  | ReturnType<typeof customerReading>
  | ReturnType<typeof disputeReading>
  | ReturnType<typeof invoiceReading>
  | ReturnType<typeof refundReading>
  | ReturnType<typeof subscriptionReading>

/** The kinds of objects that readings are of. */
export type Kind = Reading['object']

/** How Stripe's form of each is read. `livemode` is that of the key, for objects that do not say it. */
export const makeReading: Record<Kind, (raw: unknown, origin: Origin, livemode: boolean) => Reading> = {
  customer: customerReading,
  subscription: subscriptionReading,
  checkout_session: checkoutSessionReading,
  invoice: invoiceReading,
  refund: refundReading,
  dispute: disputeReading,
  credit_note: creditNoteReading,
}

const customer = z.object({
  id: z.string(),
  livemode: z.boolean().optional(),
  deleted: z.boolean().optional(),
  metadata: metadata.optional(),
})

/** One that was deleted answers with its id and nothing else. */
export function customerReading(raw: unknown, { read_at, deleted }: Origin, livemode: boolean) {
  const read = customer.parse(raw)
  const origin = { read_at, deleted: deleted || read.deleted === true }
  return {
    ...common('customer', { id: read.id, livemode: read.livemode ?? livemode }, read.id, origin),
    user_id: read.metadata?.user_id ?? null,
  }
}

/** A price with the product that it is of; by its id alone where an event of an older version has no more. */
const price = z
  .union([z.string().transform((id) => ({ id, product: null })), z.object({ id: z.string(), product: reference })])
  .nullish()
const item = z.object({
  id: z.string(),
  price,
  plan: reference,
  quantity: z.int().nullish(),
  current_period_start: seconds,
  current_period_end: seconds,
})
const subscription = z.object({
  id: z.string(),
  livemode: z.boolean(),
  customer: reference,
  metadata,
  status: z.string(),
  items: z.object({ data: z.array(item) }),
  current_period_start: seconds,
  current_period_end: seconds,
  cancel_at_period_end: z.boolean().nullish(),
  cancel_at: seconds,
  canceled_at: seconds,
  ended_at: seconds,
  trial_start: seconds,
  trial_end: seconds,
  start_date: seconds,
  created: seconds,
  pause_collection: z.unknown(),
  latest_invoice: reference,
})

const hasEnded = (status: string) => status === 'canceled' || status === 'incomplete_expired'

/**
 * One that Stripe has no more entitles to nothing, whatever the event still said of it. Its periods are at the items since
 * 2025-03-31.basil, and were at the top before.
 */
export function subscriptionReading(raw: unknown, origin: Origin) {
  const read = subscription.parse(raw)
  const { items, latest_invoice, start_date, created, pause_collection, cancel_at_period_end } = read
  const status = origin.deleted && !hasEnded(read.status) ? 'canceled' : read.status
  return {
    ...common('subscription', read, read.customer, origin),
    user_id: read.metadata.user_id,
    status,
    items: items.data.map(({ id, price, plan, quantity, current_period_start, current_period_end }) => ({
      id,
      price_id: price?.id ?? plan,
      product_id: price?.product ?? null,
      quantity: quantity ?? 1,
      current_period_start: current_period_start ?? read.current_period_start,
      current_period_end: current_period_end ?? read.current_period_end,
    })),
    cancel_at_period_end: cancel_at_period_end ?? false,
    cancel_at: read.cancel_at,
    canceled_at: read.canceled_at,
    ended_at: read.ended_at,
    trial_start: read.trial_start,
    trial_end: read.trial_end,
    started_at: start_date ?? created,
    is_paused: status === 'paused' || (pause_collection ?? null) !== null,
    latest_invoice_id: latest_invoice,
  }
}
