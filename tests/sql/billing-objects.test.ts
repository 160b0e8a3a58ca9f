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
  readAt,
  session,
  subscription,
  subscriptionOf,
} from './billing-support.ts'
import { entitlementOf } from './entitlement-support.ts'
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

  test('is as the next reading says, too, when a clock that was ahead has put the last one into the future', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const sub = subscription(shop, 1)
      await apply(tx, sub)
      await tx`update private.stripe_objects set read_at = now() + interval '2 hours' where id = ${sub.id}`

      const outcomes = await apply(tx, { ...subscription(shop, 2, { status: 'unpaid' }), id: sub.id })

      expect(outcomes).toEqual(['subscription changed'])
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

  test('that is past due counts from what is open since the last payment, not from what was left open before it', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const sub = subscription(shop, 1, { status: 'past_due' })
      const at = (status: string, created: number) =>
        invoice(shop, 1, { subscription_id: sub.id, status, created: day(created) })

      const seen: unknown[] = []
      for (const readings of [[sub, at('open', -110)], [at('open', 9)], [at('paid', -20)]]) {
        await apply(tx, ...readings)
        seen.push((await subscriptionOf(tx, sub.id)).past_due_since)
      }

      expect(seen).toEqual([day(-110), day(-110), day(9)])
      expect(await entitlementOf(tx, shop.account.id)).toMatchObject({ state: 'past_due', is_paid: true })
    }))

  test.each([
    ['active', {}],
    ['trialing', { trial_end: day(30) }],
  ])(
    'that is %s, and whose invoices are not collected any more, entitles until the end of the period, without a grace',
    (status, more) =>
      rolledBack(async (tx) => {
        const shop = await newShop(tx)
        const sub = subscription(shop, 1, { ...more, status, is_paused: true })

        await apply(tx, sub, invoice(shop, 1, { subscription_id: sub.id }))

        const times = await tx`
        select plan_id, state, extract(epoch from ends_at)::float8 as ends from private.entitlements
        where user_id = ${shop.account.id} order by starts_at`
        expect([...times]).toEqual([
          { plan_id: 'premium', state: status, ends: day(30) },
          { plan_id: null, state: 'paused', ends: Number.POSITIVE_INFINITY },
        ])
        expect(await subscriptionOf(tx, sub.id)).toMatchObject({ status })
      }),
  )

  test.each(['draft', 'void', 'uncollectible'])(
    'is paused at once when the invoice of its period is %s instead of collected',
    (status) =>
      rolledBack(async (tx) => {
        const shop = await newShop(tx)
        const sub = subscription(shop, 1, { is_paused: true })

        await apply(tx, sub)
        await apply(tx, invoice(shop, 1, { subscription_id: sub.id, status }))

        expect(await subscriptionOf(tx, sub.id)).toMatchObject({ status: 'paused' })
        expect(await entitlementOf(tx, shop.account.id)).toMatchObject({ state: 'paused', is_paid: false })
      }),
  )

  test('that is paused entitles to nothing at once, and one that is past due goes on being so', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const sub = subscription(shop, 1, { status: 'paused', is_paused: true })
      await apply(tx, sub)
      const before = await entitlementOf(tx, shop.account.id)
      await apply(tx, { ...sub, status: 'past_due', read_at: readAt(2) })

      expect(before).toMatchObject({ state: 'paused', is_paid: false })
      expect(await subscriptionOf(tx, sub.id)).toMatchObject({ status: 'past_due' })
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

  const unused = (amount: number) => ({ amount, is_proration: true })
  const update = { billing_reason: 'subscription_update' }
  test.each<[string, object, Record<string, unknown>[], string[]]>([
    ['a trial ended now with a coupon of 50 %', { ...update, total: 600 }, [{}], ['grant 1000']],
    ['a trial ended now with a coupon of 100 %', { ...update, total: 0 }, [{}], ['grant 1000']],
    ['half of it was unused time; 20 % are tax', { ...update, total: 720 }, [unused(-600), {}], ['grant 500']],
    ['two plans, one of them unused time', { ...update }, [unused(-1200), {}, {}], ['grant 500', 'grant 500']],
    [
      'a plan and something else, half of it unused time',
      { ...update },
      [unused(-1200), {}, { price_id: 'price_unknown' }],
      ['grant 500'],
    ],
    ['a plan of the same price', { ...update, total: 0 }, [unused(-1200), {}], []],
    ['a renewal with less unused time than it costs', { total: 900 }, [unused(-300), {}], ['grant 750']],
    ['a renewal with more unused time than it costs', { total: -800 }, [unused(-2000), {}], []],
    ['a renewal with the rest of an upgrade', { total: 2400 }, [unused(1200), {}], ['grant 1000']],
    ['a renewal, all from the balance', { amount_due: 0, amount_paid: 0 }, [{}], []],
    ['a renewal, a quarter from the balance', { amount_due: 900, amount_paid: 900 }, [{}], ['grant 750']],
    ['a renewal with a debt of before', { amount_due: 1240, amount_paid: 1240 }, [{}], ['grant 1000']],
    [
      'a first period, all from the balance',
      { billing_reason: 'subscription_create', amount_due: 0, amount_paid: 0 },
      [{}],
      [],
    ],
    [
      'a half of unused time, half of the rest from the balance',
      { ...update, total: 600, amount_due: 300, amount_paid: 300 },
      [unused(-600), {}],
      ['grant 250'],
    ],
  ])('brings credits in the share that is paid anew: %s', (_, fields, lines, grants) =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)

      await apply(
        tx,
        invoice(shop, 1, { subscription_id: 'sub_1', ...fields, lines: lines.map((one) => line(shop.month, one)) }),
      )

      expect(await ledgerOf(tx, shop)).toEqual(grants)
    }),
  )

  test('for a month instead of a year, and a year instead of a month, brings no credits for what is on the balance', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      await tx`update public.plan_prices set credits = 12000 where id = ${`${shop.planPrice}_y`}`
      const paid = (n: number, fields: Record<string, unknown>) =>
        invoice(shop, n, { subscription_id: 'sub_1', ...fields })
      const year = line(shop.year, { amount: 12_000 })
      await apply(tx, paid(1, { billing_reason: 'subscription_create', total: 12_000, lines: [year] }))
      const fromBalance = { amount_due: 0, amount_paid: 0, payments: [] }

      const toMonth = (n: number) =>
        paid(n, {
          ...{ ...update, ...fromBalance, total: -10_800 },
          lines: [line(shop.year, unused(-12_000)), line(shop.month)],
        })
      const toYear = (n: number) =>
        paid(n, {
          ...{ ...update, ...fromBalance, total: 10_800 },
          lines: [line(shop.month, unused(-1200)), line(shop.year, { amount: 12_000 })],
        })
      await apply(tx, toMonth(2), toYear(3), toMonth(4), toYear(5), toMonth(6))
      for (const n of [7, 8]) await apply(tx, paid(n, fromBalance))

      expect(await ledgerOf(tx, shop)).toEqual(['grant 12000'])
    }))

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

  test.each([
    ['three times', { quantities: [3] }, ['grant 1500']],
    ['by a reading that does not say how often', {}, ['grant 500']],
    ['not at all', { quantities: [0] }, []],
  ])('bought %s brings its credits as often', (_, fields, grants) =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)

      await apply(tx, session(shop, 1, fields))

      expect(await ledgerOf(tx, shop)).toEqual(grants)
    }),
  )

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
