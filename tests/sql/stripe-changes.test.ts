/** What must change at Stripe because something changed here: noted in the same transaction, tried until it is done. */
import { describe, expect, test } from 'vitest'
import { apply, day, id, item, newShop, type Shop, session, subscription } from './billing-support.ts'
import { newAccount, racing, rolledBack, type Tx, together } from './support.ts'

type Claimed = { customer_id: string; kind: string; wanted: string | null; email: string | null; turn: string }

/** What others left in this database is not due. */
async function subscribed(tx: Tx, fields: object = {}): Promise<Shop & { sub: string }> {
  await tx`update private.stripe_changes set next_attempt_at = now() + interval '1 year' where done_at is null`
  const shop = await newShop(tx)
  const sub = subscription(shop, 1, { ...fields })
  await apply(tx, sub)
  return { ...shop, sub: sub.id }
}
const changesOf = async (tx: Tx, { customer }: Shop) =>
  Array.from(
    await tx`
      select kind, wanted, subscription_ids, done_at is not null as is_done from private.stripe_changes
      where customer_id = ${customer} order by kind`,
  )
const claim = async (tx: Tx, livemode = false): Promise<Claimed[]> =>
  Array.from(await tx<Claimed[]>`select * from private.claim_stripe_changes(${livemode})`)
async function claimOne(tx: Tx): Promise<Claimed> {
  const [change] = await claim(tx)
  if (!change) throw new Error('nothing was due')
  return change
}
const finish = async (tx: Tx, { customer_id, kind, turn }: Claimed, error: string | null = null): Promise<string> =>
  (await tx`select private.finish_stripe_change(${customer_id}, ${kind}, ${turn}, ${error}) as state`)[0]?.state
const setStatus = (tx: Tx, { account }: Shop, status: string) =>
  tx`select private.change_account_status(${account.id}, ${status}, 'a test')`
const setWish = (tx: Tx, wish: string) =>
  tx`update private.settings set value = to_jsonb(${wish}::text) where key = 'billing.cancel_on_deletion'`

describe('an account that is deleted', () => {
  test.each([
    ['period_end', 'period_end'],
    ['now', 'now'],
  ])('has its subscriptions ended, by the setting %s', (setting, wanted) =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx)
      await setWish(tx, setting)

      await setStatus(tx, shop, 'deleted')

      expect(await changesOf(tx, shop)).toEqual([
        { kind: 'cancellation', wanted, subscription_ids: [shop.sub], is_done: false },
      ])
    }),
  )

  test('and is reinstated keeps them; who is only suspended loses none', () =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx)
      await setStatus(tx, shop, 'suspended')
      const suspended = await changesOf(tx, shop)
      await setStatus(tx, shop, 'deleted')
      await finish(tx, await claimOne(tx))

      await setStatus(tx, shop, 'reinstated')

      expect(suspended).toEqual([])
      expect(await changesOf(tx, shop)).toMatchObject([{ kind: 'cancellation', wanted: 'undo', is_done: false }])
    }))

  test('that is erased, or a user who is deleted at Auth, is remembered with the subscriptions by name', () =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx)

      await tx`delete from auth.users where id = ${shop.account.id}`

      expect(await changesOf(tx, shop)).toEqual([
        { kind: 'cancellation', wanted: 'period_end', subscription_ids: [shop.sub], is_done: false },
      ])
      expect(await claim(tx)).toMatchObject([{ customer_id: shop.customer, email: null }])
    }))

  test('a customer whose row is deleted by hand goes on paying', () =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx)

      await tx`delete from private.stripe_customers where id = ${shop.customer}`

      expect(await changesOf(tx, shop)).toEqual([])
    }))

  test.each([
    ['goes on', {}, 1],
    ['ends far beyond its period', { cancel_at: day(900) }, 1],
    ['ends with its period', { cancel_at_period_end: true }, 0],
    ['ends on a day before', { cancel_at: day(20) }, 0],
    ['has ended', { status: 'canceled' }, 0],
  ])('and has a subscription all the same is found every night, where it %s', (_, fields, noted) =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx)
      await setStatus(tx, shop, 'deleted')
      await finish(tx, await claimOne(tx))
      await apply(
        tx,
        subscription(shop, 5, { id: id('sub'), ...fields }),
        subscription(shop, 5, { id: shop.sub, status: 'canceled' }),
      )

      await tx`select private.end_subscriptions_of_deleted()`

      expect((await changesOf(tx, shop)).filter(({ is_done }) => !is_done)).toHaveLength(noted)
    }),
  )
})

describe('a try', () => {
  test('is one worker’s; in vain it is made again, after a minute, two, four, at most an hour', () =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx)
      await setStatus(tx, shop, 'deleted')
      const rests: unknown[] = []
      for (let attempt = 1; attempt <= 8; attempt += 1) {
        const change = await claimOne(tx)
        expect(await claim(tx)).toEqual([])
        expect(await finish(tx, change, 'no answer')).toBe('waiting')
        const [row] = await tx`
          select extract(epoch from next_attempt_at - now())::int / 60 as minutes from private.stripe_changes
          where customer_id = ${shop.customer}`
        rests.push(row?.minutes)
        await tx`update private.stripe_changes set next_attempt_at = now() where customer_id = ${shop.customer}`
      }

      expect(rests).toEqual([1, 2, 4, 8, 16, 32, 60, 60])
    }))

  test('in vain for the fifth time is told, with customer and subscription; so it is every day after', () =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx)
      await setStatus(tx, shop, 'deleted')
      const told: number[] = []
      for (let attempt = 1; attempt <= 48; attempt += 1) {
        await tx`delete from private.security_events where type = 'stripe_cancellation_failing'`
        await finish(tx, await claimOne(tx), 'Stripe: no')
        const rows = await tx`
          select severity, details from public.security_events
          where type = 'stripe_cancellation_failing' and dedupe_key = ${shop.customer}`
        if (rows.length > 0) told.push(attempt)
        for (const { severity, details } of rows) {
          expect(severity).toBe('high')
          expect(details).toMatchObject({
            customer_id: shop.customer,
            subscription_ids: [shop.sub],
            error: 'Stripe: no',
          })
        }
        await tx`update private.stripe_changes set next_attempt_at = now() where customer_id = ${shop.customer}`
      }

      expect(told).toEqual([5, 24, 48])
    }))

  test.each([
    ['email', 'stripe_email_failing'],
    ['resumption', 'stripe_resumption_failing'],
  ])('of the kind %s in vain is %s, and not as grave', (kind, type) =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx)
      await tx`
        select private.note_stripe_change(c, ${kind}) from private.stripe_customers c where c.id = ${shop.customer}`
      await tx`update private.stripe_changes set attempts = 4 where customer_id = ${shop.customer}`

      await finish(tx, await claimOne(tx), 'Stripe: no')

      const told = await tx`select type, severity from public.security_events where dedupe_key = ${shop.customer}`
      expect(told).toEqual([{ type, severity: 'medium' }])
    }),
  )

  test('that ends after something else was wanted is too late, and what is wanted is done after it', () =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx)
      await setStatus(tx, shop, 'deleted')
      const late = await claimOne(tx)
      await setStatus(tx, shop, 'reinstated')
      const undo = await claimOne(tx)

      expect([undo.wanted, await finish(tx, undo), await finish(tx, late)]).toEqual(['undo', 'done', 'superseded'])

      const again = await claimOne(tx)
      expect([again.wanted, await finish(tx, again), await claim(tx)]).toEqual(['undo', 'done', []])
    }))

  test('whose worker did not come back is another’s; when it ends late all is done once more', () =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx)
      await setStatus(tx, shop, 'deleted')
      const lost = await claimOne(tx)
      await tx`update private.stripe_changes set next_attempt_at = now() where customer_id = ${shop.customer}`
      const second = await claimOne(tx)

      expect([await finish(tx, lost), await finish(tx, second)]).toEqual(['superseded', 'waiting'])
      expect(await finish(tx, await claimOne(tx))).toBe('done')
    }))

  test('of many at once is taken by one worker each', () =>
    racing(8, async (sql, accounts) => {
      await sql`update private.stripe_changes set done_at = now()`
      const customers = await Promise.all(
        Array.from({ length: 6 }, async () => {
          const customer = id('cus')
          const { id: user } = await accounts()
          await sql`insert into private.stripe_customers (id, user_id, livemode) values (${customer}, ${user}, false)`
          await sql`update auth.users set email = ${`${customer}@example.com`} where id = ${user}`
          return customer
        }),
      )

      const claims = await together(8, () => sql`select customer_id from private.claim_stripe_changes(false, 2)`)

      const taken = claims.flatMap((rows) => (Array.isArray(rows) ? rows.map(({ customer_id }) => customer_id) : []))
      expect(taken.sort()).toEqual(customers.sort())
    }))

  test('of the other mode is left to who has its key', () =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx)
      await setStatus(tx, shop, 'deleted')

      expect(await claim(tx, true)).toEqual([])
      const [{ rest } = { rest: null }] = await tx`
        select extract(epoch from next_attempt_at - now())::int as rest from private.stripe_changes where customer_id = ${shop.customer}`
      expect(rest).toBe(3_600)
    }))
})

describe('an address', () => {
  const setEmail = (tx: Tx, { account }: Shop, email: string) =>
    tx`update auth.users set email = ${email} where id = ${account.id}`

  test('that changes is told to Stripe as it is when it is told', () =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx)
      await setEmail(tx, shop, 'first@example.com')
      await setEmail(tx, shop, 'second@example.com')

      expect(await claim(tx)).toMatchObject([
        { customer_id: shop.customer, kind: 'email', wanted: null, email: 'second@example.com' },
      ])
    }))

  test('that is not confirmed is told nobody until it is', () =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx)
      await tx`update auth.users set email = 'new@example.com', email_confirmed_at = null where id = ${shop.account.id}`
      const before = await claim(tx)

      await tx`update auth.users set email_confirmed_at = now() where id = ${shop.account.id}`

      expect([before, (await claimOne(tx)).email]).toEqual([[], 'new@example.com'])
    }))

  test('of who is no customer, or was one that is gone, is not told', () =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx)
      await tx`update private.stripe_customers set deleted_at = now() where id = ${shop.customer}`
      await setEmail(tx, shop, 'x@example.com')
      await setEmail(tx, { ...shop, account: await newAccount(tx) }, 'y@example.com')

      expect(await claim(tx)).toEqual([])
    }))
})

describe('a page that took a card', () => {
  const setup = { mode: 'setup', payment_status: 'no_payment_required', price_ids: [], payment_intent_id: null }

  test('lets what was paused go on, once', () =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx, { status: 'paused' })
      const page = session(shop, 2, { ...setup, status: 'open' })
      await apply(tx, page)
      const open = await claim(tx)
      await apply(tx, { ...page, ...session(shop, 3, { ...setup, id: page.id }) })

      expect([open, await claim(tx)]).toMatchObject([[], [{ customer_id: shop.customer, kind: 'resumption' }]])
    }))

  test('of somebody else’s, or a page that sold something, lets nothing go on', () =>
    rolledBack(async (tx) => {
      const shop = await subscribed(tx, { status: 'paused', items: [item(id('price'))] })

      await apply(tx, session(shop, 2, { ...setup, user_id: crypto.randomUUID() }), session(shop, 2))

      expect(await claim(tx)).toEqual([])
    }))
})
