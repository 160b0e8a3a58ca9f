/** Objects in the shapes that stripe-node's types declare, a reader that has some of them, and signed deliveries. */
import { createHmac, randomBytes } from 'node:crypto'
import postgres from 'postgres'
import type Stripe from 'stripe'
import { type BillingDatabase, createBillingDatabase } from '../../functions/_shared/billing/billing-database.ts'
import { apiVersion } from '../../functions/_shared/billing/stripe-client.ts'
import type { StripeReader } from '../../functions/_shared/billing/stripe-reader.ts'

export const now = Date.UTC(2026, 10, 20)
export const nowSeconds = now / 1000
export const userId = '0198c2a1-6a54-7d1e-9d6e-2d2a3f5b7c01'
export const checkoutId = '0198c2a1-6a54-7d1e-9d6e-2d2a3f5b7c02'
export const makeSecret = () => ['whsec', randomBytes(16).toString('hex')].join('_')
export const makeKey = (mode: 'test' | 'live' = 'test') => ['sk', mode, randomBytes(16).toString('hex')].join('_')

type Parts = Record<string, unknown>
/** As much of an object as a test is about, in the shape that stripe-node declares. */
type Some<T> = T extends (infer Item)[]
  ? Some<Item>[]
  : T extends object
    ? { [Key in keyof T]?: Some<T[Key]> | undefined }
    : T
const metadata = { palisade_user_id: userId, palisade_checkout_id: checkoutId }
const month = { current_period_start: nowSeconds, current_period_end: nowSeconds + 2_592_000 }

const usualCustomer = () =>
  ({
    ...{ id: 'cus_1', object: 'customer', livemode: false, email: 'someone@example.com', metadata },
  }) satisfies Some<Stripe.Customer>
export const customer = (more: Parts = {}) => ({ ...usualCustomer(), ...more })
const usualSubscription = () =>
  ({
    ...{ id: 'sub_1', object: 'subscription', livemode: false, customer: 'cus_1', metadata, status: 'active' },
    items: {
      data: [{ id: 'si_1', price: { id: 'price_1', object: 'price' }, quantity: 1, ...month }],
      has_more: false,
    },
    ...{ cancel_at_period_end: false, cancel_at: null, canceled_at: null, ended_at: null },
    ...{ trial_start: null, trial_end: null, start_date: nowSeconds, created: nowSeconds, pause_collection: null },
    ...{ latest_invoice: 'in_1' },
  }) satisfies Some<Stripe.Subscription>
export const subscription = (more: Parts = {}) => ({ ...usualSubscription(), ...more })
const usualInvoiceLine = () =>
  ({
    ...{ id: 'il_1', object: 'line_item', amount: 1000, quantity: 1 },
    period: { start: nowSeconds, end: nowSeconds + 2_592_000 },
    pricing: { type: 'price_details', price_details: { price: 'price_1', product: 'prod_1' } },
    parent: { type: 'subscription_item_details', subscription_item_details: { proration: false } },
  }) satisfies Some<Stripe.InvoiceLineItem>
export const invoiceLine = (more: Parts = {}) => ({ ...usualInvoiceLine(), ...more })
const usualInvoice = () =>
  ({
    ...{ id: 'in_1', object: 'invoice', livemode: false, customer: 'cus_1', status: 'paid', currency: 'usd' },
    parent: { type: 'subscription_details', subscription_details: { subscription: 'sub_1' } },
    ...{ billing_reason: 'subscription_cycle', total: 1000, amount_due: 1000, amount_paid: 1000, attempt_count: 1 },
    ...{ next_payment_attempt: null, due_date: null, hosted_invoice_url: null, created: nowSeconds },
    status_transitions: { paid_at: nowSeconds + 5 },
    lines: { data: [invoiceLine()], has_more: false },
    payments: { data: [invoicePayment()], has_more: false },
  }) satisfies Some<Stripe.Invoice>
export const invoice = (more: Parts = {}) => ({ ...usualInvoice(), ...more })
const usualInvoicePayment = () =>
  ({
    ...{ id: 'inpay_1', object: 'invoice_payment', status: 'paid', amount_paid: 1000, invoice: 'in_1' },
    payment: { type: 'payment_intent', payment_intent: 'pi_1' },
  }) satisfies Some<Stripe.InvoicePayment>
export const invoicePayment = (more: Parts = {}) => ({ ...usualInvoicePayment(), ...more })
const usualSession = () =>
  ({
    ...{ id: 'cs_1', object: 'checkout.session', livemode: false, customer: 'cus_1', metadata, mode: 'payment' },
    ...{ client_reference_id: userId, status: 'complete', payment_status: 'paid', amount_total: 500, currency: 'usd' },
    payment_intent: {
      id: 'pi_2',
      status: 'succeeded',
      created: nowSeconds,
      latest_charge: { created: nowSeconds + 9 },
    },
    ...{ invoice: null, subscription: null, created: nowSeconds - 60 },
    line_items: { data: [{ price: { id: 'price_pack' } }], has_more: false },
  }) satisfies Some<Stripe.Checkout.Session>
export const session = (more: Parts = {}) => ({ ...usualSession(), ...more })
const usualRefund = () =>
  ({
    ...{ id: 're_1', object: 'refund', amount: 300, currency: 'usd', status: 'succeeded', created: nowSeconds },
    ...{ charge: { id: 'ch_1', customer: 'cus_1', payment_intent: 'pi_1' }, payment_intent: 'pi_1' },
  }) satisfies Some<Stripe.Refund>
export const refund = (more: Parts = {}) => ({ ...usualRefund(), ...more })
const usualDispute = () =>
  ({
    ...{ id: 'dp_1', object: 'dispute', livemode: false, amount: 1000, currency: 'usd', status: 'needs_response' },
    ...{ reason: 'fraudulent', created: nowSeconds, charge: { id: 'ch_1', customer: 'cus_1' }, payment_intent: 'pi_1' },
  }) satisfies Some<Stripe.Dispute>
export const dispute = (more: Parts = {}) => ({ ...usualDispute(), ...more })

const usualCreditNote = () =>
  ({
    ...{ id: 'cn_1', object: 'credit_note', livemode: false, customer: 'cus_1', invoice: 'in_1', status: 'issued' },
    ...{ type: 'post_payment', reason: 'product_unsatisfactory', currency: 'usd', amount: 3000, total: 3000 },
    ...{ pre_payment_amount: 0, post_payment_amount: 3000, out_of_band_amount: null, refunds: [] },
    ...{ customer_balance_transaction: null, created: nowSeconds, voided_at: null },
    lines: { data: [creditNoteLine()], has_more: false },
  }) satisfies Some<Stripe.CreditNote>
export const creditNote = (more: Parts = {}) => ({ ...usualCreditNote(), ...more })
const creditNoteLine = () =>
  ({
    ...{ id: 'cnli_1', object: 'credit_note_line_item', type: 'invoice_line_item', invoice_line_item: 'il_1' },
    ...{ amount: 2600, discount_amount: 100, quantity: 1 },
    taxes: [
      { amount: 500, tax_behavior: 'exclusive' },
      { amount: 30, tax_behavior: 'inclusive' },
    ],
  }) satisfies Some<Stripe.CreditNoteLineItem>
/** 30.00 USD that brought 25.00 GBP to our balance. */
export const exchangedCharge = (more: Parts = {}) => ({ ...usualExchangedCharge(), ...more })
const usualExchangedCharge = () =>
  ({
    ...{ id: 'ch_1', object: 'charge', customer: 'cus_1', payment_intent: 'pi_1', amount: 3000, currency: 'usd' },
    balance_transaction: { id: 'txn_1', object: 'balance_transaction', amount: 2500, currency: 'gbp' },
  }) satisfies Some<Stripe.Charge>
export const balanceTransaction = (amount: number, currency = 'gbp') =>
  ({ id: `txn_${amount}`, object: 'balance_transaction', amount, currency }) satisfies Some<Stripe.BalanceTransaction>

/** What a test says of the database; anything else asks one that nobody can connect to. */
export const fakeDatabase = (said: Partial<BillingDatabase>): BillingDatabase => ({
  ...createBillingDatabase(postgres('postgres://127.0.0.1:9/x', { connect_timeout: 1 }), false),
  ...said,
})

/** A reader of the objects that are given, each by its id; `asked` is what it was asked for. */
export function createReader(objects: { id: string }[]) {
  const asked: string[] = []
  const find = async (id: string): Promise<unknown> => {
    asked.push(id)
    return objects.find((object) => object.id === id)
  }
  const reader: StripeReader = {
    ...{ customer: find, subscription: find, invoice: find, checkoutSession: find, refund: find, dispute: find },
    creditNote: find,
    refundsOfCharge: async () => objects.filter(({ id }) => id.startsWith('re_')),
    sessionsOfIntent: async () => objects.filter(({ id }) => id.startsWith('cs_')).map(({ id }) => id),
  }
  return { reader, asked }
}

export const event = (type: string, object: Parts, more: Parts = {}) => ({
  ...{ id: 'evt_1', object: 'event', type, api_version: apiVersion, livemode: false, created: nowSeconds },
  data: { object },
  ...more,
})

export function sign(payload: string, secret: string, atSeconds = nowSeconds): string {
  const mac = createHmac('sha256', secret).update(`${atSeconds}.${payload}`).digest('hex')
  return `t=${atSeconds},v1=${mac}`
}
