/** What functions/billing may ask Stripe for: decided in SQL, also when somebody asks often and at once. */
import { describe, expect, test } from 'vitest'
import { putSubscription } from './entitlement-support.ts'
import {
  type Account,
  newAccount,
  racing,
  refusal,
  rolledBack,
  type Sql,
  setCounter,
  setLimit,
  type Tx,
  together,
} from './support.ts'

const urls = { success: 'https://app.test/yes', cancel: 'https://app.test/no' }
type Wish = {
  plan_price?: string | null
  credit_pack?: string | null
  livemode?: boolean
  urls?: Record<string, string> | null
}
type Prepared = {
  checkout_id: string
  customer_id: string | null
  customer_key: string
  stripe_price_id: string
  mode: string
  trial_days: number
  session_id: string | null
  url: string | null
  stale_sessions: string[]
  expires_at: number
}

async function prepare(
  sql: Sql | Tx,
  account: Account,
  wish: Wish = { plan_price: 'premium_month' },
): Promise<Prepared> {
  const { plan_price = null, credit_pack = null, livemode = false, urls: return_urls = urls } = wish
  const [row] = await sql`
    select private.prepare_checkout(${account.id}, ${account.sessionId}, ${plan_price}, ${credit_pack}, ${livemode},
      ${return_urls === null ? null : sql.json(return_urls)}) as answer`
  return row?.answer
}

const note = async (sql: Sql | Tx, { checkout_id }: Prepared, session: string): Promise<boolean> => {
  const [row] =
    await sql`select private.note_checkout(${checkout_id}, ${session}, ${`https://pay.test/${session}`}) as answer`
  return row?.answer
}
const link = async (sql: Sql | Tx, userId: string, customer: string, livemode = false): Promise<string> => {
  const [row] = await sql`select private.link_stripe_customer(${userId}, ${customer}, ${livemode}) as answer`
  return row?.answer
}
const setPrice = (sql: Sql | Tx, item: string, price: string, livemode = false) => sql`
  select private.set_stripe_price(${item.startsWith('premium') ? item : null}, ${item.startsWith('credits') ? item : null},
    ${price}, 'prod_1', ${livemode})`
const id = (prefix: string) => `${prefix}_${crypto.randomUUID()}`

/** Prices as npm run stripe:sync leaves them. */
async function synced(sql: Tx): Promise<Record<'month' | 'year' | 'pack', string>> {
  await sql`update private.stripe_prices set is_current = false`
  const prices = { month: id('price'), year: id('price'), pack: id('price') }
  await setPrice(sql, 'premium_month', prices.month)
  await setPrice(sql, 'premium_year', prices.year)
  await setPrice(sql, 'credits_500', prices.pack)
  return prices
}

/** Two plan prices of the test's own that all connections see, gone afterwards. */
async function selling(sql: Sql, act: (items: [string, string]) => Promise<void>): Promise<void> {
  const items: [string, string] = [
    `race_${crypto.randomUUID().slice(0, 8)}_m`,
    `race_${crypto.randomUUID().slice(0, 8)}_y`,
  ]
  for (const item of items) {
    await sql`insert into public.plan_prices (id, plan_id, interval, amount, enabled) values (${item}, 'premium', 'month', 1, true)`
    await sql`select private.set_stripe_price(${item}, null, ${id('price')}, 'prod_race', false)`
  }
  try {
    await act(items)
  } finally {
    await sql`delete from private.stripe_prices where plan_price_id = any(${items})`
    await sql`delete from public.plan_prices where id = any(${items})`
  }
}

describe('prepare_checkout refuses', () => {
  const refused = async (wish?: Wish, before: (tx: Tx, account: Account) => Promise<unknown> = async () => {}) => {
    const seen: { refusal?: unknown } = {}
    await rolledBack(async (tx) => {
      await synced(tx)
      const account = await newAccount(tx)
      await before(tx, account)
      seen.refusal = await refusal(tx, (sp) => prepare(sp, account, wish))
    })
    return seen.refusal
  }

  test.each([
    ['an unknown plan', { plan_price: 'enterprise_month' }, 'not_found', 404],
    ['an id of Stripe’s', { plan_price: 'price_1' }, 'not_found', 404],
    ['an unknown pack', { credit_pack: 'credits_1' }, 'not_found', 404],
    ['a pack named as a plan', { plan_price: 'credits_500' }, 'not_found', 404],
    ['what Stripe has no price of', { credit_pack: 'credits_2500' }, 'not_found', 404],
    ['what Stripe has a price of in test mode only', { plan_price: 'premium_month', livemode: true }, 'not_found', 404],
    ['nothing', {}, 'invalid_request_error', 400],
    ['two things at once', { plan_price: 'premium_month', credit_pack: 'credits_500' }, 'invalid_request_error', 400],
  ])('%s', async (_, wish, code, status) => {
    expect(await refused(wish)).toMatchObject({ code, status })
  })

  test.each([
    ['a plan', { plan_price: 'premium_month' }, 'update public.plan_prices set enabled = false'],
    ['a pack', { credit_pack: 'credits_500' }, 'update public.credit_packs set enabled = false'],
  ])('%s that is not for sale any more', async (_, wish, statement) => {
    expect(await refused(wish, (tx) => tx.unsafe(statement))).toMatchObject({ code: 'not_found' })
  })

  test.each<[string, (tx: Tx, account: Account) => Promise<unknown>, string]>([
    [
      'somebody else’s session',
      async (tx, account) => {
        const other = await newAccount(tx)
        await tx`update auth.sessions set user_id = ${other.id} where id = ${account.sessionId}`
      },
      'invalid_api_key',
    ],
    [
      'a session that has ended',
      (tx, { sessionId }) => tx`delete from auth.sessions where id = ${sessionId}`,
      'invalid_api_key',
    ],
    [
      'a suspended account',
      (tx, account) => tx`update public.profiles set status = 'suspended' where id = ${account.id}`,
      'account_suspended',
    ],
    [
      'an account that is not confirmed',
      (tx, account) => tx`update public.profiles set status = 'pending' where id = ${account.id}`,
      'account_pending',
    ],
  ])('%s', async (_, change, code) => {
    expect(await refused(undefined, change)).toMatchObject({ code })
  })

  test.each(['trialing', 'active', 'past_due', 'unpaid', 'paused'])(
    'a plan to who has a subscription that is %s',
    async (status) => {
      const answer = await refused(undefined, (tx, account) => putSubscription(tx, account.id, { status }))

      expect(answer).toMatchObject({ code: 'already_subscribed', status: 409 })
    },
  )
})

describe('checkout and portal', () => {
  test('are counted a minute together: who asks too often is refused, and may ask again when the minute is over', () =>
    rolledBack(async (tx) => {
      await synced(tx)
      const account = await newAccount(tx)
      await setLimit(tx, account.id, 'billing_requests', 'minute', 2)
      await link(tx, account.id, id('cus'))
      const portal = (sp: Tx) => sp`select private.prepare_portal(${account.id}, ${account.sessionId}, false)`
      await prepare(tx, account)
      await portal(tx)

      expect(await refusal(tx, (sp) => prepare(sp, account))).toMatchObject({
        code: 'rate_limit_exceeded',
        status: 429,
      })
      expect(await refusal(tx, portal)).toMatchObject({ code: 'rate_limit_exceeded' })

      await setCounter(tx, account.id, 'billing_requests', 'minute', { used: 2, resetsIn: '-1 second' })
      expect(await prepare(tx, account)).toMatchObject({ mode: 'subscription' })
    }))

  test('are counted a day, too: nobody makes sessions at Stripe by the thousand', () =>
    rolledBack(async (tx) => {
      await synced(tx)
      const account = await newAccount(tx)
      await setLimit(tx, account.id, 'billing_requests', 'day', 1)
      await prepare(tx, account)

      expect(await refusal(tx, (sp) => prepare(sp, account))).toMatchObject({
        code: 'daily_quota_exceeded',
        status: 429,
      })
    }))
})

describe('prepare_checkout', () => {
  test('of a plan: the price is looked up, the trial is the plan’s, the session lives for an hour', () =>
    rolledBack(async (tx) => {
      const prices = await synced(tx)
      const account = await newAccount(tx)

      const prepared = await prepare(tx, account)

      const [now] = await tx`select extract(epoch from now())::float8 as s`
      expect(prepared).toEqual({
        checkout_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
        customer_id: null,
        customer_key: `customer:${account.id}:0:0`,
        stripe_price_id: prices.month,
        mode: 'subscription',
        trial_days: 7,
        session_id: null,
        url: null,
        stale_sessions: [],
        expires_at: Math.floor(now?.s) + 3600,
      })
    }))

  test('of a pack: a payment without a trial, also for who has a subscription, and a new one each time', () =>
    rolledBack(async (tx) => {
      const prices = await synced(tx)
      const account = await newAccount(tx)
      await putSubscription(tx, account.id)
      const pack = () => prepare(tx, account, { credit_pack: 'credits_500' })

      const first = await pack()
      await note(tx, first, 'cs_pack')
      const second = await pack()

      expect(first).toMatchObject({ mode: 'payment', trial_days: 0, stripe_price_id: prices.pack })
      expect(second).toMatchObject({ session_id: null, stale_sessions: [] })
      expect(second.checkout_id).not.toBe(first.checkout_id)
    }))

  test.each(['canceled', 'incomplete_expired', 'incomplete'])('of a plan for who had one that is %s', (status) =>
    rolledBack(async (tx) => {
      await synced(tx)
      const account = await newAccount(tx)
      await putSubscription(tx, account.id, { status })

      expect(await prepare(tx, account)).toMatchObject({ trial_days: 7 })
    }),
  )

  test('of a plan for who has a subscription of another product only', () =>
    rolledBack(async (tx) => {
      await synced(tx)
      const account = await newAccount(tx)
      await putSubscription(tx, account.id, { plan_id: null })

      expect(await prepare(tx, account)).toMatchObject({ mode: 'subscription', trial_days: 7 })
    }))

  test('gives a trial once, also after the customer was deleted', () =>
    rolledBack(async (tx) => {
      await synced(tx)
      const [account, other] = [await newAccount(tx), await newAccount(tx)]
      await link(tx, account.id, 'cus_trial')
      await putSubscription(tx, account.id, { status: 'canceled', trial_start: '-100 days', trial_end: '-93 days' })
      await tx`update private.stripe_customers set deleted_at = now()`

      expect(await prepare(tx, account)).toMatchObject({ trial_days: 0, customer_id: null })
      expect(await prepare(tx, other)).toMatchObject({ trial_days: 7 })
    }))

  test('gives a trial once to a mailbox, however its address is written and whoever was erased, or as often as the setting says', () =>
    rolledBack(async (tx) => {
      await synced(tx)
      const [first, second, third] = [await newAccount(tx), await newAccount(tx), await newAccount(tx)]
      const name = crypto.randomUUID()
      for (const [place, { id }] of [first, second, third].entries())
        await tx`update auth.users set email = ${`${name}+${place}@outlook.com`} where id = ${id}`

      expect(await prepare(tx, first)).toMatchObject({ trial_days: 7 })
      expect(await prepare(tx, second)).toMatchObject({ trial_days: 0 })
      expect(await prepare(tx, first)).toMatchObject({ trial_days: 7 })
      await tx`delete from auth.users where id = ${first.id}`
      expect(await prepare(tx, second)).toMatchObject({ trial_days: 0 })
      await tx`update private.settings set value = '2' where key = 'billing.trials_per_mailbox'`
      expect(await prepare(tx, third)).toMatchObject({ trial_days: 7 })
    }))

  test('gives no trial with a price that has none', () =>
    rolledBack(async (tx) => {
      await synced(tx)
      await tx`update public.plan_prices set trial_days = 0`

      expect(await prepare(tx, await newAccount(tx))).toMatchObject({ trial_days: 0 })
    }))
})

describe('who asks for a plan again', () => {
  const asked = (again: (tx: Tx, account: Account, first: Prepared) => Promise<void>) =>
    rolledBack(async (tx) => {
      await synced(tx)
      const account = await newAccount(tx)
      const first = await prepare(tx, account)
      expect(await note(tx, first, 'cs_first')).toBe(true)
      await again(tx, account, first)
    })

  test('for the same gets the same session', () =>
    asked(async (tx, account, first) => {
      expect(await prepare(tx, account)).toEqual({ ...first, session_id: 'cs_first', url: 'https://pay.test/cs_first' })
    }))

  test.each<[string, Wish]>([
    ['another interval', { plan_price: 'premium_year' }],
    ['other return URLs', { plan_price: 'premium_month', urls: { ...urls, success: 'https://app.test/other' } }],
    ['no return URLs', { plan_price: 'premium_month', urls: null }],
  ])('for %s gets a new one, and the first is to be expired, once', (_, wish) =>
    asked(async (tx, account, first) => {
      const second = await prepare(tx, account, wish)
      const third = await prepare(tx, account, wish)

      expect(second).toMatchObject({ session_id: null, stale_sessions: ['cs_first'] })
      expect(second.checkout_id).not.toBe(first.checkout_id)
      expect(third).toMatchObject({ checkout_id: second.checkout_id, stale_sessions: [] })
    }),
  )

  test('one for which Stripe answered an error is another next time, with other keys; one that has a page stays', () =>
    rolledBack(async (tx) => {
      await synced(tx)
      const account = await newAccount(tx)
      const fail = (sp: Tx, { checkout_id }: { checkout_id: string }) =>
        sp`select private.fail_checkout(${checkout_id})`
      const first = await prepare(tx, account)
      await fail(tx, first)
      const second = await prepare(tx, account)
      await note(tx, second, 'cs_second')
      await fail(tx, second)
      const third = await prepare(tx, account)

      expect(second.checkout_id).not.toBe(first.checkout_id)
      expect(second.customer_key).not.toBe(first.customer_key)
      expect(third).toMatchObject({ checkout_id: second.checkout_id, customer_key: second.customer_key })
    }))

  test('a session made for a checkout that was given up meanwhile is not shown', () =>
    rolledBack(async (tx) => {
      await synced(tx)
      const account = await newAccount(tx)
      const first = await prepare(tx, account)
      await prepare(tx, account, { plan_price: 'premium_year' })

      expect(await note(tx, first, 'cs_late')).toBe(false)
    }))

  // What changes the parameters at Stripe must change the idempotency key, which is the checkout's id.
  test.each<[string, (tx: Tx, account: Account) => Promise<unknown>]>([
    ['the price has changed', (tx) => setPrice(tx, 'premium_month', 'price_new')],
    ['a trial was had', (tx, { id }) => putSubscription(tx, id, { status: 'canceled', trial_start: '-1 day' })],
    [
      'the customer was deleted',
      async (tx, { id }) => {
        await link(tx, id, 'cus_gone')
        await tx`update private.stripe_customers set deleted_at = now()`
      },
    ],
    ['the session was completed', (tx) => tx`select private.close_checkout('cs_first')`],
    [
      'the session is about to expire',
      (tx) => tx`update private.checkouts set expires_at = now() + interval '50 seconds'`,
    ],
    [
      'no session came of it, and there is no half hour left',
      (tx) => tx`
      update private.checkouts set session_id = null, expires_at = now() + interval '34 minutes'`,
    ],
  ])('gets a new checkout when %s', (_, change) =>
    asked(async (tx, account, first) => {
      await change(tx, account)

      const second = await prepare(tx, account)
      expect(second.checkout_id).not.toBe(first.checkout_id)
      expect(second.session_id).toBeNull()
    }),
  )

  test('a session whose time is over is asked about, once: it may have been completed', () =>
    asked(async (tx, account) => {
      await tx`update private.checkouts set expires_at = now()`

      expect(await prepare(tx, account)).toMatchObject({ session_id: null, stale_sessions: ['cs_first'] })
      expect(await prepare(tx, account)).toMatchObject({ stale_sessions: [] })
    }))

  test('a checkout without a session is taken up again, as after a crash', () =>
    rolledBack(async (tx) => {
      await synced(tx)
      const account = await newAccount(tx)

      expect(await prepare(tx, account)).toEqual(await prepare(tx, account))
    }))

  test('another user’s checkouts, packs and the other mode stay open', () =>
    asked(async (tx, account) => {
      await setPrice(tx, 'premium_month', 'price_live', true)
      await note(tx, await prepare(tx, account, { credit_pack: 'credits_500' }), 'cs_pack')
      expect(await prepare(tx, await newAccount(tx))).toMatchObject({ stale_sessions: [] })
      expect(await prepare(tx, account, { plan_price: 'premium_month', livemode: true })).toMatchObject({
        stale_sessions: [],
      })

      expect(await prepare(tx, account, { plan_price: 'premium_year' })).toMatchObject({ stale_sessions: ['cs_first'] })
    }))

  test('at the same time gets one checkout', () =>
    racing(8, (sql, account) =>
      selling(sql, async ([plan_price]) => {
        const buyer = await account()

        const answers = await together(24, () => prepare(sql, buyer, { plan_price }))

        expect(new Set(answers.map((answer) => 'checkout_id' in answer && answer.checkout_id)).size).toBe(1)
      }),
    ))

  test('for different things at the same time has one open in the end, and every other session is to be expired', () =>
    racing(8, (sql, account) =>
      selling(sql, async (items) => {
        const buyer = await account()
        const [sessions, stale] = [new Set<string>(), new Set<string>()]
        await together(24, async (n) => {
          const answer = await prepare(sql, buyer, { plan_price: items[n % 2] ?? '' })
          for (const session of answer.stale_sessions) stale.add(session)
          const session = `cs_${answer.checkout_id}`
          if (await note(sql, answer, session)) sessions.add(session)
        })

        const open =
          await sql`select session_id from private.checkouts where user_id = ${buyer.id} and closed_at is null`
        expect(open.length).toBe(1)
        sessions.delete(open[0]?.session_id)
        expect(stale).toEqual(sessions)
      }),
    ))
})

describe('customers', () => {
  test('one at a time for a user and mode; the next has another key', () =>
    rolledBack(async (tx) => {
      await synced(tx)
      const account = await newAccount(tx)
      expect(await link(tx, account.id, 'cus_1')).toBe('cus_1')
      expect(await link(tx, account.id, 'cus_1')).toBe('cus_1')
      expect(await link(tx, account.id, 'cus_2')).toBe('cus_1')
      expect(await link(tx, account.id, 'cus_live', true)).toBe('cus_live')
      expect(await prepare(tx, account)).toMatchObject({ customer_id: 'cus_1' })

      await tx`update private.stripe_customers set deleted_at = now() where id = 'cus_1'`
      expect(await prepare(tx, account)).toMatchObject({
        customer_id: null,
        customer_key: `customer:${account.id}:1:0`,
      })
      expect(await link(tx, account.id, 'cus_2')).toBe('cus_2')
    }))

  test('of somebody else, or deleted, cannot be linked', () =>
    rolledBack(async (tx) => {
      const [owner, other] = [await newAccount(tx), await newAccount(tx)]
      await link(tx, owner.id, 'cus_1')
      expect((await refusal(tx, (sp) => link(sp, other.id, 'cus_1'))).sqlstate).toBe('P0001')

      await tx`update private.stripe_customers set deleted_at = now()`
      expect((await refusal(tx, (sp) => link(sp, owner.id, 'cus_1'))).sqlstate).toBe('P0001')
    }))

  test('linked by many at once: all get the one that counts', () =>
    racing(8, async (sql, account) => {
      const { id: userId } = await account()

      const answers = await together(24, (n) => link(sql, userId, `cus_${userId}_${n}`))

      expect(new Set(answers).size).toBe(1)
      const rows = await sql`select id from private.stripe_customers where user_id = ${userId}`
      expect(rows.map((row) => row.id)).toEqual([answers[0]])
    }))
})

describe('prepare_portal', () => {
  const portal = async (sql: Sql | Tx, account: Account, livemode = false): Promise<string> => {
    const [row] = await sql`select private.prepare_portal(${account.id}, ${account.sessionId}, ${livemode}) as answer`
    return row?.answer
  }

  test('is for who bought something', () =>
    rolledBack(async (tx) => {
      const [account, other] = [await newAccount(tx), await newAccount(tx)]
      expect(await refusal(tx, (sp) => portal(sp, account))).toMatchObject({ code: 'not_found', status: 404 })
      await link(tx, account.id, 'cus_1')

      expect(await portal(tx, account)).toBe('cus_1')
      expect(await refusal(tx, (sp) => portal(sp, account, true))).toMatchObject({ code: 'not_found' })
      expect(await refusal(tx, (sp) => portal(sp, { ...account, sessionId: other.sessionId }))).toMatchObject({
        code: 'invalid_api_key',
      })
    }))
})

describe('set_stripe_price', () => {
  test('an earlier price stays, and can come back', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const current = async () => (await prepare(tx, account)).stripe_price_id
      await setPrice(tx, 'premium_month', 'price_1')
      await setPrice(tx, 'premium_month', 'price_2')
      expect(await current()).toBe('price_2')

      await setPrice(tx, 'premium_month', 'price_1')
      expect(await current()).toBe('price_1')
      expect((await tx`select from private.stripe_prices where id in ('price_1', 'price_2')`).length).toBe(2)
    }))

  test('a price of another item, and an item that is not ours, are errors', () =>
    rolledBack(async (tx) => {
      await setPrice(tx, 'premium_month', 'price_1')

      expect((await refusal(tx, (sp) => setPrice(sp, 'credits_500', 'price_1'))).sqlstate).toBe('P0001')
      expect((await refusal(tx, (sp) => setPrice(sp, 'premium_decade', 'price_2'))).sqlstate).toBe('23503')
    }))

  test('many at once leave one current price', () =>
    racing(8, (sql) =>
      selling(sql, async ([item]) => {
        const answers = await together(16, async () => {
          await sql`select private.set_stripe_price(${item}, null, ${id('price')}, 'prod_race', false)`
          return 'set'
        })

        expect(new Set(answers)).toEqual(new Set(['set']))
        const rows = await sql`select is_current from private.stripe_prices where plan_price_id = ${item}`
        expect([rows.length, rows.filter((row) => row.is_current).length]).toEqual([17, 1])
      }),
    ))
})

test('checkouts are forgotten 90 days after their end', () =>
  rolledBack(async (tx) => {
    await synced(tx)
    const account = await newAccount(tx)
    const [plan, pack] = [await prepare(tx, account), await prepare(tx, account, { credit_pack: 'credits_500' })]
    const end = (checkout: { checkout_id: string }, ago: string) =>
      tx`update private.checkouts set expires_at = now() - ${ago}::interval where id = ${checkout.checkout_id}`
    await end(plan, '89 days')
    await end(pack, '90 days 1 second')

    await tx`select private.delete_old_checkouts()`

    const left = await tx`select id from private.checkouts where user_id = ${account.id}`
    expect([...left]).toEqual([{ id: plan.checkout_id }])
  }))
