/** What Stripe said of an object at a time: the one form in which the database takes it. Amounts in the smallest unit, times in Unix seconds. */
import type { CheckoutSessionReading } from './read-checkout-session.ts'
import type { CustomerReading } from './read-customer.ts'
import type { InvoiceReading } from './read-invoice.ts'
import type { DisputeReading, RefundReading } from './read-money-back.ts'
import type { SubscriptionReading } from './read-subscription.ts'

export type Reading =
  | CheckoutSessionReading
  | CustomerReading
  | DisputeReading
  | InvoiceReading
  | RefundReading
  | SubscriptionReading
