/** A clock that went forward and came back: no reset is believed that lies further ahead than its period is long. */
import { describe, expect, test } from 'vitest'
import { type Admission, admit, admitAll, baseModel, newModel, settle, type Wish } from './ai-support.ts'
import {
  type Account,
  asUser,
  countersOf,
  newAccount,
  racing,
  refusal,
  rolledBack,
  type Sql,
  setCounter,
  setLimit,
  type Tx,
} from './support.ts'

/** Each period of each meter of AI calls, all used up, with a reset as a clock writes it that was days, or a minute, ahead. */
const meters = [
  ['ai_requests', 'minute', '10 minutes'],
  ['ai_requests', 'minute', '24 hours'],
  ['chat_completions_requests', 'minute', '24 hours'],
  ['ai_calls', 'day', '26 hours'],
  ['ai_calls', 'day', '400 days'],
  ['ai_tokens', 'month', '32 days'],
  ['ai_tokens', 'month', '400 days'],
  ['ai_spend_micros', 'month', '400 days'],
] as const
const limit = 1000

async function usedUp(tx: Tx, [meter, period, resetsIn]: readonly [string, string, string]): Promise<Account> {
  const account = await newAccount(tx)
  await newModel(tx)
  await setLimit(tx, account.id, meter, period, limit)
  await tx`select private.renew_account(${account.id})`
  await setCounter(tx, account.id, meter, period, { used: limit, resetsIn })
  return account
}
const request = (account: Account, more: Wish = {}): Wish => ({
  user_id: account.id,
  session_id: account.sessionId,
  ...more,
})
const counterOf = async (sql: Sql | Tx, userId: string, meter: string, period: string) => {
  const [row] = await sql`
    select l.used::int, l.held::int, l.resets_at <= private.period_resets_at(l.period, 'UTC', u.created_at, clock_timestamp()) as is_near
    from auth.users u, private.limits_of(u.id) l where u.id = ${userId} and l.meter = ${meter} and l.period = ${period}`
  return row
}

describe.each(meters)('%s a %s used up until %s from now', (...place) => {
  const [meter, period] = place
  const taken = {
    minute: { used: 1, held: 0 },
    day: { used: 0, held: 1 },
    month: { used: 0, held: meter === 'ai_tokens' ? 150 : expect.any(Number) },
  }[period]

  test('lets a call in that comes alone, and counts it', () =>
    rolledBack(async (tx) => {
      const account = await usedUp(tx, place)

      const answer = await admit(tx, account)

      expect(answer).toMatchObject({ admitted: true })
      expect(await counterOf(tx, account.id, meter, period)).toMatchObject({ ...taken, is_near: true })
    }))

  test('lets calls in that come with those of others', () =>
    rolledBack(async (tx) => {
      const account = await usedUp(tx, place)
      const other = await newAccount(tx)

      const answers = await admitAll(tx, [request(account), request(other), request(account)])

      expect(answers).toMatchObject([{ admitted: true }, { admitted: true }, { admitted: true }])
      expect(await counterOf(tx, account.id, meter, period)).toMatchObject({ is_near: true })
    }))

  test('is shown as unused, with the end of the period that runs', () =>
    rolledBack(async (tx) => {
      const account = await usedUp(tx, place)

      expect(await counterOf(tx, account.id, meter, period)).toEqual({ used: 0, held: 0, is_near: true })
    }))
})

test.each([
  ['embeddings', 'embedding', 'embeddings_requests'],
  ['images.generations', 'image', 'images_generations_requests'],
])('calls of %s have a minute of their own, which is believed no longer', (endpoint, kind, meter) =>
  rolledBack(async (tx) => {
    const account = await usedUp(tx, [meter, 'minute', '1 day'])
    await tx`update public.models set kind = ${kind} where id = 'sql/model'`
    await tx`update public.model_prices set image_usd = 0.01 where model_id = 'sql/model'`

    const answer = await admit(tx, account, { endpoint, images: endpoint === 'embeddings' ? 0 : 1 })

    expect(answer.code).not.toBe('rate_limit_exceeded')
    expect(await counterOf(tx, account.id, meter, 'minute')).toMatchObject({ is_near: true })
  }),
)

test.each([
  ['ai_requests', 'minute', '45 seconds'],
  ['ai_calls', 'day', '23 hours'],
  ['ai_tokens', 'month', '27 days'],
])('a reset of %s a %s that may be true (in %s) is believed', (...place) =>
  rolledBack(async (tx) => {
    const account = await usedUp(tx, place)

    const answer = await admit(tx, account)

    expect(answer.admitted).toBe(false)
    expect(await counterOf(tx, account.id, place[0], place[1])).toMatchObject({ used: limit })
  }),
)

const ask = async (tx: Tx, hash: string): Promise<Admission> =>
  (
    await admitAll(tx, [{ api_key_hash: hash, model: baseModel, prompt_tokens_max: 10, max_output_tokens: 10 }])
  )[0] as Admission

describe('an API key', () => {
  const keyOf = async (tx: Tx, { id }: Account) => {
    const [key] = await asUser(tx, id, (as) => as`select * from public.create_api_key('k', array['chat.completions'])`)
    const [hash] = await tx`select encode(sha256(convert_to(${key?.secret}, 'UTF8')), 'hex') as hash`
    return { id: String(key?.id), hash: String(hash?.hash) }
  }
  const limitKey = (tx: Tx, { id }: Account, key: string, meter: string, period: string, amount: number) =>
    asUser(tx, id, (as) => as`select public.limit_api_key(${key}, ${meter}, ${period}, ${amount})`)

  test.each([
    ['ai_requests', 'minute', 'minute_resets_at'],
    ['ai_calls', 'day', 'day_resets_at'],
    ['ai_tokens', 'month', 'month_resets_at'],
    ['ai_spend_micros', 'month', 'month_resets_at'],
  ])('whose %s a %s are used up until next year calls again', (meter, period, resets) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const key = await keyOf(tx, account)
      await ask(tx, key.hash)
      await limitKey(tx, account, key.id, meter, period, limit)
      await tx`update private.api_key_usage set ${tx(`${meter}_used`)} = ${limit}, ${tx(resets)} = now() + interval '400 days'
        where api_key_id = ${key.id}`
      const full = await tx.savepoint(async (sp) => {
        await sp`update private.api_key_usage u set ${sp(resets)} = a.${sp(resets)} from private.accounts a where a.user_id = ${account.id}`
        const answer = await ask(sp, key.hash)
        await sp`update private.api_key_usage set ${sp(resets)} = now() + interval '400 days'`
        return answer
      })
      await tx`update private.accounts set ${tx(resets)} = now() + interval '400 days' where user_id = ${account.id}`

      const answer = await ask(tx, key.hash)

      expect(full.admitted).toBe(false)
      expect(answer.admitted).toBe(true)
    }),
  )

  test('and its owner settle what they held before, between and after, and count what is of today', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const key = await keyOf(tx, account)
      const before = await ask(tx, key.hash)
      await tx`update private.accounts set day_resets_at = now(), month_resets_at = now() where user_id = ${account.id}`
      const between = await callAhead(tx, account, key)
      const after = await ask(tx, key.hash)

      const ends = [await settle(tx, before.call_id), await settle(tx, between), await settle(tx, after.call_id)]

      expect(ends).toMatchObject([{ settled: true }, { settled: true }, { settled: true }])
      expect(await countersOf(tx, account.id)).toMatchObject({ 'ai_calls/day': [2, 0], 'ai_tokens/month': [30, 0] })
      const [row] = await tx`
        select ai_calls_used::int as used, ai_calls_held::int as held, ai_tokens_used::int as tokens, ai_tokens_held::int as held_tokens,
          ai_concurrency_held::int as open from private.api_key_usage where api_key_id = ${key.id}`
      expect(row).toEqual({ used: 2, held: 0, tokens: 30, held_tokens: 0, open: 0 })
    }))
})

/** Calls while the clock is three days and a month ahead, and answers its id: what that wrote is moved there. */
async function callAhead(tx: Tx, account: Account, key: { id: string; hash: string }): Promise<string> {
  const { call_id } = await ask(tx, key.hash)
  const ahead = tx`day_resets_at = day_resets_at + interval '72 hours', month_resets_at = month_resets_at + interval '800 hours'`
  await tx`update private.ai_holds set ${ahead} where call_id = ${call_id}`
  await tx`update private.accounts set ${ahead} where user_id = ${account.id}`
  await tx`update private.api_key_usage set ${ahead} where api_key_id = ${key.id}`
  return call_id
}

describe('a meter that is not of AI calls', () => {
  const consume = (sql: Sql | Tx, id: string, meter: string, period: string) =>
    sql`select private.consume(${id}, ${meter}, ${period}, 1)`

  test.each([
    ['billing_requests', 'minute', '10 minutes'],
    ['billing_requests', 'day', '26 hours'],
    ['chat_sessions', 'day', '2 days'],
    ['psychology_tests', 'month', '32 days'],
  ])('%s a %s used up until %s from now can be used', (meter, period, resetsIn) =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await setLimit(tx, id, meter, period, 3)
      await setCounter(tx, id, meter, period, { used: 3, resetsIn: period === 'minute' ? '50 seconds' : '20 hours' })
      const refused = await refusal(tx, (sp) => consume(sp, id, meter, period))
      await setCounter(tx, id, meter, period, { used: 3, resetsIn })
      const shown = await counterOf(tx, id, meter, period)

      await consume(tx, id, meter, period)

      expect(refused.code).not.toBeNull()
      expect(shown).toEqual({ used: 0, held: 0, is_near: true })
      expect(await counterOf(tx, id, meter, period)).toEqual({ used: 1, held: 0, is_near: true })
    }),
  )
})

describe('requests without a token', () => {
  const count = async (sql: Sql | Tx) =>
    (await sql`select private.count_anonymous_request('198.51.100.7'::inet, 'ai') as answer`)[0]?.answer
  const fill = (tx: Tx, resetsIn: string) => tx`
    insert into private.anonymous_requests (network, route, used, resets_at)
    select '198.51.100.0/24', 'ai', l.amount, now() + ${resetsIn}::interval from private.rate_limits l where l.route = 'ai'
    on conflict (network, route) do update set used = excluded.used, resets_at = excluded.resets_at`

  test.each([
    ['10 minutes', false],
    ['30 minutes', true],
    ['400 days', true],
  ])('that are used up until %s from now: let in again %s', (resetsIn, isAllowed) =>
    rolledBack(async (tx) => {
      await fill(tx, resetsIn)

      expect(await count(tx)).toMatchObject({ allowed: isAllowed })
    }),
  )

  test('are forgotten also when their window lies where none can be', () =>
    rolledBack(async (tx) => {
      await tx`delete from private.anonymous_requests`
      await fill(tx, '25 hours')

      const [row] = await tx`select private.delete_old_anonymous_requests() as deleted`

      expect(row?.deleted).toBe(1)
    }))
})

describe('who waited and sees what somebody began later', () => {
  test('counts in that minute and that window, and begins none of their own', () =>
    racing(2, async (sql, accounts) => {
      const account = await accounts()
      await setLimit(sql, account.id, 'billing_requests', 'minute', 5)
      const consume = (on: Sql | Tx) => on`select private.consume(${account.id}, 'billing_requests', 'minute', 1)`
      const count = (on: Sql | Tx) => on`select private.count_anonymous_request('198.51.100.9'::inet, 'ai')`
      await sql`delete from private.anonymous_requests where network = '198.51.100.0/24'`

      await sql.begin(async (tx) => {
        await tx`select now()`
        await sql`select pg_sleep(0.002)`
        await Promise.all([admit(sql, account, { model: baseModel }), consume(sql), count(sql)])
        await admit(tx, account, { model: baseModel })
        await consume(tx)
        await count(tx)
      })

      const [row] = await sql`
        select a.ai_requests_used::int as ai, c.used::int as billing, r.used as anonymous
        from private.accounts a, private.usage_counts c, private.anonymous_requests r
        where a.user_id = ${account.id} and c.user_id = a.user_id and r.network = '198.51.100.0/24'`
      expect(row).toEqual({ ai: 2, billing: 2, anonymous: 2 })
      await sql`delete from private.anonymous_requests where network = '198.51.100.0/24'`
    }))
})
