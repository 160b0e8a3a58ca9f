/** Everything that Stripe has of each kind, a page at a time, as whole as single objects are read. */
import type Stripe from 'stripe'
import type { Kind } from './reading-kinds.ts'
import { settleEach } from './settle-each.ts'
import { completeInvoice, completeSession, readInvoice } from './stripe-reader.ts'

export type Page = {
  objects: { id: string }[]
  /** What is in the list, and could not be read whole. */
  failed?: { id: string; error: unknown }[]
  next: string | undefined
}
export type Listing = { kind: Kind; page(after: string | undefined): Promise<Page> }

/** Stripe lets a key ask so often a second, and customers wait for answers, too. */
const readAtOnce = 5

/**
 * In the order in which they are understood: whose a payment is, its subscription or session says. `since` is in Unix seconds,
 * undefined is everything. Subscriptions that live and invoices that are open are listed whenever they were made.
 */
export function listings(stripe: Stripe, since: number | undefined): Listing[] {
  const made = since === undefined ? {} : { created: { gte: since } }
  const { subscriptions, checkout, refunds, disputes, customers } = stripe
  const money = { expand: ['data.charge', 'data.payment_intent'], ...made }
  const sessions = ['data.line_items', 'data.payment_intent', 'data.payment_intent.latest_charge']
  const whole = (invoice: Stripe.Invoice) =>
    invoice.status === 'open' ? readInvoice(stripe, invoice.id) : completeInvoice(stripe, invoice)
  const all: Listing[] = [
    paged('subscription', (page) => subscriptions.list({ ...page, status: 'all', ...made })),
    paged(
      'checkout_session',
      (page) => checkout.sessions.list({ ...page, status: 'complete', expand: sessions, ...made }),
      (session) => completeSession(stripe, session),
    ),
    paged('invoice', (page) => listInvoices(stripe, { ...page, ...made }), whole),
    paged('refund', (page) => refunds.list({ ...page, ...money })),
    paged('dispute', (page) => disputes.list({ ...page, ...money })),
  ]
  if (since === undefined) return [paged('customer', (page) => customers.list(page)), ...all]
  return [
    paged('subscription', (page) => subscriptions.list(page)),
    paged('invoice', (page) => listInvoices(stripe, { ...page, status: 'open' }), whole),
    ...all,
  ]
}

const listInvoices = (stripe: Stripe, params: Stripe.InvoiceListParams) =>
  stripe.invoices.list({ ...params, expand: ['data.payments'] })

function paged<T extends { id: string }>(
  kind: Kind,
  list: (page: { limit: number; starting_after?: string }) => Promise<{ data: T[]; has_more: boolean }>,
  complete?: (object: T) => Promise<{ id: string }>,
): Listing {
  return {
    kind,
    page: async (after) => {
      const { data, has_more } = await list({ limit: 100, ...(after !== undefined && { starting_after: after }) })
      const next = has_more ? data.at(-1)?.id : undefined
      if (!complete) return { objects: data, failed: [], next }
      const objects: { id: string }[] = []
      const failed: { id: string; error: unknown }[] = []
      for (const [place, one] of (await settleEach(data, readAtOnce, complete)).entries()) {
        if (one.ok) objects.push(one.value)
        else failed.push({ id: data[place]?.id ?? '', error: one.error })
      }
      return { objects, failed, next }
    },
  }
}
