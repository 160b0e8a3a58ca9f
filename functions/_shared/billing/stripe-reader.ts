/** Reads objects from Stripe, one by one or all there are of a kind: whole, with every page of the lists inside. */
import Stripe from 'stripe'
import type { Kind } from './readings.ts'

export type StripeReader = ReturnType<typeof createStripeReader>

const most = 1_000

/** Undefined for what Stripe has not, or not any more. What comes is read by functions that know Stripe's older shapes, too. */
export function createStripeReader(stripe: Stripe) {
  return {
    customer: (id: string) => orMissing(stripe.customers.retrieve(id)),
    subscription: (id: string) => orMissing(stripe.subscriptions.retrieve(id)),
    invoice: (id: string) => orMissing(readInvoice(stripe, id)),
    checkoutSession: (id: string) => orMissing(readSession(stripe, id)),
    refund: (id: string) => orMissing(readRefund(stripe, id)),
    refundsOfCharge: async (charge: string): Promise<unknown[]> => {
      const listed = stripe.refunds.list({ charge, limit: 100, expand: ['data.charge', 'data.payment_intent'] })
      const refunds = await listed.autoPagingToArray({ limit: most })
      return await Promise.all(refunds.map((refund) => completeRefund(stripe, refund)))
    },
    dispute: (id: string) => orMissing(readDispute(stripe, id)),
    creditNote: (id: string) => orMissing(readCreditNote(stripe, id)),
    /** The ids of the sessions that a payment intent pays. */
    sessionsOfIntent: async (payment_intent: string): Promise<string[]> => {
      const { data } = await stripe.checkout.sessions.list({ payment_intent, limit: 10 })
      return data.map(({ id }) => id)
    },
  }
}

export const isMissing = (error: unknown): boolean =>
  error instanceof Stripe.errors.StripeInvalidRequestError && error.code === 'resource_missing'

async function orMissing(asked: Promise<unknown>): Promise<unknown> {
  try {
    return await asked
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
}

/**
 * With how each payment stands: a list of invoices cannot be asked for that much. A payment of the type charge has no intent, and
 * what is not there may be refused: then the payments are read as they are.
 */
async function readInvoice(stripe: Stripe, id: string): Promise<Stripe.Invoice> {
  const expand = ['payments', 'payments.data.payment.payment_intent']
  const asked = stripe.invoices.retrieve(id, { expand }).catch((error: unknown) => {
    if (!isUnexpandable(error)) throw error
    return stripe.invoices.retrieve(id, { expand: ['payments'] })
  })
  return completeInvoice(stripe, await asked)
}

const isUnexpandable = (error: unknown): boolean =>
  error instanceof Stripe.errors.StripeInvalidRequestError && error.statusCode === 400

async function readSession(stripe: Stripe, id: string): Promise<Stripe.Checkout.Session> {
  const expand = ['line_items', 'payment_intent', 'payment_intent.latest_charge']
  return completeSession(stripe, await stripe.checkout.sessions.retrieve(id, { expand }))
}

/** Stripe sends the first ten lines and payments with an invoice. */
async function completeInvoice(stripe: Stripe, invoice: Stripe.Invoice): Promise<Stripe.Invoice> {
  const { id, lines, payments } = invoice
  if (lines.has_more)
    lines.data = await stripe.invoices.listLineItems(id, { limit: 100 }).autoPagingToArray({ limit: most })
  if (payments?.has_more)
    payments.data = await stripe.invoicePayments.list({ invoice: id, limit: 100 }).autoPagingToArray({ limit: most })
  return invoice
}

const withPayment = ['charge', 'payment_intent']

const readRefund = async (stripe: Stripe, id: string): Promise<Stripe.Refund> =>
  completeRefund(stripe, await stripe.refunds.retrieve(id, { expand: withPayment }))

const readDispute = async (stripe: Stripe, id: string): Promise<Stripe.Dispute> =>
  completeDispute(stripe, await stripe.disputes.retrieve(id, { expand: withPayment }))

const readCreditNote = async (stripe: Stripe, id: string): Promise<Stripe.CreditNote> =>
  completeCreditNote(stripe, await stripe.creditNotes.retrieve(id))

/** Only what went back in another currency than it came is asked for what moved on our balance. */
const isExchanged = ({ charge, currency }: { charge: string | Stripe.Charge | null; currency: string }): boolean =>
  charge !== null && typeof charge === 'object' && charge.currency !== currency

async function completeRefund(stripe: Stripe, refund: Stripe.Refund): Promise<Stripe.Refund> {
  const expand = [...withPayment, 'charge.balance_transaction', 'balance_transaction']
  return isExchanged(refund) ? await unlessRefused(refund, stripe.refunds.retrieve(refund.id, { expand })) : refund
}

async function completeDispute(stripe: Stripe, dispute: Stripe.Dispute): Promise<Stripe.Dispute> {
  const expand = [...withPayment, 'charge.balance_transaction']
  return isExchanged(dispute) ? await unlessRefused(dispute, stripe.disputes.retrieve(dispute.id, { expand })) : dispute
}

/** A key that may not read the balance: the object is known all the same, and that its share is not is said elsewhere. */
async function unlessRefused<T>(known: T, asked: Promise<T>): Promise<T> {
  try {
    return await asked
  } catch (error) {
    if (error instanceof Stripe.errors.StripePermissionError) return known
    throw error
  }
}

async function completeCreditNote(stripe: Stripe, note: Stripe.CreditNote): Promise<Stripe.CreditNote> {
  const { id, lines } = note
  if (lines.has_more)
    lines.data = await stripe.creditNotes.listLineItems(id, { limit: 100 }).autoPagingToArray({ limit: most })
  return note
}

async function completeSession(stripe: Stripe, session: Stripe.Checkout.Session): Promise<Stripe.Checkout.Session> {
  const { id, line_items } = session
  if (line_items?.has_more)
    line_items.data = await stripe.checkout.sessions
      .listLineItems(id, { limit: 100 })
      .autoPagingToArray({ limit: most })
  return session
}

type Page = {
  objects: { id: string }[]
  /** What is in the list, and could not be read whole. */
  failed?: { id: string; error: unknown }[]
  next: string | undefined
}
export type Listing = { kind: Kind; page(after: string | undefined): Promise<Page> }

/** Stripe lets a key ask so often a second, and customers wait for answers, too. */
const readAtOnce = 5

/**
 * Everything that Stripe has of each kind, a page at a time, as whole as single objects are read.
 *
 * In the order in which they are understood: whose a payment is, its subscription or session says. `since` is in Unix seconds,
 * undefined is everything. Subscriptions that live and invoices that are open are listed whenever they were made.
 */
export function listings(stripe: Stripe, since: number | undefined): Listing[] {
  const made = since === undefined ? {} : { created: { gte: since } }
  const { subscriptions, checkout, refunds, disputes, creditNotes, customers } = stripe
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
    paged(
      'refund',
      (page) => refunds.list({ ...page, ...money }),
      (refund) => completeRefund(stripe, refund),
    ),
    paged(
      'dispute',
      (page) => disputes.list({ ...page, ...money }),
      (dispute) => completeDispute(stripe, dispute),
    ),
    paged(
      'credit_note',
      (page) => creditNotes.list({ ...page, ...made }),
      (note) => completeCreditNote(stripe, note),
    ),
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

type Settled<T> = { ok: true; value: T } | { ok: false; error: unknown }

/** Does something for each item, so many at a time. One that fails says so in its place, and stops no other. */
export async function settleEach<Item, T>(
  items: Item[],
  atOnce: number,
  act: (item: Item) => T | Promise<T>,
): Promise<Settled<T>[]> {
  const settled: Settled<T>[] = []
  const left = [...items.entries()]
  const work = async () => {
    for (let next = left.shift(); next; next = left.shift()) {
      const [place, item] = next
      try {
        settled[place] = { ok: true, value: await act(item) }
      } catch (error) {
        settled[place] = { ok: false, error }
      }
    }
  }
  await Promise.all(Array.from({ length: atOnce }, work))
  return settled
}
