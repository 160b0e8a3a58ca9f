/** Refunds and disputes take back the credits that were paid with the money, and give them back when they fail. */
import { describe, expect, test } from 'vitest'
import {
  apply,
  day,
  dispute,
  intentOf,
  invoice,
  ledgerOf,
  line,
  newShop,
  paymentOf,
  type Reading,
  readAt,
  refund,
  type Shop,
  session,
} from './billing-support.ts'
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
    ['won', 0],
    ['prevented', 0],
    ['warning_needs_response', 0],
    ['warning_under_review', 0],
    ['warning_closed', 0],
    ['a_newer_word', 0],
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
