/** What was paid and what was paid back, as readings: invoices, checkout sessions, refunds and disputes, of any version. */
import { z } from 'zod'
import { common, metadata, type Origin, reference, seconds, text } from './stripe-shapes.ts'

const detailed = z.object({ proration: z.boolean().nullish() }).nullish()
const lineOfInvoice = z.object({
  id: z.string(),
  amount: z.int(),
  quantity: z.int().nullish(),
  period: z.object({ start: seconds, end: seconds }),
  pricing: z.object({ price_details: z.object({ price: reference }).nullish() }).nullish(),
  price: reference,
  parent: z.object({ subscription_item_details: detailed, invoice_item_details: detailed }).nullish(),
  proration: z.boolean().nullish(),
})
const intentOfInvoice = z.object({ id: z.string(), status: z.string().optional() })
const paymentOfInvoice = z.object({
  id: z.string(),
  status: z.string(),
  amount_paid: z.int().nullish(),
  payment: z.object({ payment_intent: z.union([intentOfInvoice, z.string().transform((id) => ({ id }))]).nullish() }),
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
  attempt_count: z.int().nullish(),
  next_payment_attempt: seconds,
  due_date: seconds,
  hosted_invoice_url: text,
  created: z.int(),
  status_transitions: z.object({ paid_at: seconds }).nullish(),
  lines: z.object({ data: z.array(lineOfInvoice) }),
  payments: z.object({ data: z.array(paymentOfInvoice) }).nullish(),
  payment_intent: reference,
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

function lineOf({ id, amount, quantity, period, pricing, price, parent, proration }: z.infer<typeof lineOfInvoice>) {
  const { subscription_item_details: ofSubscription, invoice_item_details: ofItem } = parent ?? {}
  return {
    id,
    price_id: pricing?.price_details?.price ?? price,
    quantity: quantity ?? 1,
    amount,
    is_proration: ofSubscription?.proration ?? ofItem?.proration ?? proration ?? false,
    period_start: period.start,
    period_end: period.end,
  }
}

const isWaiting = (payment: z.infer<typeof intentOfInvoice> | null | undefined) => payment?.status === 'requires_action'

function paymentsOf({ payments, payment_intent, status, amount_paid }: Invoice) {
  if (payments)
    return payments.data.map(({ id, status, amount_paid, payment: { payment_intent } }) => ({
      ...{ id, status, payment_intent_id: payment_intent?.id ?? null, amount_paid: amount_paid ?? 0 },
      // The one that matters: the bank waits for the customer. The others are known without it.
      ...(isWaiting(payment_intent) ? { payment_intent_status: 'requires_action' } : {}),
    }))
  if (payment_intent === null) return []
  const isPaid = status === 'paid'
  return [{ id: payment_intent, status: isPaid ? 'paid' : 'open', payment_intent_id: payment_intent, amount_paid }]
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

const charged = z.object({ customer: reference, payment_intent: reference })
/** Expanded or not, like every reference; the parts that we use are there when it was. */
const charge = z
  .union([
    z.string().transform((id) => ({ id, customer: null, payment_intent: null })),
    charged.extend({ id: z.string() }),
  ])
  .nullish()
const intentOfMoneyBack = z
  .union([z.string().transform((id) => ({ id, customer: null })), z.object({ id: z.string(), customer: reference })])
  .nullish()
const moneyBack = z.object({
  id: z.string(),
  charge,
  payment_intent: intentOfMoneyBack,
  amount: z.int(),
  currency: z.string(),
  status: text,
  created: z.int(),
})
type MoneyBack = z.infer<typeof moneyBack>

/** Refunds do not say livemode: they have the one of the event or of the key that read them. */
const refund = moneyBack.extend({ livemode: z.boolean().optional() })
const dispute = moneyBack.extend({ livemode: z.boolean(), reason: text })

/** Neither a refund nor a dispute names its customer; the charge that comes with it does. */
export function refundReading(raw: unknown, origin: Origin, livemode: boolean) {
  const read = refund.parse(raw)
  return {
    ...common('refund', { id: read.id, livemode: read.livemode ?? livemode }, customerOf(read), origin),
    ...moneyOf(read),
    status: read.status ?? 'pending',
  }
}

export function disputeReading(raw: unknown, origin: Origin) {
  const read = dispute.parse(raw)
  return {
    ...common('dispute', read, customerOf(read), origin),
    ...moneyOf(read),
    status: read.status ?? 'needs_response',
    reason: read.reason,
  }
}

const customerOf = ({ charge, payment_intent }: MoneyBack) => charge?.customer ?? payment_intent?.customer ?? null

const moneyOf = ({ charge, payment_intent, amount, currency, created }: MoneyBack) => ({
  payment_intent_id: payment_intent?.id ?? charge?.payment_intent ?? null,
  charge_id: charge?.id ?? null,
  ...{ amount, currency, created },
})
