/** What the billing endpoint needs from outside: what may be bought in SQL, and Stripe. */
import type Stripe from 'stripe'
import type { UserCaller } from '../auth/verify-user-token.ts'
import type { Reading } from './reading.ts'
import type { ReadingOutcome } from './reading-database.ts'

export type Buyer = { userId: string; sessionId: string }

/** By our own ids: exactly one of the two. */
export type Wanted = {
  plan_price: string | null
  credit_pack: string | null
  return_urls: { success_url: string; cancel_url: string }
}

/** A checkout as private.prepare_checkout decides it. */
export type PreparedCheckout = {
  checkout_id: string
  customer_id: string | null
  /** The idempotency key to make a customer with. */
  customer_key: string
  stripe_price_id: string
  mode: 'payment' | 'subscription'
  trial_days: number
  /** Set when a session was made for it already. */
  url: string | null
  /** Sessions of checkouts that were given up; nobody may complete them any more. */
  stale_sessions: string[]
  /** Unix seconds. */
  expires_at: number
}

export type BillingStore = {
  prepareCheckout(buyer: Buyer, wanted: Wanted): Promise<PreparedCheckout>
  preparePortal(buyer: Buyer): Promise<string>
  /** The customer that counts, which is another when somebody was faster. */
  linkCustomer(userId: string, customerId: string): Promise<string>
  /** False when the checkout was given up meanwhile. */
  noteCheckout(checkoutId: string, sessionId: string, url: string): Promise<boolean>
  /** Stripe answered an error, and would again: the next try gets other idempotency keys. */
  failCheckout(checkoutId: string): Promise<void>
  emailOf(userId: string): Promise<string | null>
  databaseTime(): Promise<string>
  applyReadings(readings: Reading[]): Promise<ReadingOutcome[]>
}

export type BillingWorld = {
  verifyUserToken(token: string): Promise<UserCaller>
  store: BillingStore
  /** Undefined when this deployment has no Stripe account. */
  stripe: Stripe | undefined
  livemode: boolean
  returnUrls: readonly string[]
  now(): number
  newId(): string
  log(line: Record<string, unknown>): void
}

/** The world once it is known that Stripe is set up. */
export type ShopWorld = { store: BillingStore; stripe: Stripe; livemode: boolean }
