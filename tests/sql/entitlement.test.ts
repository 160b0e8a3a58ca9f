/** What subscriptions entitle to, at every moment, without a job. Offsets are from now; grace is seven days. */
import { describe, expect, test } from 'vitest'
import { admit, newModel } from './ai-support.ts'
import { entitlementOf, putInvoice, putSubscription, type Subscription } from './entitlement-support.ts'
import { asUser, newAccount, racing, refusal, rolledBack, setCounter, type Tx, together } from './support.ts'

const ends = (period_end: string): Subscription => ({ period_end })
const trial = (trial_end: string): Subscription => ({
  status: 'trialing',
  trial_start: '-7 days',
  trial_end,
  period_end: trial_end,
})
const canceling = (period_end: string): Subscription => ({ period_end, cancel_at_period_end: true })
const owing = (past_due_since: string): Subscription => ({ status: 'past_due', past_due_since })

// biome-ignore format: a table
const states: [string, Subscription, string, boolean, number | null, number | null][] = [
  // what                                          subscription                        state        paid   valid   grace (days)
  ['active',                                       {},                                 'active',    true,  27,     null],
  ['a second before the period ends',              ends('1 second'),                   'active',    true,  7,      null],
  ['a period that ended now, and no news of it',   ends('0'),                          'active',    true,  7,      7],
  ['no news for all of the grace but a second',    ends('-7 days +1 second'),          'active',    true,  0,      0],
  ['no news for as long as the grace is',          ends('-7 days'),                    'expired',   false, null,   null],
  ['a trial',                                      trial('3 days'),                    'trialing',  true,  10,     null],
  ['a trial, in a period that is longer',          { ...trial('3 days'), period_end: '20 days' }, 'trialing', true, 10, null],
  ['a trial that ended, and no news of it',        trial('-1 second'),                 'trialing',  true,  7,      7],
  ['a trial that ended long ago',                  trial('-8 days'),                   'expired',   false, null,   null],
  ['a trial that is not going to be paid',         { ...trial('1 second'), cancel_at_period_end: true }, 'canceling', true, 0, null],
  ['a cancelled trial that ended now',             { ...trial('0'), cancel_at_period_end: true }, 'canceled', false, null, null],
  ['cancelled, and paid until the period ends',    canceling('1 second'),              'canceling', true,  0,      null],
  ['cancelled, and the period ended now',          canceling('0'),                     'canceled',  false, null,   null],
  ['cancelled at a date of its own',               { cancel_at: '5 days' },            'canceling', true,  5,      null],
  ['cancelled at a date of its own, which is now', { cancel_at: '0' },                 'canceled',  false, null,   null],
  ['to be cancelled after periods to come',        { cancel_at: '90 days' },           'canceling', true,  27,     null],
  ['past due',                                     owing('-1 day'),                    'past_due',  true,  6,      6],
  ['past due, a second before the grace ends',     owing('-7 days +1 second'),         'past_due',  true,  0,      0],
  ['past due, and the grace ends now',             owing('-7 days'),                   'past_due',  false, null,   null],
  ['past due since nobody knows when',             { status: 'past_due', period_start: '-2 days' }, 'past_due', true, 5, 5],
  ['past due, to be cancelled before grace ends',  { ...owing('-1 day'), cancel_at: '2 days' }, 'past_due', true, 2, 2],
  ['past due, and cancelled at a date now over',   { ...owing('-1 day'), cancel_at: '0' }, 'canceled', false, null, null],
  ['paused',                                       { status: 'paused' },               'paused',    false, null,   null],
  ['unpaid',                                       { status: 'unpaid' },               'unpaid',    false, null,   null],
  ['canceled',                                     { status: 'canceled', ended_at: '-1 day' }, 'canceled', false, null, null],
  ['canceled in what is the future here',          { status: 'canceled', ended_at: '9 days' }, 'canceled', false, null, null],
  ['incomplete',                                   { status: 'incomplete' },           'incomplete', false, null,  null],
  ['incomplete for too long',                      { status: 'incomplete_expired' },   'none',      false, null,   null],
  ['a word of Stripe’s that is new',               { status: 'dormant' },              'none',      false, null,   null],
  ['of a price that is not ours',                  { plan_id: null },                  'none',      false, null,   null],
]

describe('a subscription', () => {
  test.each(states)('%s', (_, subscription, state, is_paid, valid_days, grace_days) =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const subscription_id = await putSubscription(tx, id, subscription)

      expect(await entitlementOf(tx, id)).toEqual({
        plan_id: is_paid ? 'premium' : 'free',
        state,
        is_paid,
        subscription_id: state === 'none' ? null : subscription_id,
        valid_days,
        grace_days,
      })
    }),
  )

  test('who never had one has the operator’s plan, and an unknown user has none', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      expect(await entitlementOf(tx, id)).toMatchObject({ plan_id: 'free', state: 'none', is_paid: false })
      expect(await entitlementOf(tx, crypto.randomUUID())).toMatchObject({ plan_id: null, state: null })
    }))

  test('that lapses leaves the plan that an operator gave, and never takes a better one away', () =>
    rolledBack(async (tx) => {
      await tx`insert into public.plans (id, name, position) values ('basic', 'Basic', 1), ('team', 'Team', 9)`
      const { id } = await newAccount(tx)
      const subscription = await putSubscription(tx, id)
      const plan = async (given: string) => {
        await tx`update public.profiles set plan_id = ${given} where id = ${id}`
        return (await entitlementOf(tx, id)).plan_id
      }

      expect([await plan('basic'), await plan('team')]).toEqual(['premium', 'team'])
      await putSubscription(tx, id, { id: subscription, status: 'canceled' })
      expect([await plan('basic'), await plan('team')]).toEqual(['basic', 'team'])
    }))

  test('is no better than a better plan that is made later and given by an operator', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await putSubscription(tx, id)
      await tx`insert into public.plans (id, name, position) values ('basic', 'Basic', 1), ('peer', 'Peer', 2), ('team', 'Team', 9)`
      const seen: unknown[] = []
      for (const plan of ['basic', 'peer', 'team']) {
        await tx`update public.profiles set plan_id = ${plan} where id = ${id}`
        seen.push((await entitlementOf(tx, id)).plan_id)
      }

      expect(seen).toEqual(['premium', 'premium', 'team'])
    }))

  test('that is gone takes its entitlement with it', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await putSubscription(tx, id)
      await tx`delete from public.subscriptions where user_id = ${id}`
      await tx`select private.refresh_entitlement(${id})`

      expect(await entitlementOf(tx, id)).toMatchObject({ plan_id: 'free', state: 'none', is_paid: false })
    }))
})

/** Lets time pass for what is written, as nothing else does in a transaction: everything becomes so much older. */
const pass = (tx: Tx, time: string) => tx`
  update private.entitlements set starts_at = starts_at - ${time}::interval, ends_at = ends_at - ${time}::interval`

describe('several subscriptions', () => {
  const plans = (tx: Tx) =>
    tx`insert into public.plans (id, name, position) values ('basic', 'Basic', 1), ('team', 'Team', 9)`

  test('the best of those that are paid for counts; when it ends the next does, to the second and without a job', () =>
    rolledBack(async (tx) => {
      await plans(tx)
      const { id } = await newAccount(tx)
      await putSubscription(tx, id, { plan_id: 'basic', ...ends('30 days') })
      await putSubscription(tx, id, { plan_id: 'premium', ...owing('-3 days') })
      await putSubscription(tx, id, { plan_id: 'team', ...canceling('2 days') })
      await putSubscription(tx, id, { plan_id: 'team', status: 'unpaid', started_at: '-200 days' })
      const seen: unknown[] = []
      for (const time of [
        '0',
        '2 days -1 second',
        '1 second',
        '2 days -1 second',
        '1 second',
        '33 days -1 second',
        '1 second',
      ]) {
        await pass(tx, time)
        const { plan_id, state } = await entitlementOf(tx, id)
        seen.push(`${plan_id} ${state}`)
      }

      expect(seen).toEqual([
        'team canceling',
        'team canceling',
        'premium past_due',
        'premium past_due',
        'basic active',
        'basic active',
        'free past_due',
      ])
    }))

  test('of two with one plan the one that lasts longer is named', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await putSubscription(tx, id, canceling('2 days'))
      const longer = await putSubscription(tx, id, ends('5 days'))
      await putSubscription(tx, id, { status: 'canceled' })

      expect(await entitlementOf(tx, id)).toMatchObject({ subscription_id: longer, state: 'active' })
    }))

  test('of those that do not entitle, one that can be paid is named before one that is over', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await putSubscription(tx, id, { status: 'unpaid', started_at: '-200 days' })
      await putSubscription(tx, id, { status: 'canceled', started_at: '-1 day' })

      expect(await entitlementOf(tx, id)).toMatchObject({ state: 'unpaid' })
    }))

  test('another order of plans, or more days of grace, count at once', () =>
    rolledBack(async (tx) => {
      await plans(tx)
      const { id } = await newAccount(tx)
      await putSubscription(tx, id, { plan_id: 'basic' })
      await putSubscription(tx, id, owing('-8 days'))
      expect(await entitlementOf(tx, id)).toMatchObject({ plan_id: 'basic' })

      await tx`update private.settings set value = '9' where key = 'billing.grace_days'`
      expect(await entitlementOf(tx, id)).toMatchObject({ plan_id: 'premium', grace_days: 1 })

      await tx`update public.plans set position = 3 where id = 'basic'`
      expect(await entitlementOf(tx, id)).toMatchObject({ plan_id: 'basic' })
    }))

  test('refreshes that race leave one line of time, without gaps', () =>
    racing(8, async (sql, account) => {
      const { id } = await account()
      await together(40, async () => {
        await sql.begin((tx) => putSubscription(tx, id, { started_at: '-1 day' }))
      })

      const [row] = await sql`
        select count(*)::int as spans, range_agg(tstzrange(starts_at, ends_at)) = tstzmultirange(tstzrange('-infinity', 'infinity')) as whole,
          (select count(*)::int from public.subscriptions s where s.user_id = ${id}) as subscriptions
        from private.entitlements where user_id = ${id}`
      expect(row).toMatchObject({ whole: true, subscriptions: 40 })
      expect(await entitlementOf(sql, id)).toMatchObject({ state: 'active', is_paid: true })
    }))
})

describe('counts at the next call', () => {
  const dailyCalls = async (tx: Tx, id: string) => {
    const [row] = await asUser(
      tx,
      id,
      (as) => as`
      select amount::int from public.get_my_limits() where meter = 'ai_calls' and period = 'day'`,
    )
    return row?.amount
  }

  test('in limits', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const subscription = await putSubscription(tx, id, canceling('1 day'))
      expect(await dailyCalls(tx, id)).toBe(1000)

      await pass(tx, '1 day')
      expect(await dailyCalls(tx, id)).toBe(50)

      await putSubscription(tx, id, { id: subscription })
      expect(await dailyCalls(tx, id)).toBe(1000)
    }))

  test('in what is counted by consume', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await setCounter(tx, id, 'chat_sessions', 'day', { used: 10 })
      const chat = (sp: Tx) => sp`select private.consume(${id}, 'chat_sessions', 'day', 1)`
      expect((await refusal(tx, chat)).code).toBe('daily_quota_exceeded')

      await putSubscription(tx, id, canceling('1 day'))
      await chat(tx)

      await pass(tx, '1 day')
      expect((await refusal(tx, chat)).code).toBe('daily_quota_exceeded')
    }))

  // What most calls are is admitted for all callers at once; one with a key of the caller's alone.
  test.each([
    ['plain', () => ({})],
    ['other', () => ({ idempotency_key: crypto.randomUUID(), body_hash: 'a'.repeat(64) })],
  ])('in the admission of %s calls, by the model and by the limit', (_, wish) =>
    rolledBack(async (tx) => {
      await newModel(tx, 'premium')
      const account = await newAccount(tx)
      const call = (model: string) => admit(tx, account, { model, ...wish() })
      expect(await call('openai/gpt-4o-mini')).toMatchObject({ admitted: true })
      expect(await call('sql/model')).toMatchObject({ code: 'model_not_allowed' })

      await putSubscription(tx, account.id, canceling('1 day'))
      const paid = await call('sql/model')
      expect(paid).toMatchObject({ admitted: true })
      expect(paid.limits?.find((limit) => limit.meter === 'ai_calls')).toMatchObject({ amount: 1000, remaining: 998 })

      await pass(tx, '1 day')
      expect(await call('sql/model')).toMatchObject({ code: 'model_not_allowed' })
      await setCounter(tx, account.id, 'ai_calls', 'day', { used: 50 })
      expect(await call('openai/gpt-4o-mini')).toMatchObject({ code: 'daily_quota_exceeded' })
    }),
  )

  test('in the statement that admits many callers at once', () =>
    rolledBack(async (tx) => {
      await newModel(tx, 'premium')
      const account = await newAccount(tx)
      await putSubscription(tx, account.id)
      // Called for each call that is decided alone.
      await tx`drop function private.require_sound(private.ai_request)`

      expect(await admit(tx, account)).toMatchObject({ admitted: true })
      expect((await refusal(tx, (sp) => admit(sp, account, { model: 'no/model' }))).code).toBe('accounting_unavailable')
    }))

  test('in the list of models', () =>
    rolledBack(async (tx) => {
      await newModel(tx, 'premium')
      const account = await newAccount(tx)
      const models = async () => {
        const [row] =
          await tx`select private.list_ai_models(${tx.json({ user_id: account.id, session_id: account.sessionId })}) as answer`
        return row?.answer.models.map((model: { id: string }) => model.id)
      }
      expect(await models()).not.toContain('sql/model')

      await putSubscription(tx, account.id)
      expect(await models()).toContain('sql/model')
    }))
})

describe('get_my_entitlement', () => {
  const mine = (tx: Tx, id: string) =>
    asUser(tx, id, async (as) => ({ ...(await as`select * from public.get_my_entitlement()`)[0] }))

  test('who is not signed in gets none', () =>
    rolledBack(async (tx) => {
      const signedOut = await refusal(tx, (sp) => sp`select * from public.get_my_entitlement()`)
      await tx`set local role anon`
      const anon = await refusal(tx, (sp) => sp`select * from public.get_my_entitlement()`)

      expect(signedOut).toMatchObject({ code: 'invalid_api_key', status: 401 })
      expect(anon.sqlstate).toBe('42501')
    }))

  test('nothing is paid for: the operator’s plan and where to pay', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await putSubscription(tx, (await newAccount(tx)).id)

      expect(await mine(tx, id)).toEqual({
        plan_id: 'free',
        state: 'none',
        is_paid: false,
        subscription_id: null,
        current_period_end: null,
        grace_until: null,
        cancel_at: null,
        trial_end: null,
        pay_url: '/billing',
      })
    }))

  test('what the subscription says, and the page of the oldest open invoice', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const subscription_id = await putSubscription(tx, id, { ...canceling('3 days'), trial_end: '-4 days' })
      const subscription = subscription_id
      await putInvoice(tx, id, { subscription, payUrl: 'https://pay.test/new' })
      await putInvoice(tx, id, { subscription, payUrl: 'https://pay.test/old', age: '1 day' })
      await putInvoice(tx, id, { subscription, payUrl: 'https://pay.test/paid', age: '2 days', status: 'paid' })

      const [now] = await tx`select now()`
      const answer = await mine(tx, id)

      expect(answer).toMatchObject({
        plan_id: 'premium',
        state: 'canceling',
        is_paid: true,
        subscription_id,
        pay_url: 'https://pay.test/old',
      })
      expect(answer.cancel_at).toEqual(answer.current_period_end)
      const days = (at: unknown) => Math.round((Number(at) - Number(now?.now)) / 86_400_000)
      expect([days(answer.current_period_end), days(answer.trial_end)]).toEqual([3, -4])
    }))

  test.each(['canceled', 'incomplete_expired'])(
    'never the page of an invoice that a subscription left behind when it became %s: it buys nothing',
    (status) =>
      rolledBack(async (tx) => {
        const { id } = await newAccount(tx)
        const gone = await putSubscription(tx, id, { status, ended_at: '-1 day' })
        await putInvoice(tx, id, { subscription: gone, payUrl: 'https://pay.test/gone', age: '9 days' })
        await putInvoice(tx, id, { subscription: 'sub_of_nobody', payUrl: 'https://pay.test/nobody', age: '8 days' })
        const alone = await mine(tx, id)
        const subscription = await putSubscription(tx, id)
        const again = await mine(tx, id)
        await putInvoice(tx, id, { subscription, payUrl: 'https://pay.test/owed' })

        expect([alone.pay_url, again.pay_url]).toEqual(['/billing', '/billing'])
        expect((await mine(tx, id)).pay_url).toBe('https://pay.test/owed')
      }),
  )

  test.each(['past_due', 'unpaid', 'incomplete', 'paused'])(
    'the page of what a subscription that is %s owes',
    (status) =>
      rolledBack(async (tx) => {
        const { id } = await newAccount(tx)
        const subscription = await putSubscription(tx, id, { status, past_due_since: '-1 day' })
        await putInvoice(tx, id, { subscription, payUrl: 'https://pay.test/owed' })

        expect((await mine(tx, id)).pay_url).toBe('https://pay.test/owed')
      }),
  )
})
