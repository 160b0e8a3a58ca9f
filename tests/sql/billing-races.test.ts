/** Many workers at the same time, with real connections: nothing twice, nothing lost, nobody stuck. */
import { describe, expect, test } from 'vitest'
import {
  apply,
  claim,
  customer,
  day,
  dispute,
  eventOf,
  everythingOf,
  fail,
  finish,
  id,
  intentOf,
  invoice,
  ledgerOf,
  linkCustomer,
  nextCustomer,
  type Reading,
  readAt,
  receive,
  receiveAgain,
  refund,
  type Shop,
  selling,
  session,
  subscription,
  subscriptionOf,
} from './billing-support.ts'
import { creditsOf, type Sql, type Tx, together } from './support.ts'

/** An event that a worker has taken already, so that no job of the stack's takes it. */
async function taken(sql: Sql, shop: Shop): Promise<{ id: string; attempt: number }> {
  const event = { id: id('evt_sql'), type: 'invoice.paid', object: 'invoice', object_id: id('in') }
  await sql.begin(async (tx) => {
    await receiveAgain(tx, { ...event, payload: { data: { object: { customer: shop.customer } } } })
    await tx`
      update private.stripe_events set attempts = 1, next_attempt_at = now() + interval '1 hour' where id = ${event.id}`
  })
  return { id: event.id, attempt: 1 }
}

/** Does one thing and, before that is committed, another, which may have to wait for it. */
async function duringWhich(
  sql: Sql,
  first: (tx: Tx) => Promise<unknown>,
  second: () => Promise<unknown>,
): Promise<void> {
  const ended = { is: false }
  const { going } = await sql.begin(async (tx) => {
    await first(tx)
    const going = second().finally(() => {
      ended.is = true
    })
    while (!ended.is && !(await somebodyWaits(tx)));
    return { going }
  })
  await going
}
const somebodyWaits = async (tx: Tx): Promise<boolean> => {
  const rows = await tx`
    select from pg_locks l join pg_database d on d.oid = l.database
    where l.locktype = 'advisory' and not l.granted and d.datname = current_database()
      and pg_backend_pid() = any(pg_blocking_pids(l.pid))`
  return rows.length > 0
}

describe('at the same time', () => {
  test('readings that link customers and calls that lock many accounts do not wait in a circle', () =>
    selling(8, async (sql, shop, accounts) => {
      const owners = await Promise.all(Array.from({ length: 12 }, () => accounts()))
      const ids = owners.map((owner) => owner.id)
      const ended = { is: false }
      const admissions = together(5, async () => {
        let rounds = 0
        while (!ended.is) {
          await sql`
            select from private.accounts a where a.user_id = any(${ids}::uuid[]) order by a.user_id for no key update of a`
          rounds += 1
        }
        return rounds
      })
      const outcomes: unknown[] = []
      for (let round = 0; round < 15; round += 1) {
        const shops = owners.map((account) => ({ ...shop, account, customer: id('cus') }))
        // In no order of the users, each with a paid pack, and nobody is linked.
        const readings = shops.flatMap((buyer) => [customer(buyer, 1), session(buyer, 2)])
        outcomes.push(...(await together(1, () => apply(sql, ...readings))))
        await sql`delete from private.stripe_customers where user_id = any(${ids}::uuid[])`
      }
      ended.is = true

      expect(await admissions).toEqual(Array.from({ length: 5 }, () => expect.any(Number)))
      expect(outcomes).toEqual(Array.from({ length: 15 }, () => expect.arrayContaining(['checkout_session changed'])))
    }))

  test.each<[string, (sql: Sql, plan: string) => Promise<unknown>]>([
    [
      'a plan that is added',
      (sql, plan) => sql`insert into public.plans (id, name, position) values (${plan}, 'Starter', 1)`,
    ],
    ['the days of grace', (sql) => sql`update private.settings set value = '9' where key = 'billing.grace_days'`],
  ])('%s while a subscription is applied counts for it', (_what, change) =>
    selling(4, async (sql, shop) => {
      const plan = id('sql')
      const written = () =>
        sql`select * from private.entitlements where user_id = ${shop.account.id} order by starts_at`
      const [grace] = await sql`select value from private.settings where key = 'billing.grace_days'`
      try {
        await duringWhich(
          sql,
          (tx) => apply(tx, subscription(shop, 1, { status: 'past_due' })),
          () => change(sql, plan),
        )
        const rows = [...(await written())]
        await sql`select private.refresh_entitlement(${shop.account.id})`

        expect(rows.length).toBeGreaterThan(0)
        expect(rows).toEqual([...(await written())])
      } finally {
        await sql`update private.settings set value = ${grace?.value} where key = 'billing.grace_days' and value <> ${grace?.value}`
        await sql`delete from public.plans where id = ${plan}`
      }
    }),
  )

  test('a payment that arrives while the clock of retention is started stops it', () =>
    selling(4, async (sql, shop) => {
      const ended = subscription(shop, 1, { status: 'canceled', ended_at: day(5) })
      await apply(sql, ended)
      await sql`delete from private.retention_clocks where user_id = ${shop.account.id}`

      await duringWhich(
        sql,
        (tx) => tx`select private.keep_retention_clock(${shop.account.id})`,
        () => apply(sql, subscription(shop, 2)),
      )

      expect(await sql`select from private.retention_clocks where user_id = ${shop.account.id}`).toHaveLength(0)
    }))

  test('refunds that name no customer and readings of the payment that they are of do not wait in a circle', () =>
    selling(8, async (sql, shop, accounts) => {
      const shops = await Promise.all(Array.from({ length: 4 }, async () => nextCustomer(sql, shop, await accounts())))
      const outcomes: unknown[] = []
      for (let round = 0; round < 10; round += 1) {
        const paid = shops.map((buyer) => session(buyer, 1))
        await apply(sql, ...paid)
        outcomes.push(
          ...(await together(8, (n) => {
            const [buyer, bought] = [shops[n % 4] ?? shop, paid[n % 4] as Reading]
            if (n >= 4) return apply(sql, { ...bought, read_at: readAt(3) })
            return apply(sql, refund(buyer, 2, bought.payment_intent_id, 500, { customer_id: null }))
          })),
        )
      }

      // They name no customer, with whom they would go.
      await sql`delete from private.stripe_objects where object = 'refund' and customer_id is null`
      expect(outcomes.filter((outcome) => !Array.isArray(outcome))).toEqual([])
    }))

  test('erasures and a change of the days of grace do not wait in a circle', () =>
    selling(8, async (sql, shop, accounts) => {
      const [grace] = await sql`select value from private.settings where key = 'billing.grace_days'`
      try {
        for (let round = 0; round < 8; round += 1) {
          const owners = await Promise.all(Array.from({ length: 6 }, () => accounts()))
          for (const owner of owners) {
            const buyer = await nextCustomer(sql, shop, owner)
            await apply(sql, subscription(buyer, 1))
          }
          const outcomes = await together(7, (n) =>
            n === 6
              ? sql`update private.settings set value = to_jsonb(${8 + (round % 2)}::int) where key = 'billing.grace_days'`
              : sql`delete from auth.users where id = ${owners[n]?.id ?? null}`,
          )
          expect(outcomes.filter((outcome) => !Array.isArray(outcome))).toEqual([])
        }
      } finally {
        await sql`update private.settings set value = ${grace?.value} where key = 'billing.grace_days'`
      }
    }))

  test('twenty deliveries of an event are one event', () =>
    selling(10, async (sql, shop) => {
      const event = {
        id: id('evt_sql'),
        type: 'x',
        object: 'thing',
        account: 'acct_1',
        payload: { data: { object: { customer: shop.customer } } },
      }

      const answers = await together(20, () => receiveAgain(sql, event))

      expect(answers.filter((answer) => answer === true).length).toBe(1)
    }))

  test('many workers claim no event twice', () =>
    selling(8, async (sql, shop) => {
      for (let n = 0; n < 24; n += 1) await receive(sql, shop)

      const claimed = await together(8, () => claim(sql, 4))

      const ids = claimed.flatMap((events) => (Array.isArray(events) ? events.map((event) => event.id) : ['refused']))
      expect(ids.length).toBeGreaterThan(4)
      expect(new Set(ids).size).toBe(ids.length)
    }))

  test('the same attempt of ten workers is applied once', () =>
    selling(10, async (sql, shop) => {
      const event = await taken(sql, shop)
      const readings = [invoice(shop, 1, { subscription_id: 'sub_1' }), session(shop, 1)]

      const states = await together(10, () => finish(sql, event, ...readings))

      expect(states.sort()).toEqual(['applied', ...Array.from({ length: 9 }, () => 'superseded')])
      expect(await ledgerOf(sql, shop)).toEqual(['grant 500', 'grant 1000'])
    }))

  test('one that applies and others that fail agree on one end', () =>
    selling(10, async (sql, shop) => {
      const event = await taken(sql, shop)
      const paid = invoice(shop, 1, { subscription_id: 'sub_1' })

      const states = await together(10, (n) => (n % 2 === 0 ? finish(sql, event, paid) : fail(sql, event)))

      const { state } = await eventOf(sql, event.id)
      expect(state).toBe(states.includes('applied') ? 'applied' : 'waiting')
      expect(await ledgerOf(sql, shop)).toEqual(states.includes('applied') ? ['grant 1000'] : [])
      expect(states.filter((end) => end === 'applied').length).toBeLessThan(2)
    }))

  test('many events of one payment grant once and take back what the newest readings say', () =>
    selling(12, async (sql, shop) => {
      const paid = invoice(shop, 1, { subscription_id: 'sub_1' })
      const bought = session(shop, 1)
      const [half, all] = [refund(shop, 2, intentOf(paid), 600), refund(shop, 2, bought.payment_intent_id, 500)]
      const opened = dispute(shop, 2, intentOf(paid), 1200)
      const won = { ...opened, status: 'won', read_at: readAt(3) }
      const facts: Reading[][] = [
        [paid],
        [bought, all],
        [half],
        [opened, paid],
        [won],
        [all],
        [won, half],
        [paid, bought],
      ]

      const answers = await together(48, (n) => apply(sql, ...(facts[n % facts.length] ?? [])))

      expect(answers.every(Array.isArray)).toBe(true)
      expect((await creditsOf(sql, shop.account.id)).balance).toBe(100 + 500)
      expect((await sql`select from private.verify_accounts() where user_id = ${shop.account.id}`).length).toBe(0)
    }))

  test('readings of one object leave the newest', () =>
    selling(10, async (sql, shop) => {
      const sub = subscription(shop, 1)
      const read = (n: number) => ({ ...sub, read_at: readAt(n), items: [], current: n, cancel_at: day(n) })

      await together(40, (n) => apply(sql, read((n * 7) % 40)))

      const [row] =
        await sql`select extract(epoch from cancel_at)::int as cancel_at from public.subscriptions where id = ${sub.id}`
      expect(row).toEqual({ cancel_at: day(39) })
    }))

  test('a subscription and its invoices, each by a worker of its own, agree on since when it is past due', () =>
    selling(10, async (sql, shop) => {
      for (let round = 0; round < 10; round += 1) {
        const sub = subscription(shop, 1, { status: 'past_due' })
        const open = invoice(shop, 1, { subscription_id: sub.id, status: 'open', created: day(3) })

        await together(2, (n) => apply(sql, n === 0 ? sub : open))

        expect(await subscriptionOf(sql, sub.id)).toMatchObject({ past_due_since: day(3) })
      }
    }))

  test('a customer that is linked while its payment is read has the payment', () =>
    selling(4, async (sql, shop, accounts) => {
      const next = { ...shop, account: await accounts(), customer: id('cus') }

      await duringWhich(
        sql,
        (tx) => apply(tx, invoice(next, 1, { subscription_id: 'sub_1' })),
        () => linkCustomer(sql, next),
      )

      expect(await ledgerOf(sql, next)).toEqual(['grant 1000'])
    }))

  test('a refund that does not name the customer and its payment find each other', () =>
    selling(10, async (sql, shop) => {
      const bought = session(shop, 1)
      const back = refund(shop, 1, bought.payment_intent_id, 500, { customer_id: null })

      await duringWhich(
        sql,
        (tx) => apply(tx, bought),
        () => apply(sql, back),
      )

      expect(await ledgerOf(sql, shop)).toEqual(['grant 500', 'clawback -500'])
    }))

  test('batches of the same customers in opposite order do not wait for each other for ever', () =>
    selling(10, async (sql, shop, accounts) => {
      const shops: Shop[] = []
      for (let n = 0; n < 6; n += 1) {
        const next = { ...shop, account: await accounts(), customer: id('cus') }
        await linkCustomer(sql, next)
        shops.push(next)
      }
      const readings = shops.flatMap((of) => [customer(of, 1), invoice(of, 1, { subscription_id: 'sub_1' })])

      const answers = await together(20, (n) => apply(sql, ...(n % 2 === 0 ? readings : readings.toReversed())))

      expect(answers.every(Array.isArray)).toBe(true)
      for (const of of shops) expect(await ledgerOf(sql, of)).toEqual(['grant 1000'])
    }))

  test('nor do batches of different customers of the same users', () =>
    selling(10, async (sql, shop, accounts) => {
      for (let round = 0; round < 10; round += 1) {
        const [one, two] = [await accounts(), await accounts()]
        const batches: Reading[][] = [[], []]
        for (const [at, account] of [one, two, two, one].entries()) {
          const next = { ...shop, account, customer: id('cus') }
          // The first two are of customers that were deleted since.
          await linkCustomer(sql, next)
          if (at < 2) await sql`update private.stripe_customers set deleted_at = now() where id = ${next.customer}`
          batches[at < 2 ? 0 : 1]?.push(...Array.from({ length: 3 }, () => session(next, 1)))
        }

        const answers = await together(2, (n) => apply(sql, ...(batches[n] ?? [])))

        expect(answers.every(Array.isArray)).toBe(true)
        for (const { id } of [one, two]) expect((await creditsOf(sql, id)).balance).toBe(100 + 6 * 500)
      }
    }))

  test('a retry by two is one retry', () =>
    selling(8, async (sql, shop) => {
      const event = await taken(sql, shop)
      await sql`update private.stripe_events set state = 'dead', finished_at = now() where id = ${event.id}`

      await together(8, () => sql`select public.retry_stripe_event(${event.id})`)

      const entries =
        await sql`select from private.audit_log where resource_type = 'stripe_event' and resource_id = ${event.id}`
      expect(entries.length).toBe(1)
    }))

  test('a user who is erased while their events are applied leaves nothing', () =>
    selling(10, async (sql, shop, accounts) => {
      const gone = { ...shop, account: await accounts(), customer: id('cus') }
      await linkCustomer(sql, gone)
      await apply(sql, subscription(gone, 1))

      const answers = await together<unknown>(10, (n) =>
        n === 0
          ? sql`delete from auth.users where id = ${gone.account.id}`
          : apply(sql, invoice(gone, n, { subscription_id: 'sub_1' }), session(gone, n, { user_id: null })),
      )

      expect(answers).not.toContainEqual(expect.objectContaining({ sqlstate: expect.anything() }))
      const rows = Object.values(await everythingOf(sql, [gone.account.id]))
      expect(rows.filter((row) => row !== null)).toEqual([])
    }))
})
