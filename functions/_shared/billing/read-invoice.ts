/**
 * An invoice as a reading. 2025-03-31.basil moved its subscription below `parent`, its payment intents into `payments`, and the
 * price and proration of its lines; events of older versions have them where they were.
 */
import { z } from 'zod'
import { common, type Origin, reference, seconds, text } from './stripe-shapes.ts'

const detailed = z.object({ proration: z.boolean().nullish() }).nullish()
const line = z.object({
  id: z.string(),
  amount: z.int(),
  quantity: z.int().nullish(),
  period: z.object({ start: seconds, end: seconds }),
  pricing: z.object({ price_details: z.object({ price: reference }).nullish() }).nullish(),
  price: reference,
  parent: z.object({ subscription_item_details: detailed, invoice_item_details: detailed }).nullish(),
  proration: z.boolean().nullish(),
})
const intent = z.object({ id: z.string(), status: z.string().optional() })
const payment = z.object({
  id: z.string(),
  status: z.string(),
  amount_paid: z.int().nullish(),
  payment: z.object({ payment_intent: z.union([intent, z.string().transform((id) => ({ id }))]).nullish() }),
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
  lines: z.object({ data: z.array(line) }),
  payments: z.object({ data: z.array(payment) }).nullish(),
  payment_intent: reference,
})
type Invoice = z.infer<typeof invoice>

export type InvoiceReading = ReturnType<typeof invoiceReading>

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
    status: statusOf(read, origin),
    ...{ billing_reason, currency, total, amount_due, amount_paid, next_payment_attempt, hosted_invoice_url, created },
    attempt_count: read.attempt_count ?? 0,
    due_at: read.due_date,
    paid_at: read.status_transitions?.paid_at ?? null,
    lines: read.lines.data.map(lineOf),
    payments: paymentsOf(read),
  }
}

/** A draft that was deleted is asked of nobody any more. */
function statusOf({ status }: Invoice, { deleted }: Origin): string {
  const said = status ?? 'draft'
  return deleted && (said === 'draft' || said === 'open') ? 'void' : said
}

function lineOf({ id, amount, quantity, period, pricing, price, parent, proration }: z.infer<typeof line>) {
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

const isWaiting = (payment: z.infer<typeof intent> | null | undefined) => payment?.status === 'requires_action'

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
