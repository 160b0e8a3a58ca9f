/** What was paid, as readings: invoices and checkout sessions, of any version. */
import { z } from 'zod'
import { common, metadata, type Origin, reference, seconds, text } from './stripe-shapes.ts'

const detailed = z.object({ proration: z.boolean().nullish() }).nullish()
const lineOfInvoice = z.object({
  id: z.string(),
  amount: z.int(),
  discount_amounts: z.array(z.object({ amount: z.int() })).nullish(),
  taxes: z.array(z.object({ amount: z.int(), tax_behavior: text })).nullish(),
  tax_amounts: z.array(z.object({ amount: z.int(), inclusive: z.boolean() })).nullish(),
  quantity: z.int().nullish(),
  period: z.object({ start: seconds, end: seconds }),
  pricing: z.object({ price_details: z.object({ price: reference }).nullish() }).nullish(),
  price: reference,
  parent: z.object({ subscription_item_details: detailed, invoice_item_details: detailed }).nullish(),
  proration: z.boolean().nullish(),
})
const intentOfInvoice = z.object({ id: z.string(), status: z.string().optional() })
/** By a payment intent; by a charge that has none; or by a record of money that moved outside of Stripe. */
const paymentOfInvoice = z.object({
  id: z.string(),
  status: z.string(),
  amount_paid: z.int().nullish(),
  payment: z.object({
    type: text,
    payment_intent: z.union([intentOfInvoice, z.string().transform((id) => ({ id }))]).nullish(),
    charge: reference,
    payment_record: reference,
  }),
})
const invoice = z.object({
  id: z.string(),
  livemode: z.boolean(),
  customer: reference,
  parent: z.object({ subscription_details: z.object({ subscription: reference }).nullish() }).nullish(),
  subscription: reference,
  status: text,
  billing_reason: text,
  currency: z.string(),
  total: z.int(),
  amount_due: z.int(),
  amount_paid: z.int(),
  starting_balance: z.int().nullish(),
  ending_balance: z.int().nullish(),
  auto_advance: z.boolean().nullish(),
  last_finalization_error: z.object({ code: text, type: text }).nullish(),
  attempt_count: z.int().nullish(),
  next_payment_attempt: seconds,
  due_date: seconds,
  hosted_invoice_url: text,
  created: z.int(),
  status_transitions: z.object({ paid_at: seconds }).nullish(),
  lines: z.object({ data: z.array(lineOfInvoice) }),
  payments: z.object({ data: z.array(paymentOfInvoice) }).nullish(),
  payment_intent: reference,
  charge: reference,
})
type Invoice = z.infer<typeof invoice>

/**
 * 2025-03-31.basil moved an invoice's subscription below `parent`, its payment intents into `payments`, and the price and proration
 * of its lines; events of older versions have them where they were.
 */
export function invoiceReading(raw: unknown, origin: Origin) {
  const read = invoice.parse(raw)
  const {
    billing_reason,
    currency,
    total,
    amount_due,
    amount_paid,
    next_payment_attempt,
    hosted_invoice_url,
    created,
  } = read
  return {
    ...common('invoice', read, read.customer, origin),
    subscription_id: read.parent?.subscription_details?.subscription ?? read.subscription,
    status: invoiceStatus(read, origin),
    ...{ billing_reason, currency, total, amount_due, amount_paid, next_payment_attempt, hosted_invoice_url, created },
    // Left out where Stripe did not say. What came from the customer's balance is the difference of the two; amount_due is less.
    starting_balance: read.starting_balance ?? undefined,
    ending_balance: read.ending_balance ?? undefined,
    auto_advance: read.auto_advance ?? undefined,
    last_finalization_error: finalizationError(read),
    attempt_count: read.attempt_count ?? 0,
    due_at: read.due_date,
    paid_at: read.status_transitions?.paid_at ?? null,
    lines: read.lines.data.map(lineOf),
    payments: paymentsOf(read),
  }
}

/** A draft that was deleted is asked of nobody any more. */
function invoiceStatus({ status }: Invoice, { deleted }: Origin): string {
  const said = status ?? 'draft'
  return deleted && (said === 'draft' || said === 'open') ? 'void' : said
}

/** Its code only: the message may name the customer's address. */
function finalizationError({ last_finalization_error: error }: Invoice): string | undefined {
  return error ? (error.code ?? error.type ?? 'unknown') : undefined
}

type Line = z.infer<typeof lineOfInvoice>
const sumOf = (parts: { amount: number }[] | null | undefined) => parts?.reduce((sum, { amount }) => sum + amount, 0)

/** What tax adds to a line's amount. 2025-03-31.basil made `taxes` of `tax_amounts`. */
function addedTaxOf({ taxes, tax_amounts }: Line): number | undefined {
  const added = taxes?.filter((tax) => tax.tax_behavior === 'exclusive')
  return sumOf(added ?? tax_amounts?.filter((tax) => !tax.inclusive))
}

function lineOf(read: Line) {
  const { id, amount, quantity, period, pricing, price, parent, proration } = read
  const { subscription_item_details: ofSubscription, invoice_item_details: ofItem } = parent ?? {}
  return {
    id,
    price_id: pricing?.price_details?.price ?? price,
    quantity: quantity ?? 1,
    amount,
    discount_amount: sumOf(read.discount_amounts),
    tax_amount: addedTaxOf(read),
    is_proration: ofSubscription?.proration ?? ofItem?.proration ?? proration ?? false,
    period_start: period.start,
    period_end: period.end,
  }
}

const isWaiting = (payment: z.infer<typeof intentOfInvoice> | null | undefined) => payment?.status === 'requires_action'

const knownPayments = ['payment_intent', 'charge', 'payment_record']

function paymentsOf({ payments, payment_intent, charge, status, amount_paid }: Invoice) {
  if (payments) return payments.data.map(paymentOf)
  const id = payment_intent ?? charge
  if (id === null) return []
  const isPaid = status === 'paid'
  const by = { payment_intent_id: payment_intent, charge_id: payment_intent === null ? charge : null }
  return [{ id, status: isPaid ? 'paid' : 'open', ...by, payment_record_id: null, amount_paid }]
}

function paymentOf({ id, status, amount_paid, payment }: z.infer<typeof paymentOfInvoice>) {
  const { type, payment_intent, charge, payment_record } = payment
  return {
    ...{ id, status, payment_intent_id: payment_intent?.id ?? null, charge_id: charge },
    ...{ payment_record_id: payment_record, amount_paid: amount_paid ?? 0 },
    // The one that matters: the bank waits for the customer. The others are known without it.
    ...(isWaiting(payment_intent) ? { payment_intent_status: 'requires_action' } : {}),
    // Nothing ties what comes back of it to the invoice: an operator should know.
    ...(type !== null && !knownPayments.includes(type) ? { unknown_type: type } : {}),
  }
}

/** How the payment stands is known where the intent was expanded; what was unpaid may be processing, or have failed. */
const intentOfSession = z.object({
  id: z.string(),
  status: z.string(),
  created: seconds,
  latest_charge: z.union([z.string(), z.object({ created: seconds })]).nullish(),
})
const session = z.object({
  id: z.string(),
  livemode: z.boolean(),
  customer: reference,
  metadata,
  client_reference_id: text,
  mode: z.string(),
  status: text,
  payment_status: z.string(),
  payment_intent: z.union([intentOfSession, z.string().transform((id) => ({ id }))]).nullish(),
  amount_total: z.int().nullish(),
  currency: text,
  invoice: reference,
  subscription: reference,
  line_items: z.object({ data: z.array(z.object({ price: reference, quantity: z.int().nullish() })) }).nullish(),
  created: z.int(),
})
type Session = z.infer<typeof session>

export function checkoutSessionReading(raw: unknown, origin: Origin) {
  const read = session.parse(raw)
  const { client_reference_id, mode, payment_status, payment_intent, currency, line_items, created } = read
  const bought = (line_items?.data ?? []).flatMap(({ price, quantity }) =>
    price === null ? [] : { price, quantity: quantity ?? 1 },
  )
  const status = read.status ?? (payment_status === 'paid' ? 'complete' : 'open')
  return {
    ...common('checkout_session', read, read.customer, origin),
    ...read.metadata,
    ...{ client_reference_id, mode, payment_status, currency, created },
    status: origin.deleted && status === 'open' ? 'expired' : status,
    payment_intent_status: payment_intent && 'status' in payment_intent ? payment_intent.status : null,
    payment_intent_id: payment_intent?.id ?? null,
    amount_total: read.amount_total ?? 0,
    invoice_id: read.invoice,
    subscription_id: read.subscription,
    price_ids: bought.map(({ price }) => price),
    quantities: bought.map(({ quantity }) => quantity),
    paid_at: paidAt(read),
  }
}

/** Sessions do not say when they were paid: the charge does. Nothing was charged for what costs nothing. */
function paidAt({ payment_status, payment_intent, created }: Session): number | null {
  if (payment_status !== 'paid' && payment_status !== 'no_payment_required') return null
  if (!payment_intent || !('status' in payment_intent)) return created
  const { latest_charge } = payment_intent
  const charged = latest_charge && typeof latest_charge === 'object' ? latest_charge.created : null
  return charged ?? payment_intent.created ?? created
}
