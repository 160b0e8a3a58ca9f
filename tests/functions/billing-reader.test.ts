/** What is asked of Stripe for refunds, disputes and credit notes: no more than is needed, and whole. */
import { afterEach, expect, test } from 'vitest'
import { invoiceReading } from '../../functions/_shared/billing/read-payments.ts'
import { disputeReading, refundReading } from '../../functions/_shared/billing/read-returns.ts'
import { createStripeReader, listings } from '../../functions/_shared/billing/stripe-reader.ts'
import { type Answers, failure, list, startStripe } from './billing-stripe.ts'
import {
  balanceTransaction,
  creditNote,
  dispute,
  exchangedCharge,
  invoice,
  invoicePayment,
  refund,
} from './billing-world.ts'

let small: Awaited<ReturnType<typeof startStripe>> | undefined
afterEach(() => small?.stop())

const origin = { read_at: '2026-11-20T00:00:00Z', deleted: false }
const whole = { balance_transactions: [balanceTransaction(-2500)], charge: exchangedCharge() }
const inEuros = dispute({ ...whole, currency: 'eur', charge: exchangedCharge({ balance_transaction: 'txn_1' }) })

async function ask(answers: Answers) {
  small = await startStripe(answers)
  const { stripe, asked } = small
  const expanded = () =>
    asked.map(({ params }) => [...params].flatMap(([name, value]) => (name.startsWith('expand') ? value : [])))
  return { reader: createStripeReader(stripe), stripe, asked, expanded }
}

test('a dispute in the payment’s currency is asked for once', async () => {
  const { reader, expanded } = await ask({ 'GET /disputes/dp_1': () => dispute({ charge: exchangedCharge() }) })

  await reader.dispute('dp_1')

  expect(expanded()).toEqual([['charge', 'payment_intent']])
})

test('one in another is asked for with what moved on our balance', async () => {
  const { reader, expanded } = await ask({
    'GET /disputes/dp_1': ({ params }) =>
      [...params.values()].includes('charge.balance_transaction') ? { ...inEuros, ...whole } : inEuros,
  })

  const read = disputeReading(await reader.dispute('dp_1'), origin)

  expect(expanded()).toEqual([
    ['charge', 'payment_intent'],
    ['charge', 'payment_intent', 'charge.balance_transaction'],
  ])
  expect(read.exchange).toMatchObject({ charged: 2500, returned: 2500 })
})

test('a key that may not read the balance gets the dispute without its share', async () => {
  const { reader } = await ask({
    'GET /disputes/dp_1': ({ params }) =>
      [...params.values()].includes('charge.balance_transaction')
        ? failure(403, { message: 'The provided key does not have the required permissions.' })
        : inEuros,
  })

  const read = disputeReading(await reader.dispute('dp_1'), origin)

  expect(read).toMatchObject({ id: 'dp_1', currency: 'eur', exchange: null })
})

test('the refunds of a charge, and those of a list, are as whole as one', async () => {
  const back = refund({ currency: 'eur', charge: exchangedCharge({ balance_transaction: 'txn_1' }) })
  const moved = { ...back, charge: exchangedCharge(), balance_transaction: balanceTransaction(-500) }
  const { reader, stripe } = await ask({ 'GET /refunds': () => list([back]), 'GET /refunds/re_1': () => moved })

  const ofCharge = await reader.refundsOfCharge('ch_1')
  const listed = await listings(stripe, undefined)
    .find(({ kind }) => kind === 'refund')
    ?.page(undefined)

  for (const one of [await reader.refund('re_1'), ...ofCharge, ...(listed?.objects ?? [])])
    expect(refundReading(one, origin, false).exchange).toMatchObject({ charged: 2500, returned: 500 })
})

test('a credit note of many lines is read with all of them, alone and in a list', async () => {
  const line = (n: number) => ({ ...creditNote().lines.data[0], id: `cnli_${n}` })
  const lines = [line(0), line(1), line(2)]
  const first = () => creditNote({ lines: { data: [line(0)], has_more: true } })
  const { reader, stripe } = await ask({
    ...{ 'GET /credit_notes/cn_1': first, 'GET /credit_notes': () => list([first()]) },
    'GET /credit_notes/cn_1/lines': () => list(lines),
  })

  const listed = await listings(stripe, 1)
    .find(({ kind }) => kind === 'credit_note')
    ?.page(undefined)

  expect(await reader.creditNote('cn_1')).toMatchObject({ lines: { data: lines } })
  expect(listed).toMatchObject({ objects: [{ lines: { data: lines } }], failed: [] })
  expect(await reader.creditNote('cn_gone')).toBeUndefined()
})

test('an invoice that a charge paid is read, also where an intent that is not there cannot be expanded', async () => {
  const payments = { data: [{ ...invoicePayment(), payment: { type: 'charge', charge: 'ch_1' } }], has_more: false }
  const { reader, expanded } = await ask({
    'GET /invoices/in_1': ({ params }) =>
      [...params.values()].includes('payments.data.payment.payment_intent')
        ? failure(400, { message: 'This property cannot be expanded (payments.data.payment.payment_intent).' })
        : invoice({ payments }),
  })

  const read = invoiceReading(await reader.invoice('in_1'), origin)

  expect(expanded()).toEqual([['payments', 'payments.data.payment.payment_intent'], ['payments']])
  expect(read.payments).toMatchObject([{ charge_id: 'ch_1', payment_intent_id: null }])
  expect(await reader.invoice('in_gone')).toBeUndefined()
})
