/** Reads single objects from Stripe, whole: with what they refer to, and with every page of the lists inside. */
import Stripe from 'stripe'

/** Undefined for what Stripe has not, or not any more. What comes is read by functions that know Stripe's older shapes, too. */
export type StripeReader = {
  customer(id: string): Promise<unknown>
  subscription(id: string): Promise<unknown>
  invoice(id: string): Promise<unknown>
  checkoutSession(id: string): Promise<unknown>
  refund(id: string): Promise<unknown>
  refundsOfCharge(chargeId: string): Promise<unknown[]>
  dispute(id: string): Promise<unknown>
  /** The ids of the sessions that a payment intent pays. */
  sessionsOfIntent(intentId: string): Promise<string[]>
}

const most = 1_000

export function createStripeReader(stripe: Stripe): StripeReader {
  return {
    customer: (id) => orMissing(stripe.customers.retrieve(id)),
    subscription: (id) => orMissing(stripe.subscriptions.retrieve(id)),
    invoice: (id) => orMissing(readInvoice(stripe, id)),
    checkoutSession: (id) => orMissing(readSession(stripe, id)),
    refund: (id) => orMissing(stripe.refunds.retrieve(id, { expand: ['charge', 'payment_intent'] })),
    refundsOfCharge: (charge) =>
      stripe.refunds
        .list({ charge, limit: 100, expand: ['data.charge', 'data.payment_intent'] })
        .autoPagingToArray({ limit: most }),
    dispute: (id) => orMissing(stripe.disputes.retrieve(id, { expand: ['charge', 'payment_intent'] })),
    sessionsOfIntent: async (payment_intent) => {
      const { data } = await stripe.checkout.sessions.list({ payment_intent, limit: 10 })
      return data.map(({ id }) => id)
    },
  }
}

export const isMissing = (error: unknown): boolean =>
  error instanceof Stripe.errors.StripeInvalidRequestError && error.code === 'resource_missing'

async function orMissing<T>(asked: Promise<T>): Promise<T | undefined> {
  try {
    return await asked
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
}

/** With how each payment stands: a list of invoices cannot be asked for that much. */
export async function readInvoice(stripe: Stripe, id: string): Promise<Stripe.Invoice> {
  const expand = ['payments', 'payments.data.payment.payment_intent']
  return completeInvoice(stripe, await stripe.invoices.retrieve(id, { expand }))
}

async function readSession(stripe: Stripe, id: string): Promise<Stripe.Checkout.Session> {
  const expand = ['line_items', 'payment_intent', 'payment_intent.latest_charge']
  return completeSession(stripe, await stripe.checkout.sessions.retrieve(id, { expand }))
}

/** Stripe sends the first ten lines and payments with an invoice. */
export async function completeInvoice(stripe: Stripe, invoice: Stripe.Invoice): Promise<Stripe.Invoice> {
  const { id, lines, payments } = invoice
  if (lines.has_more)
    lines.data = await stripe.invoices.listLineItems(id, { limit: 100 }).autoPagingToArray({ limit: most })
  if (payments?.has_more)
    payments.data = await stripe.invoicePayments.list({ invoice: id, limit: 100 }).autoPagingToArray({ limit: most })
  return invoice
}

export async function completeSession(
  stripe: Stripe,
  session: Stripe.Checkout.Session,
): Promise<Stripe.Checkout.Session> {
  const { id, line_items } = session
  if (line_items?.has_more)
    line_items.data = await stripe.checkout.sessions
      .listLineItems(id, { limit: 100 })
      .autoPagingToArray({ limit: most })
  return session
}
