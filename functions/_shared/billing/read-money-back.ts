/** Refunds and disputes as readings. Neither names its customer; the charge that comes with them does. */
import { z } from 'zod'
import { common, type Origin, reference, text } from './stripe-shapes.ts'

const charged = z.object({ customer: reference, payment_intent: reference })
/** Expanded or not, like every reference; the parts that we use are there when it was. */
const charge = z
  .union([
    z.string().transform((id) => ({ id, customer: null, payment_intent: null })),
    charged.extend({ id: z.string() }),
  ])
  .nullish()
const intent = z
  .union([z.string().transform((id) => ({ id, customer: null })), z.object({ id: z.string(), customer: reference })])
  .nullish()
const moneyBack = z.object({
  id: z.string(),
  charge,
  payment_intent: intent,
  amount: z.int(),
  currency: z.string(),
  status: text,
  created: z.int(),
})
type MoneyBack = z.infer<typeof moneyBack>

/** Refunds do not say livemode: they have the one of the event or of the key that read them. */
const refund = moneyBack.extend({ livemode: z.boolean().optional() })
const dispute = moneyBack.extend({ livemode: z.boolean(), reason: text })

export type RefundReading = ReturnType<typeof refundReading>
export type DisputeReading = ReturnType<typeof disputeReading>

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
