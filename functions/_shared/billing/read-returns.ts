/** What came back of what was paid, as readings: refunds, disputes and credit notes, of any version. */
import { z } from 'zod'
import { common, type Origin, reference, seconds, text } from './stripe-shapes.ts'

const id = z.string()
/** What moved on our balance at Stripe: in the currency that it has there, which need not be the payment's. */
const balanceTransaction = z.object({ amount: z.int(), currency: z.string() })
const moved = z.union([balanceTransaction, id.transform(() => null)]).nullish()
const wholeCharge = z.object({
  ...{ id, customer: reference, payment_intent: reference, amount: z.int().nullish(), currency: text },
  balance_transaction: moved,
})
const nothing = { customer: null, payment_intent: null, amount: null, currency: null, balance_transaction: null }
/** Expanded or not, like every reference; the parts that we use are there when it was. */
const charge = z.union([id.transform((id) => ({ id, ...nothing })), wholeCharge]).nullish()
const intent = z
  .union([id.transform((id) => ({ id, customer: null })), z.object({ id, customer: reference })])
  .nullish()
const moneyBack = z.object({
  ...{ id, charge, payment_intent: intent, amount: z.int(), currency: z.string(), status: text, created: z.int() },
})
type MoneyBack = z.infer<typeof moneyBack>

/** Refunds do not say livemode: they have the one of the event or of the key that read them. */
const refund = moneyBack.extend({ livemode: z.boolean().optional(), balance_transaction: moved })
const dispute = moneyBack.extend({
  ...{ livemode: z.boolean(), reason: text, balance_transactions: z.array(balanceTransaction).nullish() },
})

/** Neither a refund nor a dispute names its customer; the charge that comes with it does. */
export function refundReading(raw: unknown, origin: Origin, livemode: boolean) {
  const read = refund.parse(raw)
  return {
    ...common('refund', { id: read.id, livemode: read.livemode ?? livemode }, customerOf(read), origin),
    ...moneyOf(read, read.balance_transaction ? [read.balance_transaction] : []),
    status: read.status ?? 'pending',
  }
}

export function disputeReading(raw: unknown, origin: Origin) {
  const read = dispute.parse(raw)
  return {
    ...common('dispute', read, customerOf(read), origin),
    ...moneyOf(read, read.balance_transactions ?? []),
    status: read.status ?? 'needs_response',
    reason: read.reason,
  }
}

const customerOf = ({ charge, payment_intent }: MoneyBack) => charge?.customer ?? payment_intent?.customer ?? null

const moneyOf = (read: MoneyBack, moves: z.infer<typeof balanceTransaction>[]) => ({
  payment_intent_id: read.payment_intent?.id ?? read.charge?.payment_intent ?? null,
  charge_id: read.charge?.id ?? null,
  ...{ amount: read.amount, currency: read.currency, created: read.created },
  exchange: exchangeOf(read, moves),
})

/**
 * For money that went back in another currency than it came: what the charge brought to our balance and what left it, which is
 * one currency again. Null where the currencies are the same, or Stripe has not said yet.
 */
function exchangeOf({ charge, currency }: MoneyBack, moves: z.infer<typeof balanceTransaction>[]) {
  if (!charge?.balance_transaction || charge.currency === null || charge.currency === currency) return null
  const { amount: charged, currency: settled } = charge.balance_transaction
  // What comes back to us when a dispute is won is said by its status.
  const taken = moves.filter(({ amount }) => amount < 0)
  if (taken.length === 0 || taken.some((move) => move.currency !== settled)) return null
  const returned = taken.reduce((sum, { amount }) => sum - amount, 0)
  return { charge_amount: charge.amount ?? 0, charge_currency: charge.currency, currency: settled, charged, returned }
}

const tax = z.object({ amount: z.int(), tax_behavior: text, inclusive: z.boolean().nullish() })
const lineOfNote = z.object({
  ...{ id, type: text, invoice_line_item: reference, quantity: z.int().nullish() },
  ...{ amount: z.int(), discount_amount: z.int().nullish() },
  ...{ taxes: z.array(tax).nullish(), tax_amounts: z.array(tax).nullish() },
})
const refundOfNote = z.object({ type: text, refund: reference, amount_refunded: z.int().nullish() })
const creditNote = z.object({
  ...{
    id,
    livemode: z.boolean(),
    customer: reference,
    invoice: reference,
    status: z.string(),
    type: text,
    reason: text,
  },
  ...{ currency: z.string(), amount: z.int(), created: z.int(), voided_at: seconds },
  ...{ pre_payment_amount: z.int().nullish(), post_payment_amount: z.int().nullish() },
  ...{ out_of_band_amount: z.int().nullish(), customer_balance_transaction: reference },
  ...{ refunds: z.array(refundOfNote).nullish(), refund: reference },
  lines: z.object({ data: z.array(lineOfNote) }),
})
type CreditNote = z.infer<typeof creditNote>

/**
 * `amount_returned` is what went back outside of Stripe. What went back by a refund is said by that refund, and not twice; what
 * became the customer's balance stays with us, and brings no credits when it pays; what an open invoice was lowered by was never paid.
 */
export function creditNoteReading(raw: unknown, origin: Origin) {
  const read = creditNote.parse(raw)
  const { status, reason, currency, amount, created, voided_at, pre_payment_amount } = read
  const refunds = refundsOf(read)
  const outside = refunds.filter(({ type }) => type === 'payment_record_refund')
  const returned = (read.out_of_band_amount ?? 0) + sumOf(outside)
  const afterPayment = read.post_payment_amount ?? (read.type === 'post_payment' ? amount : 0)
  return {
    ...common('credit_note', read, read.customer, origin),
    ...{ invoice_id: read.invoice, status, reason, currency, amount, created, voided_at },
    pre_payment_amount: pre_payment_amount ?? (read.type === 'pre_payment' ? amount : 0),
    post_payment_amount: afterPayment,
    amount_returned: returned,
    amount_to_balance:
      read.customer_balance_transaction === null ? 0 : afterPayment - returned - sumOf(refunds, outside),
    refunds,
    lines: read.lines.data.map(lineOf),
  }
}

/** Older versions name one refund, and not how much it was. */
function refundsOf({ refunds, refund }: CreditNote) {
  if (refunds)
    return refunds.map(({ type, refund, amount_refunded }) => ({
      ...{ type: type ?? 'refund', refund_id: refund, amount: amount_refunded ?? 0 },
    }))
  return refund === null ? [] : [{ type: 'refund', refund_id: refund, amount: 0 }]
}

const sumOf = (refunds: { amount: number }[], without: { amount: number }[] = []): number =>
  refunds.filter((one) => !without.includes(one)).reduce((sum, { amount }) => sum + amount, 0)

/** `invoice_line_id` is null for what is on the note alone. `amount` is before discounts and taxes that are added to it. */
function lineOf(line: z.infer<typeof lineOfNote>) {
  const { id, type, invoice_line_item, quantity, amount, discount_amount } = line
  const added = (line.taxes ?? line.tax_amounts ?? []).filter(
    ({ tax_behavior, inclusive }) => tax_behavior === 'exclusive' || inclusive === false,
  )
  return {
    ...{ id, type, invoice_line_id: invoice_line_item, quantity: quantity ?? null, amount },
    discount_amount: discount_amount ?? 0,
    tax_amount: sumOf(added),
  }
}
