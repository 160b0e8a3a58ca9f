/** Events that were given up, who may try them again, and what is kept how long. */
import { describe, expect, test } from 'vitest'
import {
  apply,
  claim,
  claimOne,
  eventOf,
  fail,
  finish,
  invoice,
  ledgerOf,
  linkCustomer,
  newShop,
  pass,
  receive,
  session,
  subscription,
} from './billing-support.ts'
import { inSession } from './in-session.ts'
import { asRole, asUser, newAccount, refusal, rolledBack, type Tx } from './support.ts'

/** An event that was tried as often as may be. */
async function deadEvent(tx: Tx): Promise<string> {
  await tx`update private.settings set value = '2' where key = 'billing.max_attempts'`
  const event = await receive(tx, await newShop(tx))
  for (const _ of [1, 2]) {
    const claimed = await claimOne(tx)
    await fail(tx, claimed, 'no such invoice')
    await pass(tx, event, '2 hours')
  }
  return event
}
const retry = async (tx: Tx, event: string): Promise<string> =>
  (await tx`select public.retry_stripe_event(${event}) as state`)[0]?.state
const dead = (tx: Tx) => tx`select id, attempts, error from public.list_dead_stripe_events()`

test('the dead are listed in pages that go on after the last of the page before', () =>
  rolledBack(async (tx) => {
    await tx`
      insert into private.stripe_events (id, type, livemode, created_at, payload, state, finished_at)
      select 'evt_dead_' || n, 'invoice.paid', false, now(), '{}', 'dead', now() - make_interval(secs => n / 2)
      from generate_series(1, 7) n`
    const pages: string[][] = []
    for (let before: string | null = null; pages.length < 4; before = pages.at(-1)?.at(-1) ?? null) {
      const rows =
        await tx`select id from public.list_dead_stripe_events(${before}::text, 3) where id like 'evt_dead_%'`
      pages.push(rows.map(({ id }) => String(id)))
      if (rows.length === 0) break
    }

    expect(pages).toEqual([[1, 3, 2], [5, 4, 7], [6], []].map((page) => page.map((n) => `evt_dead_${n}`)))
    expect((await refusal(tx, (sp) => sp`select * from public.list_dead_stripe_events('evt_none')`)).code).toBe(
      'invalid_request_error',
    )
    for (const size of [0, 1001, null])
      expect(
        (await refusal(tx, (sp) => sp`select * from public.list_dead_stripe_events(null, ${size}::integer)`)).code,
      ).toBe('invalid_request_error')
  }))

describe('who may see and retry dead events', () => {
  test('not a user, and nobody without a token', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const event = await deadEvent(tx)

      const asks: ((as: Tx) => Promise<unknown>)[] = [(as) => retry(as, event), dead]
      for (const ask of asks) {
        expect(await refusal(tx, (sp) => asUser(sp, id, ask))).toMatchObject({ code: 'not_allowed', status: 403 })
        expect(await refusal(tx, (sp) => asRole(sp, 'anon', { role: 'anon' }, ask))).toMatchObject({
          sqlstate: '42501',
        })
      }
      expect((await eventOf(tx, event)).state).toBe('dead')
    }))

  test('an admin with the second factor, who finds it in the list', () =>
    rolledBack(async (tx) => {
      const admin = await newAccount(tx)
      await tx`update public.profiles set role = 'admin' where id = ${admin.id}`
      await tx`update auth.sessions set aal = 'aal2' where id = ${admin.sessionId}`
      const event = await deadEvent(tx)

      const refused = await refusal(tx, (sp) => inSession(sp, admin, (as) => retry(as, event)))
      const list = await inSession(tx, admin, dead, { aal: 'aal2' })
      const state = await inSession(tx, admin, (as) => retry(as, event), { aal: 'aal2' })

      expect(refused.code).toBe('insufficient_aal')
      expect([...list]).toEqual([{ id: event, attempts: 2, error: 'no such invoice' }])
      expect(state).toBe('waiting')
    }))

  test('the service role', () =>
    rolledBack(async (tx) => {
      const event = await deadEvent(tx)

      const states = await asRole(tx, 'service_role', { role: 'service_role' }, async (as) => [
        await retry(as, event),
        (await dead(as)).length,
      ])

      expect(states).toEqual(['waiting', 0])
    }))

  test.each(['anon', 'authenticated', 'service_role'])(
    '%s has no way to the inbox and the readings themselves',
    (role) =>
      rolledBack(async (tx) => {
        const [rights] = await tx`
        select bool_or(has_table_privilege(${role}, t, p)) as tables from unnest(array['private.stripe_events', 'private.stripe_objects', 'private.stripe_unknowns']) t,
          unnest(array['select', 'insert', 'update', 'delete', 'truncate']) p`
        const functions = await tx`
        select p.proname as name from pg_proc p
        where p.pronamespace = 'private'::regnamespace and has_function_privilege(${role}, p.oid, 'execute')
          and (p.proname like '%stripe%' or p.proname ~ '^(project_|save_(payment|subscription)|tell_of_|move_clawback|payment_of|return(s|ed)_|warn_of_|currency_)')
        order by 1`

        expect(rights).toEqual({ tables: false })
        expect(functions.map(({ name }) => name)).toEqual(
          role === 'anon'
            ? []
            : ['close_stripe_unknown', 'dead_stripe_events', 'open_stripe_unknowns', 'revive_stripe_event'],
        )
      }),
  )
})

describe('an event that is dead', () => {
  test('is a security event, once', () =>
    rolledBack(async (tx) => {
      const event = await deadEvent(tx)

      const raised = await tx`
        select severity, occurrences from public.security_events where type = 'stripe_event_dead' and dedupe_key = ${event}`
      expect([...raised]).toEqual([{ severity: 'high', occurrences: 1 }])
    }))

  test('is one that nobody came back from so often, too', () =>
    rolledBack(async (tx) => {
      await tx`update private.settings set value = '1' where key = 'billing.max_attempts'`
      const event = await receive(tx, await newShop(tx))
      await claim(tx)
      await pass(tx, event, '2 hours')

      expect(await claim(tx)).toEqual([])

      expect(await eventOf(tx, event)).toMatchObject({ state: 'dead', error: 'nobody came back from the last try' })
    }))

  test('is one that ends its worker each time, and no other dies with it', () =>
    rolledBack(async (tx) => {
      await tx`update private.settings set value = '5' where key = 'billing.max_attempts'`
      const shop = await newShop(tx)
      const events: string[] = []
      for (let n = 0; n < 12; n += 1) events.push(await receive(tx, shop))
      const fatal = events.sort()[3]
      const taken: string[][] = []

      for (;;) {
        const batch = await claim(tx, 10)
        if (batch.length === 0) break
        taken.push(batch.map(({ id }) => id))
        // Who has the fatal one comes back from none of the batch.
        if (batch.some(({ id }) => id === fatal))
          await Promise.all(batch.map(async ({ id }) => pass(tx, id, '2 hours')))
        else for (const claimed of batch) await finish(tx, claimed)
      }

      expect(taken[0]).toContain(fatal)
      expect(taken.slice(1).filter((batch) => batch.includes(fatal ?? ''))).toEqual(
        Array.from({ length: 4 }, () => [fatal]),
      )
      const dead = await tx`select id from private.stripe_events where id = any(${events}) and state = 'dead'`
      expect([...dead]).toEqual([{ id: fatal }])
    }))

  test('is tried as often as a new one when it is retried, and can be applied', () =>
    rolledBack(async (tx) => {
      const event = await deadEvent(tx)
      await retry(tx, event)

      const third = await claimOne(tx)
      const state = await fail(tx, third)
      await pass(tx, event, '2 hours')
      const fourth = await claimOne(tx)

      expect([third.attempt, state, fourth.attempt]).toEqual([3, 'waiting', 4])
      expect(await finish(tx, fourth, subscription(await newShop(tx), 1))).toBe('applied')
    }))

  test('is retried once: each time is in the audit log, and a finished one stays finished', () =>
    rolledBack(async (tx) => {
      const event = await deadEvent(tx)

      const states = [await retry(tx, event), await retry(tx, event)]
      const claimed = await claimOne(tx)
      await finish(tx, claimed)
      states.push(await retry(tx, event))

      const entries = await tx`
        select action from private.audit_log where resource_type = 'stripe_event' and resource_id = ${event}`
      expect([states, entries.length]).toEqual([['waiting', 'waiting', 'ignored'], 1])
    }))

  test('that does not exist is not found', () =>
    rolledBack(async (tx) => {
      expect(await refusal(tx, (sp) => retry(sp, 'evt_none'))).toMatchObject({ code: 'not_found', status: 404 })
    }))
})

describe('all dead events together', () => {
  const retryAll = async (tx: Tx, since: string | null = null): Promise<number> =>
    (await tx`select private.retry_stripe_events(${since}::text::timestamptz) as revived`)[0]?.revived

  test('are tried again by one call, with one entry in the audit log', () =>
    rolledBack(async (tx) => {
      const events = [await deadEvent(tx), await deadEvent(tx)]

      expect([await retryAll(tx), await retryAll(tx)]).toEqual([2, 0])

      for (const event of events) expect(await eventOf(tx, event)).toMatchObject({ state: 'waiting', attempts: 2 })
      const third = await claimOne(tx)
      expect([third.attempt, await fail(tx, third)]).toEqual([3, 'waiting'])
      const entries = await tx`
        select details from private.audit_log where action = 'stripe_event.retry' and resource_id = 'all' and created_at = now()`
      expect([...entries]).toEqual([{ details: { events: 2, since: null } }])
    }))

  test('or only those that were given up since a time', () =>
    rolledBack(async (tx) => {
      const [old, recent] = [await deadEvent(tx), await deadEvent(tx)]
      await tx`update private.stripe_events set finished_at = now() - interval '2 days' where id = ${old}`
      const [yesterday] = await tx`select (now() - interval '1 day')::text as at`

      expect(await retryAll(tx, yesterday?.at)).toBe(1)

      expect([(await eventOf(tx, old)).state, (await eventOf(tx, recent)).state]).toEqual(['dead', 'waiting'])
    }))
})

describe('old events', () => {
  test('go after billing.event_days when they are finished; the dead and the waiting stay', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const [old, fresh, buried, waiting] = [
        await receive(tx, shop),
        await receive(tx, shop),
        await receive(tx, shop),
        await receive(tx, shop),
      ]
      await tx`update private.stripe_events set received_at = now() - interval '91 days' where id = any(${[old, buried, waiting]})`
      await tx`update private.stripe_events set state = 'applied', finished_at = now() - interval '91 days' where id = ${old}`
      await tx`update private.stripe_events set state = 'dead', finished_at = now() - interval '91 days' where id = ${buried}`
      await tx`update private.stripe_events set state = 'ignored', finished_at = now() - interval '89 days' where id = ${fresh}`

      await tx`select private.delete_old_stripe_events()`

      const left = await tx`select id from private.stripe_events where id = any(${[old, fresh, buried, waiting]})`
      expect(left.map(({ id }) => id).sort()).toEqual([fresh, buried, waiting].sort())
    }))

  test('go with what was read of customers of whom nobody ever knew whose they are; ours stays', () =>
    rolledBack(async (tx) => {
      const [ours, unknown] = [await newShop(tx), await newShop(tx, { linked: false })]
      const read_at = new Date(Date.now() - 91 * 86_400_000).toISOString()
      await apply(
        tx,
        { ...subscription(ours, 1), read_at },
        { ...subscription(unknown, 1, { user_id: null }), read_at },
      )

      await tx`select private.delete_old_stripe_events()`

      const left =
        await tx`select customer_id from private.stripe_objects where customer_id in (${ours.customer}, ${unknown.customer})`
      expect([...left]).toEqual([{ customer_id: ours.customer }])
    }))

  test('go with what was read of checkouts that expired, which anybody can start by the thousand', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const read_at = new Date(Date.now() - 91 * 86_400_000).toISOString()
      const [paid, expired] = [session(shop, 1), session(shop, 1, { status: 'expired', payment_status: 'unpaid' })]
      await apply(tx, { ...paid, read_at }, { ...expired, read_at })

      await tx`select private.delete_old_stripe_events()`

      const left = await tx`select id from private.stripe_objects where id in (${paid.id}, ${expired.id})`
      expect([...left]).toEqual([{ id: paid.id }])
    }))
})

describe('making every row again', () => {
  test('changes nothing where nothing is lost', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const sub = subscription(shop, 1)
      await apply(tx, sub, invoice(shop, 1, { subscription_id: sub.id }))

      const [row] = await tx`select private.project_stripe_objects(${shop.customer})::int as changed`

      expect([row, await ledgerOf(tx, shop)]).toEqual([{ changed: 0 }, ['grant 1000']])
    }))

  test('brings back what was lost, and what became known', () =>
    rolledBack(async (tx) => {
      const shop = await newShop(tx)
      const sub = subscription(shop, 1)
      await tx`delete from private.stripe_prices where id = ${shop.month}`
      await apply(tx, sub, invoice(shop, 1, { subscription_id: sub.id }))
      await tx`delete from public.subscriptions where id = ${sub.id}`
      await tx`
        insert into private.stripe_prices (id, plan_price_id, product_id, livemode) values (${shop.month}, ${shop.planPrice}, 'prod_1', false)`

      const [row] = await tx`select private.project_stripe_objects(${shop.customer})::int as changed`

      const [found] = await tx`select plan_id from public.subscriptions where id = ${sub.id}`
      expect([row, found, await ledgerOf(tx, shop)]).toEqual([{ changed: 2 }, { plan_id: 'premium' }, ['grant 1000']])
    }))

  // It waits for all others who read, and they for it: not after having read something itself.
  test(
    'of all customers finds out whose the unknown ones are',
    () =>
      rolledBack(async (tx) => {
        const { id } = await newAccount(tx)
        const sub = { ...subscription(await newShop(tx, { linked: false }), 1), customer_id: 'cus_found' }
        await tx`
        insert into private.stripe_objects (id, object, customer_id, user_id, reading, read_at) values
          ('cus_found', 'customer', 'cus_found', ${id}, '{"livemode": false}', now()),
          (${sub.id}, 'subscription', 'cus_found', ${id}, ${JSON.stringify(sub)}::text::jsonb, now())`

        await tx`select private.project_stripe_objects()`

        const [row] = await tx`select user_id from public.subscriptions where id = ${sub.id}`
        expect(row).toEqual({ user_id: id })
      }),
    120_000,
  )
})

test('what Stripe must have, too, is what was read and is not deleted, of a kind and since a day', () =>
  rolledBack(async (tx) => {
    const shop = await newShop(tx)
    const [sub, paid, draft] = [subscription(shop, 1), invoice(shop, 1), invoice(shop, 1, { created: 1 })]
    await apply(tx, sub, paid, draft, { ...invoice(shop, 2), deleted: true })

    const known = async (object: string, since: string | null) => {
      const rows = await tx`
        select id from private.known_stripe_objects(${object}, ${since}::text::timestamptz)
        where id in (select o.id from private.stripe_objects o where o.customer_id = ${shop.customer})`
      return rows.map(({ id }) => id)
    }

    expect(await known('subscription', null)).toEqual([sub.id])
    expect(await known('invoice', null)).toEqual([paid.id, draft.id].sort())
    expect(await known('invoice', '2020-01-01')).toEqual([paid.id])
    await linkCustomer(tx, { ...shop, account: await newAccount(tx), customer: 'cus_other_one' })
    expect(await known('invoice', 'infinity')).toEqual([])
  }))
