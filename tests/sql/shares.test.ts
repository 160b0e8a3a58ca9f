/** Shares: of credits by what was paid and what went back, of costs by what was sold. Against whole numbers of JavaScript. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { runs } from '../support/runs.ts'
import { apply, intentOf, invoice, line, newShop, paymentOf, refund, type Shop } from './billing-support.ts'
import { rolledBack, type Tx } from './support.ts'

/** Amounts of all kinds: small ones, round ones, primes, and as large as money and credits get. */
const amounts = fc.oneof(
  fc.integer({ min: 1, max: 200 }),
  fc.constantFrom(1, 3, 7, 99, 100, 333, 997, 1200, 9_999, 11_191, 12_000, 99_991, 1_000_003),
  fc.integer({ min: 1, max: 2_000_000_000 }),
)
/** An amount, and cuts through it from none of it to all of it. */
const cutAmounts = fc.tuple(fc.bigInt({ min: 0n, max: 10n ** 24n }), amounts).chain(([total, whole]) =>
  fc.record({
    total: fc.constant(total),
    whole: fc.constant(whole),
    cuts: fc
      .array(fc.integer({ min: 0, max: whole }), { maxLength: 12 })
      .map((cuts) => [0, ...cuts.sort((a, b) => a - b), whole]),
  }),
)

test('the shares of an amount add up to it, the whole share is the whole amount, and a larger part is no smaller share', () =>
  rolledBack((tx) =>
    fc.assert(
      fc.asyncProperty(cutAmounts, fc.boolean(), async ({ total, whole, cuts }, isNegative) => {
        const sign = isNegative ? -1n : 1n
        // Eighteen decimals, as costs have them.
        const rows = await tx`
          select (private.exact_share(${String(sign * total)}::numeric * 1e-18, p.part, ${whole}::bigint) * 1e18)::text as share
          from unnest(${cuts}::bigint[]) with ordinality p (part, place) order by p.place`
        const shares = rows.map((row) => sign * BigInt(row.share.replace(/\.0*$/, '')))

        expect(shares.map(String)).toEqual(cuts.map((cut) => String((total * BigInt(cut)) / BigInt(whole))))
        expect(shares.at(-1)).toBe(total)
        const pieces = shares.slice(1).map((share, i) => share - (shares[i] ?? 0n))
        expect(pieces.every((piece) => piece >= 0n)).toBe(true)
        expect(pieces.reduce((sum, piece) => sum + piece, 0n)).toBe(total)
      }),
    ),
  ))

test('a share of whole units, cut or rounded, is that of the true fraction', () =>
  rolledBack((tx) =>
    fc.assert(
      fc.asyncProperty(fc.bigInt({ min: 0n, max: 10n ** 15n }), amounts, amounts, async (total, a, b) => {
        const [part, whole] = a < b ? [a, b] : [b, a]

        const [row] = await tx`
          select trunc(s.share)::text as cut, round(s.share)::text as rounded
          from private.exact_share(${String(total)}::numeric, ${part}::bigint, ${whole}::bigint) s (share)`

        const doubled = 2n * total * BigInt(part)
        expect(row).toEqual({
          cut: String(doubled / (2n * BigInt(whole))),
          rounded: String((doubled + BigInt(whole)) / (2n * BigInt(whole))),
        })
      }),
    ),
  ))

/** The credits of an invoice for a period that costs `amount`, `lines` of it new money, and of that `due` after the balance. */
async function creditsFor(tx: Tx, shop: Shop, credits: number, amount: number, lines: number, due = lines) {
  await tx`update public.plan_prices set credits = ${credits}, amount = ${amount} where id = ${shop.planPrice}`
  const unused = line(shop.month, { amount: lines - amount, is_proration: true })
  const paid = invoice(shop, 1, {
    ...{
      subscription_id: 'sub_1',
      billing_reason: 'subscription_update',
      total: lines,
      amount_due: due,
      amount_paid: due,
    },
    lines: [...(lines === amount ? [] : [unused]), line(shop.month, { amount })],
  })
  await apply(tx, paid)
  return { paid, credits: Number((await paymentOf(tx, paid.id)).credits) }
}

test('11,191 cents of a year at 12,000 cents for 12,000 credits buy 11,191 credits, by unused time or from the balance', () =>
  rolledBack(async (tx) => {
    const shop = await newShop(tx)

    expect((await creditsFor(tx, shop, 12_000, 12_000, 11_191)).credits).toBe(11_191)
    expect((await creditsFor(tx, shop, 12_000, 12_000, 12_000, 11_191)).credits).toBe(11_191)
  }))

test('at a cent for a credit every amount of cents buys as many credits', () =>
  rolledBack(async (tx) => {
    const shop = await newShop(tx)
    await tx`update public.plan_prices set credits = 12000, amount = 12000 where id = ${shop.planPrice}`

    const wrong = await tx`
      select paid.cents, g.amount from generate_series(1, 12000, 7) paid (cents)
        left join lateral private.stripe_grants_of(jsonb_populate_record(null::private.stripe_objects, jsonb_build_object(
          'object', 'invoice', 'reading', jsonb_build_object('status', 'paid', 'billing_reason', 'subscription_cycle',
            'total', 12000, 'amount_due', paid.cents, 'lines', jsonb_build_array(
              jsonb_build_object('id', 'il_1', 'price_id', ${shop.month}::text, 'amount', 12000)))))) g on true
      where g.amount is distinct from paid.cents`

    expect([...wrong]).toEqual([])
  }))

test('a payment brings the true share of the credits, cut to whole ones, and its refund takes the true share back', () =>
  rolledBack(async (tx) => {
    const shop = await newShop(tx)
    const money = fc.tuple(
      amounts,
      fc.double({ min: 0, max: 1, noNaN: true }),
      fc.double({ min: 0, max: 1, noNaN: true }),
    )
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 2_000_000 }), money, async (credits, [amount, first, second]) => {
        const lines = Math.max(1, Math.round(amount * first))
        const due = Math.max(1, Math.round(lines * second))
        const part = BigInt(lines) * BigInt(due)
        const expected = (BigInt(credits) * part) / (BigInt(amount) * BigInt(lines))

        const bought = await creditsFor(tx, shop, credits, amount, lines, due)
        expect(bought.credits).toBe(Number(expected))

        const back = Math.max(1, Math.floor(due / 3))
        const intent = (bought.paid.payments as { payment_intent_id: string }[])[0]?.payment_intent_id
        await apply(tx, refund(shop, 2, intent, back))
        const [returned, all] = [2n * expected * BigInt(back) + BigInt(due), 2n * BigInt(due)]
        expect((await paymentOf(tx, bought.paid.id)).clawed_back).toBe(Number(returned / all))
        await apply(tx, refund(shop, 3, intent, due - back))
        expect((await paymentOf(tx, bought.paid.id)).clawed_back).toBe(bought.credits)
      }),
      { numRuns: runs(60) },
    )
  }))

/** A line of an invoice, and how much of it a coupon takes. */
const linesOfShops = fc.array(
  fc.record({
    kind: fc.constantFrom('plan', 'plan', 'add-on', 'step'),
    amount: fc.integer({ min: 1, max: 50_000 }),
    coupon: fc.constantFrom(0, 0, 0.5, 1),
  }),
  { minLength: 1, maxLength: 5 },
)

test('what goes back of an invoice in any parts takes no more than it brought, never less than before, and all with the last part', () =>
  rolledBack(async (tx) => {
    const shop = await newShop(tx)
    const cuts = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 4 })
    await fc.assert(
      fc.asyncProperty(linesOfShops, cuts, fc.nat(99), async (given, cuts, tax) => {
        const lines = given.map(({ kind, amount, coupon }) => ({
          ...line(kind === 'add-on' ? 'price_add_on' : shop.month, { amount, is_proration: kind === 'step' }),
          discount_amount: Math.floor(amount * coupon),
        }))
        // Of a tax that the lines do not say.
        const net = lines.reduce((sum, one) => sum + one.amount - one.discount_amount, 0)
        const total = net + Math.floor((net * tax) / 100)
        const paid = invoice(shop, 1, { subscription_id: 'sub_1', lines, total })
        await apply(tx, paid)
        const { credits } = await paymentOf(tx, paid.id)
        const charged = lines.filter((one) => one.price_id === shop.month && one.amount > one.discount_amount)
        const free = lines.filter((one) => one.price_id === shop.month && one.amount === one.discount_amount)

        const places = [0, ...cuts.map((cut) => Math.floor(cut * total)).sort((a, b) => a - b), total]
        const taken: number[] = []
        for (const [n, place] of places.slice(1).entries()) {
          await apply(tx, refund(shop, 2 + n, intentOf(paid), place - (places[n] ?? 0)))
          taken.push(Number((await paymentOf(tx, paid.id)).clawed_back))
        }

        const [rows] = await tx`
          select count(*) filter (where is_returned)::int as returned, count(*) filter (where not is_returned)::int as kept
          from private.paid_periods where payment_id = ${paid.id}`
        expect(rows).toEqual({ returned: charged.length, kept: free.length })
        expect(taken).toEqual(taken.toSorted((a, b) => a - b))
        const ofFree = free.filter((one) => !one.is_proration).length * 1000
        expect(taken.at(-1)).toBe(Number(credits) - ofFree)
      }),
      { numRuns: runs(60) },
    )
  }))
