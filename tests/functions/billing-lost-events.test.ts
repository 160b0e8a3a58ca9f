/** No event arrives: the comparison with Stripe alone finds what came back, and repairs what follows from it. */
import { expect, test } from 'vitest'
import { createBillingDatabase } from '../../functions/_shared/billing/billing-database.ts'
import { reconcile } from '../../functions/_shared/billing/reconcile.ts'
import { createStripeReader, listings } from '../../functions/_shared/billing/stripe-reader.ts'
import { newShop, type Shop } from '../sql/billing-support.ts'
import { entitlementOf } from '../sql/entitlement-support.ts'
import { rolledBack, type Tx } from '../sql/support.ts'
import { list, startStripe } from './billing-stripe.ts'
import {
  balanceTransaction,
  creditNote,
  customer,
  dispute,
  exchangedCharge,
  invoice,
  invoiceLine,
  invoicePayment,
  refund,
  subscription,
} from './billing-world.ts'

const start = Math.floor(Date.now() / 1000) - 86_400
const end = start + 30 * 86_400
const byCharge = { ...invoicePayment(), payment: { type: 'charge', charge: 'ch_1' }, amount_paid: 3000 }

/** A month for 30.00 that `payments` paid, at Stripe alone; what came back is listed once it is there. */
async function sold(shop: Shop, payments: object[]) {
  const ours = { customer: shop.customer, metadata: { palisade_user_id: shop.account.id } }
  const period = { current_period_start: start, current_period_end: end }
  const item = { ...{ id: 'si_1', price: { id: shop.month }, quantity: 1 }, ...period }
  const pricing = { price_details: { price: shop.month } }
  const line = invoiceLine({ amount: 3000, period: { start, end }, pricing })
  const paid = { total: 3000, amount_due: 3000, amount_paid: 3000, created: start, lines: { data: [line] } }
  const returned: Record<string, object[]> = {}
  const back = (kind: string) => () => list(returned[kind] ?? [])
  const stripe = await startStripe({
    'GET /customers': () => list([customer({ id: shop.customer, metadata: ours.metadata })]),
    'GET /subscriptions': () => list([subscription({ ...ours, items: { data: [item] }, start_date: start })]),
    'GET /invoices': () => list([invoice({ customer: shop.customer, ...paid, payments: { data: payments } })]),
    ...{ 'GET /checkout/sessions': () => list([]), 'GET /refunds': back('refund') },
    ...{ 'GET /disputes': back('dispute'), 'GET /credit_notes': back('credit_note') },
  })
  return { stripe, returned }
}

async function compare(tx: Tx, { stripe }: Awaited<ReturnType<typeof startStripe>>) {
  const { repaired, unrepaired } = await reconcile({
    ...{ listings: listings(stripe, undefined), reader: createStripeReader(stripe), livemode: false, since: null },
    ...{ database: createBillingDatabase(tx, false), until: Number.POSITIVE_INFINITY, now: Date.now },
    onProgress: () => {},
  })
  expect(unrepaired).toEqual([])
  return repaired.map(({ object }) => object)
}

const stateOf = async (tx: Tx, { account }: Shop) => {
  const [row] = await tx`
    select sum(amount)::int as credits from public.credit_entries where user_id = ${account.id} and kind <> 'sign_up'`
  return [(await entitlementOf(tx, account.id)).state, row?.credits]
}

const exchanged = { charge: exchangedCharge({ payment_intent: null }), payment_intent: null }
test.each<[string, object[], string, object]>([
  ['a credit note of what was paid outside of Stripe', [], 'credit_note', creditNote({ out_of_band_amount: 3000 })],
  [
    'a refund that names only its charge',
    [byCharge],
    'refund',
    refund({ ...exchanged, amount: 3000, balance_transaction: 'txn_2' }),
  ],
  [
    'a dispute in another currency, of all that the payment brought',
    [byCharge],
    'dispute',
    dispute({ ...exchanged, amount: 2780, currency: 'eur', balance_transactions: [balanceTransaction(-2500)] }),
  ],
])('%s takes credits and plan, and is found', (_what, payments, kind, object) =>
  rolledBack(async (tx) => {
    const shop = await newShop(tx, { linked: false })
    await tx`update public.plan_prices set amount = 3000, credits = 300 where id = ${shop.planPrice}`
    const { stripe, returned } = await sold(shop, payments)
    stripe.answers['GET /disputes/dp_1'] = () => object
    await compare(tx, stripe)
    const before = await stateOf(tx, shop)

    returned[kind] = [kind === 'credit_note' ? { ...object, customer: shop.customer } : object]
    const repaired = await compare(tx, stripe)
    const again = await compare(tx, stripe)
    stripe.stop()

    expect(before).toEqual(['active', 300])
    expect([repaired, again]).toEqual([[kind], []])
    expect(await stateOf(tx, shop)).toEqual(['unpaid', 0])
  }),
)
