/** Refunds and disputes take back the credits that were paid with the money, and give them back when they fail. */
import { describe, expect, test } from 'vitest'
import {
  apply,
  day,
  dispute,
  intentOf,
  invoice,
  item,
  ledgerOf,
  line,
  newShop,
  nextCustomer,
  paymentOf,
  type Reading,
  readAt,
  refund,
  type Shop,
  session,
  subscription,
} from './billing-support.ts'
import { entitlementOf } from './entitlement-support.ts'
import { changeCredits, creditsOf, rolledBack, type Tx } from './support.ts'

/** A shop whose user has paid for a month: 1000 credits for 12.00. */
async function paidMonth(tx: Tx, fields = {}): Promise<{ shop: Shop; paid: Reading; intent: unknown }> {
  const shop = await newShop(tx)
  const paid = invoice(shop, 1, { subscription_id: 'sub_1', ...fields })
  await apply(tx, paid)
  return { shop, paid, intent: intentOf(paid) }
}
const expire = async (tx: Tx, { account }: Shop): Promise<void> => {
  await tx`
    update private.credit_lots set expires_at = now() - interval '1 hour'
    where user_id = ${account.id} and expires_at < now() + interval '40 days'`
  await tx`update private.accounts set next_expiry_at = now() - interval '1 hour' where user_id = ${account.id}`
  await tx`select private.lock_account(${account.id})`
}
const balanceOf = async (tx: Tx, { account }: Shop) => (await creditsOf(tx, account.id)).balance - 100

describe('a refund', () => {
  test('is a row of its owner’s and takes back its share of the credits', () =>
    rolledBack(async (tx) => {
      const { shop, paid, intent } = await paidMonth(tx)
      const back = refund(shop, 2, intent, 400)

      const outcomes = await apply(tx, back)

      const [row] = await tx`select user_id, payment_id, amount::int, status from public.refunds where id = ${back.id}`
      expect(outcomes).toEqual(['refund changed'])
      expect(row).toEqual({ user_id: shop.account.id, payment_id: paid.id, amount: 400, status: 'succeeded' })
      expect(await paymentOf(tx, paid.id)).toMatchObject({ refunded: 400, credits: 1000, clawed_back: 333 })
      expect(await ledgerOf(tx, shop)).toEqual(['grant 1000', 'clawback -333'])
    }))

  test('in parts takes back to the credit what a whole one does', () =>
    rolledBack(async (tx) => {
      const { shop, intent } = await paidMonth(tx)

      for (const n of [2, 3, 4]) await apply(tx, refund(shop, n, intent, 400))

      expect(await ledgerOf(tx, shop)).toEqual(['grant 1000', 'clawback -334', 'clawback -333', 'clawback -333'])
      expect(await balanceOf(tx, shop)).toBe(0)
    }))

  test.each([
    [1, 1, 3, 0],
    [1, 1, 2, 1],
    [3, 1, 2, 2],
    [1000, 1200, 1200, 1000],
    [1000, 5000, 1200, 1000],
    [999_999_999_999, 1, 3, 333_333_333_333],
    [1000, 7, 0, 0],
  ])('of %i credits, %i of %i paid is %i', (credits, returned, paid, target) =>
    rolledBack(async (tx) => {
      const [row] = await tx`select private.clawback_target(${credits}, ${returned}, ${paid})::text as target`

      expect(row?.target).toBe(String(target))
    }),
  )

  test.each([
    ['pending', 1000],
    ['requires_action', 1000],
    ['succeeded', 1000],
    ['failed', 0],
    ['canceled', 0],
  ])('that is %s takes back %i of 1000 credits', (status, taken) =>
    rolledBack(async (tx) => {
      const { shop, paid, intent } = await paidMonth(tx)

      await apply(tx, refund(shop, 2, intent, 1200, { status }))

      expect(await paymentOf(tx, paid.id)).toMatchObject({ clawed_back: taken })
      expect(await balanceOf(tx, shop)).toBe(1000 - taken)
    }),
  )

  test('that fails gives them back, until the day on which they would have expired', () =>
    rolledBack(async (tx) => {
      const { shop, intent } = await paidMonth(tx)
      const back = refund(shop, 2, intent, 1200, { status: 'pending' })
      await apply(tx, back)

      await apply(tx, { ...back, status: 'failed', read_at: readAt(3) })

      const [lot] = await tx`
        select kind, extract(epoch from expires_at)::int as expires from private.credit_lots
        where user_id = ${shop.account.id} and remaining = 1000`
      expect(await ledgerOf(tx, shop)).toEqual(['grant 1000', 'clawback -1000', 'refund 1000'])
      expect(lot).toEqual({ kind: 'monthly', expires: day(30) })
    }))

  test('that is read before its payment counts as soon as the payment is read', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const bought = session(shop, 1)

      const first = await apply(tx, refund(shop, 2, bought.payment_intent_id, 250))
      await apply(tx, bought)

      expect([first, await ledgerOf(tx, shop)]).toEqual([['refund changed'], ['grant 500', 'clawback -250']])
    }))

  test('that is read together with its payment and an older reading of that, in any order, counts once', () =>
    rolledBack(async (tx) => {
      const shops = [await newShop(tx), await newShop(tx), await newShop(tx)]
      for (const [turn, shop] of shops.entries()) {
        const paid = session(shop, 3)
        const before = { ...paid, ...session(shop, 2), id: paid.id, payment_intent_id: paid.payment_intent_id }
        const waiting = { ...before, payment_status: 'unpaid', payment_intent_status: 'processing', paid_at: null }
        const readings = [refund(shop, 4, intentOf(paid), 500), waiting, paid]

        await apply(tx, ...readings.slice(turn), ...readings.slice(0, turn))

        expect(await ledgerOf(tx, shop)).toEqual(['grant 500', 'clawback -500'])
        expect(await paymentOf(tx, paid.id)).toMatchObject({ status: 'paid', credits: 500, clawed_back: 500 })
      }
    }))

  test('whose payment Stripe takes for unpaid afterwards stays taken back, and is no failure', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const paid = session(shop, 1)
      await apply(tx, paid, refund(shop, 2, intentOf(paid), 500))

      const [outcome] = await apply(tx, {
        ...session(shop, 3, { payment_status: 'unpaid' }),
        id: paid.id,
        payment_intent_id: paid.payment_intent_id,
      })

      expect(outcome).toBe('checkout_session changed')
      expect(await ledgerOf(tx, shop)).toEqual(['grant 500', 'clawback -500'])
    }))

  test('without a customer is its payment’s', () =>
    rolledBack(async (tx) => {
      const { shop, intent } = await paidMonth(tx)

      await apply(tx, refund(shop, 2, intent, 1200, { customer_id: null }))

      expect(await ledgerOf(tx, shop)).toEqual(['grant 1000', 'clawback -1000'])
    }))

  test('of what is spent already leaves a debt', () =>
    rolledBack(async (tx) => {
      const { shop, intent } = await paidMonth(tx)
      await changeCredits(tx, 'deduct', shop.account.id, 900)

      await apply(tx, refund(shop, 2, intent, 1200))

      expect(await balanceOf(tx, shop)).toBe(-900)
    }))

  test('of an invoice that the balance paid in part takes back what the rest brought', () =>
    rolledBack(async (tx) => {
      const { shop, paid, intent } = await paidMonth(tx, { amount_due: 100, amount_paid: 100 })

      await apply(tx, refund(shop, 2, intent, 100))

      expect(await paymentOf(tx, paid.id)).toMatchObject({ credits: 83, clawed_back: 83 })
      expect(await ledgerOf(tx, shop)).toEqual(['grant 83', 'clawback -83'])
    }))

  test('of an invoice that was paid in two parts counts for both payments', () =>
    rolledBack(async (tx) => {
      const payments = [
        { id: 'inpay_1', status: 'paid', payment_intent_id: 'pi_sql_1', amount_paid: 300 },
        { id: 'inpay_2', status: 'paid', payment_intent_id: 'pi_sql_2', amount_paid: 900 },
      ]
      const { shop, paid } = await paidMonth(tx, { payments })

      await apply(tx, refund(shop, 2, 'pi_sql_1', 300), refund(shop, 2, 'pi_sql_2', 300))

      expect(await paymentOf(tx, paid.id)).toMatchObject({ refunded: 600, clawed_back: 500 })
      expect(await ledgerOf(tx, shop)).toEqual(['grant 1000', 'clawback -500'])
    }))

  test('of a payment that nobody knows changes nothing', () =>
    rolledBack(async (tx) => {
      const { shop } = await paidMonth(tx)

      const outcomes = await apply(tx, refund(shop, 2, 'pi_unknown', 1200), refund(shop, 2, null, 1200))

      expect([outcomes, await ledgerOf(tx, shop)]).toEqual([['refund changed', 'refund changed'], ['grant 1000']])
    }))
})

describe('credits that have expired', () => {
  test('are not taken back again', () =>
    rolledBack(async (tx) => {
      const { shop, intent } = await paidMonth(tx)
      await changeCredits(tx, 'deduct', shop.account.id, 300)
      await expire(tx, shop)

      await apply(tx, refund(shop, 2, intent, 1200))

      expect(await balanceOf(tx, shop)).toBe(-300)
    }))

  test.each([
    ['before', ['refund', 'expire']],
    ['after', ['expire', 'refund']],
    ['in parts before and after', ['half', 'expire', 'refund']],
    ['twice', ['refund', 'failed', 'expire', 'refund again']],
  ])('come to the same whether the refund is %s', (_, steps) =>
    rolledBack(async (tx) => {
      const { shop, intent } = await paidMonth(tx)
      await changeCredits(tx, 'deduct', shop.account.id, 300)
      const whole = refund(shop, 3, intent, 1200)
      const half = { ...whole, amount: 600, read_at: readAt(2) }

      for (const step of steps) {
        if (step === 'expire') await expire(tx, shop)
        if (step === 'half') await apply(tx, half)
        if (step === 'failed') await apply(tx, { ...whole, status: 'failed', read_at: readAt(4) })
        if (step === 'refund again') await apply(tx, { ...whole, id: 're_again', read_at: readAt(5) })
        if (step === 'refund') await apply(tx, whole)
      }

      expect(await balanceOf(tx, shop)).toBe(-300)
    }),
  )
})

describe('a dispute', () => {
  test.each([
    ['needs_response', 1000],
    ['under_review', 1000],
    ['lost', 1000],
    ['appeal_needs_response', 1000],
    ['appeal_under_review', 1000],
    ['a_newer_word', 1000],
    ['won', 0],
    ['prevented', 0],
    ['warning_needs_response', 0],
    ['warning_under_review', 0],
    ['warning_closed', 0],
  ])('that is %s takes back %i of 1000 credits', (status, taken) =>
    rolledBack(async (tx) => {
      const { shop, paid, intent } = await paidMonth(tx)

      await apply(tx, dispute(shop, 2, intent, 1200, { status }))

      expect(await paymentOf(tx, paid.id)).toMatchObject({ disputed: taken === 0 ? 0 : 1200, clawed_back: taken })
      expect(await balanceOf(tx, shop)).toBe(1000 - taken)
    }),
  )

  test('takes them once, and gives them back when it is won', () =>
    rolledBack(async (tx) => {
      const { shop, intent } = await paidMonth(tx)
      const opened = dispute(shop, 2, intent, 1200)

      await apply(tx, opened)
      await apply(tx, { ...opened, status: 'under_review', read_at: readAt(3) })
      await apply(tx, { ...opened, status: 'won', read_at: readAt(4) })
      await apply(tx, { ...opened, status: 'lost', read_at: readAt(3.5) })

      expect(await ledgerOf(tx, shop)).toEqual(['grant 1000', 'clawback -1000', 'refund 1000'])
    }))

  test('and a refund of the same money take it back once', () =>
    rolledBack(async (tx) => {
      const { shop, paid, intent } = await paidMonth(tx)

      await apply(tx, refund(shop, 2, intent, 900), dispute(shop, 2, intent, 1200))

      expect(await paymentOf(tx, paid.id)).toMatchObject({ refunded: 900, disputed: 1200, clawed_back: 1000 })
      expect(await balanceOf(tx, shop)).toBe(0)
    }))

  test('of an invoice that brought no credits takes none', () =>
    rolledBack(async (tx) => {
      const { shop, intent } = await paidMonth(tx, { lines: [line('price_unknown')] })

      await apply(tx, dispute(shop, 2, intent, 1200))

      expect(await ledgerOf(tx, shop)).toEqual([])
    }))
})

describe('the credits of a payment that goes back', () => {
  /** A month of 1000 credits that expires, a pack of 500 that does not yet, and the 100 of the sign-up. */
  async function monthAndPack(tx: Tx, fields = {}) {
    const { shop, paid, intent } = await paidMonth(tx)
    const bought = session(shop, 2, fields)
    await apply(tx, bought)
    return { shop, paid, intent, pack: bought.payment_intent_id }
  }
  const spend = (tx: Tx, { account }: Shop, amount: number) => changeCredits(tx, 'deduct', account.id, amount)
  const lotsOf = async (tx: Tx, { account }: Shop) => {
    await tx`select private.burn_credits(a) from private.accounts a where a.user_id = ${account.id}`
    const rows = await tx`
      select kind || ' ' || sum(remaining) as lot from private.credit_lots
      where user_id = ${account.id} group by kind order by kind`
    const wrong = await tx`select from private.verify_accounts() where user_id = ${account.id}`
    expect(wrong.length).toBe(0)
    return rows.map((row) => row.lot)
  }

  test('are its own: those of a month stay and expire, and nothing of a refunded pack is left', () =>
    rolledBack(async (tx) => {
      const { shop, pack } = await monthAndPack(tx)

      await apply(tx, refund(shop, 3, pack, 500))

      expect(await lotsOf(tx, shop)).toEqual(['monthly 1000', 'promotional 100', 'purchased 0'])
      await expire(tx, shop)
      expect(await balanceOf(tx, shop)).toBe(0)
    }))

  test('count once when a dispute is won, also after what else there was has expired', () =>
    rolledBack(async (tx) => {
      const { shop, pack } = await monthAndPack(tx)
      const opened = dispute(shop, 3, pack, 500)

      await apply(tx, opened)
      await apply(tx, { ...opened, status: 'won', read_at: readAt(4) })
      expect(await lotsOf(tx, shop)).toEqual(['monthly 1000', 'promotional 100', 'purchased 500'])
      await expire(tx, shop)

      expect(await balanceOf(tx, shop)).toBe(500)
    }))

  test('are taken from what was given back of it, too', () =>
    rolledBack(async (tx) => {
      const { shop, pack } = await monthAndPack(tx)
      const [opened, back] = [dispute(shop, 3, pack, 500), refund(shop, 5, pack, 500)]
      await apply(tx, opened)
      await apply(tx, { ...opened, status: 'won', read_at: readAt(4) })

      await apply(tx, back)
      await expire(tx, shop)

      expect(await lotsOf(tx, shop)).toEqual(['monthly 0', 'promotional 100', 'purchased 0'])
    }))

  test('leave a debt for what is spent of them, which the others pay', () =>
    rolledBack(async (tx) => {
      const { shop, intent, pack } = await monthAndPack(tx)
      await spend(tx, shop, 1300)

      await apply(tx, refund(shop, 3, pack, 500))
      expect([await balanceOf(tx, shop), await lotsOf(tx, shop)]).toEqual([
        -300,
        ['monthly 0', 'promotional 0', 'purchased 0'],
      ])

      await apply(tx, refund(shop, 4, intent, 1200))
      expect(await balanceOf(tx, shop)).toBe(-1300)
    }))

  test('are what is left after what was spent before, in the order in which credits burn', () =>
    rolledBack(async (tx) => {
      const { shop, intent } = await monthAndPack(tx)
      await spend(tx, shop, 400)

      await apply(tx, refund(shop, 3, intent, 600))

      // 600 of the month's 1000 are left, of which 500 go.
      expect(await lotsOf(tx, shop)).toEqual(['monthly 100', 'promotional 100', 'purchased 500'])
    }))

  test.each([
    ['before', 0],
    ['after', 1],
  ])('are the same when they are spent %s the refund', (_, place) =>
    rolledBack(async (tx) => {
      const { shop, pack } = await monthAndPack(tx)
      const steps = [() => spend(tx, shop, 300), () => apply(tx, refund(shop, 3, pack, 500))]

      for (const step of place === 0 ? steps : steps.reverse()) await step()

      expect(await lotsOf(tx, shop)).toEqual(['monthly 700', 'promotional 100', 'purchased 0'])
    }),
  )

  test('are taken also from under a call that holds them; what it does not use pays for it', () =>
    rolledBack(async (tx) => {
      const { shop, pack } = await monthAndPack(tx)
      await tx`update private.accounts set held = 1400 where user_id = ${shop.account.id}`

      await apply(tx, refund(shop, 3, pack, 500))

      expect(await creditsOf(tx, shop.account.id)).toMatchObject({ balance: 1100 })
      await tx`update private.accounts set held = 0 where user_id = ${shop.account.id}`
      expect(await lotsOf(tx, shop)).toEqual(['monthly 1000', 'promotional 100', 'purchased 0'])
    }))
})

describe('the plan of a period whose payment went back', () => {
  /** A subscription whose first month is paid. */
  async function subscribed(
    tx: Tx,
    fields = {},
  ): Promise<{ shop: Shop; sub: Reading; paid: Reading; intent: unknown }> {
    const shop = await newShop(tx)
    const sub = subscription(shop, 1, fields)
    const paid = invoice(shop, 1, { subscription_id: sub.id })
    await apply(tx, sub, paid)
    return { shop, sub, paid, intent: intentOf(paid) }
  }
  const stateOf = async (tx: Tx, { account }: Shop) => {
    const { plan_id, state, is_paid } = await entitlementOf(tx, account.id)
    return [plan_id, state, is_paid]
  }
  const [kept, gone] = [
    ['premium', 'active', true],
    ['free', 'unpaid', false],
  ]

  test('whole is gone at once, in parts that come to the whole, too; a part keeps it', () =>
    rolledBack(async (tx) => {
      const { shop, intent } = await subscribed(tx)
      const seen = []
      for (const amount of [1199, 1]) {
        await apply(tx, refund(shop, 2, intent, amount))
        seen.push(await stateOf(tx, shop))
      }

      expect(seen).toEqual([kept, gone])
      const [row] = await tx`select private.pay_url(${shop.account.id}) as url`
      expect(row).toEqual({ url: '/billing' })
      expect((await tx`select from private.retention_clocks where user_id = ${shop.account.id}`).length).toBe(1)
    }))

  test('is back when the refund fails', () =>
    rolledBack(async (tx) => {
      const { shop, intent } = await subscribed(tx)
      const back = refund(shop, 2, intent, 1200, { status: 'pending' })
      await apply(tx, back)
      const before = await stateOf(tx, shop)
      await apply(tx, { ...back, status: 'failed', read_at: readAt(3) })

      expect([before, await stateOf(tx, shop)]).toEqual([gone, kept])
      expect((await tx`select from private.retention_clocks where user_id = ${shop.account.id}`).length).toBe(0)
    }))

  test.each([
    ['won', kept],
    ['lost', gone],
  ])('is gone while a dispute is open; when it is %s it is %j', (end, after) =>
    rolledBack(async (tx) => {
      const { shop, intent } = await subscribed(tx)
      const opened = dispute(shop, 2, intent, 1200)
      const seen = []
      for (const [n, status] of ['warning_needs_response', 'needs_response', 'under_review', end].entries()) {
        await apply(tx, { ...opened, status, read_at: readAt(2 + n) })
        seen.push(await stateOf(tx, shop))
      }

      expect(seen).toEqual([kept, gone, gone, after])
    }),
  )

  test('is gone in whatever order it is read, also of a refund that names no customer', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const orders = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
      ]
      const seen = []
      for (const order of orders) {
        const next = await nextCustomer(tx, shop)
        const sub = subscription(next, 1)
        const paid = invoice(next, 1, { subscription_id: sub.id })
        const all = [sub, paid, refund(next, 1, intentOf(paid), 1200, { customer_id: null })]
        for (const place of order) await apply(tx, ...all.slice(place, place + 1))
        seen.push(await stateOf(tx, next))
      }

      expect(seen).toEqual(orders.map(() => gone))
    }))

  test('comes with the next period that is paid, and what goes back of the one before takes nothing', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const lines = (from: number, to: number) => [line(shop.month, { period_start: day(from), period_end: day(to) })]
      const sub = subscription(shop, 1, { items: [item(shop.month, day(-25), day(5))] })
      const first = invoice(shop, 1, { subscription_id: sub.id, lines: lines(-25, 5), created: day(-25) })
      const next = invoice(shop, 2, { subscription_id: sub.id, lines: lines(5, 35), created: day(5) })
      await apply(tx, sub, first)
      await apply(tx, { ...sub, items: [item(shop.month, day(5), day(35))], read_at: readAt(2) }, next)
      await apply(tx, refund(shop, 3, intentOf(first), 1200))

      expect(await stateOf(tx, shop)).toEqual(kept)
      await apply(tx, refund(shop, 3, intentOf(next), 1200))
      expect(await stateOf(tx, shop)).toEqual(gone)
    }))

  test('stays when only what an upgrade cost went back, and goes with what paid for the period', () =>
    rolledBack(async (tx) => {
      const { shop, sub, intent } = await subscribed(tx)
      const lines = [line(shop.year, { is_proration: true, amount: 300, period_start: day(5) })]
      const upgrade = invoice(shop, 2, { subscription_id: sub.id, total: 300, lines, created: day(5) })
      await apply(tx, upgrade, refund(shop, 3, intentOf(upgrade), 300))
      const before = await stateOf(tx, shop)
      await apply(tx, refund(shop, 3, intent, 1200))

      expect([before, await stateOf(tx, shop)]).toEqual([kept, gone])
    }))
})
