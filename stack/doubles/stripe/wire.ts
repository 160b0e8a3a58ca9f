/** Stripe's objects as JSON has them: ids in place of what can be expanded, decimals as strings. */

import { randomBytes } from 'node:crypto'
import type Stripe from 'stripe'

/** The types of the stripe package declare what its client hands out; this takes back what the client adds. */
type Wire<T> = string extends T ? Exclude<T, object> : WirePart<T>
type WirePart<T> = T extends Stripe.Decimal
  ? string
  : T extends (infer Item)[]
    ? Wire<Item>[]
    : T extends object
      ? { [Key in keyof T]: Wire<T[Key]> }
      : T

export type Customer = Wire<Stripe.Customer>
export type DeletedCustomer = Wire<Stripe.DeletedCustomer>
export type Product = Wire<Stripe.Product>
export type Price = Wire<Stripe.Price>
export type Session = Wire<Stripe.Checkout.Session>
export type LineItem = Wire<Stripe.LineItem>
export type Subscription = Wire<Stripe.Subscription>
export type SubscriptionItem = Wire<Stripe.SubscriptionItem>
export type Invoice = Wire<Stripe.Invoice>
export type InvoiceLine = Wire<Stripe.InvoiceLineItem>
export type InvoicePayment = Wire<Stripe.InvoicePayment>
export type PaymentIntent = Wire<Stripe.PaymentIntent>
export type Charge = Wire<Stripe.Charge>
export type Refund = Wire<Stripe.Refund>
export type Dispute = Wire<Stripe.Dispute>
export type Portal = Wire<Stripe.BillingPortal.Session>
export type Endpoint = Wire<Stripe.WebhookEndpoint>
export type Coupon = Wire<Stripe.Coupon>
export type PromotionCode = Wire<Stripe.PromotionCode>
export type Discount = Wire<Stripe.Discount>
export type InvoiceItem = Wire<Stripe.InvoiceItem>
/** What changes a customer's credit balance. */
export type BalanceEntry = Wire<Stripe.CustomerBalanceTransaction>
/** What moves on the account itself, in the currency that it is settled in. */
export type MoneyEntry = Wire<Stripe.BalanceTransaction>
export type CreditNote = Wire<Stripe.CreditNote>
export type CreditNoteLine = Wire<Stripe.CreditNoteLineItem>
export type Quote = Wire<Stripe.Quote>
export type TaxRate = Wire<Stripe.TaxRate>
export type TestClock = Wire<Stripe.TestHelpers.TestClock>
export type PaymentMethod = Wire<Stripe.PaymentMethod>
export type SetupIntent = Wire<Stripe.SetupIntent>
export type Metadata = Record<string, string>

type EventFrame = Pick<Stripe.EventBase, 'id' | 'object' | 'created' | 'livemode' | 'pending_webhooks' | 'request'>
/** The package has one type for each event; here the object is whatever it was at that moment. */
export type Event = EventFrame & {
  account?: string
  api_version: string | null
  type: string
  data: { object: unknown; previous_attributes?: unknown }
}

type Words<Text extends string> = Text extends `${infer First} ${infer Rest}` ? First | Words<Rest> : Text

/** These fields, each null: what Stripe shows and the stand-in has nothing to say of. */
export function nulls<Names extends string>(names: Names): Record<Words<Names>, null>
export function nulls(names: string): Record<string, null> {
  return Object.fromEntries(names.split(' ').map((name) => [name, null]))
}

const letters = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'

/**
 * As Stripe's ids look: a prefix that names the kind, and letters that say nothing. `newId('cus')` is cus_…; a prefix that
 * goes on behind its underscore is taken as it is: `newId('in_1')`.
 */
export function newId(prefix: string, length = 24): string {
  let id = prefix.includes('_') ? prefix : `${prefix}_`
  for (const byte of randomBytes(length)) id += letters[byte % letters.length]
  return id
}
