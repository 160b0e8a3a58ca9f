/** What limits an AI call beside quotas and credits: rates, concurrency, keys, the project's cap, breakers, fallbacks, idempotency. */
import { describe, expect, test } from 'vitest'
import {
  type Admission,
  abandon,
  admit,
  admitAll,
  baseModel,
  callOf,
  free,
  newModel,
  settle,
  settleAll,
  type Wish,
} from './ai-support.ts'
import {
  type Account,
  asUser,
  connect,
  countersOf,
  creditsOf,
  db,
  newAccount,
  racing,
  refusal,
  rolledBack,
  type Sql,
  setLimit,
  type Tx,
  together,
} from './support.ts'

const request = ({ id, sessionId }: Account, wish: Wish = {}): Wish => ({
  user_id: id,
  session_id: sessionId,
  model: baseModel,
  prompt_tokens_max: 10,
  max_output_tokens: 10,
  stream: false,
  ...wish,
})
const heldOf = async (sql: Sql | Tx, userId: string, meter: string) => {
  const [row] = await sql`
    select used::int, held::int from private.usage_counters where user_id = ${userId} and meter = ${meter}`
  return [row?.used ?? 0, row?.held ?? 0]
}

const pidOf = async (on: Sql): Promise<number> => (await on`select pg_backend_pid() as pid`)[0]?.pid
/** Until a connection waits for a lock that another one has. */
const waits = (watcher: Sql, pid: number) =>
  expect
    .poll(async () => (await watcher`select cardinality(pg_blocking_pids(${pid})) > 0 as waits`)[0]?.waits, {
      timeout: 20_000,
    })
    .toBe(true)
/** Does it and takes it back: 'done', or what went wrong. */
const undone = (on: Sql, act: (tx: Tx) => Promise<unknown>): Promise<string> =>
  on
    .begin(async (tx) => {
      await act(tx)
      throw new Error('done')
    })
    .catch((error: Error) => error.message)

test('a limit larger than a number is exact is a limit like any other', () =>
  rolledBack(async (tx) => {
    const account = await newAccount(tx)
    await tx`insert into public.limit_overrides (user_id, meter, period, amount) values (${account.id}, 'ai_tokens', 'month', 10000000000000001)`

    const answer = await admit(tx, account, { model: baseModel })

    expect(answer).toMatchObject({ admitted: true })
    expect(answer.limits?.find(({ meter }) => meter === 'ai_tokens')).toMatchObject({ amount: 1e16 })
  }))

test('a cost that no provider can mean keeps no call from its settlement', () =>
  rolledBack(async (tx) => {
    const account = await newAccount(tx)
    const one = (await admit(tx, account, { model: baseModel })).call_id
    const [two, three] = [
      (await admit(tx, account, { model: baseModel })).call_id,
      (await admit(tx, account, { model: baseModel })).call_id,
    ]

    const usage = { prompt_tokens: 1, completion_tokens: 1, cost_usd: 1e300 }
    expect(await settle(tx, one, { usage })).toMatchObject({ settled: true })
    const together = await settleAll(
      tx,
      [two, three].map((id) => [id, { usage }]),
    )
    expect(together).toMatchObject([{ settled: true }, { settled: true }])
  }))

describe('the rate', () => {
  test('of sixty-one calls in a minute the last is refused, told when, and takes nothing', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await setLimit(tx, account.id, 'ai_requests', 'minute', 2)
      const before = [await admit(tx, account, { model: baseModel }), await admit(tx, account, { model: baseModel })]
      const state = async () => [await countersOf(tx, account.id), await creditsOf(tx, account.id)]
      const untouched = await state()

      const third = await admit(tx, account, { model: baseModel })

      expect(before.map(({ admitted }) => admitted)).toEqual([true, true])
      expect(third).toMatchObject({
        admitted: false,
        code: 'rate_limit_exceeded',
        call_id: null,
        details: { retry_after_s: 60, limit: { meter: 'ai_requests', amount: 2, used: 2, remaining: 0 } },
      })
      expect(await state()).toEqual(untouched)
    }))

  test('counts calls, also those that fail, and not those that are refused for something else', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await settle(tx, (await admit(tx, account, { model: baseModel })).call_id, free)
      await admit(tx, account, { model: 'no/model' })

      expect(await heldOf(tx, account.id, 'ai_requests')).toEqual([1, 0])
    }))

  test('of an endpoint is a limit of its own', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await setLimit(tx, account.id, 'embeddings_requests', 'minute', 0)
      await newModel(tx)
      await tx`update public.models set kind = 'embedding' where id = 'sql/model'`

      expect((await admit(tx, account, { endpoint: 'embeddings' })).code).toBe('rate_limit_exceeded')
      expect((await admit(tx, account, { model: baseModel })).admitted).toBe(true)
    }))

  test('of fifty calls at once under a limit of seven, seven go through', () =>
    racing(50, async (sql, accounts) => {
      const account = await accounts()
      await setLimit(sql, account.id, 'ai_requests', 'minute', 7)

      const answers = await together(50, () => admit(sql, account, { model: baseModel }))

      expect(answers.filter((answer) => 'admitted' in answer && answer.admitted)).toHaveLength(7)
      expect(await heldOf(sql, account.id, 'ai_requests')).toEqual([7, 0])
    }))
})

describe('calls at once', () => {
  test('are limited, and one that ends makes room', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await setLimit(tx, account.id, 'ai_concurrency', 'total', 1)
      const first = await admit(tx, account, { model: baseModel })

      const second = await admit(tx, account, { model: baseModel })
      await settle(tx, first.call_id)
      const third = await admit(tx, account, { model: baseModel })

      expect(second).toMatchObject({ admitted: false, code: 'concurrency_limit', details: { retry_after_s: 1 } })
      expect(third.admitted).toBe(true)
    }))

  test('whose process died do not block their user: the next call settles them', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx, { credits: 1 })
      await setLimit(tx, account.id, 'ai_concurrency', 'total', 1)
      const dead = await admit(tx, account, { model: baseModel })
      await abandon(tx, dead.call_id)

      const next = await admit(tx, account, { model: baseModel })

      expect(next.admitted).toBe(true)
      expect(await callOf(tx, dead.call_id)).toMatchObject({ state: 'expired', credits_charged: 0 })
    }))
})

describe('an API key with limits of its own', () => {
  const newKey = async (tx: Tx, account: Account) => {
    const [key] = await asUser(
      tx,
      account.id,
      (as) => as`select * from public.create_api_key('k', array['chat.completions'])`,
    )
    const [hash] = await tx`select encode(sha256(convert_to(${key?.secret}, 'UTF8')), 'hex') as hash`
    return { id: String(key?.id), wish: { api_key_hash: String(hash?.hash) } }
  }
  const limit = (tx: Tx, account: Account, id: string, meter: string, period: string, amount: number | null) =>
    asUser(tx, account.id, (as) => as`select public.limit_api_key(${id}, ${meter}, ${period}, ${amount})`)

  test('is refused where its owner is not, and takes nothing from the owner', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const key = await newKey(tx, account)
      await limit(tx, account, key.id, 'ai_calls', 'day', 1)
      const [call] = await admitAll(tx, [request(account, key.wish)])

      const [second, own] = await admitAll(tx, [request(account, key.wish), request(account)])

      expect(call?.admitted).toBe(true)
      expect(second).toMatchObject({ admitted: false, code: 'in_flight_budget_exhausted' })
      expect(own?.admitted).toBe(true)
      expect(await countersOf(tx, account.id)).toMatchObject({ 'ai_calls/day': [0, 2] })
    }))

  test('counts what its calls used, and a limit that is taken away is none', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const key = await newKey(tx, account)
      await limit(tx, account, key.id, 'ai_tokens', 'month', 34)
      const [call] = await admitAll(tx, [request(account, key.wish)])
      await settle(tx, call?.call_id ?? '')

      const [over] = await admitAll(tx, [request(account, key.wish)])
      await limit(tx, account, key.id, 'ai_tokens', 'month', null)
      const [free] = await admitAll(tx, [request(account, key.wish)])

      expect(over).toMatchObject({ code: 'insufficient_quota', details: { limit: { used: 15, amount: 34 } } })
      expect(free?.admitted).toBe(true)
    }))

  test.each([
    ['chat_sessions', 'day', 1],
    ['ai_calls', 'month', 1],
    ['ai_calls', 'day', -1],
  ])('cannot have the limit %s/%s of %s', (meter, period, amount) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const { id } = await newKey(tx, account)

      expect(await refusal(tx, (sp) => limit(sp, account, id, meter, period, amount))).toMatchObject({
        code: 'invalid_request_error',
      })
    }),
  )

  test('is limited by its owner only', () =>
    rolledBack(async (tx) => {
      const [account, other] = [await newAccount(tx), await newAccount(tx)]
      const { id } = await newKey(tx, account)

      expect(await refusal(tx, (sp) => limit(sp, other, id, 'ai_calls', 'day', 1))).toMatchObject({ code: 'not_found' })
    }))
})

describe('the project’s cap', () => {
  const cap = (tx: Tx, usd: string | null) =>
    tx`update private.settings set value = ${usd ?? 'null'}::text::jsonb where key = 'ai.project_usd_per_month'`
  const fresh = async (tx: Tx, usd: string | null) => {
    await tx`delete from private.spend_months`
    await tx`delete from private.spend_shards`
    await cap(tx, usd)
  }
  const spend = async (tx: Tx) =>
    (await tx`select spent_and_held_micros::int as micros from private.project_spend()`)[0]?.micros

  test('stops new calls of everybody, exactly, and what is not spent can be spent by others', () =>
    rolledBack(async (tx) => {
      await newModel(tx)
      await fresh(tx, '0.000170')
      const [one, other] = [await newAccount(tx), await newAccount(tx)]
      const wish = { model: 'sql/model', prompt_tokens_max: 100, max_output_tokens: 50 }

      // 100 × 0.3 + 50 × 1.1 = 85 micro-dollars each.
      const answers = await admitAll(tx, [request(one, wish), request(other, wish), request(other, wish)])
      const full = await spend(tx)
      await settle(tx, answers[0]?.call_id ?? '', free)
      const [next] = await admitAll(tx, [request(other, wish)])

      expect(answers.map(({ admitted }) => admitted).filter(Boolean)).toHaveLength(2)
      expect(answers.find(({ admitted }) => !admitted)).toMatchObject({ code: 'spend_cap_reached' })
      expect(full).toBe(170)
      expect(next?.admitted).toBe(true)
      expect(await spend(tx)).toBe(170)
    }))

  test('counts what calls cost, not what they held, and null is no cap', () =>
    rolledBack(async (tx) => {
      await fresh(tx, null)
      const account = await newAccount(tx)
      const { call_id } = await admit(tx, account, { model: baseModel })

      await settle(tx, call_id)

      const { cost_micros } = await callOf(tx, call_id)
      expect(cost_micros).toBeGreaterThan(0)
      expect(await spend(tx)).toBe(cost_micros)
    }))

  test('gets back what calls did not cost in a shard of the connection’s own, although others are free', () =>
    rolledBack(async (tx) => {
      await fresh(tx, '1000')
      const account = await newAccount(tx)
      const { call_id } = await admit(tx, account, { model: baseModel })

      await settle(tx, call_id)

      const [own] = await tx`
        select left_micros::int as micros from private.spend_shards where shard = 128 + pg_backend_pid() % 128`
      expect(own?.micros).toBeGreaterThan(0)
    }))

  test('raises an event at 80, 95 and 100 percent, once each', () =>
    rolledBack(async (tx) => {
      await newModel(tx)
      await fresh(tx, '0.000425')
      const account = await newAccount(tx)
      await setLimit(tx, account.id, 'ai_concurrency', 'total', null)
      const percents: unknown[] = []
      for (let call = 0; call < 5; call += 1) {
        await admit(tx, account)
        percents.push((await tx`select private.warn_of_spend() as percent`)[0]?.percent)
      }

      const events = await tx`
        select severity, details ->> 'percent' as percent from public.security_events where type = 'project_spend' order by id`
      expect(percents).toEqual([null, null, null, 80, 100])
      expect([...events]).toEqual([
        { severity: 'high', percent: '80' },
        { severity: 'critical', percent: '100' },
      ])
    }))

  test('that is lowered holds at once, whatever was fetched of it before', () =>
    rolledBack(async (tx) => {
      await newModel(tx)
      await fresh(tx, '1000')
      const account = await newAccount(tx)
      await setLimit(tx, account.id, 'ai_concurrency', 'total', null)
      await admit(tx, account)
      const held = await spend(tx)

      await tx`update private.settings set value = to_jsonb(${held}::numeric / 1000000) where key = 'ai.project_usd_per_month'`

      expect(await spend(tx)).toBe(held)
      const [answer] = await admitAll(tx, [request(account)])
      expect(answer).toMatchObject({ admitted: false })
    }))

  test('that is lowered while a call fetches its part holds for that call, too', async () => {
    const [operator, caller, watcher] = [connect(), connect(), connect()]
    const [before] = await operator`select value from private.settings where key = 'ai.project_usd_per_month'`
    try {
      await racing(1, async (sql, accounts) => {
        const account = await accounts()
        // Somebody has fetched a part already, and the caller's connection has none.
        await admitAll(sql, [request(account)])
        const [{ pid } = {}] = await caller`select pg_backend_pid() as pid`
        await caller`
          update private.spend_shards s set left_micros = 0 where s.shard = ${pid} % 128 and s.month = date_trunc('month', now() at time zone 'UTC')`
        const { going } = await operator.begin(async (tx) => {
          await tx`
            update private.settings set value = to_jsonb(spent_and_held_micros::numeric / 1000000)
            from private.project_spend() where key = 'ai.project_usd_per_month'`
          const going = admitAll(caller, [request(account)])
          const isWaiting = async () =>
            (await watcher`select cardinality(pg_blocking_pids(${pid})) > 0 as waits`)[0]?.waits === true
          await expect.poll(isWaiting).toBe(true)
          return { going }
        })

        expect(await going).toMatchObject([{ admitted: false }])
      })
    } finally {
      await operator`update private.settings set value = ${operator.json(before?.value)} where key = 'ai.project_usd_per_month'`
      await Promise.all([operator.end(), caller.end(), watcher.end()])
    }
  })

  test('after a call that cost more than is left of it nobody gets what shards had fetched before', async () => {
    const lock = connect()
    const [before] = await lock`select value from private.settings where key = 'ai.project_usd_per_month'`
    const connections = Array.from({ length: 10 }, () => connect())
    let overrun = 0
    try {
      await racing(1, async (sql, accounts) => {
        const account = await accounts()
        for (const [meter, period] of [
          ['ai_requests', 'minute'],
          ['ai_concurrency', 'total'],
          ['ai_tokens', 'month'],
          ['ai_spend_micros', 'month'],
        ] as const)
          await setLimit(sql, account.id, meter, period, null)
        const [{ spent } = {}] = await sql`select spent_and_held_micros::bigint as spent from private.project_spend()`
        await sql`update private.settings set value = to_jsonb((${spent}::numeric + 54000000) / 1000000) where key = 'ai.project_usd_per_month'`
        const ask = (on: Sql) => admit(on, account, { model: baseModel })
        // Each fetches a part that is enough for thousands of calls.
        for (const one of connections) expect(await ask(one)).toMatchObject({ admitted: true })
        const { call_id } = await ask(sql)
        const lie = { prompt_tokens: 100_000_000, completion_tokens: 100_000_000 }

        const { cost_micros } = await settle(sql, call_id, { usage: lie })
        overrun = Number(cost_micros)
        const answers = await Promise.all(connections.flatMap((one) => [1, 2, 3, 4, 5, 6].map(() => ask(one))))

        // 100 million tokens at $0.15 and as many at $0.60 a million.
        expect(cost_micros).toBe(75_000_000)
        expect(answers.map(({ code }) => code)).toEqual(Array(60).fill('spend_cap_reached'))
        const [{ now } = {}] = await sql`select spent_and_held_micros::bigint as now from private.project_spend()`
        expect(Number(now) - Number(spent)).toBeGreaterThan(75_000_000)
        // Nothing was lost: what a higher cap has is handed out, to the last of it.
        await sql`update private.settings set value = to_jsonb((${now}::numeric + 98) / 1000000) where key = 'ai.project_usd_per_month'`
        const more = []
        for (const one of connections)
          more.push(
            (await admit(one, account, { model: baseModel, prompt_tokens_max: 100, max_output_tokens: 50 })).admitted,
          )
        expect(more.filter(Boolean)).toHaveLength(2)
      })
    } finally {
      await lock`select private.give_back_spend(date_trunc('month', now() at time zone 'UTC')::date, ${overrun})`
      await lock`update private.settings set value = ${lock.json(before?.value)} where key = 'ai.project_usd_per_month'`
      await Promise.all([lock, ...connections].map((one) => one.end()))
    }
  })

  /** Connections that take from the same shard. */
  async function ofOneShard(): Promise<[Sql, Sql]> {
    const [first, shard] = await withShard()
    for (;;) {
      const [next, other] = await withShard()
      if (other === shard) return [first, next]
      await next.end()
    }
  }
  async function withShard(): Promise<[Sql, unknown]> {
    const one = connect()
    return [one, (await one`select pg_backend_pid() % 128 as shard`)[0]?.shard]
  }
  test('takes an overrun from the month while another connection of the same shard draws: nobody waits in a circle', async () => {
    const [month, watcher, [settling, drawing]] = [connect(), connect(), await ofOneShard()]
    const pids = [await pidOf(settling), await pidOf(drawing)] as const
    try {
      await racing(1, async (sql, accounts) => {
        const account = await accounts()
        const { call_id } = await admit(sql, account, { model: baseModel })
        const asks = {
          ...{ user_id: account.id, session_id: account.sessionId, request_id: 'r', model_id: baseModel },
          ...{ endpoint: 'chat.completions', plans: 1, price_refs: [1], probes: false, stream: false },
          ...{ prompt_tokens: 1, output_tokens: 1, credits: 1, micros: 1_000, lasts_ms: 1_000, request_bytes: 1 },
        }
        const outcome = {
          call_id,
          user_id: account.id,
          result: 'succeeded',
          prompt_tokens: 1e8,
          completion_tokens: 1e8,
        }
        const ways = await month.begin(async (tx) => {
          await tx`select from private.spend_months for update`
          const step = undone(
            settling,
            (tx) => tx`
              select private.ai_step(array[jsonb_populate_record(null::private.ai_outcome, ${tx.json(outcome)})],
                array[jsonb_populate_record(null::private.ai_request, ${tx.json(asks)})], c.version)
              from private.ai_config c`,
          )
          await waits(watcher, pids[0])
          const draw = undone(drawing, (tx) => tx`select private.take_spend(900000000)`)
          await waits(watcher, pids[1])
          return [step, draw]
        })

        expect(await Promise.all(ways)).toEqual(['done', 'done'])
      })
    } finally {
      await Promise.all([month, watcher, settling, drawing].map((one) => one.end()))
    }
  })

  test('gets back what calls did not cost although every shard is in use, and nobody waits for one', async () => {
    const others = connect()
    try {
      await rolledBack(async (tx) => {
        await tx`set local lock_timeout = '20s'`
        const { call_id } = await admit(tx, await newAccount(tx), { model: baseModel })
        const held = await spend(tx)
        await others.begin(async (other) => {
          await other`select from private.spend_shards where shard >= 128 for update`
          await settleAll(tx, [[call_id, { ...free, response: '{}' }]])
        })

        expect(await spend(tx)).toBeLessThan(held)
      })
    } finally {
      await others.end()
    }
  })

  test('is charged for a small overrun from what is left, and goes on', () =>
    rolledBack(async (tx) => {
      await newModel(tx)
      await fresh(tx, '1')
      const account = await newAccount(tx)
      const { call_id } = await admit(tx, account)

      const { cost_micros } = await settle(tx, call_id, { usage: { prompt_tokens: 1_000, completion_tokens: 0 } })

      expect(cost_micros).toBe(300)
      expect(await spend(tx)).toBe(300)
      expect((await admit(tx, account)).admitted).toBe(true)
    }))

  test('many connections at once spend all of it and not a micro-dollar more', async () => {
    const lock = connect()
    const [before] = await lock`select value from private.settings where key = 'ai.project_usd_per_month'`
    try {
      await racing(24, async (sql, accounts) => {
        const all = await Promise.all(Array.from({ length: 6 }, () => accounts()))
        for (const { id } of all) {
          await setLimit(sql, id, 'ai_concurrency', 'total', null)
          await setLimit(sql, id, 'ai_requests', 'minute', null)
        }
        const [{ now } = {}] = await sql`select spent_and_held_micros::bigint as now from private.project_spend()`
        // A call of 10 + 10 tokens holds 10 × 0.15 + 10 × 0.6 = 7.5, so 8 micro-dollars: forty of them.
        await sql`update private.settings set value = to_jsonb((${now}::numeric + 320) / 1000000) where key = 'ai.project_usd_per_month'`

        const answers = await together(120, async (i) => (await admitAll(sql, [request(all[i % 6] as Account)]))[0])

        const admitted = answers.filter((answer) => answer && 'admitted' in answer && answer.admitted)
        const [{ after } = {}] = await sql`select spent_and_held_micros::bigint as after from private.project_spend()`
        expect(answers.filter((answer) => answer && 'sqlstate' in answer)).toEqual([])
        expect(admitted.length).toBeLessThanOrEqual(40)
        expect(admitted.length).toBeGreaterThan(30)
        expect(Number(after) - Number(now)).toBe(8 * admitted.length)
      })
    } finally {
      await lock`update private.settings set value = ${lock.json(before?.value)} where key = 'ai.project_usd_per_month'`
      await lock.end()
    }
  })
})

describe('fallbacks and breakers', () => {
  const withFallback = async (tx: Tx) => {
    await newModel(tx)
    await tx`insert into private.model_fallbacks values ('sql/model', 1, ${baseModel})`
  }
  /** Of one account each. */
  const report = async (tx: Tx, ok: boolean, times = 1) => {
    for (let time = 0; time < times; time += 1) await reportOf(tx, (await newAccount(tx)).id, ok)
  }
  const reportOf = (tx: Tx, user_id: string, ok = false, times = 1) =>
    tx`select private.report_ai_attempts(${tx.json([{ provider: 'sql-test', model: 'sql/model', user_id, ok }])})
      from generate_series(1, ${times})`
  const pass = (tx: Tx, seconds: number) =>
    tx`
    update private.circuit_breakers set open_until = open_until - make_interval(secs => ${seconds}),
      probe_until = probe_until - make_interval(secs => ${seconds})`.then(
      () => tx`update private.breaker_failures set last_failed_at = last_failed_at - make_interval(secs => ${seconds})`,
    )
  const routes = (answer: Admission) => answer.routes?.map(({ model }) => model) ?? answer.code

  test('a fallback is a route of its own, and the hold covers the dearest', () =>
    rolledBack(async (tx) => {
      await withFallback(tx)
      const account = await newAccount(tx)
      await tx`update public.models set credits_per_call = 7 where id = ${baseModel}`

      const answer = await admit(tx, account, { max_output_tokens: 600 })

      expect(answer.routes?.map(({ model, max_output_tokens }) => [model, max_output_tokens])).toEqual([
        ['sql/model', 500],
        [baseModel, 600],
      ])
      // 100 × 0.3 + 500 × 1.1 = 580; the fallback would cost 100 × 0.15 + 600 × 0.6 = 375.
      expect(await callOf(tx, answer.call_id)).toMatchObject({
        hold_credits: 7,
        hold_output_tokens: 600,
        hold_micros: 580,
      })
    }))

  test('who answered is who is charged', () =>
    rolledBack(async (tx) => {
      await withFallback(tx)
      const account = await newAccount(tx)
      const [first, second] = [await admit(tx, account), await admit(tx, account)]

      await settle(tx, first.call_id, { model: baseModel })
      await settle(tx, second.call_id, { model: 'some/other' })

      // 10 × 0.15 + 5 × 0.6 = 4.5 and 10 × 0.3 + 5 × 1.1 = 8.5, rounded up.
      expect(await callOf(tx, first.call_id)).toMatchObject({
        answered_by: baseModel,
        cost_micros: 5,
        credits_charged: 1,
        provider_id: 'openrouter',
      })
      expect(await callOf(tx, second.call_id)).toMatchObject({
        answered_by: 'sql/model',
        cost_micros: 9,
        credits_charged: 2,
      })
      expect(await creditsOf(tx, account.id)).toEqual({ balance: 97, held: 0 })
    }))

  test.each<[string, (tx: Tx) => Promise<unknown>]>([
    ['not in the plan', (tx) => tx`delete from public.plan_models where model_id = ${baseModel}`],
    ['without a price', (tx) => tx`delete from public.model_prices where model_id = ${baseModel}`],
    ['disabled', (tx) => tx`update public.models set enabled = false where id = ${baseModel}`],
    ['of another kind', (tx) => tx`update public.models set kind = 'embedding' where id = ${baseModel}`],
  ])('a fallback that is %s is none', (_name, spoil) =>
    rolledBack(async (tx) => {
      await withFallback(tx)
      await spoil(tx)

      expect(routes(await admit(tx, await newAccount(tx)))).toEqual(['sql/model'])
    }),
  )

  test('a model for another endpoint is refused by name', () =>
    rolledBack(async (tx) => {
      const answer = await admit(tx, await newAccount(tx), {
        model: baseModel,
        endpoint: 'images.generations',
        images: 1,
      })

      expect(answer).toMatchObject({ code: 'invalid_request_error', details: { param: 'model' } })
    }))

  test('five failures open the breaker; the fallback answers, and without one the call is refused for a while', () =>
    rolledBack(async (tx) => {
      await newModel(tx)
      const account = await newAccount(tx)
      await report(tx, false, 4)
      const closed = await admit(tx, account)
      await report(tx, false)
      const open = await admit(tx, account)
      await tx`insert into private.model_fallbacks values ('sql/model', 1, ${baseModel})`

      expect(routes(closed)).toEqual(['sql/model'])
      expect(open).toMatchObject({ admitted: false, code: 'circuit_open', details: { retry_after_s: 60 } })
      expect(routes(await admit(tx, account))).toEqual([baseModel])
    }))

  test('after a minute one call tries; its success closes the breaker, failures of two accounts open it again', () =>
    rolledBack(async (tx) => {
      await newModel(tx)
      const account = await newAccount(tx)
      await report(tx, false, 5)
      await pass(tx, 61)

      const tries = [routes(await admit(tx, account)), routes(await admit(tx, account))]
      await report(tx, false, 2)
      const again = routes(await admit(tx, account))
      await pass(tx, 61)
      const next = routes(await admit(tx, account))
      await report(tx, true)
      const closed = [routes(await admit(tx, account)), routes(await admit(tx, account))]

      expect(tries).toEqual([['sql/model'], 'circuit_open'])
      expect(again).toBe('circuit_open')
      expect([next, ...closed]).toEqual([['sql/model'], ['sql/model'], ['sql/model']])
    }))

  test('who cannot pay does not keep the breaker from who can', () =>
    rolledBack(async (tx) => {
      await newModel(tx)
      const [poor, rich] = [await newAccount(tx, { credits: 1 }), await newAccount(tx)]
      await report(tx, false, 5)
      await pass(tx, 61)

      expect(await admit(tx, poor)).toMatchObject({ admitted: false, code: 'insufficient_credits' })
      expect(routes(await admit(tx, rich))).toEqual(['sql/model'])
    }))

  test('failures that are far apart are no outage', () =>
    rolledBack(async (tx) => {
      await newModel(tx)
      for (let failure = 0; failure < 8; failure += 1) {
        await report(tx, false)
        await pass(tx, 61)
      }

      expect(routes(await admit(tx, await newAccount(tx)))).toEqual(['sql/model'])
      expect(await tx`select failures from private.circuit_breakers`).toEqual([{ failures: 1 }])
    }))

  test('one account, or two, who make a model fail again and again close it for nobody', () =>
    rolledBack(async (tx) => {
      await newModel(tx)
      const [one, two, other] = [await newAccount(tx), await newAccount(tx), await newAccount(tx)]
      await reportOf(tx, one.id, false, 40)
      await reportOf(tx, two.id, false, 40)
      const before = routes(await admit(tx, other))
      await tx`update private.settings set value = '2' where key = 'ai.breaker_accounts'`
      await reportOf(tx, one.id)

      expect(before).toEqual(['sql/model'])
      expect(routes(await admit(tx, other))).toBe('circuit_open')
    }))

  test('nor does one account keep half open what others would find well', () =>
    rolledBack(async (tx) => {
      await newModel(tx)
      const [one, other] = [await newAccount(tx), await newAccount(tx)]
      await report(tx, false, 5)
      await pass(tx, 61)

      expect(routes(await admit(tx, one))).toEqual(['sql/model'])
      await reportOf(tx, one.id, false, 9)
      expect(routes(await admit(tx, other))).toEqual(['sql/model'])
    }))

  test('reports of several models that open and reports of one of them never wait for each other in a circle', async () => {
    const [config, watcher, both, second] = [connect(), connect(), connect(), connect()]
    const pids = [await pidOf(both), await pidOf(second)] as const
    try {
      await racing(1, async (sql, accounts) => {
        const users = [await accounts(), await accounts()]
        const models = await sql`select id, provider_id from public.models order by provider_id, id limit 2`
        // Half open: failures of two accounts open them again.
        for (const { id, provider_id } of models)
          await sql`insert into private.circuit_breakers (provider_id, model_id, open_until) values (${provider_id}, ${id}, now() - interval '1 second')`
        const failed = (of: readonly (typeof models)[number][]) =>
          of.flatMap(({ id, provider_id }) =>
            users.map((user) => ({ provider: provider_id, model: id, user_id: user.id, ok: false })),
          )
        const report = (on: Sql, reports: ReturnType<typeof failed>) =>
          undone(on, (tx) => tx`select private.report_ai_attempts(${tx.json(reports)})`)
        const ways = await config.begin(async (tx) => {
          await tx`select from private.ai_config for update`
          const two = report(both, failed(models))
          await waits(watcher, pids[0])
          const one = report(second, failed(models.slice(1)))
          await waits(watcher, pids[1])
          return [two, one]
        })

        expect(models).toHaveLength(2)
        expect(await Promise.all(ways)).toEqual(['done', 'done'])
      })
    } finally {
      await watcher`delete from private.circuit_breakers`
      await Promise.all([config, watcher, both, second].map((one) => one.end()))
    }
  })

  test('an account that is erased counts no more, and one that nobody knows never did', () =>
    rolledBack(async (tx) => {
      await newModel(tx)
      const gone = await newAccount(tx)
      await reportOf(tx, gone.id)
      await reportOf(tx, crypto.randomUUID())
      await tx`delete from auth.users where id = ${gone.id}`

      expect(await tx`select * from private.breaker_failures`).toEqual([])
    }))
})

describe('an idempotency key', () => {
  const hash = (letter: string) => letter.repeat(64)
  const keyed = (body = 'a', key = 'order-1'): Wish => ({
    model: baseModel,
    idempotency_key: key,
    body_hash: hash(body),
  })

  test('that is running, or comes with another body, is refused and takes nothing', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await admit(tx, account, keyed())

      expect((await admit(tx, account, keyed())).code).toBe('idempotency_in_progress')
      expect((await admit(tx, account, keyed('b'))).code).toBe('idempotency_key_reused')
      expect(await creditsOf(tx, account.id)).toEqual({ balance: 100, held: 1 })
      expect(await heldOf(tx, account.id, 'ai_requests')).toEqual([1, 0])
    }))

  test('gives the finished answer again, for a day, to its owner and endpoint only', () =>
    rolledBack(async (tx) => {
      const [account, other] = [await newAccount(tx), await newAccount(tx)]
      const { call_id } = await admit(tx, account, keyed())
      await settle(tx, call_id, { response: '{"id":"x"}', model: baseModel })

      const again = await admit(tx, account, keyed())
      const foreign = await admit(tx, other, keyed())
      await tx`update private.ai_idempotency_keys set created_at = now() - interval '25 hours'`
      const later = await admit(tx, account, keyed())

      expect(again).toMatchObject({
        admitted: false,
        code: 'idempotency_replay',
        replay: { body: '{"id":"x"}', model: baseModel },
      })
      expect([foreign.admitted, later.admitted]).toEqual([true, true])
      expect(await creditsOf(tx, account.id)).toEqual({ balance: 99, held: 1 })
    }))

  test('of a call that failed is free again; of a stream that ended it is not', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await settle(tx, (await admit(tx, account, keyed())).call_id, free)
      const again = await admit(tx, account, keyed())
      await settle(tx, again.call_id)

      expect(again.admitted).toBe(true)
      expect((await admit(tx, account, keyed())).code).toBe('idempotency_not_replayable')
    }))

  test('sent twenty times at once reaches the provider once', () =>
    racing(20, async (sql, accounts) => {
      const account = await accounts()

      const answers = await together(20, () => admit(sql, account, keyed('a', 'same')))

      expect(answers.filter((answer) => 'admitted' in answer && answer.admitted)).toHaveLength(1)
      expect(new Set(answers.map((answer) => answer.code))).toEqual(new Set([undefined, 'idempotency_in_progress']))
    }))
})

describe('calls that are decided together', () => {
  test('are each admitted or refused by themselves, in the order they came', () =>
    rolledBack(async (tx) => {
      const [one, other] = [await newAccount(tx), await newAccount(tx, { credits: 1 })]

      const answers = await admitAll(tx, [
        request(other),
        request(one, { model: 'no/model' }),
        request(one),
        request(other),
        request({ ...one, sessionId: crypto.randomUUID() }),
      ])

      expect(answers.map(({ admitted, code }) => code ?? admitted)).toEqual([
        true,
        'model_not_found',
        true,
        'in_flight_budget_exhausted',
        'invalid_api_key',
      ])
    }))

  test('never wait for each other in a circle', () =>
    racing(16, async (sql, accounts) => {
      const all = await Promise.all(Array.from({ length: 8 }, () => accounts()))
      for (const { id } of all) {
        await setLimit(sql, id, 'ai_requests', 'minute', null)
        await setLimit(sql, id, 'ai_concurrency', 'total', null)
        await setLimit(sql, id, 'ai_calls', 'day', null)
      }
      const shuffled = () => all.toSorted(() => Math.random() - 0.5).map((account) => request(account))

      const answers = await together(64, async () => {
        const admitted = (await admitAll(sql, shuffled())).filter((answer) => answer.admitted)
        const ids = admitted.map(({ call_id }) => call_id).toSorted(() => Math.random() - 0.5)
        await settleAll(
          sql,
          ids.map((id) => [id, free]),
        )
        return admitted.length
      })

      expect(answers.filter((answer) => typeof answer !== 'number')).toEqual([])
      for (const { id } of all) expect(await creditsOf(sql, id)).toEqual({ balance: 100, held: 0 })
      expect(await sql`select from private.verify_accounts()`).toHaveLength(0)
    }))
})

describe('requests without a token or key', () => {
  const count = async (sql: Sql | Tx, ip: string) =>
    (await sql`select private.count_anonymous_request(${ip}::inet, 'ai') as answer`)[0]?.answer

  test('are counted by network, and the one over the limit is told when to come back', () =>
    rolledBack(async (tx) => {
      await tx`update private.rate_limits set amount = 2 where route = 'ai'`
      const answers = []
      for (const ip of ['203.0.113.1', '203.0.113.9', '203.0.113.1', '198.51.100.1']) answers.push(await count(tx, ip))

      expect(answers.map(({ allowed }) => allowed)).toEqual([true, true, false, true])
      expect(answers[2]).toMatchObject({ retry_after_s: 900, limit: { amount: 2, used: 2, remaining: 0 } })
    }))

  test('fifty at once from one address: as many pass as may', async () => {
    const sql = connect(20)
    try {
      const answers = await together(150, () => count(sql, '192.0.2.77'))

      expect(answers.filter((answer) => answer.allowed)).toHaveLength(100)
    } finally {
      await sql`delete from private.anonymous_requests where network >>= '192.0.2.77'::inet`
      await sql.end()
    }
  })
})

describe('the gateway’s own role', () => {
  test('admits and settles, and can do nothing else', () =>
    rolledBack(async (tx) => {
      const functions = await tx`
        select p.proname as name from pg_proc p join pg_namespace n on n.oid = p.pronamespace
        where n.nspname in ('public', 'private') and has_function_privilege('palisade_gateway', p.oid, 'execute') order by 1`
      const tables = await tx`
        select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname in ('public', 'private', 'auth', 'storage', 'vault') and c.relkind in ('r', 'v', 'p', 'm')
          and has_table_privilege('palisade_gateway', c.oid, 'select, insert, update, delete')`

      expect(functions.map(({ name }) => name)).toEqual([
        'ai_snapshot',
        'ai_step',
        'count_anonymous_request',
        'list_ai_models',
        'provider_secret',
        'report_ai_attempts',
        'report_provider_alarm',
        'report_signature_failure',
        'start_ai_calls',
      ])
      expect([...tables]).toEqual([])
    }))

  test('tells what providers refuse, and nothing else', () =>
    rolledBack(async (tx) => {
      const tell = (provider: string, event: string) => tx`select private.report_provider_alarm(${provider}, ${event})`
      await tell('demo', 'provider_refuses_key')
      await tell('demo', 'provider_refuses_key')
      await tell('demo', 'provider_refuses_account')
      await tell('nobody', 'provider_refuses_key')
      await tell('demo', 'brute_force')

      const events = await tx`
        select type, severity, user_id, details, occurrences from public.security_events
        where type ~ '^provider_refuses' or (type = 'brute_force' and details ? 'provider_id') order by type`

      const common = { severity: 'high', user_id: null, details: { provider_id: 'demo' } }
      expect([...events]).toEqual([
        { type: 'provider_refuses_account', ...common, occurrences: 1 },
        { type: 'provider_refuses_key', ...common, occurrences: 2 },
      ])
    }))

  test('reads no secret but those that providers name', async () => {
    const [row] = await db()`select private.provider_secret('SUPABASE_SECRET') as secret`

    expect(row?.secret).toBeNull()
  })
})
