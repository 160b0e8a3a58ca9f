import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { runs } from '../support/runs.ts'
import { clockChanges, localTime, nextAnniversary, nextMidnight } from './calendar.ts'
import {
  asUser,
  countersOf,
  db,
  newAccount,
  racing,
  refusal,
  rolledBack,
  setCounter,
  setLimit,
  type Tx,
  together,
} from './support.ts'

// Changes at midnight (Havana, Beirut, Cairo, Sao_Paulo, Asuncion), around it (St_Johns, Azores, Nuuk, Gaza), a skipped
// day (Apia), half hours (Lord_Howe), two hours (Troll), odd offsets, and no changes at all.
const zones = `UTC America/Havana Asia/Beirut Africa/Cairo America/Sao_Paulo America/Asuncion America/St_Johns
  Atlantic/Azores America/Nuuk Asia/Gaza Asia/Amman Pacific/Apia Australia/Lord_Howe Antarctica/Troll Asia/Kathmandu
  Pacific/Chatham Pacific/Kiritimati Pacific/Pago_Pago Europe/Berlin America/New_York Asia/Tehran Asia/Tokyo`.split(
  /\s+/,
)

/** Moments of this century, half of them within two days of a change of the zone's clock. */
const moments = fc
  .record({
    zone: fc.constantFrom(...zones),
    year: fc.integer({ min: 2000, max: 2024 }),
    anywhere: fc.integer({ min: 0, max: 365 * 86_400 - 1 }),
    change: fc.option(fc.nat({ max: 3 })),
    near: fc.integer({ min: -172_800, max: 172_800 }),
  })
  .map(({ zone, year, anywhere, change, near }) => {
    const jump = change === null ? undefined : clockChanges(zone, year)[change]
    return { zone, at: jump === undefined ? Date.UTC(year, 0, 1) + anywhere * 1000 : jump + near * 1000 }
  })
/** Sign-ups, most of them on the days that some months lack. */
const signUps = fc
  .record({
    month: fc.integer({ min: 0, max: 299 }),
    day: fc.oneof(fc.integer({ min: 28, max: 31 }), fc.integer({ min: 1, max: 31 })),
  })
  .map(({ month, day }) => Date.UTC(2000, month, day, 12))

async function resetsAt(period: string, zone: string, signedUp: number, at: number): Promise<number> {
  const [row] = await db()`select private.period_resets_at(${period}, ${zone},
    ${new Date(signedUp).toISOString()}::timestamptz, ${new Date(at).toISOString()}::timestamptz) as at`
  return row?.at.getTime()
}

/** One name for all zones whose clocks are put alike in these years, with the days in which that happens. */
const clocks = (tx: Tx) => tx`
  with noons as materialized (
    select z.name, h.at, extract(epoch from h.at at time zone z.name - h.at at time zone 'UTC')::int as ahead
    from pg_timezone_names z, generate_series(timestamptz '2024-12-31 12:00Z', '2028-01-01Z', interval '24 hours') h (at)
    where z.name !~ '^posix'
  ), alike as (
    select array_agg(n.ahead order by n.at) as ahead, n.name from noons n group by n.name
  )
  select min(a.name) as name, (
    select coalesce(array_agg(timestamptz '2024-12-31 12:00Z' + (d - 1) * interval '24 hours'), '{}')
    from generate_series(2, cardinality(a.ahead)) d where a.ahead[d] <> a.ahead[d - 1]) as changes
  from alike a group by a.ahead`

/**
 * Five days around each change of a clock. is_whole: whatever moment of the day asks, it ends at the same; is_first: no quarter of an hour
 * before had its date already.
 */
const daysAtChanges = async (tx: Tx) => tx`
  with recursive days as (
    select c.name, 0 as n, e.starts, private.period_resets_at('day', c.name, now(), e.starts) as ends
    from jsonb_to_recordset(${JSON.stringify(await clocks(tx))}::text::jsonb) c (name text, changes timestamptz[]),
      unnest(c.changes) x (at),
      lateral (select private.period_resets_at('day', c.name, now(), x.at - interval '84 hours') as starts) e
    union all
    select d.name, d.n + 1, d.ends, private.period_resets_at('day', d.name, now(), d.ends) from days d where d.n < 4
  )
  select d.name, d.starts, extract(epoch from d.ends - d.starts)::float8 / 3600 as hours,
    (select bool_and(private.period_resets_at('day', d.name, now(), m.at) = d.ends)
      from unnest(array[
        d.starts + interval '1 microsecond', d.starts + interval '30 minutes', d.starts + interval '90 minutes',
        d.ends - interval '90 minutes', d.ends - interval '1 microsecond']) m (at)) as is_whole,
    (select bool_and((b.at at time zone d.name)::date < (d.starts at time zone d.name)::date)
      from generate_series(1, 13) i, lateral (
        select d.starts - interval '1 microsecond' - (i - 1) * interval '15 minutes' as at) b) as is_first
  from days d`

/** The months of who signed up on the 28th to the 31st: wanted is that day, last the last of the month in which it begins. */
const monthsOfAYear = async (tx: Tx) => tx`
  with recursive months as (
    select c.name, w.day as wanted, s.at as signed_up_at, 0 as n, e.starts, private.period_resets_at('month', c.name, s.at, e.starts) as ends
    from jsonb_to_recordset(${JSON.stringify(await clocks(tx))}::text::jsonb) c (name text), unnest(array[28, 29, 30, 31]) w (day),
      lateral (select make_timestamp(2023, 1, w.day, 12, 0, 0) at time zone c.name as at) s,
      lateral (select private.period_resets_at('month', c.name, s.at, timestamptz '2027-12-15Z') as starts) e
    union all
    select m.name, m.wanted, m.signed_up_at, m.n + 1, m.ends, private.period_resets_at('month', m.name, m.signed_up_at, m.ends)
    from months m where m.n < 13
  )
  select m.name, m.starts, m.wanted, extract(day from m.starts at time zone m.name)::int as day,
    extract(day from date_trunc('month', m.starts at time zone m.name) + interval '1 month - 1 day')::int as last,
    extract(epoch from m.ends - m.starts)::float8 / 86400 as days,
    private.period_resets_at('month', m.name, m.signed_up_at, m.ends - interval '1 microsecond') = m.ends as is_whole
  from months m`

describe('when a period ends', () => {
  test('a period of another length is an error', () =>
    rolledBack(async (tx) => {
      const refused = await refusal(tx, (sp) => sp`select private.period_resets_at('week', 'UTC', now(), now())`)

      expect(refused.sqlstate).toMatch(/^(20000|P0001)$/)
    }))

  test('a day ends at the next local midnight, the first of two, or right after it when the clock skips it', () =>
    fc.assert(
      fc.asyncProperty(moments, async ({ zone, at }) => {
        const end = await resetsAt('day', zone, 0, at)

        expect(end).toBeGreaterThan(at)
        expect(localTime(zone, end)).toBe(localTime(zone, nextMidnight(zone, at)))
        expect(end).toBe(nextMidnight(zone, at))
      }),
      { numRuns: runs(600) },
    ))

  test('a month ends at the next anniversary of the sign-up, or on the last day of a shorter month', () =>
    fc.assert(
      fc.asyncProperty(moments, signUps, async ({ zone, at }, signedUp) => {
        const end = await resetsAt('month', zone, signedUp, at)

        expect(end).toBeGreaterThan(at)
        expect(end - at).toBeLessThan(32.2 * 86_400_000)
        expect(end).toBe(nextAnniversary(zone, signedUp, at))
      }),
      { numRuns: runs(600) },
    ))

  test.each([
    ['day', 'America/Havana', '2025-03-09T04:59:59Z', '2025-03-09T05:00:00Z', 'a skipped midnight'],
    ['day', 'Pacific/Apia', '2011-12-30T09:00:00Z', '2011-12-30T10:00:00Z', 'a skipped day'],
    ['day', 'America/Havana', '2026-11-01T03:59:59Z', '2026-11-01T04:00:00Z', 'the first of two midnights'],
    ['day', 'America/Havana', '2026-11-01T04:00:00Z', '2026-11-02T05:00:00Z', 'the hour between two midnights'],
    ['day', 'Atlantic/Azores', '2026-10-24T23:59:59Z', '2026-10-25T00:00:00Z', 'the first of two midnights'],
    ['day', 'Atlantic/Azores', '2026-10-25T00:30:00Z', '2026-10-26T01:00:00Z', 'the hour between two midnights'],
    ['day', 'America/St_Johns', '2010-11-07T02:30:30Z', '2010-11-08T03:30:00Z', 'yesterday, once more'],
    ['day', 'Europe/Berlin', '2026-03-28T23:00:00Z', '2026-03-29T22:00:00Z', 'a day of 23 hours'],
    ['month', 'America/Havana', '2026-10-31T12:00:00Z', '2026-11-30T05:00:00Z', 'the 31st of a short month'],
    ['month', 'Atlantic/Azores', '2025-10-01T12:00:00Z', '2025-10-31T01:00:00Z', 'a clock that is put back'],
    ['month', 'UTC', '2024-02-28T23:59:59Z', '2024-02-29T00:00:00Z', 'the 31st in a leap year'],
    ['month', 'UTC', '2023-02-28T00:00:00Z', '2023-03-31T00:00:00Z', 'the moment of the anniversary itself'],
    ['month', 'UTC', '2024-12-31T12:00:00Z', '2025-01-31T00:00:00Z', 'the turn of the year'],
  ])('a %s in %s that contains %s ends at %s (%s)', async (period, zone, at, end) => {
    const signedUp = Date.parse('2020-01-31T12:00:00Z')

    expect(await resetsAt(period, zone, signedUp, Date.parse(at))).toBe(Date.parse(end))
  })

  test('in every zone that the server knows, days follow each other without a gap around each change of the clock', () =>
    rolledBack(async (tx) => {
      const days = await daysAtChanges(tx)

      expect(days.length).toBeGreaterThan(500)
      expect(days.filter(({ is_whole }) => !is_whole)).toEqual([])
      expect(days.filter(({ is_first }) => !is_first)).toEqual([])
      expect(days.filter(({ hours }) => hours < 19 || hours > 29)).toEqual([])
    }))

  test('in every zone that the server knows, months of who signed up on one of the last days follow each other', () =>
    rolledBack(async (tx) => {
      const months = await monthsOfAYear(tx)

      expect(months.length).toBeGreaterThan(2000)
      expect(months.filter(({ is_whole }) => !is_whole)).toEqual([])
      expect(months.filter(({ day, wanted, last }) => day !== Math.min(wanted, last))).toEqual([])
      expect(months.filter(({ days }) => days < 27.8 || days > 31.2)).toEqual([])
    }))

  test('a total never ends', () =>
    rolledBack(async (tx) => {
      const [row] = await tx`select private.period_resets_at('total', 'UTC', now(), now()) = 'infinity' as is_never`

      expect(row?.is_never).toBe(true)
    }))
})

describe('get_my_limits', () => {
  const myLimits = async (tx: Tx, userId: string) => {
    const rows = await asUser(
      tx,
      userId,
      (as) => as`
      select meter || '/' || period as name, used::int, held::int, amount::float8, remaining::float8, resets_at
      from public.get_my_limits()`,
    )
    return Object.fromEntries(rows.map(({ name, ...limit }) => [name, limit]))
  }

  test('who is not signed in gets none', () =>
    rolledBack(async (tx) => {
      const signedOut = await refusal(tx, (sp) => sp`select * from public.get_my_limits()`)
      await tx`set local role anon`
      const anon = await refusal(tx, (sp) => sp`select * from public.get_my_limits()`)

      expect(signedOut).toMatchObject({ code: 'invalid_api_key', status: 401 })
      expect(anon.sqlstate).toBe('42501')
    }))

  test('a new account has the limits of the free plan, all of them unused', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      const limits = await myLimits(tx, id)

      const rows =
        await tx`select meter || '/' || period as name, amount::float8 from public.plan_limits where plan_id = 'free'`
      expect(Object.keys(limits).sort()).toEqual(rows.map((row) => row.name).sort())
      for (const { name, amount } of rows)
        expect(limits[name]).toMatchObject({ used: 0, held: 0, amount, remaining: amount })
      expect(limits['storage_bytes/total']?.resets_at).toBeNull()
    }))

  test('a limit of one’s own replaces the plan’s, up or down', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await setLimit(tx, id, 'ai_calls', 'day', 7)
      await setLimit(tx, id, 'ai_tokens', 'month', 9_000_000_000)
      await setLimit(tx, id, 'gifts', 'total', 3)

      const limits = await myLimits(tx, id)

      expect(limits['ai_calls/day']).toMatchObject({ amount: 7, remaining: 7 })
      expect(limits['ai_tokens/month']).toMatchObject({ amount: 9_000_000_000 })
      expect(limits['gifts/total']).toMatchObject({ amount: 3, remaining: 3, resets_at: null })
    }))

  test('a limit of null is no limit, so there is no number that remains', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await setLimit(tx, id, 'ai_calls', 'day', null)

      const limits = await myLimits(tx, id)

      expect(limits['ai_calls/day']).toMatchObject({ amount: null, remaining: null })
    }))

  test('a limit of zero leaves nothing', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await setLimit(tx, id, 'ai_calls', 'day', 0)

      expect((await myLimits(tx, id))['ai_calls/day']).toMatchObject({ amount: 0, remaining: 0 })
    }))

  test('a change of plan shows at once', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await tx`update public.profiles set plan_id = 'premium' where id = ${id}`

      expect((await myLimits(tx, id))['ai_calls/day']).toMatchObject({ amount: 1000 })
    }))

  test('storage is what the caller’s files weigh', () =>
    rolledBack(async (tx) => {
      const [owner, other] = [await newAccount(tx), await newAccount(tx)]
      await tx`insert into storage.buckets (id, name) values ('sql-test', 'sql-test')`
      const put = (id: string, name: string, size: number | null) => tx`
        insert into storage.objects (id, bucket_id, name, owner_id, metadata)
        values (gen_random_uuid(), 'sql-test', ${`${id}/${name}`}, ${id}, ${size === null ? null : tx.json({ size })})`
      await put(owner.id, 'a', 1000)
      await put(owner.id, 'b', 24)
      await put(owner.id, 'no metadata', null)
      await put(other.id, 'c', 5)

      const limits = await myLimits(tx, owner.id)

      expect(limits['storage_bytes/total']).toMatchObject({ used: 1024, remaining: 52_428_800 - 1024 })
    }))

  test('a counter whose period has ended counts as zero', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await setCounter(tx, id, 'ai_calls', 'day', { used: 50, held: 3, resetsIn: '0' })
      await setCounter(tx, id, 'ai_tokens', 'month', { used: 40, held: 2, resetsIn: '1 second' })

      const limits = await myLimits(tx, id)

      expect(limits['ai_calls/day']).toMatchObject({ used: 0, held: 0, remaining: 50 })
      expect(limits['ai_tokens/month']).toMatchObject({ used: 40, held: 2, remaining: 99_958 })
    }))
})

describe('the columns of meters', () => {
  test('are those of private.meters, in accounts, keys and limit sets', () =>
    rolledBack(async (tx) => {
      const meters =
        await tx`select meter, is_held from private.meters where meter like 'ai\\_%' or meter like '%\\_generations\\_%'
        or meter like 'chat\\_completions%' or meter like 'embeddings%' order by meter`
      const columnsOf = async (table: string) =>
        (await tx`select attname as name from pg_attribute where attrelid = ${table}::regclass and attnum > 0`).map(
          ({ name }) => name,
        )
      const [accounts, sets] = [await columnsOf('private.accounts'), await columnsOf('private.limit_sets')]
      expect(meters).toHaveLength(8)
      for (const { meter, is_held } of meters) {
        expect(sets).toContain(meter)
        expect(accounts).toContain(is_held ? `${meter}_held` : `${meter}_used`)
      }
    }))
})

describe('consume', () => {
  const consume = (tx: Tx, id: string, meter: string, period: string, units: number) =>
    tx`select private.consume(${id}, ${meter}, ${period}, ${units})`

  test.each([
    ['chat_sessions', 'day', 'daily_quota_exceeded', 429],
    ['psychology_tests', 'month', 'insufficient_quota', 402],
    ['not_in_the_plan', 'day', 'daily_quota_exceeded', 429],
    ['not_in_the_plan', 'total', 'insufficient_quota', 402],
  ])('%s per %s over the limit is refused with %s', (meter, period, code, status) =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await tx`
        insert into private.meters (meter, period, is_held, is_open_without_row) values
          ('not_in_the_plan', 'day', false, false), ('not_in_the_plan', 'total', false, false)`

      const refused = await refusal(tx, (sp) => consume(sp, id, meter, period, 11))

      expect(refused).toMatchObject({ code, status })
      expect(await countersOf(tx, id)).toEqual({})
    }),
  )

  test('exactly what is left can be used', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await setCounter(tx, id, 'chat_sessions', 'day', { used: 9 })

      const refused = await refusal(tx, (sp) => consume(sp, id, 'chat_sessions', 'day', 2))
      await consume(tx, id, 'chat_sessions', 'day', 1)

      expect(refused.code).toBe('daily_quota_exceeded')
      expect(await countersOf(tx, id)).toEqual({ 'chat_sessions/day': [10, 0] })
    }))

  test('the first use after the end of a period starts the next one', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await setCounter(tx, id, 'chat_sessions', 'day', { used: 10, resetsIn: '0' })

      await consume(tx, id, 'chat_sessions', 'day', 1)

      const [row] = await tx`select resets_at > now() as is_next from private.usage_counters where user_id = ${id}`
      expect(await countersOf(tx, id)).toEqual({ 'chat_sessions/day': [1, 0] })
      expect(row?.is_next).toBe(true)
    }))

  test('without a limit everything is counted and nothing refused', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await setLimit(tx, id, 'chat_sessions', 'day', null)

      await consume(tx, id, 'chat_sessions', 'day', 1_000_000)

      expect(await countersOf(tx, id)).toEqual({ 'chat_sessions/day': [1_000_000, 0] })
    }))

  test('of 40 who race for a limit of 10, exactly 10 get one', () =>
    racing(40, async (sql, account) => {
      const { id } = await account()

      const results = await together(40, () => sql`select private.consume(${id}, 'chat_sessions', 'day', 1)`)

      const codes = results.map((result) => ('code' in result ? result.code : 'counted'))
      expect(codes.filter((code) => code === 'counted').length).toBe(10)
      expect(codes.filter((code) => code === 'daily_quota_exceeded').length).toBe(30)
      expect(await countersOf(sql, id)).toEqual({ 'chat_sessions/day': [10, 0] })
    }))
})
