/** The rules of billing, each by the money as Stripe moves it: which lines are a plan's, what was paid, what came back for what. */
import { describe, expect, test } from 'vitest'
import {
  apply,
  day,
  dispute,
  id,
  intentOf,
  invoice,
  item,
  ledgerOf,
  line,
  newShop,
  paymentOf,
  type Reading,
  readAt,
  refund,
  type Shop,
  subscription,
  subscriptionOf,
} from './billing-support.ts'
import { entitlementOf } from './entitlement-support.ts'
import { rolledBack, type Tx } from './support.ts'

/** Pro for 30.00 a month and 300 credits (300.00 and 3600 a year), basic for 5.00, and a price that is no plan's. */
async function newProShop(tx: Tx): Promise<Shop & { basic: string; addOn: string }> {
  const shop = await newShop(tx)
  const basic = id('price')
  await tx`insert into public.plans (id, name, position) values ('sql_basic', 'Basic', 1)`
  await tx`update public.plan_prices set amount = 3000, credits = 300 where id = ${shop.planPrice}`
  await tx`update public.plan_prices set amount = 30000, credits = 3600 where id = ${`${shop.planPrice}_y`}`
  await tx`insert into public.plan_prices (id, plan_id, interval, amount) values (${`${shop.planPrice}_b`}, 'sql_basic', 'month', 500)`
  await tx`
    insert into private.stripe_prices (id, plan_price_id, product_id, livemode)
    values (${basic}, ${`${shop.planPrice}_b`}, 'prod_3', false)`
  return { ...shop, basic, addOn: id('price') }
}
type ProShop = Awaited<ReturnType<typeof newProShop>>
type Fields = Record<string, unknown>

const period = (from: number, to: number) => ({ period_start: day(from), period_end: day(to) })
const pro = (shop: ProShop, fields: Fields = {}) => line(shop.month, { amount: 3000, ...fields })
const addOn = (shop: ProShop, amount = 24_000) => line(shop.addOn, { amount, ...period(0, 365) })
const change = (price: string, amount: number, fields: Fields = {}) =>
  line(price, { amount, is_proration: true, ...period(1, 30), ...fields })
const sumOf = (lines: Fields[]) => lines.reduce((sum, { amount }) => sum + Number(amount), 0)
/** An invoice of these lines, paid by card. */
const bill = (shop: ProShop, n: number, sub: Reading, lines: Fields[], fields: Fields = {}): Reading => {
  const total = Number(fields.total ?? sumOf(lines))
  return invoice(shop, n, { subscription_id: sub.id, lines, total, created: day(n / 10), ...fields })
}
/** Nothing of it by card: the balance or a coupon. */
const free = { amount_due: 0, amount_paid: 0, payments: [] }
const declined = { status: 'open', amount_paid: 0 }

const stateOf = async (tx: Tx, { account }: Shop) => {
  const { plan_id, state, is_paid } = await entitlementOf(tx, account.id)
  return [plan_id, state, is_paid]
}
/** Which plan it is from day 0 on, until which day. */
const courseOf = async (tx: Tx, { account }: Shop) => {
  const rows = await tx`
    select plan_id, state, extract(epoch from ends_at)::float8 as ends from private.entitlements
    where user_id = ${account.id} and ends_at > to_timestamp(${day(0)}) order by starts_at`
  const until = (ends: number) =>
    Number.isFinite(ends) ? `until ${Math.round((ends - day(0)) / 86_400)}` : 'ever after'
  return rows.map((row) => `${row.plan_id ?? 'none'} ${row.state} ${until(row.ends)}`)
}
const active = ['premium', 'active', true]
const unpaid = ['free', 'unpaid', false]
const returns = [
  ['refunded', refund],
  ['disputed', dispute],
] as const

describe('which lines are a plan’s', () => {
  /** Pro and a yearly add-on of 24000 on one subscription and one invoice. */
  async function withAddOn(tx: Tx, fields: Fields = {}) {
    const shop = await newProShop(tx)
    const sub = subscription(shop, 1, {
      items: [item(shop.month), item(shop.addOn, day(0), day(365))],
      ...fields,
    })
    const paid = bill(shop, 1, sub, [pro(shop), addOn(shop)], { billing_reason: 'subscription_create' })
    await apply(tx, sub, paid)
    return { shop, sub, paid }
  }

  test.each(returns)('a yearly add-on that is %s takes neither the plan beside it nor its credits', (_, back) =>
    rolledBack(async (tx) => {
      const { shop, paid } = await withAddOn(tx)

      await apply(tx, back(shop, 2, intentOf(paid), 24_000))

      expect(await stateOf(tx, shop)).toEqual(active)
      expect(await ledgerOf(tx, shop)).toEqual(['grant 300'])
      expect((await tx`select from private.retention_clocks where user_id = ${shop.account.id}`).length).toBe(0)
    }),
  )

  test('the first invoice, add-on and all, that is back takes nothing of a later month that is paid', () =>
    rolledBack(async (tx) => {
      const shop = await newProShop(tx)
      const sub = subscription(shop, 1, {
        items: [item(shop.month, day(0), day(30)), item(shop.addOn, day(-30), day(335))],
        started_at: day(-30),
      })
      const first = bill(shop, 1, sub, [
        pro(shop, period(-30, 0)),
        line(shop.addOn, { amount: 24_000, ...period(-30, 335) }),
      ])
      await apply(tx, sub, first, bill(shop, 2, sub, [pro(shop)]))

      await apply(tx, dispute(shop, 3, intentOf(first), 27_000))

      expect(await stateOf(tx, shop)).toEqual(active)
      expect((await paymentOf(tx, first.id)).clawed_back).toBe(300)
    }))

  test('the month of a plan that is refunded whole ends it, though an add-on of a year was paid with it', () =>
    rolledBack(async (tx) => {
      const { shop, paid } = await withAddOn(tx)

      await apply(tx, refund(shop, 2, intentOf(paid), 3000))

      expect(await stateOf(tx, shop)).toEqual(unpaid)
      expect(await ledgerOf(tx, shop)).toEqual(['grant 300', 'clawback -300'])
    }))

  test('goodwill after that is no payment: what went back before is still back', () =>
    rolledBack(async (tx) => {
      const { shop, paid } = await withAddOn(tx)

      await apply(tx, refund(shop, 2, intentOf(paid), 3000), refund(shop, 3, intentOf(paid), 500))

      expect(await stateOf(tx, shop)).toEqual(unpaid)
    }))

  test('void invoices of a paused plan pay nothing, though an add-on of a year is paid', () =>
    rolledBack(async (tx) => {
      const shop = await newProShop(tx)
      const items = [item(shop.month, day(0), day(30)), item(shop.addOn, day(-90), day(275))]
      const sub = subscription(shop, 1, { items, is_paused: true, started_at: day(-90) })
      const first = bill(shop, 1, sub, [
        pro(shop, period(-90, -60)),
        line(shop.addOn, { amount: 24_000, ...period(-90, 275) }),
      ])
      const voids = [-60, -30, 0].map((from) =>
        bill(shop, 2, sub, [pro(shop, period(from, from + 30))], { status: 'void', amount_paid: 0 }),
      )

      await apply(tx, sub, first, ...voids)

      expect(await stateOf(tx, shop)).toEqual(['free', 'paused', false])
    }))

  test.each(returns)('a yearly fee by hand that is %s is not the plan’s', (_, back) =>
    rolledBack(async (tx) => {
      const shop = await newProShop(tx)
      const sub = subscription(shop, 1)
      const fee = line('', { price_id: null, amount: 5000, ...period(0, 365) })
      const [month, byHand] = [
        bill(shop, 1, sub, [pro(shop), fee]),
        bill(shop, 2, sub, [fee], { billing_reason: 'manual' }),
      ]
      await apply(tx, sub, month, byHand)

      await apply(tx, back(shop, 3, intentOf(month), 5000), back(shop, 3, intentOf(byHand), 5000))

      expect(await stateOf(tx, shop)).toEqual(active)
      expect(await ledgerOf(tx, shop)).toEqual(['grant 300'])
    }),
  )
})

describe('what a subscription is of', () => {
  test('a price that is changed in the dashboard to one that nobody knows takes nothing of the month that is paid', () =>
    rolledBack(async (tx) => {
      const shop = await newProShop(tx)
      const sub = subscription(shop, 1)
      await apply(tx, sub, bill(shop, 1, sub, [pro(shop)]))

      await apply(tx, { ...sub, items: [item('price_made_by_hand')], read_at: readAt(5) })

      expect(await courseOf(tx, shop)).toEqual(['premium active until 30', 'none expired ever after'])
    }))

  test.each<[string, (shop: ProShop) => string[], string, unknown[]]>([
    ['none', () => [], 'active', ['free', 'expired', false]],
    ['none, nor a grace, while an add-on is owed', () => [], 'past_due', ['free', 'past_due', false]],
    ['the other', ({ basic }) => [basic], 'active', ['sql_basic', 'active', true]],
  ])('a plan of which the quantity is 0 is not sold: what is left is %s', (_, others, status, left) =>
    rolledBack(async (tx) => {
      const shop = await newProShop(tx)
      const items = [item(shop.month, day(0), day(30), 0), ...others(shop).map((price) => item(price))]
      const sub = subscription(shop, 1, { items, status })
      const lines = others(shop).map((price) => line(price, { amount: 500 }))

      await apply(tx, sub, bill(shop, 1, sub, [pro(shop, { amount: 0, quantity: 0 }), ...lines]))

      expect(await stateOf(tx, shop)).toEqual(left)
      expect(await ledgerOf(tx, shop)).toEqual([])
    }),
  )
})

describe('what came back', () => {
  test.each(returns)('an upgrade by card that is %s takes no month that the balance paid', (_, back) =>
    rolledBack(async (tx) => {
      const shop = await newProShop(tx)
      const sub = subscription(shop, 1)
      const month = bill(shop, 1, sub, [line(shop.basic, { amount: 500 })], {
        ...free,
        starting_balance: -500,
        ending_balance: 0,
      })
      const lines = [change(shop.basic, -483), change(shop.month, 1158)]
      const upgrade = bill(shop, 2, sub, lines, { billing_reason: 'subscription_update' })
      await apply(tx, sub, month, upgrade)

      await apply(tx, back(shop, 3, intentOf(upgrade), 675))

      expect([upgrade.total, await stateOf(tx, shop)]).toEqual([675, active])
    }),
  )

  test.each(returns)('a seat that is %s takes no month that a coupon paid, nor its credits', (_, back) =>
    rolledBack(async (tx) => {
      const shop = await newProShop(tx)
      const sub = subscription(shop, 1)
      const month = bill(shop, 1, sub, [pro(shop, { discount_amount: 3000 })], { ...free, total: 0 })
      const seat = bill(shop, 2, sub, [change(shop.month, -2893), change(shop.month, 5786, { quantity: 2 })])
      await apply(tx, sub, month, seat)

      await apply(tx, back(shop, 3, intentOf(seat), 2893))

      expect(await stateOf(tx, shop)).toEqual(active)
      expect(await ledgerOf(tx, shop)).toEqual(['grant 300'])
    }),
  )

  test('a part is for what is no plan’s first, and what is beyond it for the plan', () =>
    rolledBack(async (tx) => {
      const shop = await newProShop(tx)
      const sub = subscription(shop, 1)
      const paid = bill(shop, 1, sub, [pro(shop), line(shop.addOn, { amount: 1000 })])
      await apply(tx, sub, paid)
      const seen: unknown[] = []
      for (const amount of [900, 1600, 1500]) {
        await apply(tx, refund(shop, 2, intentOf(paid), amount))
        seen.push((await paymentOf(tx, paid.id)).clawed_back, (await stateOf(tx, shop))[0])
      }

      expect(seen).toEqual([0, 'premium', 150, 'premium', 300, 'free'])
    }))

  test('of two plans that one invoice paid the one whose money is back is gone, and the other stays', () =>
    rolledBack(async (tx) => {
      const shop = await newProShop(tx)
      const sub = subscription(shop, 1, { items: [item(shop.month), item(shop.basic)] })
      const paid = bill(shop, 1, sub, [pro(shop), line(shop.basic, { amount: 500 })])
      await apply(tx, sub, paid)

      await apply(tx, refund(shop, 2, intentOf(paid), 3000))

      expect(await stateOf(tx, shop)).toEqual(['sql_basic', 'active', true])
      expect(await subscriptionOf(tx, sub.id)).toMatchObject({ plan_id: 'sql_basic' })
    }))

  test('is for the lines that a credit note names, also of the refund that it made', () =>
    rolledBack(async (tx) => {
      const shop = await newProShop(tx)
      const sub = subscription(shop, 1)
      const [month, other] = [pro(shop), line(shop.addOn, { amount: 3000 })]
      const paid = bill(shop, 1, sub, [month, other])
      const back = refund(shop, 2, intentOf(paid), 3000)
      const note = (of: { id: string }, n: number): Reading => ({
        ...{
          ...back,
          object: 'credit_note',
          id: 'cn_sql',
          payment_intent_id: null,
          charge_id: null,
          read_at: readAt(n),
        },
        ...{
          invoice_id: paid.id,
          status: 'issued',
          amount_returned: 0,
          refunds: [{ refund_id: back.id, amount: 3000 }],
        },
        lines: [{ invoice_line_id: of.id, amount: 3000, discount_amount: 0, tax_amount: 0 }],
      })

      await apply(tx, sub, paid, back, note(other, 2))
      const before = await stateOf(tx, shop)
      await apply(tx, note(month, 3))

      expect([before, await stateOf(tx, shop)]).toEqual([active, unpaid])
    }))

  test('a note that is refunded in thirds, as to a payment in parts, is refunded whole', () =>
    rolledBack(async (tx) => {
      const shop = await newProShop(tx)
      const sub = subscription(shop, 1)
      const [month, other] = [pro(shop), line(shop.addOn, { amount: 4000 })]
      const paid = bill(shop, 1, sub, [month, other])
      const backs = [1000, 1000, 1000].map((amount) => refund(shop, 2, intentOf(paid), amount))
      const note = {
        ...{ ...refund(shop, 3, null, 3000), object: 'credit_note', charge_id: null, status: 'issued' },
        ...{
          invoice_id: paid.id,
          amount_returned: 0,
          refunds: backs.map(({ id }) => ({ refund_id: id, amount: 1000 })),
        },
        lines: [{ invoice_line_id: month.id, amount: 3000, discount_amount: 0, tax_amount: 0 }],
      }

      const [last, ...others] = backs
      await apply(tx, sub, paid, ...others, note)
      const before = await stateOf(tx, shop)
      if (last) await apply(tx, last)

      expect([before, await stateOf(tx, shop)]).toEqual([active, unpaid])
      expect((await paymentOf(tx, paid.id)).clawed_back).toBe(300)
    }))
})

describe('while an invoice is owed', () => {
  test.each([
    ['past_due', 'is declined'],
    ['active', 'is with the bank'],
  ])('what went back is not lent again: %s, while the next month %s', (status) =>
    rolledBack(async (tx) => {
      const shop = await newProShop(tx)
      const sub = subscription(shop, 1, { status, items: [item(shop.month, day(8), day(38))], started_at: day(-22) })
      const first = bill(shop, 1, sub, [pro(shop, period(-22, 8))])
      const back = dispute(shop, 2, intentOf(first), 3000)
      const next = bill(shop, 3, sub, [pro(shop, period(8, 38))], { ...declined, created: day(8), attempt_count: 0 })
      await apply(tx, sub, first, next, back)

      await tx`select private.send_dunning()`

      expect(await stateOf(tx, shop)).toEqual(unpaid)
      const sent =
        await tx`select from private.billing_notices_sent where user_id = ${shop.account.id} and notice like 'dunning%'`
      expect(sent.length).toBe(0)
      await apply(tx, { ...back, status: 'won', read_at: readAt(9) })
      expect((await stateOf(tx, shop)).slice(1)).toEqual([status, true])
      await apply(tx, { ...back, status: 'lost', read_at: readAt(10) })
      await apply(tx, { ...next, status: 'paid', amount_paid: 3000, read_at: readAt(10) })
      await apply(tx, { ...sub, status: 'active', read_at: readAt(11) })
      expect(await stateOf(tx, shop)).toEqual(active)
    }),
  )

  test('of a yearly and a monthly plan the month that is declined has its days, and then the year is left', () =>
    rolledBack(async (tx) => {
      const shop = await newProShop(tx)
      const items = [item(shop.basic, day(-22), day(343)), item(shop.month, day(8), day(38))]
      const sub = subscription(shop, 1, { status: 'past_due', items, started_at: day(-22) })
      const lines = [pro(shop, period(-22, 8)), line(shop.basic, { amount: 500, ...period(-22, 343) })]
      const owed = bill(shop, 3, sub, [pro(shop, period(8, 38))], { ...declined, created: day(8) })

      await apply(tx, sub, bill(shop, 1, sub, lines, { created: day(-22) }), owed)

      expect(await courseOf(tx, shop)).toEqual([
        ...['premium past_due until 8', 'premium past_due until 15', 'sql_basic past_due until 343'],
        ...['sql_basic past_due until 350', 'none past_due ever after'],
      ])
    }))

  test('a seat whose card is declined takes nothing of the month that is paid', () =>
    rolledBack(async (tx) => {
      const shop = await newProShop(tx)
      const sub = subscription(shop, 1, { status: 'past_due' })
      const seat = [change(shop.month, -2900), change(shop.month, 5800, { quantity: 2 })]

      await apply(tx, sub, bill(shop, 1, sub, [pro(shop)]), bill(shop, 20, sub, seat, declined))

      expect(await courseOf(tx, shop)).toEqual([
        'premium past_due until 30',
        'premium past_due until 37',
        'none past_due ever after',
      ])
      await apply(tx, { ...sub, status: 'unpaid', read_at: readAt(30) })
      expect(await courseOf(tx, shop)).toEqual(['premium past_due until 30', 'none unpaid ever after'])
    }))

  test.each(['past_due', 'unpaid'])(
    'of a declined seat nobody is told that the plan ends while the month is paid: %s',
    (status) =>
      rolledBack(async (tx) => {
        const shop = await newProShop(tx)
        const sub = subscription(shop, 1, { status })
        const seat = bill(shop, 5, sub, [change(shop.month, 2900, { quantity: 2 })], { ...declined, attempt_count: 0 })
        await apply(tx, bill(shop, 1, sub, [pro(shop)]), seat, sub)

        await tx`select private.send_dunning()`

        const sent = await tx`select notice from private.billing_notices_sent where user_id = ${shop.account.id}`
        expect(sent.map(({ notice }) => notice)).toEqual([])
      }),
  )

  test('a change from basic to premium whose card is declined leaves basic, as it is paid', () =>
    rolledBack(async (tx) => {
      const shop = await newProShop(tx)
      const sub = subscription(shop, 1, { status: 'past_due' })
      const upgrade = [change(shop.basic, -483), change(shop.month, 2900)]

      await apply(
        tx,
        sub,
        bill(shop, 1, sub, [line(shop.basic, { amount: 500 })]),
        bill(shop, 2, sub, upgrade, declined),
      )

      expect(await courseOf(tx, shop)).toEqual([
        'sql_basic past_due until 30',
        'sql_basic past_due until 37',
        'none past_due ever after',
      ])
    }))

  test('what was bought in mid-period and given back counts as such: the better plan from then on, the other from then on', () =>
    rolledBack(async (tx) => {
      const shop = await newProShop(tx)
      const sub = subscription(shop, 1, { status: 'past_due' })
      const up = bill(shop, 2, sub, [change(shop.basic, -400, period(5, 30)), change(shop.month, 2500, period(5, 30))])
      const down = bill(
        shop,
        3,
        sub,
        [change(shop.month, -1000, period(20, 30)), change(shop.basic, 167, period(20, 30))],
        free,
      )
      const owed = bill(shop, 4, sub, [pro(shop, period(30, 60))], { ...declined, created: day(30) })

      await apply(tx, sub, bill(shop, 1, sub, [line(shop.basic, { amount: 500 })]), up, down, owed)

      expect(await courseOf(tx, shop)).toEqual([
        ...['sql_basic past_due until 5', 'premium past_due until 20', 'sql_basic past_due until 30'],
        ...['sql_basic past_due until 37', 'none past_due ever after'],
      ])
    }))

  test.each([
    ['active', 'while the bank has it'],
    ['past_due', 'after it failed'],
  ])(
    'nothing comes before a first payment by bank debit, though Stripe says %s %s; the setting says otherwise',
    (status) =>
      rolledBack(async (tx) => {
        const shop = await newProShop(tx)
        const sub = subscription(shop, 1, { status })
        await apply(tx, sub, bill(shop, 1, sub, [pro(shop)], { ...declined, billing_reason: 'subscription_create' }))
        const before = await stateOf(tx, shop)
        const clocks = await tx`select from private.retention_clocks where user_id = ${shop.account.id}`

        await tx`update private.settings set value = 'false' where key = 'billing.first_payment_required'`

        expect([before, clocks.length]).toEqual([['free', 'incomplete', false], 0])
        expect((await courseOf(tx, shop))[0]).toMatch(`premium ${status}`)
      }),
  )

  test.each<[string, Fields, Fields]>([
    ['a trial', { trial_start: day(-7), trial_end: day(0), started_at: day(-7) }, {}],
    ['a first month that a coupon paid', { started_at: day(-30) }, { total: 0 }],
    ['a first invoice that is not known', { started_at: day(-30) }, { status: 'unknown' }],
  ])('after %s the next that is declined has its grace', (_, fields, first) =>
    rolledBack(async (tx) => {
      const shop = await newProShop(tx)
      const sub = subscription(shop, 1, { status: 'past_due', ...fields })
      const begun = bill(shop, 1, sub, [pro(shop, { ...period(-30, 0), discount_amount: 3000 })], { ...free, ...first })
      const owed = bill(shop, 2, sub, [pro(shop)], { ...declined, created: day(6) })

      await apply(tx, sub, ...(first.total === 0 ? [begun] : []), owed)

      expect((await courseOf(tx, shop)).slice(-2)).toEqual(['premium past_due until 13', 'none past_due ever after'])
    }),
  )

  test('a month that Stripe cannot make an invoice of has its grace, then is unpaid, and operators are told once', () =>
    rolledBack(async (tx) => {
      const shop = await newProShop(tx)
      const sub = subscription(shop, 1, { items: [item(shop.month, day(5), day(35))], started_at: day(-25) })
      const stuck = bill(shop, 2, sub, [pro(shop, period(5, 35))], {
        ...{ ...declined, status: 'draft', created: day(5), last_finalization_error: 'customer_tax_location_invalid' },
      })
      await apply(tx, sub, bill(shop, 1, sub, [pro(shop, period(-25, 5))]), stuck)
      await apply(tx, { ...stuck, attempt_count: 0, read_at: readAt(9) })

      // Stripe is in the next period already, by its clock: what ended before is over, and the days of grace are all there is.
      expect(await courseOf(tx, shop)).toEqual(['premium past_due until 12', 'none unpaid ever after'])
      const events = await tx`
        select severity, occurrences, details ->> 'invoice_id' as invoice, details ->> 'subscription_id' as subscription
        from public.security_events where type = 'stripe_invoice_unfinalized'`
      expect([...events]).toEqual([{ severity: 'medium', occurrences: 1, invoice: stuck.id, subscription: sub.id }])
      await apply(tx, {
        ...stuck,
        status: 'paid',
        last_finalization_error: null,
        amount_paid: 3000,
        read_at: readAt(10),
      })
      expect(await stateOf(tx, shop)).toEqual(active)
    }))
})

describe('credits', () => {
  const update = { billing_reason: 'subscription_update' }
  const first = { billing_reason: 'subscription_create' }
  const unused = { amount: -1500, is_proration: true }
  // biome-ignore format: a table
  test.each<[string, Fields, (shop: ProShop) => Fields[], string[]]>([
    ['300 for a month that is too little to charge', { total: 30, ...free, starting_balance: 0, ending_balance: 30 },
      (shop) => [pro(shop, { amount: 3000, discount_amount: 2970 })], ['grant 300']],
    ['300 for one of which a reading says the balance before alone', { total: 30, ...free, starting_balance: 0 }, (shop) => [pro(shop, { amount: 30 })], ['grant 300']],
    ['300 for a month and the debt of before', { amount_due: 3030, amount_paid: 3030, starting_balance: 30, ending_balance: 0 }, (shop) => [pro(shop)], ['grant 300']],
    ['100 for a third by card, the rest from the balance', { amount_due: 1000, amount_paid: 1000, starting_balance: -2000, ending_balance: 0 }, (shop) => [pro(shop)], ['grant 100']],
    ['none for a month from the balance', { ...free, starting_balance: -9000, ending_balance: -6000 }, (shop) => [pro(shop)], []],
    ['300 for a month that a credit note lowered before it was paid', { amount_due: 1500, amount_paid: 1500, starting_balance: 0, ending_balance: 0 }, (shop) => [pro(shop)], ['grant 300']],
    ['3240 for a year at half price, with unused time of 1500 net', { ...update, total: 13_500 },
      (shop) => [line(shop.month, unused), line(shop.year, { amount: 30_000, discount_amount: 15_000 })], ['grant 3240']],
    ['3240, too, where Stripe shows the unused time before its discount', { ...update, total: 13_500 },
      (shop) => [line(shop.month, { ...unused, amount: -3000, discount_amount: -1500 }), line(shop.year, { amount: 30_000, discount_amount: 15_000 })], ['grant 3240']],
    ['3240, too, of a reading that does not say the discounts', { ...update, total: 13_500 },
      (shop) => [line(shop.month, unused), line(shop.year, { amount: 30_000 })], ['grant 3240']],
    ['300 for a quote that was accepted', { billing_reason: 'quote_accept' }, (shop) => [pro(shop)], ['grant 300']],
    ['300 for a threshold that was reached', { billing_reason: 'subscription_threshold' }, (shop) => [pro(shop)], ['grant 300']],
    ['300 for a reason that nobody knows', { billing_reason: 'subscription_of_tomorrow' }, (shop) => [pro(shop)], ['grant 300']],
    ['150 for the piece until an anchor', first, (shop) => [pro(shop, { amount: 1500, is_proration: true, period_end: day(15) })], ['grant 150']],
    ['150 for the piece that is not marked as one', first, (shop) => [pro(shop, { amount: 1500, period_end: day(15) })], ['grant 150']],
    ['150 for the piece in a currency that is not the price’s', { ...first, currency: 'jpy' }, (shop) => [pro(shop, { amount: 220, is_proration: true, period_end: day(15) })], ['grant 150']],
    ['150 for the piece with a coupon of half', { ...first, total: 750 }, (shop) => [pro(shop, { amount: 1500, discount_amount: 750, is_proration: true, period_end: day(15) })], ['grant 150']],
    ['300 with a coupon of half', { total: 1500 }, (shop) => [pro(shop, { discount_amount: 1500 })], ['grant 300']],
    ['300 with a negative item by hand of half', { total: 1500 }, (shop) => [pro(shop), line('', { price_id: null, amount: -1500 })], ['grant 300']],
    ['300 for two seats of which one was added before', {}, (shop) => [change(shop.month, 1500), pro(shop)], ['grant 300']],
  ])('%s', (_, fields, lines, grants) =>
    rolledBack(async (tx) => {
      const shop = await newProShop(tx)
      const sub = subscription(shop, 1)

      await apply(tx, bill(shop, 1, sub, lines(shop), fields))

      expect(await ledgerOf(tx, shop)).toEqual(grants)
    }),
  )

  test.each([
    ['a coupon of half', [{ discount_amount: 1500 }]],
    ['a negative item by hand of half', [{}, { price_id: null, amount: -1500 }]],
  ])('and plan are back when all is back that a month with %s cost', (_, lines) =>
    rolledBack(async (tx) => {
      const shop = await newProShop(tx)
      const sub = subscription(shop, 1)
      const paid = bill(
        shop,
        1,
        sub,
        lines.map((fields) => pro(shop, fields)),
        { total: 1500 },
      )
      await apply(tx, sub, paid)

      await apply(tx, refund(shop, 2, intentOf(paid), 1500))

      expect([await ledgerOf(tx, shop), await stateOf(tx, shop)]).toEqual([['grant 300', 'clawback -300'], unpaid])
    }),
  )
})
