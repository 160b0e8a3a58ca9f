/** What users are told of their payments, how they are reminded, and when the clock of retention runs. */
import { describe, expect, test } from 'vitest'
import { putInvoice, putSubscription, type Subscription } from './entitlement-support.ts'
import { newAccount, racing, rolledBack, type Sql, type Tx, together } from './support.ts'

const told = async (sql: Sql | Tx, userId: string) => {
  const rows = await sql`select type, title, body from public.notifications where user_id = ${userId} order by id`
  return rows.map((row) => ({ ...row }))
}
const types = async (sql: Sql | Tx, userId: string) => (await told(sql, userId)).map((notice) => notice.type)
const mails = async (sql: Sql | Tx, userId: string) => {
  const rows = await sql`select subject, body from private.mails where user_id = ${userId} order by id`
  return rows.map((row) => ({ ...row }))
}
const notify = async (
  sql: Sql | Tx,
  userId: string,
  notice: string,
  key: string,
  data: Record<string, string | null> = {},
) => {
  const [row] = await sql`select private.notify_billing(${userId}, ${notice}, ${key}, ${sql.json(data)}) as answer`
  return row?.answer
}

describe('notify_billing', () => {
  test('says what the row says, in the app and by mail, with what is known filled in', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await tx`insert into private.billing_notices (id, title, body) values ('test', 'Pay {amount}', '{plan}, {date}: {pay_url} {nonsense}!')`

      expect(await notify(tx, id, 'test', 'a', { amount: '12.00 USD', plan: null, date: '2026-01-02' })).toBe(true)

      const body = 'your plan, 2026-01-02: /billing !'
      expect(await told(tx, id)).toEqual([{ type: 'billing_test', title: 'Pay 12.00 USD', body }])
      expect(await mails(tx, id)).toEqual([{ subject: 'Pay 12.00 USD', body }])
    }))

  test('links to what it is told, else to the oldest open invoice', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const subscription = await putSubscription(tx, id, { status: 'unpaid' })
      await putInvoice(tx, id, { subscription, payUrl: 'https://pay.test/old' })
      await tx`insert into private.billing_notices (id, title, body) values ('test', 'Pay', '{pay_url}')`
      await notify(tx, id, 'test', 'a')
      await notify(tx, id, 'test', 'b', { pay_url: 'https://pay.test/this' })
      await notify(tx, id, 'test', 'c', { pay_url: null })

      const old = 'https://pay.test/old'
      expect((await told(tx, id)).map((notice) => notice.body)).toEqual([old, 'https://pay.test/this', old])
    }))

  test('tells each thing once, and each user', () =>
    rolledBack(async (tx) => {
      const [one, other] = [await newAccount(tx), await newAccount(tx)]
      expect([await notify(tx, one.id, 'refunded', 'r1'), await notify(tx, one.id, 'refunded', 'r1')]).toEqual([
        true,
        false,
      ])
      expect([await notify(tx, other.id, 'refunded', 'r1'), await notify(tx, one.id, 'refunded', 'r2')]).toEqual([
        true,
        true,
      ])

      expect((await told(tx, one.id)).length).toBe(2)
    }))

  test('mails once also when the settings name the type, and not at all when the row says so', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await tx`update private.settings set value = value || '["billing_refunded"]' where key = 'notifications.mail_types'`
      await notify(tx, id, 'refunded', 'a')
      expect((await mails(tx, id)).length).toBe(1)

      await tx`update private.billing_notices set is_mailed = false where id = 'dispute_won'`
      await notify(tx, id, 'dispute_won', 'b')
      expect((await mails(tx, id)).length).toBe(1)
    }))

  test('without its row says nothing, and can say it later', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await tx`delete from private.billing_notices where id = 'refunded'`
      expect(await notify(tx, id, 'refunded', 'a')).toBe(false)

      await tx`insert into private.billing_notices (id, title, body) values ('refunded', 'Refunded', 'Yes')`
      expect(await notify(tx, id, 'refunded', 'a')).toBe(true)
    }))

  test('many at once tell it once', () =>
    racing(8, async (sql, account) => {
      const { id } = await account()

      const answers = await together(16, () => notify(sql, id, 'refunded', 'a'))

      expect(answers.filter((answer) => answer === true).length).toBe(1)
      expect((await told(sql, id)).length).toBe(1)
    }))
})

describe('dunning', () => {
  const owing = (past_due_since: string): Subscription => ({ status: 'past_due', past_due_since })
  const send = (sql: Sql | Tx) => sql`select private.send_dunning()`

  test('reminds step by step, each once, with the invoice to pay and the day on which access ends', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const subscription = await putSubscription(tx, id, owing('-3 days +1 second'))
      await putInvoice(tx, id, { subscription, payUrl: 'https://pay.test/this' })
      const seen: string[][] = []
      for (const since of ['-3 days +1 second', '-3 days', '-5 days', '-6 days', '-7 days', '-30 days']) {
        // The same debt, at other moments: what was sent is of that debt.
        const [key] =
          await tx`select private.dunning_key(${subscription}, past_due_since, 0) as key from public.subscriptions where id = ${subscription}`
        await putSubscription(tx, id, { id: subscription, ...owing(since) })
        await tx`
          update private.billing_notices_sent n set dedupe_key = replace(dedupe_key, rtrim(${key?.key}, '0'),
            rtrim(private.dunning_key(s.id, s.past_due_since, 0), '0'))
          from public.subscriptions s where s.id = ${subscription} and n.user_id = ${id}`
        await send(tx)
        await send(tx)
        seen.push(await types(tx, id))
      }

      const [first, second, third] = [
        'billing_dunning_reminder',
        'billing_dunning_last_day',
        'billing_dunning_access_ended',
      ]
      expect(seen).toEqual([[], [first], [first], [first, second], [first, second, third], [first, second, third]])
      const [day] = await tx`select to_char((now() + interval '4 days') at time zone 'UTC', 'YYYY-MM-DD') as ends`
      expect((await told(tx, id))[0]?.body).toContain(day?.ends)
      expect((await told(tx, id))[0]?.body).toContain('https://pay.test/this')
      expect((await told(tx, id))[0]?.body).toContain('Premium')
      expect((await mails(tx, id)).length).toBe(3)
    }))

  test('does not tell everything at once to who was not told in time', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await putSubscription(tx, id, owing('-20 days'))
      await send(tx)
      await send(tx)

      expect(await types(tx, id)).toEqual(['billing_dunning_access_ended'])
    }))

  test('begins anew with the next debt, and leaves those alone who owe nothing', () =>
    rolledBack(async (tx) => {
      const [debtor, other] = [await newAccount(tx), await newAccount(tx)]
      const subscription = await putSubscription(tx, debtor.id, owing('-3 days'))
      await putSubscription(tx, other.id, { past_due_since: '-30 days' })
      await send(tx)
      await putSubscription(tx, debtor.id, { id: subscription })
      await send(tx)
      await putSubscription(tx, debtor.id, { id: subscription, ...owing('-4 days') })
      await send(tx)

      expect(await types(tx, debtor.id)).toEqual(['billing_dunning_reminder', 'billing_dunning_reminder'])
      expect(await types(tx, other.id)).toEqual([])
    }))

  test('tells the others when one cannot be told', () =>
    rolledBack(async (tx) => {
      const [broken, fine] = [await newAccount(tx), await newAccount(tx)]
      await putSubscription(tx, broken.id, owing('-3 days'))
      await putSubscription(tx, fine.id, owing('-3 days'))
      await tx.unsafe(`
        alter table public.notifications add constraint broken check (user_id <> '${broken.id}') not valid`)
      await send(tx)

      expect([await types(tx, broken.id), await types(tx, fine.id)]).toEqual([[], ['billing_dunning_reminder']])
      await tx`alter table public.notifications drop constraint broken`
      await send(tx)
      expect(await types(tx, broken.id)).toEqual(['billing_dunning_reminder'])
    }))
})

describe('the clock of retention', () => {
  const clock = async (tx: Tx, userId: string) => {
    const [row] = await tx`
      select round(extract(epoch from now() - started_at))::int as age, extract(epoch from ends_at - started_at)::int / 86400 as days
      from private.retention_clocks where user_id = ${userId}`
    return row && { ...row }
  }
  const day = 86_400

  test.each<[string, Subscription, number]>([
    ['cancelled, when the period was over', { period_end: '-2 days', cancel_at_period_end: true }, 2 * day],
    ['cancelled by a date', { cancel_at: '-1 hour' }, 3600],
    ['never paid, when the grace was over', { status: 'past_due', past_due_since: '-8 days' }, day],
    ['not heard of any more, when the grace was over', { period_end: '-9 days' }, 2 * day],
    ['canceled, when Stripe ended it', { status: 'canceled', ended_at: '-3 days' }, 3 * day],
    ['canceled in what is the future here: now', { status: 'canceled', ended_at: '3 days' }, 0],
    ['given up as unpaid: now', { status: 'unpaid' }, 0],
  ])('starts when a subscription is %s', (_, subscription, age) =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await putSubscription(tx, id, subscription)

      expect(await clock(tx, id)).toEqual({ age, days: 30 })
    }),
  )

  test.each<[string, Subscription]>([
    ['pays', {}],
    ['is in a trial', { status: 'trialing', trial_end: '1 day', period_end: '1 day' }],
    ['is in the grace', { status: 'past_due', past_due_since: '-1 day' }],
    ['has cancelled and paid until later', { cancel_at_period_end: true }],
    ['has paused', { status: 'paused' }],
    ['never finished the first payment', { status: 'incomplete_expired' }],
  ])('does not start for who %s', (_, subscription) =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await putSubscription(tx, id, subscription)
      await tx`select private.start_retention_clocks()`

      expect(await clock(tx, id)).toBeUndefined()
    }),
  )

  test('starts by time alone, at the end itself, whenever the job runs', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await putSubscription(tx, id, { period_end: '1 hour', cancel_at_period_end: true })
      expect(await clock(tx, id)).toBeUndefined()

      await tx`update private.entitlements set starts_at = starts_at - interval '1 day', ends_at = ends_at - interval '1 day' where user_id = ${id}`
      await tx`select private.start_retention_clocks()`
      expect(await clock(tx, id)).toEqual({ age: day - 3600, days: 30 })
    }))

  test('goes on when the subscription that lapsed is ended at last, and goes away when its owner pays', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const lapsed = await putSubscription(tx, id, { status: 'past_due', past_due_since: '-10 days' })
      await putSubscription(tx, id, { id: lapsed, status: 'canceled', ended_at: '-1 day' })
      expect(await clock(tx, id)).toMatchObject({ age: 3 * day })

      await putSubscription(tx, id)
      expect(await clock(tx, id)).toBeUndefined()
    }))

  test.each<[string, Subscription, Subscription, number]>([
    ['given up as unpaid: now', { status: 'canceled', ended_at: '-600 days' }, { status: 'unpaid' }, 0],
    ['given up as unpaid: now, too', { period_end: '-600 days' }, { status: 'unpaid' }, 0],
    ['canceled', { period_end: '-600 days' }, { status: 'canceled', ended_at: '-3 days' }, 3 * day],
    [
      'canceled, the longest of two',
      { status: 'canceled', ended_at: '-600 days', started_at: '-90 days' },
      { status: 'canceled', ended_at: '-3 days', started_at: '-700 days' },
      3 * day,
    ],
  ])(
    'starts with the end of what was paid last when another ended long ago, and this one is %s',
    (_, first, last, age) =>
      rolledBack(async (tx) => {
        const { id } = await newAccount(tx)
        await putSubscription(tx, id, first)
        await tx`delete from private.retention_clocks where user_id = ${id}`
        await putSubscription(tx, id, last)

        expect(await clock(tx, id)).toEqual({ age, days: 30 })
      }),
  )

  test('does not start while another subscription is paid', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await putSubscription(tx, id, { status: 'canceled', ended_at: '-1 day' })
      await putSubscription(tx, id)
      await tx`select private.start_retention_clocks()`

      expect(await clock(tx, id)).toBeUndefined()
    }))
})

describe('jobs', () => {
  test('are in the schedule', () =>
    rolledBack(async (tx) => {
      const rows =
        await tx`select jobname from cron.job where command ~ 'stripe|dunning|retention|checkouts' order by 1`

      expect(rows.map((row) => row.jobname)).toEqual([
        'apply-stripe-events',
        'change-stripe',
        'delete-old-checkouts',
        'delete-old-stripe-changes',
        'delete-old-stripe-events',
        'reconcile-stripe',
        'send-dunning',
        'start-retention-clocks',
      ])
    }))

  test('call functions only when there is something to do', () =>
    rolledBack(async (tx) => {
      await tx`create or replace function private.call_jobs_function(path text) returns bigint language sql as 'select length(path)::bigint'`
      await tx`
        create table if not exists private.stripe_events (id text, type text, livemode boolean, created_at timestamptz, payload jsonb,
          state text default 'waiting', finished_at timestamptz, next_attempt_at timestamptz default now())`
      const event = (id: string) => tx`
        insert into private.stripe_events (id, type, livemode, created_at, payload) values (${id}, 'x', false, now(), '{}')`
      await event('evt_done')
      await tx`update private.stripe_events set state = 'ignored', finished_at = now()`
      await tx`delete from private.stripe_customers`
      const called = async () =>
        (
          await tx`select private.call_apply_stripe_events()::int as apply, private.call_reconcile_stripe()::int as reconcile`
        )[0]
      expect(await called()).toEqual({ apply: null, reconcile: null })

      const { id } = await newAccount(tx)
      await tx`insert into private.stripe_customers (id, user_id, livemode) values ('cus_job', ${id}, false)`
      await event('evt_waiting')
      expect(await called()).toEqual({ apply: 'apply-stripe-events'.length, reconcile: 'reconcile-stripe'.length })
    }))
})
