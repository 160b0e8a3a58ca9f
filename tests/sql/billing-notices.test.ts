/** What users are told of their payments: each thing once, whoever reads it however often. */
import { describe, expect, test } from 'vitest'
import {
  apply,
  customer,
  day,
  dispute,
  invoice,
  newShop,
  type Reading,
  readAt,
  refund,
  type Shop,
  session,
  subscription,
} from './billing-support.ts'
import { eventsOf, rolledBack, type Tx } from './support.ts'

const toldOf = async (tx: Tx, { account }: Shop): Promise<string[]> => {
  const rows = await tx`
    select n.dedupe_key from private.billing_notices_sent n where n.user_id = ${account.id} order by 1`
  return rows.map((row) => row.dedupe_key)
}
/** Reads each of them three times. */
const readOften = async (tx: Tx, ...readings: Reading[]) => {
  for (const reading of [...readings, ...readings, ...readings]) await apply(tx, reading)
}

describe('an invoice that could not be collected', () => {
  const open = (shop: Shop, n: number, fields = {}) =>
    invoice(shop, n, { subscription_id: 'sub_1', status: 'open', next_payment_attempt: day(12), ...fields })

  test('is told once for each try', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const failed = open(shop, 1)

      await readOften(tx, failed)
      await readOften(tx, { ...failed, attempt_count: 2, read_at: readAt(2) })

      expect(await toldOf(tx, shop)).toEqual([`invoice:${failed.id}:attempt:1`, `invoice:${failed.id}:attempt:2`])
    }))

  test('and is paid after all is told as recovered, to those who knew', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const failed = open(shop, 1)

      await apply(tx, failed, invoice(shop, 1, { subscription_id: 'sub_1', attempt_count: 2 }))
      await readOften(tx, { ...invoice(shop, 2, { subscription_id: 'sub_1' }), id: failed.id })

      expect(await toldOf(tx, shop)).toEqual([`invoice:${failed.id}:attempt:1`, `invoice:${failed.id}:recovered`])
    }))

  test('and waits for the bank’s question to be answered is told so', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const payments = [
        { id: 'inpay_1', status: 'open', payment_intent_id: 'pi_sql', payment_intent_status: 'requires_action' },
      ]

      await readOften(tx, open(shop, 1, { payments }))

      const sent = await tx`select notice from private.billing_notices_sent where user_id = ${shop.account.id}`
      expect([...sent]).toEqual([{ notice: 'payment_action_required' }])
    }))

  test.each([
    ['before the first try', { attempt_count: 0 }],
    ['to somebody who is paying the first one', { billing_reason: 'subscription_create' }],
  ])('is not told %s', (_, fields) =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)

      await apply(tx, open(shop, 1, fields))

      expect(await toldOf(tx, shop)).toEqual([])
    }),
  )
})

describe('a delayed payment of a pack', () => {
  test('that failed is told', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const failed = session(shop, 1, { payment_status: 'unpaid', payment_intent_status: 'requires_payment_method' })

      await readOften(tx, failed)

      expect(await toldOf(tx, shop)).toEqual([`session:${failed.id}`])
    }))
})

describe('a subscription', () => {
  test.each([
    ['is told when the trial ends soon', { trial_end: day(12) }, [`trial:${day(12)}`]],
    ['is not told long before', { trial_end: day(15) }, []],
    ['is not told after it', { trial_end: day(9) }, []],
    ['is not told when it ends there anyway', { trial_end: day(12), cancel_at_period_end: true }, []],
  ])('%s', (_, fields, told) =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const sub = subscription(shop, 1, { status: 'trialing', trial_start: day(0), ...fields })

      await readOften(tx, sub)

      expect(await toldOf(tx, shop)).toEqual(told.map((key) => `subscription:${sub.id}:${key}`))
    }),
  )

  test.each([
    ['that ended is told', { status: 'canceled', ended_at: day(9) }, ['ended']],
    ['that ended weeks ago is not', { status: 'canceled', ended_at: day(1) }, []],
    ['that never began is not', { status: 'incomplete_expired', ended_at: day(9) }, []],
  ])('%s', (_, fields, told) =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const sub = subscription(shop, 1, fields)

      await readOften(tx, sub)

      expect(await toldOf(tx, shop)).toEqual(told.map((key) => `subscription:${sub.id}:${key}`))
    }),
  )

  test('that ended with its customer is told', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const sub = subscription(shop, 1)
      await apply(tx, sub)

      await readOften(tx, { ...customer(shop, 0), read_at: new Date(day(9) * 1000).toISOString(), deleted: true })

      expect(await toldOf(tx, shop)).toEqual([`subscription:${sub.id}:ended`])
    }))
})

describe('a subscription that Stripe gives up as unpaid', () => {
  const endings = async (tx: Tx, { account }: Shop) =>
    (
      await tx`select 1 from private.billing_notices_sent where user_id = ${account.id} and notice = 'dunning_access_ended'`
    ).length
  /** One that owes since that day. */
  async function owing(tx: Tx, since: number) {
    const shop = await newShop(tx)
    const sub = subscription(shop, 1, { status: 'past_due' })
    const open = invoice(shop, 1, { subscription_id: sub.id, status: 'open', attempt_count: 0, created: day(since) })
    await apply(tx, sub, open)
    return { shop, sub, open }
  }

  test('before the grace is over is told once, with where to pay, and not again when it would have been over', () =>
    rolledBack(async (tx) => {
      const { shop, sub } = await owing(tx, 8)
      await readOften(tx, { ...sub, status: 'unpaid', read_at: readAt(2) })
      const [mail] = await tx`select body from private.mails where user_id = ${shop.account.id}`
      const told = await endings(tx, shop)
      await apply(tx, { ...sub, status: 'past_due', read_at: readAt(3) })
      await tx`update private.dunning_steps set after_days = 0`
      await tx`select private.send_dunning()`

      expect(mail?.body).toContain('https://pay.example.com/i/1')
      expect([told, await endings(tx, shop)]).toEqual([1, 1])
    }))

  test('after the grace is not told again', () =>
    rolledBack(async (tx) => {
      const { shop, sub } = await owing(tx, 1)
      await tx`select private.send_dunning()`
      await readOften(tx, { ...sub, status: 'unpaid', read_at: readAt(2) })

      expect(await endings(tx, shop)).toBe(1)
    }))

  test('long ago is not told', () =>
    rolledBack(async (tx) => {
      const { shop, sub } = await owing(tx, -80)
      await apply(tx, { ...sub, status: 'unpaid', read_at: readAt(2) })

      expect(await endings(tx, shop)).toBe(0)
    }))
})

test('the mail that a subscription has ended leads to where one can subscribe, not to an invoice that Stripe left open', () =>
  rolledBack(async (tx) => {
    const shop = await newShop(tx)
    const sub = subscription(shop, 1, { status: 'past_due' })
    await apply(tx, sub, invoice(shop, 1, { subscription_id: sub.id, status: 'open', attempt_count: 0 }))

    await apply(tx, { ...sub, status: 'canceled', ended_at: day(9.5), read_at: readAt(2) })

    const [mail] = await tx`select body from private.mails where user_id = ${shop.account.id}`
    expect(mail?.body).toContain('/billing')
    expect(mail?.body).not.toContain('pay.example.com')
  }))

describe('money that goes back', () => {
  test('is told when it is on its way, in whatever order it is read', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const bought = session(shop, 1)
      const [back, failed] = [
        refund(shop, 1, bought.payment_intent_id, 200),
        refund(shop, 1, bought.payment_intent_id, 300, { status: 'failed' }),
      ]

      await readOften(tx, back, failed, bought)

      expect(await toldOf(tx, shop)).toEqual([`refund:${back.id}`])
    }))

  test.each([['won'], ['lost']])(
    'by a dispute is told when it opens and when it is %s, and is a security event',
    (end) =>
      rolledBack(async (tx) => {
        const shop = await newShop(tx)
        const bought = session(shop, 1)
        const opened = dispute(shop, 2, bought.payment_intent_id, 500)

        await readOften(tx, bought, opened)
        await readOften(tx, { ...opened, status: end, read_at: readAt(3) })

        expect(await toldOf(tx, shop)).toEqual([`dispute:${opened.id}:${end}`, `dispute:${opened.id}:opened`].sort())
        expect(await eventsOf(tx, shop.account.id)).toEqual(['payment_disputed medium'])
      }),
  )

  test('by a bank’s inquiry is not told yet', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const bought = session(shop, 1)

      await apply(tx, bought, dispute(shop, 2, bought.payment_intent_id, 500, { status: 'warning_needs_response' }))

      expect([await toldOf(tx, shop), await eventsOf(tx, shop.account.id)]).toEqual([[], []])
    }))
})

test.each([
  [1200, 'usd', '12.00 USD'],
  [5, 'eur', '0.05 EUR'],
  [-1250, 'usd', '-12.50 USD'],
  [500, 'jpy', '500 JPY'],
  [1234, 'kwd', '1.234 KWD'],
])('%i of the smallest unit of %s is %s', (amount, currency, text) =>
  rolledBack(async (tx) => {
    const [row] = await tx`select private.money_text(${amount}, ${currency}) as text`

    expect(row).toEqual({ text })
  }),
)
