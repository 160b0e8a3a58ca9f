/** Everything that Stripe has of each kind, a page at a time, as whole as single objects are read. */
import type Stripe from 'stripe'
import type { Kind } from './reading-kinds.ts'
import { completeInvoice, completeSession, readInvoice } from './stripe-reader.ts'

type Page = { objects: { id: string }[]; next: string | undefined }
export type Listing = { kind: Kind; page(after: string | undefined): Promise<Page> }

type Listed = { data: { id: string }[]; has_more: boolean }

/**
 * In the order in which they are understood: whose a payment is, its subscription or session says. `since` is in Unix seconds,
 * undefined is everything. Subscriptions that live and invoices that are open are listed whenever they were made.
 */
export function listings(stripe: Stripe, since: number | undefined): Listing[] {
  const made = since === undefined ? {} : { created: { gte: since } }
  const { subscriptions, checkout, refunds, disputes, customers } = stripe
  const money = { expand: ['data.charge', 'data.payment_intent'], ...made }
  const sessions = ['data.line_items', 'data.payment_intent', 'data.payment_intent.latest_charge']
  const all: Listing[] = [
    paged('subscription', (page) => subscriptions.list({ ...page, status: 'all', ...made })),
    paged('checkout_session', async (page) => {
      const list = await checkout.sessions.list({ ...page, status: 'complete', expand: sessions, ...made })
      return { ...list, data: await Promise.all(list.data.map((session) => completeSession(stripe, session))) }
    }),
    paged('invoice', (page) => listInvoices(stripe, { ...page, ...made })),
    paged('refund', (page) => refunds.list({ ...page, ...money })),
    paged('dispute', (page) => disputes.list({ ...page, ...money })),
  ]
  if (since === undefined) return [paged('customer', (page) => customers.list(page)), ...all]
  return [
    paged('subscription', (page) => subscriptions.list(page)),
    paged('invoice', (page) => listInvoices(stripe, { ...page, status: 'open' })),
    ...all,
  ]
}

async function listInvoices(stripe: Stripe, params: Stripe.InvoiceListParams): Promise<Listed> {
  const list = await stripe.invoices.list({ ...params, expand: ['data.payments'] })
  const whole = (invoice: Stripe.Invoice) =>
    invoice.status === 'open' ? readInvoice(stripe, invoice.id) : completeInvoice(stripe, invoice)
  return { ...list, data: await Promise.all(list.data.map(whole)) }
}

function paged(kind: Kind, list: (page: { limit: number; starting_after?: string }) => Promise<Listed>): Listing {
  return {
    kind,
    page: async (after) => {
      const { data, has_more } = await list({ limit: 100, ...(after !== undefined && { starting_after: after }) })
      return { objects: data, next: has_more ? data.at(-1)?.id : undefined }
    },
  }
}
