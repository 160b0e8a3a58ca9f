/** How the account is set up: by the control API, in the place of Stripe's dashboard. */
import Stripe from 'stripe'

export type Settings = {
  /** Days between one failed try of an invoice and the next; after the last one `after_dunning` happens. */
  dunning_days: number[]
  after_dunning: 'cancel' | 'unpaid' | 'past_due'
  /** How long the invoice of a renewal stays a draft. */
  draft_seconds: number
  upcoming_days: number
  /** How the portal writes down an end: both are seen at Stripe. */
  portal_cancels: 'at_period_end' | 'at'
  /** With which status a refund begins. */
  refund_status: 'succeeded' | 'pending' | 'requires_action'
  /** Whether prorations of new subscriptions are net of discounts, or gross with their discounts listed. */
  proration_discounts: 'included' | 'itemized'
  /** What an invoice is paid by: payments of the type `charge` have no payment intent. */
  invoice_payments: 'payment_intent' | 'charge'
  /** Whether the part of a period before an anchor is told as a proration. */
  stub_is_proration: boolean
  /** The account's own currency, and how much of it a unit of any other is worth; null settles each in itself. */
  settlement: { currency: string; rate: number } | null
  /** Of the events' payloads; objects keep the shape of the pinned version. */
  api_version: string
}

export const freshSettings = (): Settings => ({
  dunning_days: [3, 5, 7],
  after_dunning: 'cancel',
  draft_seconds: 3600,
  upcoming_days: 3,
  portal_cancels: 'at_period_end',
  refund_status: 'succeeded',
  proration_discounts: 'included',
  invoice_payments: 'payment_intent',
  stub_is_proration: true,
  settlement: null,
  api_version: Stripe.API_VERSION,
})
