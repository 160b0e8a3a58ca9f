/** The kinds of objects that readings are of: how Stripe's form of each is read, and how one is fetched. */
import { checkoutSessionReading } from './read-checkout-session.ts'
import { customerReading } from './read-customer.ts'
import { invoiceReading } from './read-invoice.ts'
import { disputeReading, refundReading } from './read-money-back.ts'
import { subscriptionReading } from './read-subscription.ts'
import type { Reading } from './reading.ts'
import type { StripeReader } from './stripe-reader.ts'
import type { Origin } from './stripe-shapes.ts'

export type Kind = Reading['object']

/** `livemode` is that of the key, for objects that do not say it. */
export const makeReading: Record<Kind, (raw: unknown, origin: Origin, livemode: boolean) => Reading> = {
  customer: customerReading,
  subscription: subscriptionReading,
  checkout_session: checkoutSessionReading,
  invoice: invoiceReading,
  refund: refundReading,
  dispute: disputeReading,
}

/** Undefined when Stripe has it not. */
export const fetchObject = (reader: StripeReader, kind: Kind, id: string): Promise<unknown> =>
  reader[kind === 'checkout_session' ? 'checkoutSession' : kind](id)
