/** The inbox of Stripe's events: each kept once, for one worker at a time, tried again until it is applied or dead. */
import { describe, expect, test } from 'vitest'
import {
  apply,
  claim,
  claimOne,
  eventOf,
  fail,
  finish,
  finishTogether,
  id,
  intentOf,
  invoice,
  ledgerOf,
  newShop,
  pass,
  receive,
  receiveAgain,
  subscription,
} from './billing-support.ts'
import { rolledBack, type Tx } from './support.ts'

describe('an event that is received', () => {
  test('is new once, however often it comes', () =>
    rolledBack(async (tx) => {
      const event = { id: 'evt_once', type: 'invoice.paid', object: 'invoice', object_id: 'in_1' }

      const answers = [await receiveAgain(tx, event), await receiveAgain(tx, event), await receiveAgain(tx, event)]

      expect(answers).toEqual([true, false, false])
    }))

  test('of another account is kept, does nothing, and is a security event', () =>
    rolledBack(async (tx) => {
      const event = await receive(tx, await newShop(tx), { account: 'acct_of_somebody' })

      const [raised] = await tx`
        select severity from public.security_events where type = 'stripe_foreign_account' and dedupe_key = 'acct_of_somebody'`
      expect([await eventOf(tx, event), await claim(tx), raised]).toEqual([
        expect.objectContaining({ state: 'ignored' }),
        [],
        { severity: 'high' },
      ])
    }))
})

describe('a worker', () => {
  test('gets the event that waits longest, and nobody else gets it until the lease ends', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const [late, early] = [await receive(tx, shop), await receive(tx, shop)]
      await pass(tx, early, '1 day')

      const taken = [await claim(tx, 1), await claim(tx, 1), await claim(tx, 1)]
      await pass(tx, early, '61 seconds')

      expect(taken).toEqual([[{ id: early, attempt: 1 }], [{ id: late, attempt: 1 }], []])
      expect(await claim(tx)).toEqual([{ id: early, attempt: 2 }])
    }))

  test('gets the events of customers in turn, so that many of one keep no other waiting', () =>
    rolledBack(async (tx) => {
      const [flooding, other] = [await newShop(tx), await newShop(tx)]
      for (let index = 0; index < 20; index++) await pass(tx, await receive(tx, flooding), '1 day')
      const event = await receive(tx, other)

      const claimed = await claim(tx, 2)

      expect(claimed.map(({ id }) => id)).toContain(event)
    }))

  test('applies what it read and finishes the event', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const event = await receive(tx, shop)
      const claimed = await claimOne(tx)
      const sub = subscription(shop, 1)

      const state = await finish(tx, claimed, sub, invoice(shop, 1, { subscription_id: sub.id }))

      expect([state, await eventOf(tx, event), await ledgerOf(tx, shop)]).toEqual([
        'applied',
        expect.objectContaining({ state: 'applied', error: null }),
        ['grant 1000'],
      ])
    }))

  test('that comes too late does nothing: neither after another took the event, nor after it was finished', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const event = await receive(tx, shop)
      const slow = await claimOne(tx)
      await pass(tx, event, '61 seconds')
      const quick = await claimOne(tx)
      const paid = invoice(shop, 1, { subscription_id: 'sub_1' })

      const answers = [
        await finish(tx, slow, paid),
        await fail(tx, slow),
        await finish(tx, quick),
        await finish(tx, quick, paid),
      ]

      expect([answers, await ledgerOf(tx, shop)]).toEqual([['superseded', 'superseded', 'ignored', 'superseded'], []])
    }))

  test('finishes events together, each by its own turn and by what was read for it', () =>
    rolledBack(async (tx) => {
      const [shop, stranger] = [await newShop(tx), { ...(await newShop(tx)), customer: 'cus_of_nobody' }]
      const paid = invoice(shop, 1, { subscription_id: 'sub_1' })
      const unknown = invoice(stranger, 1, { subscription_id: 'sub_2' })
      const events: string[] = []
      for (const _ of [1, 2, 3, 4]) events.push(await receive(tx, shop))
      const claimed = await claim(tx, 4)
      const readings = [[paid], [paid, unknown], [unknown], [paid]]
      const told = events.map((event, n) => ({
        id: event,
        attempt: n === 3 ? 7 : (claimed.find(({ id }) => id === event)?.attempt ?? 0),
        readings: readings[n] ?? [],
      }))

      const states = await finishTogether(tx, told)

      expect(events.map((event) => states[event])).toEqual(['applied', 'applied', 'ignored', 'superseded'])
      expect((await ledgerOf(tx, shop)).filter((entry) => entry.startsWith('grant'))).toHaveLength(1)
      expect(await finishTogether(tx, told)).toEqual(Object.fromEntries(events.map((event) => [event, 'superseded'])))
    }))

  test('whose readings are wrong leaves nothing behind, and the event waits', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const event = await receive(tx, shop)
      const claimed = await claimOne(tx)
      const paid = invoice(shop, 1, { subscription_id: 'sub_1' })

      const failed = tx.savepoint((sp) => finish(sp, claimed, paid, { ...paid, id: 'in_2', object: 'something' }))

      await expect(failed).rejects.toThrow('stripe_objects_object_check')
      expect([await eventOf(tx, event), await ledgerOf(tx, shop)]).toEqual([
        expect.objectContaining({ state: 'waiting', attempts: 1 }),
        [],
      ])
    }))

  test('that fails gives it back: again after 5 seconds, 10, 20, at most an hour, and then it is dead', () =>
    rolledBack(async (tx) => {
      await tx`update private.settings set value = '12' where key = 'billing.max_attempts'`
      const event = await receive(tx, await newShop(tx))
      const rests: unknown[] = []

      for (let attempt = 1; attempt <= 12; attempt += 1) {
        const claimed = await claimOne(tx)
        const state = await fail(tx, claimed)
        rests.push(state === 'waiting' ? (await eventOf(tx, event)).rest : state)
        await pass(tx, event, '2 hours')
      }

      expect(rests).toEqual([5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 'dead'])
      expect(await eventOf(tx, event)).toMatchObject({ state: 'dead', attempts: 12, error: 'Stripe did not answer' })
    }))

  test('that fails ten times is a security event, one for all that fail in the same hour', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const raised = async () => [
        ...(await tx`
          select severity, occurrences, details from public.security_events where type = 'stripe_event_failing' and created_at = now()`),
      ]
      const failed: string[] = []
      for (const _ of [1, 2]) {
        const event = await receive(tx, shop)
        for (let attempt = 1; attempt <= 12; attempt += 1) {
          await fail(tx, await claimOne(tx))
          if (attempt === 9 && failed.length === 0) expect(await raised()).toEqual([])
          await pass(tx, event, '2 hours')
        }
        failed.push(event)
        await tx`update private.stripe_events set next_attempt_at = now() + interval '1 day' where id = ${event}`
      }

      expect(await raised()).toEqual([
        { severity: 'medium', occurrences: 2, details: { event_id: failed[0], type: 'invoice.paid', attempts: 10 } },
      ])
    }))

  test('is tried for three days as it is set up, with never more than an hour in between', () =>
    rolledBack(async (tx) => {
      const event = await receive(tx, await newShop(tx))
      const rests: number[] = []
      for (let state = 'waiting'; state === 'waiting'; ) {
        state = await fail(tx, await claimOne(tx))
        const { rest } = await eventOf(tx, event)
        if (state === 'waiting') rests.push(Number(rest))
        await pass(tx, event, '2 hours')
      }

      const hours = rests.reduce((sum, rest) => sum + rest, 0) / 3600
      expect([Math.max(...rests), Math.floor(hours)]).toEqual([3600, 72])
    }))
})

describe('an early fraud warning', () => {
  const warning = async (tx: Tx, intent: unknown, object_id: string) => {
    const event = { id: id('evt_sql'), type: 'radar.early_fraud_warning.created', object: 'radar.early_fraud_warning' }
    const object = { id: object_id, object: event.object, charge: 'ch_1', payment_intent: intent, fraud_type: 'misc' }
    await receiveAgain(tx, { ...event, object_id, payload: { id: event.id, data: { object } } })
    await pass(tx, event.id, '0')
    return event.id
  }
  const raisedFor = async (tx: Tx, key: string) => [
    ...(await tx`
      select user_id, severity, details, occurrences from public.security_events
      where type = 'stripe_early_fraud_warning' and dedupe_key = ${key}`),
  ]

  test('is a security event that names the payment and whose it is, and no message to them', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const paid = invoice(shop, 1, { subscription_id: 'sub_1' })
      await apply(tx, paid)
      const event = await warning(tx, intentOf(paid), 'issfr_1')

      expect(await finish(tx, await claimOne(tx))).toBe('applied')

      expect(await raisedFor(tx, 'issfr_1')).toEqual([
        {
          ...{ user_id: null, severity: 'high', occurrences: 1 },
          details: {
            ...{ event_id: event, warning_id: 'issfr_1', charge_id: 'ch_1', payment_intent_id: intentOf(paid) },
            ...{ fraud_type: 'misc', user_id: shop.account.id },
          },
        },
      ])
    }))

  test('of a payment that is not known names no user, and is said once however many events tell of it', () =>
    rolledBack(async (tx) => {
      await warning(tx, { id: 'pi_expanded' }, 'issfr_2')
      await finish(tx, await claimOne(tx))
      await tx`update private.security_events set dedupe_window = 0 where dedupe_key = 'issfr_2'`
      await warning(tx, { id: 'pi_expanded' }, 'issfr_2')

      expect(await finish(tx, await claimOne(tx))).toBe('applied')

      expect(await raisedFor(tx, 'issfr_2')).toEqual([
        {
          ...{ user_id: null, severity: 'high', occurrences: 1 },
          details: expect.objectContaining({ payment_intent_id: 'pi_expanded', user_id: null }),
        },
      ])
    }))
})
