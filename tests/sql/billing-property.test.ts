/** Any order, any duplicates, any gaps that are filled later: the same rows, the same credits. And the same again from nothing. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { runs } from '../support/runs.ts'
import {
  apply,
  claim,
  customer,
  day,
  dispute,
  everythingOf,
  fail,
  finish,
  intentOf,
  invoice,
  item,
  line,
  newShop,
  nextCustomer,
  pass,
  type Reading,
  receive,
  receiveAgain,
  refund,
  type Shop,
  session,
  subscription,
} from './billing-support.ts'
import { rolledBack, type Tx } from './support.ts'

type Step = (history: History, n: number) => Reading | undefined
type History = { shop: Shop; prefix: string; latest: Map<string, Reading> }

/** The object as it was, read again later with changes. */
const change = (history: History, id: string, n: number, fields: object): Reading | undefined => {
  const before = history.latest.get(id)
  return (
    before &&
    remember(history, { ...before, ...customer(history.shop, n, { ...before, ...fields }), read_at: readAt(n) })
  )
}
const readAt = (n: number): string => new Date((day(0) + n * 60) * 1000).toISOString()
const remember = (history: History, reading: Reading): Reading => {
  history.latest.set(reading.id, reading)
  return reading
}
const make = (history: History, kind: string, reading: Reading, n: number): Reading =>
  remember(history, { ...reading, id: `${history.prefix}_${kind}_${history.latest.size}`, read_at: readAt(n) })

const pick = (history: History, kind: string, place: number): string => {
  const ids = [...history.latest.keys()].filter((id) => id.startsWith(`${history.prefix}_${kind}`))
  return ids[place % Math.max(ids.length, 1)] ?? ''
}
const paymentAt = (history: History, place: number): unknown =>
  intentOf(
    history.latest.get(pick(history, place % 2 === 0 ? 'in' : 'cs', place)) ?? { object: '', id: '', read_at: '' },
  )

/** Parts of a payment, and often the whole of it. */
const amounts = fc.oneof(fc.integer({ min: 1, max: 1300 }), fc.constant(1200))

/** What shops have on invoices: an add-on, a coupon, the balance, an upgrade, an item by hand, a piece of a period, no way to an invoice. */
function ofShops(shop: Shop, kind: number, status: string): object {
  const month = line(shop.month)
  const bill = (lines: object[], total: number, fields: object = {}) => ({
    ...{ lines, total, amount_due: total, amount_paid: status === 'paid' ? total : 0, ...fields },
  })
  const balance = {
    starting_balance: -900,
    ending_balance: 0,
    amount_due: 300,
    amount_paid: status === 'paid' ? 300 : 0,
  }
  const rest = { is_proration: true, period_start: day(10) }
  const kinds = [
    bill([month, line('price_of_an_add_on', { amount: 2400, period_end: day(365) })], 3600),
    bill([line(shop.month, { discount_amount: 600 })], 600),
    bill([month], 1200, balance),
    bill([line(shop.month, { ...rest, amount: -800 }), line(shop.year, { ...rest, amount: 2000 })], 1200),
    bill([month, line('', { price_id: null, amount: -300 })], 900),
    bill([line(shop.month, { amount: 600, period_end: day(15) })], 600, { billing_reason: 'subscription_create' }),
    bill([month], 1200, status === 'draft' ? { last_finalization_error: 'tax' } : {}),
  ]
  return kinds[kind] ?? {}
}

/** What is subscribed to: a month, a year, both, none of it, or a price that nobody knows; or the period after. */
function itemsOf({ month, year }: Shop, kind: number): object[] {
  const [from, to] = [day(8), day(38)]
  const kinds = [
    [item(month)],
    [item(year, day(0), day(365))],
    [item(month, from, to), item(year, day(0), day(365))],
    [item(month, day(0), day(30), 0)],
    [item('price_made_by_hand', from, to)],
  ]
  return kinds[kind] ?? []
}

/** What can happen to a customer, in the words of a reading. */
const steps: fc.Arbitrary<Step> = fc.oneof(
  fc.constantFrom('trialing', 'active', 'past_due', 'unpaid', 'canceled').chain((status) =>
    fc.nat(3).map(
      (place): Step =>
        (history, n) =>
          change(history, pick(history, 'sub', place), n, {
            ...{ status, ended_at: status === 'canceled' ? day(3) : null, is_paused: place === 3 },
          }),
    ),
  ),
  fc.nat(4).map(
    (kind): Step =>
      (history, n) =>
        make(history, 'sub', subscription(history.shop, n, { items: itemsOf(history.shop, kind) }), n),
  ),
  fc.record({ kind: fc.nat(4), place: fc.nat(3) }).map(
    ({ kind, place }): Step =>
      (history, n) =>
        change(history, pick(history, 'sub', place), n, { items: itemsOf(history.shop, kind) }),
  ),
  fc
    .record({
      status: fc.constantFrom('draft', 'open', 'paid', 'paid', 'paid'),
      place: fc.nat(3),
      lines: fc.integer({ min: 1, max: 3 }),
    })
    .map(
      ({ status, place, lines }): Step =>
        (history, n) => {
          const sub = pick(history, 'sub', place) || null
          const created = day(n / 50)
          const all = Array.from({ length: lines }, () =>
            line(history.shop.month, { period_end: day(30 + place), quantity: place + 1 }),
          )
          const payment_intent_id = `${history.prefix}_pi_${history.latest.size}`
          return make(
            history,
            'in',
            invoice(history.shop, n, { subscription_id: sub, status, created, lines: all, payment_intent_id }),
            n,
          )
        },
    ),
  fc
    .record({ kind: fc.nat(6), place: fc.nat(3), status: fc.constantFrom('paid', 'paid', 'open', 'draft', 'void') })
    .map(
      ({ kind, place, status }): Step =>
        (history, n) => {
          const sub = pick(history, 'sub', place) || null
          const payment_intent_id = `${history.prefix}_pi_${history.latest.size}`
          const fields = { subscription_id: sub, status, created: day(n / 50), payment_intent_id }
          return make(history, 'in', invoice(history.shop, n, { ...fields, ...ofShops(history.shop, kind, status) }), n)
        },
    ),
  fc.record({ status: fc.constantFrom('paid', 'void', 'uncollectible'), place: fc.nat(5) }).map(
    ({ status, place }): Step =>
      (history, n) => {
        const id = pick(history, 'in', place)
        // What is paid stays paid.
        if (history.latest.get(id)?.status !== 'open') return undefined
        return change(history, id, n, { status, amount_paid: status === 'paid' ? 1200 : 0 })
      },
  ),
  fc.constantFrom('paid', 'unpaid').map(
    (payment_status): Step =>
      (history, n) => {
        const payment_intent_id = `${history.prefix}_pi_${history.latest.size}`
        return make(
          history,
          'cs',
          session(history.shop, n, { payment_status, payment_intent_status: 'processing', payment_intent_id }),
          n,
        )
      },
  ),
  fc.nat(5).map(
    (place): Step =>
      (history, n) =>
        change(history, pick(history, 'cs', place), n, { payment_status: 'paid', payment_intent_status: 'succeeded' }),
  ),
  fc
    .record({
      place: fc.nat(9),
      amount: amounts,
      status: fc.constantFrom('pending', 'succeeded'),
    })
    .map(
      ({ place, amount, status }): Step =>
        (history, n) =>
          make(history, 're', refund(history.shop, n, paymentAt(history, place), amount, { status }), n),
    ),
  fc.record({ place: fc.nat(5), status: fc.constantFrom('succeeded', 'failed', 'canceled') }).map(
    ({ place, status }): Step =>
      (history, n) =>
        change(history, pick(history, 're', place), n, { status }),
  ),
  fc.record({ place: fc.nat(9), amount: amounts }).map(
    ({ place, amount }): Step =>
      (history, n) =>
        make(history, 'dp', dispute(history.shop, n, paymentAt(history, place), amount), n),
  ),
  fc.record({ place: fc.nat(5), status: fc.constantFrom('under_review', 'won', 'lost', 'warning_closed') }).map(
    ({ place, status }): Step =>
      (history, n) =>
        change(history, pick(history, 'dp', place), n, { status }),
  ),
)

type Story = { steps: Step[]; deleted: boolean; order: number[]; sizes: number[]; missing: number[] }
const stories: fc.Arbitrary<Story> = fc.record({
  steps: fc.array(steps, { minLength: 4, maxLength: 25 }),
  deleted: fc.boolean(),
  order: fc.array(fc.nat(10_000), { minLength: 60, maxLength: 60 }),
  sizes: fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 60, maxLength: 60 }),
  missing: fc.array(fc.nat(30), { maxLength: 6 }),
})

/** The readings of a story in the order in which they were made. */
function tell(shop: Shop, story: Story): Reading[] {
  const history: History = { shop, prefix: `sql${shop.customer}`, latest: new Map() }
  const first = [subscription(shop, 0), session(shop, 0, { payment_intent_id: `${history.prefix}_pi` })].map(
    (reading, at) => make(history, ['sub', 'cs'][at] ?? '', reading, 0),
  )
  const told = story.steps.flatMap((step, n) => step(history, n + 1) ?? [])
  const end = { ...customer(shop, 0), read_at: readAt(story.steps.length + 1), deleted: true, user_id: null }
  return [...first, ...told, ...(story.deleted ? [end] : [])]
}
const shuffle = <T>(items: T[], order: number[]): T[] =>
  items
    .map((value, index) => ({ value, rank: order[index % order.length] ?? 0 }))
    .sort((a, b) => a.rank - b.rank)
    .map(({ value }) => value)
function batches<T>(items: T[], [size = 1, ...sizes]: number[]): T[][] {
  return items.length === 0 ? [] : [items.slice(0, size), ...batches(items.slice(size), sizes)]
}

/** The same story for another user, with names of its own. */
const moved = (text: string, from: Shop, to: Shop): string =>
  text.replaceAll(from.customer, to.customer).replaceAll(from.account.id, to.account.id)
const as = (readings: Reading[], from: Shop, to: Shop): Reading[] =>
  JSON.parse(moved(JSON.stringify(readings), from, to))
const stateOf = async (tx: Tx, shop: Shop, as: Shop) =>
  JSON.parse(moved(JSON.stringify(await everythingOf(tx, [shop.account.id])), shop, as))

// A transaction for each story: what many have left behind in one would make each slower than the one before.
describe('readings', () => {
  test(
    'in any order, any of them twice, in pieces, come to what they come to in order, one by one',
    () =>
      fc.assert(
        fc.asyncProperty(stories, (story) =>
          rolledBack(async (tx) => {
            const catalogue = await newShop(tx)
            const [one, other] = [await nextCustomer(tx, catalogue), await nextCustomer(tx, catalogue)]
            const readings = tell(one, story)
            for (const reading of readings) await apply(tx, reading)

            for (const batch of batches(
              shuffle(as([...readings, ...readings.slice(0, 9)], one, other), story.order),
              story.sizes,
            ))
              await apply(tx, ...batch)

            expect(await stateOf(tx, other, one)).toEqual(await stateOf(tx, one, one))
          }),
        ),
        { numRuns: runs(60) },
      ),
    240_000,
  )

  test(
    'with gaps that the last reading of each object fills come to the same',
    () =>
      fc.assert(
        fc.asyncProperty(stories, (story) =>
          rolledBack(async (tx) => {
            const catalogue = await newShop(tx)
            const [one, other] = [await nextCustomer(tx, catalogue), await nextCustomer(tx, catalogue)]
            const readings = tell(one, story)
            for (const reading of readings) await apply(tx, reading)
            const last = [...new Map(readings.map((reading) => [reading.id, reading])).values()]

            const some = readings.filter((_, index) => !story.missing.includes(index))
            for (const batch of batches(shuffle(as(some, one, other), story.order), story.sizes))
              await apply(tx, ...batch)
            await apply(tx, ...as(last, one, other))

            expect(await stateOf(tx, other, one)).toEqual(await stateOf(tx, one, one))
          }),
        ),
        { numRuns: runs(40) },
      ),
    240_000,
  )

  test(
    'of customers that become known at last come to the same, and made again from nothing to the same again',
    () =>
      fc.assert(
        fc.asyncProperty(stories, (story) =>
          rolledBack(async (tx) => {
            const catalogue = await newShop(tx)
            const one = await nextCustomer(tx, catalogue)
            const readings = tell(one, story)
            for (const reading of readings) await apply(tx, reading)
            const before = await everythingOf(tx, [one.account.id])
            const [untouched] = await tx`select private.project_stripe_objects(${one.customer})::int as changed`

            // The rows are gone; the ledger stays, and nothing may be granted or taken again.
            for (const table of ['subscriptions', 'refunds', 'disputes', 'payments'])
              await tx`delete from ${tx(`public.${table}`)} where user_id = ${one.account.id}`
            await tx`select private.project_stripe_objects(${one.customer})`

            const other = await newShop(tx, { linked: false })
            const theirs = { ...one, account: other.account, customer: other.customer }
            await apply(tx, ...as(readings, one, theirs).map((reading) => ({ ...reading, user_id: null })))
            await tx`insert into private.stripe_customers (id, user_id, livemode) values (${theirs.customer}, ${theirs.account.id}, false)`

            expect(untouched).toEqual({ changed: 0 })
            expect(await everythingOf(tx, [one.account.id])).toEqual(before)
            const { customers: _, ...rest } = await stateOf(tx, theirs, one)
            expect(before).toMatchObject(rest)
            expect(
              (
                await tx`select from private.verify_accounts() where user_id in (${one.account.id}, ${theirs.account.id})`
              ).length,
            ).toBe(0)
          }),
        ),
        { numRuns: runs(30) },
      ),
    240_000,
  )
})

/** What becomes of an event that a worker has. */
type Fate = 'applied' | 'applied twice' | 'failed' | 'crashed' | 'applied by a slow one'
const fates = fc.array(
  fc.constantFrom<Fate[]>('applied', 'applied', 'applied twice', 'failed', 'crashed', 'applied by a slow one'),
  { minLength: 40, maxLength: 40 },
)

test(
  'events that come twice and in any order, whose workers crash, fail or are too slow, come to the same',
  () =>
    fc.assert(
      fc.asyncProperty(stories, fates, (story, fates) =>
        rolledBack(async (tx) => {
          const catalogue = await newShop(tx)
          const [one, other] = [await nextCustomer(tx, catalogue), await nextCustomer(tx, catalogue)]
          const readings = tell(one, story)
          for (const reading of readings) await apply(tx, reading)

          const inbox = new Map<string, Reading>()
          for (const reading of shuffle(as(readings, one, other), story.order))
            inbox.set(await receive(tx, other), reading)
          for (const id of [...inbox.keys()].slice(0, 5)) await receiveAgain(tx, { id, type: 'again' })
          for (let turn = 0; ; turn += 1) {
            const [claimed] = await claim(tx)
            if (!claimed) break
            const reading = inbox.get(claimed.id)
            // Before it is dead.
            const fate = claimed.attempt > 6 ? 'applied' : (fates[turn] ?? 'applied')
            if (!reading) throw new Error('an event of somebody else')
            if (fate === 'failed') await fail(tx, claimed)
            if (fate === 'applied by a slow one') {
              await pass(tx, claimed.id, '2 minutes')
              const [quick] = await claim(tx)
              expect(quick).toEqual({ ...claimed, attempt: claimed.attempt + 1 })
              expect(await finish(tx, claimed, reading)).toBe('superseded')
              if (quick) await finish(tx, quick, reading)
            }
            if (fate.startsWith('applied')) await finish(tx, claimed, reading)
            if (fate === 'applied twice') expect(await finish(tx, claimed, reading)).toBe('superseded')
            await pass(tx, claimed.id, '2 hours')
          }

          expect(await stateOf(tx, other, one)).toEqual(await stateOf(tx, one, one))
        }),
      ),
      { numRuns: runs(40) },
    ),
  240_000,
)
