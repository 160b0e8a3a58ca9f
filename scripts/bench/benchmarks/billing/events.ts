/** Objects and signed events in the form and of the size in which Stripe sends them. */
import { createHmac } from 'node:crypto'

const seconds = () => Math.floor(Date.now() / 1000)
const month = 2_592_000

export const subscriptionOf = (n: number, price: string, latest_invoice: string | null = `in_bench_${n}`) => ({
  ...{ id: `sub_bench_${n}`, object: 'subscription', livemode: false, customer: `cus_bench_${n}`, status: 'active' },
  items: {
    object: 'list',
    data: [
      {
        ...{ id: `si_bench_${n}`, object: 'subscription_item', quantity: 1, price: { id: price, object: 'price' } },
        ...{ current_period_start: seconds(), current_period_end: seconds() + month },
      },
    ],
  },
  ...{ cancel_at_period_end: false, cancel_at: null, canceled_at: null, ended_at: null, trial_start: null },
  ...{
    trial_end: null,
    start_date: seconds(),
    created: seconds(),
    pause_collection: null,
    latest_invoice,
    metadata: {},
  },
})

export const invoiceOf = (n: number, price: string) => ({
  ...{ id: `in_bench_${n}`, object: 'invoice', livemode: false, customer: `cus_bench_${n}`, status: 'paid' },
  parent: { type: 'subscription_details', subscription_details: { subscription: `sub_bench_${n}` } },
  ...{ billing_reason: 'subscription_create', currency: 'usd', total: 1200, amount_due: 1200, amount_paid: 1200 },
  ...{ attempt_count: 1, next_payment_attempt: null, due_date: null, hosted_invoice_url: null, created: seconds() },
  status_transitions: { paid_at: seconds() },
  lines: { object: 'list', data: [lineOf(n, price)], has_more: false },
  payments: { object: 'list', data: [paymentOf(n)], has_more: false },
  metadata: {},
})

const lineOf = (n: number, price: string) => ({
  ...{ id: `il_bench_${n}`, object: 'line_item', amount: 1200, quantity: 1 },
  period: { start: seconds(), end: seconds() + month },
  pricing: { type: 'price_details', price_details: { price, product: 'prod_bench' } },
  parent: { type: 'subscription_item_details', subscription_item_details: { proration: false } },
})

const paymentOf = (n: number) => ({
  ...{ id: `inpay_bench_${n}`, object: 'invoice_payment', status: 'paid', amount_paid: 1200 },
  payment: { type: 'payment_intent', payment_intent: `pi_bench_${n}` },
})

/** The text of an event about an object; a real invoice is three times as long as the parts of it that are read. */
export function eventOf(id: string, type: string, object: object, api_version: string): string {
  const filling = Object.fromEntries(
    Array.from({ length: 60 }, (_, n) => [`field_that_nobody_reads_${n}`, `value ${n}`]),
  )
  const data = { object: { ...object, ...filling } }
  return JSON.stringify({ id, object: 'event', type, api_version, livemode: false, created: seconds(), data })
}

export function sign(payload: string, secret: string): string {
  const time = seconds()
  return `t=${time},v1=${createHmac('sha256', secret).update(`${time}.${payload}`).digest('hex')}`
}
