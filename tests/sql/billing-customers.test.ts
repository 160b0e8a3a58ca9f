/** Whose customer at Stripe is whose here: by our own metadata, never by what others can write. */
import { describe, expect, test } from 'vitest'
import {
  apply,
  claimOne,
  customer,
  day,
  eventOf,
  everythingOf,
  finish,
  id,
  intentOf,
  invoice,
  ledgerOf,
  linkCustomer,
  newShop,
  nextCustomer,
  paymentOf,
  readAt,
  receive,
  refund,
  session,
  subscription,
  subscriptionOf,
} from './billing-support.ts'
import { entitlementOf } from './entitlement-support.ts'
import { eventsOf, newAccount, rolledBack } from './support.ts'

describe('a customer that is not known here', () => {
  test('has nothing, until its own user’s metadata tells whose it is; then everything that was read counts', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx, { linked: false })
      const sub = subscription(shop, 1, { user_id: null })
      const paid = invoice(shop, 1, { subscription_id: sub.id })
      const back = refund(shop, 1, intentOf(paid), 600)

      const before = [await apply(tx, sub, paid, back), await ledgerOf(tx, shop)]
      await apply(tx, customer(shop, 2))

      expect(before).toEqual([
        ['subscription unknown_customer', 'invoice unknown_customer', 'refund unknown_customer'],
        [],
      ])
      expect(await ledgerOf(tx, shop)).toEqual(['grant 1000', 'clawback -500'])
      expect(await subscriptionOf(tx, sub.id)).toMatchObject({ user_id: shop.account.id, plan_id: 'premium' })
    }))

  test('counts from the moment it is linked by a checkout, too', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx, { linked: false })
      await apply(tx, invoice(shop, 1, { subscription_id: 'sub_1' }))

      await linkCustomer(tx, shop)

      expect(await ledgerOf(tx, shop)).toEqual(['grant 1000'])
    }))

  test.each([
    ['a user that does not exist', { user_id: crypto.randomUUID() }],
    ['something that is no user', { user_id: 'me' }],
    ['nobody', { user_id: null }],
    ['somebody by e-mail', { user_id: null, email: 'sql@example.com' }],
  ])('is nobody’s when its metadata names %s', (_, fields) =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx, { linked: false })

      const outcomes = await apply(tx, customer(shop, 1, fields), invoice(shop, 1, { subscription_id: 'sub_1' }))

      expect(outcomes).toEqual(['customer unknown_customer', 'invoice unknown_customer'])
    }),
  )

  test('is nobody’s when two users are named, or the user has another one', () =>
    rolledBack(async (tx) => {
      const first = await newShop(tx)
      const second = { ...first, customer: id('cus') }
      const third = await newShop(tx, { linked: false })
      const other = await newAccount(tx)

      const outcomes = [
        await apply(tx, customer(second, 1)),
        await apply(tx, customer(third, 1), subscription(third, 1, { user_id: other.id })),
      ]

      expect(outcomes).toEqual([
        ['customer unknown_customer'],
        ['customer unknown_customer', 'subscription unknown_customer'],
      ])
    }))

  test('is not linked by a client_reference_id, which anybody can put into a link', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx, { linked: false })

      const outcomes = await apply(tx, session(shop, 1, { user_id: null, client_reference_id: shop.account.id }))

      expect([outcomes, await ledgerOf(tx, shop)]).toEqual([['checkout_session unknown_customer'], []])
    }))

  test('is not linked by a checkout that names two users', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx, { linked: false })

      const outcomes = await apply(tx, session(shop, 1, { client_reference_id: crypto.randomUUID() }))

      expect(outcomes).toEqual(['checkout_session unknown_customer'])
    }))

  test('of whom only unknown things were read leaves an event ignored, and kept readings', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx, { linked: false })
      const event = await receive(tx, shop)
      const claimed = await claimOne(tx)

      const state = await finish(tx, claimed, subscription(shop, 1, { user_id: null }))
      await linkCustomer(tx, shop)

      const [count] =
        await tx`select count(*)::int as rows from public.subscriptions where user_id = ${shop.account.id}`
      expect([state, (await eventOf(tx, event)).state, count]).toEqual(['ignored', 'ignored', { rows: 1 }])
    }))
})

describe('a checkout that names another user than its customer’s', () => {
  test.each([
    ['by client_reference_id', (other: string) => ({ client_reference_id: other })],
    ['by metadata', (other: string) => ({ user_id: other })],
    ['by nonsense', () => ({ client_reference_id: 'them' })],
  ])('%s brings nobody anything and is a security event', (_, fields) =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const other = await newShop(tx)
      const bought = session(shop, 1, fields(other.account.id))

      const outcomes = [await apply(tx, bought), await apply(tx, bought)]

      expect(outcomes).toEqual([['checkout_session mismatch'], ['checkout_session mismatch']])
      expect([await ledgerOf(tx, shop), await ledgerOf(tx, other), await paymentOf(tx, bought.id)]).toEqual([
        [],
        [],
        {},
      ])
      expect(await eventsOf(tx, shop.account.id)).toEqual(['stripe_customer_mismatch high'])
    }),
  )

  test('brings nothing either when a refund of it is read, or everything is made again', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const bought = session(shop, 1, { client_reference_id: 'them' })
      await apply(tx, bought)

      await apply(tx, refund(shop, 2, bought.payment_intent_id, 100))
      await tx`select private.project_stripe_objects(${shop.customer})`

      expect(await ledgerOf(tx, shop)).toEqual([])
    }))
})

describe('a customer that is deleted at Stripe', () => {
  test('ends its subscriptions; the user stays and becomes another customer', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const sub = subscription(shop, 1)
      await apply(tx, sub)

      await apply(tx, { ...customer(shop, 2), deleted: true, user_id: null })
      const next = await nextCustomer(tx, shop, shop.account)
      const other = subscription(next, 3)
      await apply(tx, other)

      expect(await subscriptionOf(tx, sub.id)).toMatchObject({ status: 'canceled', ended: day(0) + 2 })
      expect(await subscriptionOf(tx, other.id)).toMatchObject({ status: 'active' })
    }))

  test('ends them in any order, also those that are read later', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const gone = { ...customer(shop, 2), deleted: true, user_id: null }
      const sub = subscription(shop, 3)

      await apply(tx, { ...gone, read_at: readAt(5) })
      await apply(tx, gone)
      await apply(tx, sub)

      expect(await subscriptionOf(tx, sub.id)).toMatchObject({ status: 'canceled', ended: day(0) + 2 })
    }))

  test('keeps what Stripe said of the end', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const sub = subscription(shop, 1, { status: 'canceled', ended_at: day(0.5), canceled_at: day(0.4) })

      await apply(tx, { ...customer(shop, 2), deleted: true, user_id: null }, sub)

      expect(await subscriptionOf(tx, sub.id)).toMatchObject({ status: 'canceled', ended: day(0.5) })
    }))

  test('is there again when Stripe says so later, with its subscriptions and what they entitle to', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const sub = subscription(shop, 1)
      await apply(tx, sub, { ...customer(shop, 2), deleted: true, user_id: null })

      expect(await apply(tx, customer(shop, 3))).toEqual(['customer changed'])

      const [link] = await tx`select deleted_at from private.stripe_customers where id = ${shop.customer}`
      expect(link).toEqual({ deleted_at: null })
      expect(await subscriptionOf(tx, sub.id)).toMatchObject({ status: 'active', ended: null })
      expect(await entitlementOf(tx, shop.account.id)).toMatchObject({ plan_id: 'premium', is_paid: true })
      expect(await apply(tx, customer(shop, 4))).toEqual(['customer same'])
    }))

  test('and is there again is not the one to buy with while another has taken its place; what it pays for counts', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const sub = subscription(shop, 1)
      await apply(tx, sub, { ...customer(shop, 2), deleted: true, user_id: null })
      const next = await nextCustomer(tx, shop, shop.account)

      await apply(tx, customer(shop, 3))

      const rows = await tx`
        select id, deleted_at is null as lives from private.stripe_customers where user_id = ${shop.account.id} order by lives`
      expect([...rows]).toEqual([
        { id: shop.customer, lives: false },
        { id: next.customer, lives: true },
      ])
      expect(await subscriptionOf(tx, sub.id)).toMatchObject({ status: 'active' })
    }))

  test('can be forgotten by an operator, until Stripe says that it is there', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const sub = subscription(shop, 1)
      await apply(tx, sub)

      await tx`select private.forget_stripe_customer(${shop.customer})`
      const forgotten = [await subscriptionOf(tx, sub.id), await entitlementOf(tx, shop.account.id)]
      const later = new Date(Date.now() + 30_000).toISOString()
      await apply(tx, { ...customer(shop, 0), read_at: later })

      expect(forgotten).toMatchObject([{ status: 'canceled' }, { plan_id: 'free', state: 'canceled' }])
      expect(await entitlementOf(tx, shop.account.id)).toMatchObject({ plan_id: 'premium', state: 'active' })
    }))

  test('stays deleted when an older reading comes, and is linked to its user when that one is known by now only', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const old = { ...shop, customer: id('cus') }

      const outcomes = [
        await apply(tx, { ...customer(old, 3), deleted: true, user_id: null }),
        await apply(tx, customer(old, 1)),
      ]

      const rows = await tx`
        select id, deleted_at is not null as gone from private.stripe_customers where user_id = ${shop.account.id} order by gone`
      expect(outcomes).toEqual([['customer unknown_customer'], ['customer older']])
      expect([...rows]).toEqual([
        { id: shop.customer, gone: false },
        { id: old.customer, gone: true },
      ])
    }))
})

describe('a user who is erased', () => {
  test('takes along what was read of their customers, and the events, and nobody else’s', () =>
    rolledBack(async (tx) => {
      const [shop, other] = [await newShop(tx), await newShop(tx)]
      const events = [await receive(tx, shop), await receive(tx, shop), await receive(tx, other)]
      const first = await claimOne(tx)
      await finish(tx, first, customer(shop, 1), subscription(shop, 1))
      await apply(tx, customer(other, 1))

      await tx`delete from auth.users where id = ${shop.account.id}`

      const [left] = await tx`
        select array(select id from private.stripe_events where id = any(${events})) as events,
          array(select id from private.stripe_objects where customer_id in (${shop.customer}, ${other.customer})) as objects`
      expect(left).toEqual({ events: events.slice(2), objects: [other.customer] })
    }))

  test('takes along events that do not name the customer, once what they are about was read', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const event = await receive(tx, { ...shop, customer: '' }, { object: 'dispute', type: 'charge.dispute.created' })
      await tx`update private.stripe_events set customer_id = null where id = ${event}`
      const claimed = await claimOne(tx)
      await finish(tx, claimed, refund(shop, 1, 'pi_1', 100, { customer_id: null }), refund(shop, 1, 'pi_1', 100))

      await tx`delete from auth.users where id = ${shop.account.id}`

      expect(await eventOf(tx, event)).toEqual({})
    }))

  test('is not linked again by readings that come later', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      await tx`delete from auth.users where id = ${shop.account.id}`

      const outcomes = await apply(tx, customer(shop, 1), subscription(shop, 1))

      expect(outcomes).toEqual(['customer unknown_customer', 'subscription unknown_customer'])
      expect(await everythingOf(tx, [shop.account.id])).toMatchObject({ subscriptions: null, customers: null })
    }))
})
