/** What is read of Stripe for an event, in the pinned version's shapes and in the older ones. */
import { describe, expect, test } from 'vitest'
import { readObjects } from '../../functions/_shared/billing/read-objects.ts'
import { checkoutSessionReading, invoiceReading } from '../../functions/_shared/billing/read-payments.ts'
import { creditNoteReading, disputeReading, refundReading } from '../../functions/_shared/billing/read-returns.ts'
import { subscriptionReading } from '../../functions/_shared/billing/readings.ts'
import {
  balanceTransaction,
  checkoutId,
  createReader,
  creditNote,
  customer,
  dispute,
  event,
  exchangedCharge,
  invoice,
  invoiceLine,
  invoicePayment,
  nowSeconds,
  refund,
  session,
  subscription,
  userId,
} from './billing-world.ts'

const readAt = '2026-11-20T00:00:00Z'
const origin = { read_at: readAt, deleted: false }
const end = nowSeconds + 2_592_000
type Thing = { id: string; object: string }
const tax = (amount: number, how: object) => ({ amount, ...how })

/** Reads for an event about `subject`, where Stripe has `objects`. */
async function read(type: string, subject: Thing, objects: Thing[]) {
  const { reader, asked } = createReader(objects)
  const claimed = { type, object: subject.object, object_id: subject.id, payload: event(type, subject) }
  const readings = await readObjects(claimed, { reader, readAt, livemode: false })
  return { readings, asked }
}
const idsOf = async (...args: Parameters<typeof read>) => (await read(...args)).readings.map(({ id }) => id)
const all = [customer(), subscription(), invoice(), session(), refund(), dispute(), creditNote()]

describe('an event about', () => {
  test.each<[string, Thing, string[]]>([
    ['customer.updated', customer(), ['cus_1']],
    ['customer.subscription.updated', subscription(), ['sub_1', 'in_1']],
    ['customer.subscription.created', subscription({ latest_invoice: null }), ['sub_1', 'in_1']],
    ['invoice.paid', invoice(), ['in_1', 'sub_1']],
    ['invoice_payment.paid', invoicePayment(), ['in_1', 'sub_1']],
    ['checkout.session.completed', session(), ['cs_1']],
    ['refund.updated', refund(), ['re_1']],
    ['charge.refunded', { id: 'ch_1', object: 'charge' }, ['re_1']],
    ['charge.dispute.closed', dispute(), ['dp_1']],
    ['credit_note.created', creditNote(), ['cn_1', 'in_1']],
    ['credit_note.voided', creditNote({ invoice: 'in_gone' }), ['cn_1', 'in_1']],
    ['payment_intent.payment_failed', { id: 'pi_2', object: 'payment_intent' }, ['cs_1']],
    ['charge.succeeded', { id: 'ch_1', object: 'charge' }, []],
    ['product.updated', { id: 'prod_1', object: 'product' }, []],
    ['invoice.upcoming', invoice(), []],
    ['customer.source.created', { id: 'card_1', object: 'card' }, []],
  ])('%s reads what it changes', async (type, subject, ids) => {
    expect(await idsOf(type, subject, all)).toEqual(ids)
  })

  test('a session of a subscription reads that and its invoice, too', async () => {
    const paid = session({ mode: 'subscription', payment_intent: null, subscription: 'sub_1', invoice: 'in_1' })

    expect(await idsOf('checkout.session.completed', paid, [paid, subscription(), invoice()])).toEqual([
      'cs_1',
      'sub_1',
      'in_1',
    ])
  })

  test('an object whose id is missing reads nothing', async () => {
    const { reader } = createReader(all)
    const upcoming = { type: 'invoice.x', object: 'invoice', object_id: null, payload: event('invoice.x', invoice()) }

    expect(await readObjects(upcoming, { reader, readAt, livemode: false })).toEqual([])
  })
})

describe('Stripe is believed, not the event', () => {
  test('which may be older', async () => {
    const { readings } = await read('customer.subscription.updated', subscription({ status: 'active' }), [
      subscription({ status: 'canceled', latest_invoice: null }),
    ])

    expect(readings).toMatchObject([{ status: 'canceled', deleted: false, read_at: readAt }])
  })

  test('and only what Stripe has no more is read from the event, as deleted, and entitles to nothing', async () => {
    const { readings } = await read('customer.subscription.deleted', subscription({ status: 'active' }), [])
    const draft = await read('invoice.deleted', invoice({ status: 'draft', parent: null }), [])

    expect(readings).toMatchObject([{ id: 'sub_1', status: 'canceled', deleted: true }])
    expect(draft.readings).toMatchObject([{ id: 'in_1', status: 'void', deleted: true }])
  })

  test('but a customer or a subscription is never missing: the key is wrong, and nothing ends', async () => {
    const updated = read('customer.subscription.updated', subscription({ status: 'active' }), [])
    const renamed = read('customer.updated', customer(), [])

    await expect(updated).rejects.toMatchObject({ code: 'missing_at_stripe' })
    await expect(renamed).rejects.toMatchObject({ code: 'missing_at_stripe' })
  })

  test('a deleted customer is its id and nothing else', async () => {
    const gone = { id: 'cus_1', object: 'customer', deleted: true }

    const { readings } = await read('customer.deleted', customer(), [gone])

    expect(readings).toEqual([
      {
        object: 'customer',
        id: 'cus_1',
        read_at: readAt,
        livemode: false,
        customer_id: 'cus_1',
        deleted: true,
        user_id: null,
      },
    ])
  })
})

describe('a subscription', () => {
  const reading = {
    ...{ object: 'subscription', id: 'sub_1', read_at: readAt, livemode: false, customer_id: 'cus_1', deleted: false },
    ...{ user_id: userId, status: 'active', cancel_at_period_end: false, cancel_at: null, canceled_at: null },
    ...{ ended_at: null, trial_start: null, trial_end: null, started_at: nowSeconds, is_paused: false },
    latest_invoice_id: 'in_1',
    items: [
      {
        ...{ id: 'si_1', price_id: 'price_1', product_id: null, quantity: 1 },
        ...{ current_period_start: nowSeconds, current_period_end: end },
      },
    ],
  }

  test('is read whole', () => {
    expect(subscriptionReading(subscription(), origin)).toEqual(reading)
  })

  test('of a version before basil has its period at the top', () => {
    const older = subscription({
      ...{ current_period_start: nowSeconds, current_period_end: end },
      items: { data: [{ id: 'si_1', plan: { id: 'price_1' }, quantity: 1 }] },
    })

    expect(subscriptionReading(older, origin)).toEqual(reading)
  })

  test.each([
    [{ status: 'paused' }, true],
    [{ pause_collection: { behavior: 'void' } }, true],
    [{ status: 'trialing' }, false],
  ])('%o: paused is %s', (more, isPaused) => {
    expect(subscriptionReading(subscription(more), origin).is_paused).toBe(isPaused)
  })

  test.each([{}, { palisade_user_id: 'somebody' }, { palisade_user_id: `${userId}'` }])(
    'of metadata %o names no user',
    (metadata) => {
      expect(subscriptionReading(subscription({ metadata }), origin).user_id).toBeNull()
    },
  )

  test('of a form that is not known is an error that names the place', () => {
    expect(() => subscriptionReading(subscription({ items: undefined }), origin)).toThrow('items')
  })
})

describe('an invoice', () => {
  const by = (one: object) => ({ payment_intent_id: null, charge_id: null, payment_record_id: null, ...one })
  const reading = {
    ...{ object: 'invoice', id: 'in_1', read_at: readAt, livemode: false, customer_id: 'cus_1', deleted: false },
    ...{ subscription_id: 'sub_1', status: 'paid', billing_reason: 'subscription_cycle', currency: 'usd', total: 1000 },
    ...{ amount_due: 1000, amount_paid: 1000, attempt_count: 1, next_payment_attempt: null, due_at: null },
    ...{ hosted_invoice_url: null, created: nowSeconds, paid_at: nowSeconds + 5 },
    lines: [
      {
        ...{ id: 'il_1', price_id: 'price_1', quantity: 1, amount: 1000, is_proration: false },
        ...{ period_start: nowSeconds, period_end: end },
      },
    ],
    payments: [{ id: 'inpay_1', status: 'paid', ...by({ payment_intent_id: 'pi_1' }), amount_paid: 1000 }],
  }

  test('is read whole', () => {
    expect(invoiceReading(invoice(), origin)).toEqual(reading)
  })

  test('whose bank waits for the customer says so, and of other payments nothing more', () => {
    const paidWith = (payment_intent: object) => ({
      ...invoicePayment(),
      payment: { type: 'payment_intent', payment_intent },
    })
    const payments = {
      data: [paidWith({ id: 'pi_1', status: 'requires_action' }), paidWith({ id: 'pi_2', status: 'canceled' })],
    }

    expect(invoiceReading(invoice({ payments }), origin).payments).toEqual([
      { ...reading.payments[0], payment_intent_status: 'requires_action' },
      { ...reading.payments[0], payment_intent_id: 'pi_2' },
    ])
  })

  test('of a version before basil has its subscription, price and payment elsewhere', () => {
    const line = { ...invoiceLine(), pricing: undefined, parent: undefined, price: { id: 'price_1' }, proration: false }
    const older = invoice({
      ...{ parent: undefined, payments: undefined, subscription: 'sub_1', payment_intent: 'pi_1' },
      lines: { data: [line] },
    })

    expect(invoiceReading(older, origin)).toEqual({
      ...reading,
      payments: [{ id: 'pi_1', status: 'paid', ...by({ payment_intent_id: 'pi_1' }), amount_paid: 1000 }],
    })
  })

  test.each([
    ['a charge without an intent', { type: 'charge', charge: 'ch_1' }, { charge_id: 'ch_1' }],
    ['a charge that came whole', { type: 'charge', charge: { id: 'ch_1', object: 'charge' } }, { charge_id: 'ch_1' }],
    ['a record', { type: 'payment_record', payment_record: 'pr_1' }, { payment_record_id: 'pr_1' }],
    ['something newer', { type: 'cheque', cheque: 'x_1' }, { unknown_type: 'cheque' }],
  ])('says what it was paid by: %s', (_name, payment, said) => {
    const payments = { data: [{ ...invoicePayment(), payment }] }

    expect(invoiceReading(invoice({ payments }), origin).payments).toEqual([
      { id: 'inpay_1', status: 'paid', ...by(said), amount_paid: 1000 },
    ])
  })

  test('of an older version that a charge without an intent paid names the charge', () => {
    const older = invoice({ payments: undefined, payment_intent: null, charge: 'ch_1' })

    expect(invoiceReading(older, origin).payments).toEqual([
      { id: 'ch_1', status: 'paid', ...by({ charge_id: 'ch_1' }), amount_paid: 1000 },
    ])
  })

  test('says the balance before and after it, and why Stripe could not make it final, by its code alone', () => {
    const error = { code: 'customer_tax_location_invalid', type: 'invalid_request_error', message: 'Main Street 1' }
    const told = { starting_balance: -500, ending_balance: 0, auto_advance: true }

    const read = invoiceReading(invoice({ ...told, last_finalization_error: error }), origin)

    expect(read).toMatchObject({ ...told, last_finalization_error: error.code })
    expect(JSON.stringify(read)).not.toContain(error.message)
  })

  test.each([
    ['now', { taxes: [tax(200, { tax_behavior: 'exclusive' }), tax(90, { tax_behavior: 'inclusive' })] }],
    ['before basil', { tax_amounts: [tax(200, { inclusive: false }), tax(90, { inclusive: true })] }],
  ])('says what discounts took off a line and what tax added to it, as Stripe says it %s', (_, taxes) => {
    const discount_amounts = [
      { amount: 300, discount: 'di_1' },
      { amount: 50, discount: 'di_2' },
    ]

    const { lines } = invoiceReading(
      invoice({ lines: { data: [invoiceLine({ ...taxes, discount_amounts })] } }),
      origin,
    )

    expect(lines).toMatchObject([{ discount_amount: 350, tax_amount: 200 }])
  })

  test.each([
    ['an item of the subscription', { parent: { subscription_item_details: { proration: true } } }],
    ['an item of the invoice', { parent: { invoice_item_details: { proration: true } } }],
    ['an older version', { parent: undefined, proration: true }],
  ])('a proration is seen: %s', (_name, more) => {
    const { lines } = invoiceReading(invoice({ lines: { data: [invoiceLine(more)] } }), origin)

    expect(lines.map(({ is_proration }) => is_proration)).toEqual([true])
  })
})

describe('a checkout session', () => {
  test('is read whole; it was paid when its charge was made', async () => {
    const { readings } = await read('checkout.session.completed', session(), [session()])

    expect(readings).toEqual([
      {
        ...{ object: 'checkout_session', id: 'cs_1', read_at: readAt, livemode: false, customer_id: 'cus_1' },
        ...{ deleted: false, user_id: userId, checkout_id: checkoutId, client_reference_id: userId, mode: 'payment' },
        ...{
          status: 'complete',
          payment_status: 'paid',
          payment_intent_status: 'succeeded',
          payment_intent_id: 'pi_2',
        },
        ...{ amount_total: 500, currency: 'usd', invoice_id: null, subscription_id: null, price_ids: ['price_pack'] },
        quantities: [1],
        ...{ created: nowSeconds - 60, paid_at: nowSeconds + 9 },
      },
    ])
  })

  test('says how often each of its prices was bought', () => {
    const bought = { data: [{ price: null, quantity: 9 }, { price: 'price_pack', quantity: 3 }, { price: 'price_2' }] }

    const reading = checkoutSessionReading(session({ line_items: bought }), origin)

    expect(reading).toMatchObject({ price_ids: ['price_pack', 'price_2'], quantities: [3, 1] })
  })

  test.each<[Record<string, unknown>, number | null]>([
    [{ payment_status: 'unpaid' }, null],
    [{ payment_status: 'no_payment_required', payment_intent: null }, nowSeconds - 60],
    [{ payment_intent: 'pi_2' }, nowSeconds - 60],
    [
      { payment_intent: { id: 'pi_2', status: 'succeeded', created: nowSeconds - 9, latest_charge: 'ch_1' } },
      nowSeconds - 9,
    ],
  ])('%o: was paid at %s', async (more, paidAt) => {
    const { readings } = await read('checkout.session.completed', session(), [session(more)])

    expect(readings).toMatchObject([
      { paid_at: paidAt, payment_intent_id: more.payment_intent === null ? null : 'pi_2' },
    ])
  })
})

describe('refunds and disputes', () => {
  test('have the customer of their charge', async () => {
    const { readings: refunds } = await read('refund.created', refund(), [refund()])
    const { readings: disputes } = await read('charge.dispute.created', dispute(), [dispute()])

    const money = {
      customer_id: 'cus_1',
      payment_intent_id: 'pi_1',
      charge_id: 'ch_1',
      currency: 'usd',
      created: nowSeconds,
      exchange: null,
    }
    const common = { read_at: readAt, livemode: false, deleted: false }
    expect(refunds).toEqual([{ object: 'refund', id: 're_1', ...common, ...money, amount: 300, status: 'succeeded' }])
    expect(disputes).toEqual([
      {
        object: 'dispute',
        id: 'dp_1',
        ...common,
        ...money,
        amount: 1000,
        status: 'needs_response',
        reason: 'fraudulent',
      },
    ])
  })

  test('of an older version are found by their charge, whose payment intent is theirs', async () => {
    const older = refund({ payment_intent: null })

    expect((await read('refund.created', older, [older])).readings).toMatchObject([{ payment_intent_id: 'pi_1' }])
  })
})

describe('money that went back in another currency than it came', () => {
  const inEuros = (moves: object[], charge: unknown = exchangedCharge()) =>
    disputeReading(dispute({ ...{ amount: 2780, currency: 'eur' }, charge, balance_transactions: moves }), origin)

  test('says what the payment brought to our balance, and what left it', () => {
    const exchange = { charge_amount: 3000, charge_currency: 'usd', currency: 'gbp', charged: 2500 }
    const refunded = refund({
      currency: 'eur',
      charge: exchangedCharge(),
      balance_transaction: balanceTransaction(-500),
    })

    expect(inEuros([balanceTransaction(-2500)]).exchange).toEqual({ ...exchange, returned: 2500 })
    expect(refundReading(refunded, origin, false).exchange).toEqual({ ...exchange, returned: 500 })
  })

  test('that was given back to us is said by the status, and not by what moved', () => {
    const moves = [balanceTransaction(-2500), balanceTransaction(2500)]

    expect(inEuros(moves).exchange).toMatchObject({ returned: 2500 })
  })

  test.each<[string, object[], unknown]>([
    ['nothing has moved yet', [], exchangedCharge()],
    ['it moved in a third currency', [balanceTransaction(-2500, 'chf')], exchangedCharge()],
    ['the charge is its id', [balanceTransaction(-2500)], 'ch_1'],
    [
      'what the charge brought is an id',
      [balanceTransaction(-2500)],
      exchangedCharge({ balance_transaction: 'txn_1' }),
    ],
    ['the charge has brought nothing', [balanceTransaction(-2500)], exchangedCharge({ balance_transaction: null })],
    ['it is one currency', [balanceTransaction(-2500)], exchangedCharge({ currency: 'eur' })],
  ])('has no share where %s', (_why, moves, charge) => {
    expect(inEuros(moves, charge).exchange).toBeNull()
  })
})

describe('a credit note', () => {
  const money = (more: object) => {
    const { amount_returned, amount_to_balance, pre_payment_amount } = creditNoteReading(
      creditNote({ ...more }),
      origin,
    )
    return [amount_returned, amount_to_balance, pre_payment_amount]
  }
  const refunded = (type: string, amount_refunded: number) => ({ type, refund: `re_${type}`, amount_refunded })

  test('is read whole', () => {
    const read = creditNoteReading(creditNote({ out_of_band_amount: 3000 }), origin)

    expect(read).toEqual({
      ...{ object: 'credit_note', id: 'cn_1', read_at: readAt, livemode: false, customer_id: 'cus_1', deleted: false },
      ...{ invoice_id: 'in_1', status: 'issued', reason: 'product_unsatisfactory', currency: 'usd', amount: 3000 },
      ...{ created: nowSeconds, voided_at: null, pre_payment_amount: 0, post_payment_amount: 3000 },
      ...{ amount_returned: 3000, amount_to_balance: 0, refunds: [] },
      lines: [
        {
          ...{ id: 'cnli_1', type: 'invoice_line_item', invoice_line_id: 'il_1', quantity: 1, amount: 2600 },
          ...{ discount_amount: 100, tax_amount: 500 },
        },
      ],
    })
  })

  test.each<[string, object, number[]]>([
    ['outside of Stripe is returned', { out_of_band_amount: 3000 }, [3000, 0, 0]],
    ['by refunds is said by these', { refunds: [refunded('refund', 3000)] }, [0, 0, 0]],
    ['by a refund of a record is returned', { refunds: [refunded('payment_record_refund', 3000)] }, [3000, 0, 0]],
    ['to the balance is not', { customer_balance_transaction: 'cbtxn_1' }, [0, 3000, 0]],
    [
      'to all of these is each its own',
      {
        ...{ out_of_band_amount: 400, customer_balance_transaction: 'cbtxn_1' },
        refunds: [refunded('refund', 600), refunded('payment_record_refund', 100)],
      },
      [500, 1900, 0],
    ],
    ['that lowers an open invoice is not', { post_payment_amount: 0, pre_payment_amount: 3000 }, [0, 0, 3000]],
    [
      'of an older version that lowers an open one, neither',
      { type: 'pre_payment', post_payment_amount: undefined, pre_payment_amount: undefined },
      [0, 0, 3000],
    ],
  ])('%s', (_what, more, said) => {
    expect(money(more)).toEqual(said)
  })

  test('reads the refunds that it made, too, of any version', async () => {
    const made = refund({ id: 're_1' })
    const note = creditNote({ refunds: [{ type: 'refund', refund: 're_1', amount_refunded: 300 }] })
    const older = creditNote({ refunds: undefined, refund: 're_1' })

    expect(await idsOf('credit_note.created', note, [note, invoice(), made])).toEqual(['cn_1', 'in_1', 're_1'])
    expect(await idsOf('credit_note.created', older, [older, invoice(), made])).toEqual(['cn_1', 'in_1', 're_1'])
  })
})
