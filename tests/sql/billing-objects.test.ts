/** What readings of Stripe's objects come to: rows, and credits exactly once. */
import { describe, expect, test } from 'vitest'
import {
  apply,
  day,
  invoice,
  item,
  ledgerOf,
  line,
  newShop,
  paymentOf,
  type Reading,
  session,
  subscription,
  subscriptionOf,
} from './billing-support.ts'
import { creditsOf, rolledBack } from './support.ts'

describe('a subscription', () => {
  test('is a row of its owner’s, with the period of its item', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const sub = subscription(shop, 1)

      const outcomes = await apply(tx, sub)

      expect(outcomes).toEqual(['subscription changed'])
      expect(await subscriptionOf(tx, sub.id)).toMatchObject({
        ...{
          user_id: shop.account.id,
          status: 'active',
          plan_id: 'premium',
          plan_price_id: shop.planPrice,
          ends: day(30),
        },
      })
    }))

  test('is as the newest reading says, whatever comes after it', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const sub = subscription(shop, 2, { status: 'past_due' })

      const outcomes = [
        await apply(tx, sub),
        await apply(tx, { ...sub, ...subscription(shop, 1), id: sub.id }),
        await apply(tx, sub),
        await apply(tx, { ...subscription(shop, 3, { status: 'unpaid' }), id: sub.id }),
      ]

      expect(outcomes.flat()).toEqual([
        ...['subscription changed', 'subscription older', 'subscription same', 'subscription changed'],
      ])
      expect(await subscriptionOf(tx, sub.id)).toMatchObject({ status: 'unpaid' })
    }))

  test('of several items has the best plan and the latest end of those that carry one', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      await tx`insert into public.plans (id, name, position) values ('sql_best', 'Best', 1000)`
      await tx`update public.plan_prices set plan_id = 'sql_best' where id = ${`${shop.planPrice}_y`}`
      const items = [
        item(shop.month, day(0), day(31)),
        item(shop.year, day(0), day(30), 3),
        item('price_unknown', day(0), day(90)),
      ]
      const sub = subscription(shop, 1, { items })

      await apply(tx, sub)

      expect(await subscriptionOf(tx, sub.id)).toMatchObject({ plan_id: 'sql_best', quantity: 3, ends: day(31) })
    }))

  test('none of whose prices is known is there all the same, without a plan', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const sub = subscription(shop, 1, { items: [item('price_unknown', day(0), day(20))] })

      await apply(tx, sub)

      expect(await subscriptionOf(tx, sub.id)).toMatchObject({ plan_id: null, plan_price_id: null, ends: day(20) })
    }))

  test('that is past due says since when: since its oldest open invoice was due', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const sub = subscription(shop, 1, { status: 'past_due' })
      const [first, second] = [
        invoice(shop, 1, { subscription_id: sub.id, status: 'open', created: day(3), due_at: day(5) }),
        invoice(shop, 1, { subscription_id: sub.id, status: 'open', created: day(4) }),
      ]

      const seen: unknown[] = []
      for (const readings of [
        [sub],
        [first],
        [second],
        [{ ...second, status: 'paid', read_at: sub.read_at.replace('Z', '1Z') }],
      ]) {
        await apply(tx, ...readings)
        seen.push((await subscriptionOf(tx, sub.id)).past_due_since)
      }

      expect(seen).toEqual([day(0), day(5), day(4), day(5)])
    }))

  test('whose invoices are not collected is paused', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const sub = subscription(shop, 1, { is_paused: true })

      await apply(tx, sub)

      expect(await subscriptionOf(tx, sub.id)).toMatchObject({ status: 'paused' })
    }))
})

describe('a paid invoice', () => {
  test('is a payment, and brings its lines’ credits once, however often it is read', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const paid = invoice(shop, 1, { subscription_id: 'sub_1' })

      await apply(tx, paid)
      await apply(tx, { ...paid, read_at: paid.read_at.replace('Z', '1Z') })
      await apply(tx, paid, paid)

      expect(await ledgerOf(tx, shop)).toEqual(['grant 1000'])
      expect(await paymentOf(tx, paid.id)).toMatchObject({
        ...{ status: 'paid', amount: 1200, credits: 1000, pay_url: null, description: 'Premium (month)' },
      })
    }))

  test('brings credits that expire with the period they were paid for', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)

      await apply(tx, invoice(shop, 1, { subscription_id: 'sub_1' }))

      const lots = await tx`
        select kind, extract(epoch from expires_at)::int as expires from private.credit_lots
        where user_id = ${shop.account.id} and amount = 1000`
      expect([...lots]).toEqual([{ kind: 'monthly', expires: day(30) }])
    }))

  test('of a period that is over brings credits that have expired, and is no failure', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)

      await apply(tx, invoice(shop, 1, { subscription_id: 'sub_1', lines: [line(shop.month, { period_end: day(1) })] }))
      await tx`select private.lock_account(${shop.account.id})`

      expect(await ledgerOf(tx, shop)).toEqual(['grant 1000', 'expiry -1000'])
    }))

  test.each([
    ['a trial', { billing_reason: 'subscription_create', total: 0 }, { amount: 0 }],
    ['a change within a period', { billing_reason: 'subscription_update' }, { is_proration: true }],
    ['a proration', {}, { is_proration: true }],
    ['a price that is not ours', {}, { price_id: 'price_unknown' }],
    ['nothing that is paid yet', { status: 'open' }, {}],
    ['nothing that will be paid', { status: 'void' }, {}],
  ])('for %s brings no credits', (_, fields, lineFields) =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const lines = [line(shop.month, lineFields)]

      await apply(tx, invoice(shop, 1, { subscription_id: 'sub_1', lines, ...fields }))

      expect(await ledgerOf(tx, shop)).toEqual([])
    }),
  )

  test.each([
    [1200, ['grant 1000']],
    [900, ['grant 750']],
    [1, []],
    [-300, []],
  ])(
    'for a period that a change began, of whose 1200 cents %d are new money, brings credits for those',
    (total, grants) =>
      rolledBack(async (tx) => {
        const shop = await newShop(tx)
        const unused = line(shop.month, { amount: total - 1200, is_proration: true })
        const lines = [unused, line(shop.month)]

        await apply(
          tx,
          invoice(shop, 1, { subscription_id: 'sub_1', billing_reason: 'subscription_update', lines, total }),
        )

        expect(await ledgerOf(tx, shop)).toEqual(grants)
      }),
  )

  test('that a coupon pays in full brings credits, and so does a plan that costs nothing', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      await apply(tx, invoice(shop, 1, { subscription_id: 'sub_1', total: 0 }))
      await tx`update public.plan_prices set amount = 0 where id = ${shop.planPrice}`

      await apply(
        tx,
        invoice(shop, 1, { subscription_id: 'sub_1', total: 0, lines: [line(shop.month, { amount: 0 })] }),
      )

      expect(await ledgerOf(tx, shop)).toEqual(['grant 1000', 'grant 1000'])
    }))

  test('brings what it brought, also when the price brings more by now', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const paid = invoice(shop, 1, { subscription_id: 'sub_1' })
      await apply(tx, paid)
      await tx`update public.plan_prices set credits = 5000 where id = ${shop.planPrice}`

      await apply(tx, paid)

      expect([await ledgerOf(tx, shop), (await paymentOf(tx, paid.id)).credits]).toEqual([['grant 1000'], 1000])
    }))

  test('for several seats brings as many times the credits', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)

      await apply(tx, invoice(shop, 1, { subscription_id: 'sub_1', lines: [line(shop.month, { quantity: 3 })] }))

      expect(await ledgerOf(tx, shop)).toEqual(['grant 3000'])
    }))
})

describe('an invoice', () => {
  test('that is open can be paid at its link, and a draft is nobody’s business yet', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const [open, draft] = [
        invoice(shop, 1, { subscription_id: 'sub_1', status: 'open' }),
        invoice(shop, 1, { subscription_id: 'sub_1', status: 'draft' }),
      ]

      await apply(tx, open, draft)

      expect(await paymentOf(tx, open.id)).toMatchObject({ status: 'open', pay_url: 'https://pay.example.com/i/1' })
      expect(await paymentOf(tx, draft.id)).toEqual({})
    }))
})

describe('a checkout of a pack', () => {
  test('brings its credits once, for as long as the pack says', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const bought = session(shop, 1)

      await apply(tx, bought)
      await apply(tx, bought)

      const [lot] = await tx`
        select kind, extract(epoch from expires_at)::int as expires from private.credit_lots
        where user_id = ${shop.account.id} and amount = 500`
      expect([await ledgerOf(tx, shop), lot]).toEqual([['grant 500'], { kind: 'purchased', expires: day(365) + 30 }])
      expect(await paymentOf(tx, bought.id)).toMatchObject({ status: 'paid', amount: 500, description: '500 credits' })
    }))

  test('by a delayed method brings them when the money is there', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const unpaid = session(shop, 1, { payment_status: 'unpaid', payment_intent_status: 'processing', paid_at: null })

      await apply(tx, unpaid)
      const [before, status] = [await ledgerOf(tx, shop), (await paymentOf(tx, unpaid.id)).status]
      await apply(tx, { ...session(shop, 2), id: unpaid.id })

      expect([before, status, await ledgerOf(tx, shop)]).toEqual([[], 'processing', ['grant 500']])
    }))

  test.each([
    [
      'whose delayed payment failed',
      { payment_status: 'unpaid', payment_intent_status: 'requires_payment_method' },
      'failed',
    ],
    ['that is still open', { status: 'open', payment_status: 'unpaid' }, undefined],
    ['that has expired', { status: 'expired', payment_status: 'unpaid' }, undefined],
    ['that is of a subscription', { mode: 'subscription' }, undefined],
  ])('%s brings nothing', (_, fields, status) =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const bought = session(shop, 1, fields)

      await apply(tx, bought)

      expect([await ledgerOf(tx, shop), (await paymentOf(tx, bought.id)).status]).toEqual([[], status])
    }),
  )

  test('is worth what its price says, not what its metadata say', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)

      await apply(tx, session(shop, 1, { price_ids: ['price_unknown'], credit_pack: shop.creditPack, credits: 9000 }))

      expect(await ledgerOf(tx, shop)).toEqual([])
    }))

  test('that costs nothing is paid', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const free = {
        payment_status: 'no_payment_required',
        amount_total: 0,
        payment_intent_id: null,
        payment_intent_status: null,
      }

      await apply(tx, session(shop, 1, free))

      expect(await ledgerOf(tx, shop)).toEqual(['grant 500'])
      expect((await creditsOf(tx, shop.account.id)).balance).toBe(600)
    }))

  test.each([
    ['by its session', (bought: Reading) => ({ session_id: bought.id, id: crypto.randomUUID() })],
    [
      'that had no time to note its session',
      (bought: Reading) => ({ session_id: null, id: String(bought.checkout_id) }),
    ],
  ])('closes the checkout that was started here, known %s', (_, names) =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const bought = session(shop, 1)
      const { id, session_id } = names(bought)
      await tx`
        insert into private.checkouts (id, user_id, credit_pack_id, stripe_price_id, trial_days, livemode, session_id, expires_at)
        values (${id}, ${shop.account.id}, ${shop.creditPack}, ${shop.pack}, 0, false, ${session_id}, now() + interval '1 hour')`
      const isClosed = async () =>
        (await tx`select closed_at is not null as closed from private.checkouts where id = ${id}`)[0]?.closed

      await apply(tx, { ...bought, status: 'open' })
      const before = await isClosed()
      await apply(tx, { ...bought, read_at: bought.read_at.replace('Z', '1Z') })

      expect([before, await isClosed()]).toEqual([false, true])
    }),
  )

  test('does not close a checkout that somebody else started', () =>
    rolledBack(async (tx) => {
      const [shop, other] = [await newShop(tx), await newShop(tx)]
      const bought = session(shop, 1)
      await tx`
        insert into private.checkouts (id, user_id, credit_pack_id, stripe_price_id, trial_days, livemode, expires_at)
        values (${String(bought.checkout_id)}, ${other.account.id}, ${shop.creditPack}, ${shop.pack}, 0, false, now() + interval '1 hour')`

      await apply(tx, bought)

      const [row] = await tx`select closed_at from private.checkouts where id = ${String(bought.checkout_id)}`
      expect(row).toEqual({ closed_at: null })
    }))
})
