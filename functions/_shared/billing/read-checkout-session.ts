/** A checkout session as a reading. */
import { z } from 'zod'
import { common, metadata, type Origin, reference, seconds, text } from './stripe-shapes.ts'

/** How the payment stands is known where the intent was expanded; what was unpaid may be processing, or have failed. */
const intent = z.object({
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
  payment_intent: z.union([intent, z.string().transform((id) => ({ id }))]).nullish(),
  amount_total: z.int().nullish(),
  currency: text,
  invoice: reference,
  subscription: reference,
  line_items: z.object({ data: z.array(z.object({ price: reference, quantity: z.int().nullish() })) }).nullish(),
  created: z.int(),
})
type Session = z.infer<typeof session>

export type CheckoutSessionReading = ReturnType<typeof checkoutSessionReading>

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
