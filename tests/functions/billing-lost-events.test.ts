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
async function sold(shop: Shop, payments: object[], beside: object[] = []) {
  const ours = { customer: shop.customer, metadata: { palisade_user_id: shop.account.id } }
  const period = { current_period_start: start, current_period_end: end }
  const item = { ...{ id: 'si_1', price: { id: shop.month }, quantity: 1 }, ...period }
  const pricing = { price_details: { price: shop.month } }
  const line = invoiceLine({ amount: 3000, period: { start, end }, pricing })
  const total = 3000 + (beside.length > 0 ? 1000 : 0)
  const paid = { total, amount_due: total, amount_paid: total, created: start, lines: { data: [line, ...beside] } }
  const first = invoice({ customer: shop.customer, ...paid, payments: { data: payments } })
  const returned: Record<string, object[]> = {}
  const back = (kind: string) => () => list(returned[kind] ?? [])
  const stripe = await startStripe({
    'GET /customers': () => list([customer({ id: shop.customer, metadata: ours.metadata })]),
    'GET /subscriptions': () => list([subscription({ ...ours, items: { data: [item] }, start_date: start })]),
    'GET /invoices': () => list([first]),
    ...{ 'GET /checkout/sessions': () => list([]), 'GET /refunds': back('refund') },
    ...{ 'GET /disputes': back('dispute'), 'GET /credit_notes': back('credit_note') },
  })
  return { stripe, returned, first }
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

test('a renewal that Stripe cannot make final is found and told, and the plan is in its grace', () =>
  rolledBack(async (tx) => {
    const shop = await newShop(tx, { linked: false })
    const { stripe, first } = await sold(shop, [byCharge])
    await compare(tx, stripe)
    const next = { start: end, end: end + 30 * 86_400 }
    const line = invoiceLine({ amount: 3000, period: next, pricing: { price_details: { price: shop.month } } })
    const failed = { code: 'customer_tax_location_invalid', type: 'invalid_request_error' }
    const stuck = { id: 'in_2', status: 'draft', amount_paid: 0, created: start + 3600, payments: { data: [] } }
    stripe.answers['GET /invoices'] = () =>
      list([
        first,
        invoice({ customer: shop.customer, ...stuck, last_finalization_error: failed, lines: { data: [line] } }),
      ])
    const item = { id: 'si_1', price: { id: shop.month }, quantity: 1 }
    const renewed = { ...item, current_period_start: next.start, current_period_end: next.end }
    const metadata = { palisade_user_id: shop.account.id }
    stripe.answers['GET /subscriptions'] = () =>
      list([subscription({ customer: shop.customer, metadata, items: { data: [renewed] }, start_date: start })])

    const repaired = await compare(tx, stripe)
    const again = await compare(tx, stripe)
    stripe.stop()

    expect([[...new Set(repaired)].toSorted(), again]).toEqual([['invoice', 'subscription'], []])
    expect((await stateOf(tx, shop))[0]).toBe('past_due')
    const told =
      await tx`select from public.security_events where type = 'stripe_invoice_unfinalized' and dedupe_key = 'in_2'`
    expect(told.length).toBe(1)
  }))

test.each([
  ['of what it cost beside it takes nothing of the plan', 1000, ['active', 300]],
  ['of the month takes the plan', 3000, ['unpaid', 0]],
])('a refund %s, and is found', (_, amount, left) =>
  rolledBack(async (tx) => {
    const shop = await newShop(tx, { linked: false })
    await tx`update public.plan_prices set amount = 3000, credits = 300 where id = ${shop.planPrice}`
    const pricing = { price_details: { price: 'price_of_an_add_on' } }
    const addOn = invoiceLine({ id: 'il_2', amount: 1000, period: { start, end: start + 365 * 86_400 }, pricing })
    const { stripe, returned } = await sold(shop, [{ ...byCharge, amount_paid: 4000 }], [addOn])
    await compare(tx, stripe)

    returned.refund = [refund({ ...exchanged, amount, balance_transaction: 'txn_2' })]
    const [repaired, again] = [await compare(tx, stripe), await compare(tx, stripe)]
    stripe.stop()

    expect([repaired, again]).toEqual([['refund'], []])
    expect(await stateOf(tx, shop)).toEqual(left)
  }),
)
