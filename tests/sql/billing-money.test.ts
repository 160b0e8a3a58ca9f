/** Money that came back by credit notes, of payments without an intent, and in other currencies; and how amounts are written. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { runs } from '../support/runs.ts'
import {
  apply,
  claimOne,
  day,
  dispute,
  finish,
  id,
  invoice,
  item,
  ledgerOf,
  line,
  newShop,
  pass,
  paymentOf,
  type Reading,
  readAt,
  receiveAgain,
  refund,
  type Shop,
  session,
  subscription,
} from './billing-support.ts'
import { entitlementOf } from './entitlement-support.ts'
import { rolledBack, type Tx } from './support.ts'

type Fields = { [field: string]: unknown }

/** A user with a plan for 30.00 a month, whose 300 credits and plan this invoice has paid. */
async function paidPlan(tx: Tx, fields: Fields = {}): Promise<{ shop: Shop; paid: Reading }> {
  const shop = await newShop(tx)
  await tx`update public.plan_prices set amount = 3000, credits = 300 where id = ${shop.planPrice}`
  const sub = subscription(shop, 1, { items: [item(shop.month)] })
  const lines = [line(shop.month, { amount: 3000 })]
  const paid = invoice(shop, 1, { subscription_id: sub.id, total: 3000, lines, ...fields })
  await apply(tx, sub, paid)
  expect(await stateOf(tx, shop)).toEqual(['active', 300])
  return { shop, paid }
}
const outOfBand = { payments: [] }
const byCharge = (charge: string) => ({
  payments: [{ ...{ id: id('inpay'), status: 'paid', payment_intent_id: null, charge_id: charge }, amount_paid: 3000 }],
})

/** The state of the plan, and the credits that are left of what was bought. */
const stateOf = async (tx: Tx, shop: Shop) => {
  const [row] = await tx`
    select coalesce(sum(amount), 0)::int as credits from public.credit_entries
    where user_id = ${shop.account.id} and kind <> 'sign_up'`
  return [(await entitlementOf(tx, shop.account.id)).state, row?.credits]
}

const creditNote = (shop: Shop, n: number, paid: Reading, fields: Fields = {}): Reading => ({
  ...{ object: 'credit_note', id: id('cn'), read_at: readAt(n), livemode: false, customer_id: shop.customer },
  ...{ deleted: false, invoice_id: paid.id, status: 'issued', reason: null, currency: 'usd', amount: 3000 },
  ...{ created: day(1), voided_at: null, pre_payment_amount: 0, post_payment_amount: 3000 },
  ...{ amount_returned: 0, amount_to_balance: 0, refunds: [], lines: [], ...fields },
})

describe('a credit note', () => {
  test('of all that was paid outside of Stripe takes credits and plan, and is a refund of its owner’s', () =>
    rolledBack(async (tx) => {
      const { shop, paid } = await paidPlan(tx, outOfBand)
      const note = creditNote(shop, 2, paid, { amount_returned: 3000 })

      await apply(tx, note)

      const [row] = await tx`select payment_id, amount::int, status from public.refunds where id = ${note.id}`
      expect(await stateOf(tx, shop)).toEqual(['unpaid', 0])
      expect(await paymentOf(tx, paid.id)).toMatchObject({ refunded: 3000, clawed_back: 300 })
      expect(row).toEqual({ payment_id: paid.id, amount: 3000, status: 'succeeded' })
    }))

  test('that is void gives them back', () =>
    rolledBack(async (tx) => {
      const { shop, paid } = await paidPlan(tx, outOfBand)
      const note = creditNote(shop, 2, paid, { amount_returned: 3000 })
      await apply(tx, note)

      await apply(tx, { ...note, status: 'void', voided_at: day(2), read_at: readAt(3) })

      const [row] = await tx`select status from public.refunds where id = ${note.id}`
      expect(await stateOf(tx, shop)).toEqual(['active', 300])
      expect(row).toEqual({ status: 'canceled' })
      expect(await ledgerOf(tx, shop)).toEqual(['grant 300', 'clawback -300', 'refund 300'])
    }))

  test('that is read before its invoice counts as soon as that is read', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const sub = subscription(shop, 1)
      const paid = invoice(shop, 1, { subscription_id: sub.id, ...outOfBand })

      await apply(tx, creditNote(shop, 2, paid, { amount: 600, amount_returned: 600 }))
      await apply(tx, sub, paid)

      expect(await ledgerOf(tx, shop)).toEqual(['grant 1000', 'clawback -500'])
    }))

  test('that a refund pays counts by that refund, once', () =>
    rolledBack(async (tx) => {
      const { shop, paid } = await paidPlan(tx, byCharge('ch_note'))
      const back = refund(shop, 2, null, 1000, { charge_id: 'ch_note' })
      const refunds = [{ type: 'refund', refund_id: back.id, amount: 1000 }]

      await apply(tx, creditNote(shop, 2, paid, { amount: 1000, post_payment_amount: 1000, refunds }), back)

      expect(await paymentOf(tx, paid.id)).toMatchObject({ refunded: 1000, clawed_back: 100 })
      expect(await tx`select id from public.refunds where payment_id = ${paid.id}`).toEqual([{ id: back.id }])
    }))

  test.each([
    ['became the customer’s balance', { amount_to_balance: 3000 }],
    ['lowered an invoice that was open', { pre_payment_amount: 3000, post_payment_amount: 0 }],
  ])('that %s takes nothing back', (_what, fields) =>
    rolledBack(async (tx) => {
      const { shop, paid } = await paidPlan(tx)

      await apply(tx, creditNote(shop, 2, paid, fields))

      expect(await stateOf(tx, shop)).toEqual(['active', 300])
      expect(await tx`select from public.refunds where payment_id = ${paid.id}`).toHaveLength(0)
    }),
  )

  test('of a pack’s invoice takes the credits of the pack', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const bought = session(shop, 1, { invoice_id: 'in_of_pack' })
      await apply(tx, bought)

      await apply(tx, creditNote(shop, 2, { ...bought, id: 'in_of_pack' }, { amount_returned: 250 }))

      expect(await ledgerOf(tx, shop)).toEqual(['grant 500', 'clawback -250'])
    }))

  test('is told to the owner as a refund, once', () =>
    rolledBack(async (tx) => {
      const { shop, paid } = await paidPlan(tx, outOfBand)
      const note = creditNote(shop, 2, paid, { amount_returned: 3000 })

      for (const n of [2, 3]) await apply(tx, { ...note, read_at: readAt(n) })

      const sent = await tx`
        select body from public.notifications where user_id = ${shop.account.id} and type = 'billing_refunded'`
      expect(sent).toHaveLength(1)
      expect(sent[0]?.body).toContain('30.00 USD')
    }))
})

describe('a payment without an intent', () => {
  test('whose refund names only the charge is taken back with credits and plan', () =>
    rolledBack(async (tx) => {
      const { shop, paid } = await paidPlan(tx, byCharge('ch_only'))

      await apply(tx, refund(shop, 2, null, 3000, { charge_id: 'ch_only', customer_id: null }))

      expect(await paymentOf(tx, paid.id)).toMatchObject({ refunded: 3000, clawed_back: 300 })
      expect(await stateOf(tx, shop)).toEqual(['unpaid', 0])
    }))

  test('that is disputed is taken back', () =>
    rolledBack(async (tx) => {
      const { shop, paid } = await paidPlan(tx, byCharge('ch_only'))

      await apply(tx, dispute(shop, 2, null, 3000, { charge_id: 'ch_only' }))

      expect(await paymentOf(tx, paid.id)).toMatchObject({ disputed: 3000, clawed_back: 300 })
    }))

  test('has its owner named by a fraud warning that names only the charge', () =>
    rolledBack(async (tx) => {
      const { shop } = await paidPlan(tx, byCharge('ch_only'))
      const about = { type: 'radar.early_fraud_warning.created', object: 'radar.early_fraud_warning' }
      const event = { id: id('evt_sql'), ...about, object_id: 'issfr_1' }
      await receiveAgain(tx, { ...event, payload: { data: { object: { charge: 'ch_only', payment_intent: null } } } })
      await pass(tx, event.id, '0')

      await finish(tx, await claimOne(tx))

      const [raised] = await tx`
        select details ->> 'user_id' as user_id from public.security_events where type = 'stripe_early_fraud_warning'`
      expect(raised).toEqual({ user_id: shop.account.id })
    }))

  test('and one with both: a refund that names intent and charge counts once', () =>
    rolledBack(async (tx) => {
      const both = { id: 'inpay_1', status: 'paid', payment_intent_id: 'pi_both', charge_id: 'ch_both' }
      const { shop, paid } = await paidPlan(tx, { payments: [{ ...both, amount_paid: 3000 }] })

      await apply(tx, refund(shop, 2, 'pi_both', 1000, { charge_id: 'ch_both' }))

      expect(await paymentOf(tx, paid.id)).toMatchObject({ refunded: 1000, clawed_back: 100 })
    }))
})

describe('money that went back in another currency', () => {
  /** 30.00 USD that brought 25.00 GBP to our balance, of which so much has left it. */
  const exchange = (returned: number, more: Fields = {}) => ({
    ...{ charge_amount: 3000, charge_currency: 'usd', currency: 'gbp', charged: 2500, returned, ...more },
  })
  const inEuros = (shop: Shop, of: Fields | null, fields: Fields = {}) =>
    dispute(shop, 2, null, 2780, { charge_id: 'ch_only', currency: 'eur', exchange: of, ...fields })
  const alerts = (tx: Tx) =>
    tx`select severity, details from public.security_events where type = 'stripe_currency_unknown'`

  test.each([
    [2500, 'unpaid', 3000, 300],
    [2600, 'unpaid', 3000, 300],
    [1250, 'active', 1500, 150],
    [1, 'active', 1, 0],
  ])(
    'of which %i of 2500 left the balance leaves the plan %s, is %i of 3000 and takes %i credits',
    (returned, state, disputed, taken) =>
      rolledBack(async (tx) => {
        const { shop, paid } = await paidPlan(tx, byCharge('ch_only'))

        await apply(tx, inEuros(shop, exchange(returned)))

        expect(await paymentOf(tx, paid.id)).toMatchObject({ disputed, clawed_back: taken })
        expect(await stateOf(tx, shop)).toEqual([state, 300 - taken])
        expect(await alerts(tx)).toHaveLength(0)
      }),
  )

  test.each<[string, Fields | null]>([
    ['nothing has moved on the balance', null],
    ['the charge was in a third currency', exchange(2500, { charge_currency: 'chf' })],
    ['the charge brought nothing', exchange(2500, { charged: 0 })],
  ])('takes nothing and is an alert where %s, once', (_why, of) =>
    rolledBack(async (tx) => {
      const { shop, paid } = await paidPlan(tx, byCharge('ch_only'))
      const opened = inEuros(shop, of)

      for (const n of [2, 3]) await apply(tx, { ...opened, read_at: readAt(n) })
      await tx`select private.project_stripe_objects(${shop.customer})`

      const said = {
        payment_id: paid.id,
        id: opened.id,
        returned_amount: 2780,
        returned_currency: 'eur',
        currency: 'usd',
      }
      expect(await stateOf(tx, shop)).toEqual(['active', 300])
      expect([...(await alerts(tx))]).toEqual([{ severity: 'medium', details: { ...said, object: 'dispute' } }])
    }),
  )

  test('is its own amount in the row of the dispute, and counts as soon as the balance has moved', () =>
    rolledBack(async (tx) => {
      const { shop, paid } = await paidPlan(tx, byCharge('ch_only'))
      const opened = inEuros(shop, null)
      await apply(tx, opened)

      await apply(tx, { ...opened, exchange: exchange(2500), read_at: readAt(3) })

      const [row] = await tx`select amount::int, currency from public.disputes where id = ${opened.id}`
      expect(row).toEqual({ amount: 2780, currency: 'eur' })
      expect(await paymentOf(tx, paid.id)).toMatchObject({ disputed: 3000, clawed_back: 300 })
    }))

  test('that was won, or is only asked for, is no alert', () =>
    rolledBack(async (tx) => {
      const { shop } = await paidPlan(tx, byCharge('ch_only'))

      await apply(tx, inEuros(shop, null, { status: 'won' }), inEuros(shop, null, { status: 'warning_needs_response' }))

      expect(await alerts(tx)).toHaveLength(0)
    }))

  test('in any parts adds up to the whole, and never to more', () =>
    rolledBack(async (tx) => {
      const parts = fc.array(fc.tuple(fc.nat(900), fc.boolean()), { minLength: 1, maxLength: 8 })
      await fc.assert(
        fc.asyncProperty(parts, fc.integer({ min: 1, max: 5000 }), async (all, amount) => {
          const charge = id('ch')
          const charged = Math.max(
            1,
            all.reduce((sum, [part]) => sum + part, 0),
          )
          const { shop, paid } = await paidPlan(tx, byCharge(charge))
          const readings = all.map(([part, isDispute], n) => {
            const of = exchange(part, { charged, charge_amount: amount })
            const fields = { charge_id: charge, currency: 'eur', exchange: of, created: day(1) + n }
            return isDispute ? dispute(shop, 2, null, 1, fields) : refund(shop, 2, null, 1, fields)
          })
          await apply(tx, ...readings)

          const { refunded, disputed } = await paymentOf(tx, paid.id)
          const whole = all.some(([part]) => part > 0) ? amount : 0
          expect(Number(refunded) + Number(disputed)).toBe(whole)
        }),
        { numRuns: runs(12) },
      )
    }))
})

describe('whatever came back, by whatever way', () => {
  const statuses = {
    credit_note: ['issued', 'void'],
    refund: ['pending', 'succeeded', 'failed'],
    dispute: ['warning_needs_response', 'needs_response', 'won', 'lost'],
  }
  const step = fc.record({
    kind: fc.constantFrom('credit_note' as const, 'refund' as const, 'dispute' as const),
    amount: fc.integer({ min: 1, max: 3000 }),
    isExchanged: fc.boolean(),
    /** The statuses that it was read with, one after another. */
    turns: fc.array(fc.nat(3), { minLength: 1, maxLength: 3 }),
  })
  type Step = typeof step extends fc.Arbitrary<infer T> ? T : never

  function readingsOf(
    shop: Shop,
    paid: Reading,
    charge: string,
    { kind, amount, isExchanged, turns }: Step,
    at: number,
  ) {
    const of = { charge_amount: 3000, charge_currency: 'usd', currency: 'gbp', charged: 2500, returned: amount }
    const fields = { charge_id: charge, created: day(1) + at, ...(isExchanged && { currency: 'eur', exchange: of }) }
    const one =
      kind === 'credit_note'
        ? creditNote(shop, 0, paid, { amount, amount_returned: amount })
        : { refund, dispute }[kind](shop, 0, null, amount, fields)
    return turns.map((turn, n) => {
      const words = statuses[kind]
      return { ...one, status: words[turn % words.length], read_at: readAt(at * 10 + n + 2) }
    })
  }
  const outcomeOf = async (tx: Tx, shop: Shop, paid: Reading) => ({
    payment: await paymentOf(tx, paid.id),
    state: await stateOf(tx, shop),
    rows: await tx`
      select amount::int, currency, status from public.refunds where payment_id = ${paid.id}
      union all select amount::int, currency, status from public.disputes where payment_id = ${paid.id} order by 1, 2, 3`,
  })

  test('comes to the same in any order, doubled, and made again', () =>
    rolledBack(async (tx) => {
      const history = fc.array(step, { minLength: 1, maxLength: 5 })
      await fc.assert(
        fc.asyncProperty(history, fc.infiniteStream(fc.nat(1_000)), async (steps, order) => {
          const outcomes = []
          for (const isShuffled of [false, true]) {
            const charge = id('ch')
            const { shop, paid } = await paidPlan(tx, byCharge(charge))
            const readings = steps.flatMap((one, at) => readingsOf(shop, paid, charge, one, at))
            const mixed = [...readings, ...readings, paid].map((one) => ({ one, place: order.next().value }))
            const all = isShuffled ? mixed.sort((a, b) => a.place - b.place).map(({ one }) => one) : readings
            for (const one of all) await apply(tx, one)
            const [again] = await tx`select private.project_stripe_objects(${shop.customer})::int as changed`
            expect(again).toEqual({ changed: 0 })
            outcomes.push(await outcomeOf(tx, shop, paid))
          }
          expect(outcomes[1]).toEqual(outcomes[0])
        }),
        { numRuns: runs(10) },
      )
    }))
})

describe('an amount as people write it', () => {
  test.each([
    [1200, 'usd', '12.00 USD'],
    [5, 'eur', '0.05 EUR'],
    [-250, 'usd', '-2.50 USD'],
    [1200, 'jpy', '1200 JPY'],
    [1200, 'krw', '1200 KRW'],
    [1250, 'kwd', '1.250 KWD'],
    [500, 'isk', '5 ISK'],
    [500_000, 'ugx', '5000 UGX'],
    [1045, 'huf', '10.45 HUF'],
    [80_050, 'twd', '800.50 TWD'],
    ['9007199254740993', 'usd', '90071992547409.93 USD'],
  ])('%s in %s is %s', (amount, currency, text) =>
    rolledBack(async (tx) => {
      const [row] = await tx`select private.money_text(${amount}::bigint, ${currency}) as text`

      expect(row?.text).toBe(text)
    }),
  )
})

describe('a word of Stripe’s that is not known', () => {
  const unknowns = async (tx: Tx) =>
    (await tx`select kind, value, object_id from private.stripe_unknowns order by id`).map((row) => ({ ...row }))

  test.each<[string, string, (shop: Shop) => Reading]>([
    ['subscription_status', 'dormant', (shop) => subscription(shop, 2, { status: 'dormant' })],
    ['invoice_status', 'half_paid', (shop) => invoice(shop, 2, { status: 'half_paid' })],
    ['billing_reason', 'new_moon', (shop) => invoice(shop, 2, { billing_reason: 'new_moon' })],
    ['payment_type', 'cheque', (shop) => invoice(shop, 2, { payments: [{ id: 'inpay_1', unknown_type: 'cheque' }] })],
    ['refund_status', 'on_its_way', (shop) => refund(shop, 2, 'pi_1', 100, { status: 'on_its_way' })],
    ['dispute_status', 'in_court', (shop) => dispute(shop, 2, 'pi_1', 100, { status: 'in_court' })],
    ['checkout_status', 'asleep', (shop) => session(shop, 2, { status: 'asleep' })],
    ['checkout_payment_status', 'promised', (shop) => session(shop, 2, { payment_status: 'promised' })],
    ['credit_note_status', 'torn', (shop) => creditNote(shop, 2, invoice(shop, 1), { status: 'torn' })],
  ])('as %s is noted', (kind, value, make) =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const reading = make(shop)

      await apply(tx, reading)

      expect(await unknowns(tx)).toEqual([{ kind, value, object_id: reading.id }])
    }),
  )

  test('is none of those that Stripe’s types name', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const plain = [subscription(shop, 2), invoice(shop, 2), session(shop, 2), refund(shop, 2, 'pi_1', 1)]

      await apply(tx, ...plain, dispute(shop, 2, 'pi_1', 1), creditNote(shop, 2, invoice(shop, 1)))

      expect(await unknowns(tx)).toEqual([])
    }))

  test('is not looked for in what is nobody’s here, nor in why an invoice was made that is not a plan’s or not paid', () =>
    rolledBack(async (tx) => {
      const [foreign, shop] = [await newShop(tx, { linked: false }), await newShop(tx)]

      await apply(
        tx,
        subscription(foreign, 2, { status: 'dormant', user_id: null }),
        invoice(shop, 2, { billing_reason: 'new_moon', lines: [line('price_of_others')] }),
        invoice(shop, 2, { billing_reason: 'new_moon', status: 'open' }),
      )

      expect(await unknowns(tx)).toEqual([])
    }))
})
