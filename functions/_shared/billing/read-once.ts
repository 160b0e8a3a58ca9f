import type { StripeReader } from './stripe-reader.ts'

/** A reader that asks Stripe once for each object: for the events of one batch. */
export function readOnce(reader: StripeReader): StripeReader {
  const asked = new Map<string, Promise<unknown>>()
  const once =
    (kind: 'customer' | 'subscription' | 'invoice' | 'checkoutSession' | 'refund' | 'dispute') => (id: string) => {
      const key = `${kind} ${id}`
      const answer = asked.get(key) ?? reader[kind](id)
      asked.set(key, answer)
      return answer
    }
  return {
    ...reader,
    customer: once('customer'),
    subscription: once('subscription'),
    invoice: once('invoice'),
    checkoutSession: once('checkoutSession'),
    refund: once('refund'),
    dispute: once('dispute'),
  }
}
