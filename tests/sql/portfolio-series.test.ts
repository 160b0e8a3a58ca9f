/** What a portfolio was worth over time: any range in few points, months in partitions, and the past thinned out unchanged. */
import { describe, expect, test } from 'vitest'
import { type Connection, newConnection, sync } from './portfolio-support.ts'
import { asUser, newAccount, refusal, rolledBack, type Tx } from './support.ts'

type Point = { taken_at: Date; value: number }

const seriesOf = async (
  tx: Tx,
  { account }: Connection,
  from: string,
  to: string,
  points: number,
  credentialId: string | null = null,
) => {
  const rows = await asUser(
    tx,
    account.id,
    (as) => as<Point[]>`
      select taken_at, value::int from public.get_my_portfolio_series(
        ${from}::timestamptz, ${to}::timestamptz, ${points}, ${credentialId}::uuid)`,
  )
  return rows.map(({ taken_at, value }) => `${taken_at.toISOString().slice(0, 16)} ${value}`)
}

/** A total every so often from a moment on, worth 1, 2, 3 and so on. */
const fill = (tx: Tx, { account }: Connection, from: string, every: string, count: number) => tx`
  insert into public.portfolio_snapshots (user_id, taken_at, value, quote_currency)
  select ${account.id}, ${from}::timestamptz + (n - 1) * ${every}::interval, n, 'USD' from generate_series(1, ${count}::int) n`

const downsample = async (tx: Tx, days = 31): Promise<number> => {
  const [row] = await tx`select private.downsample_portfolio_snapshots(${days})::int as gone`
  return row?.gone
}
/** The midnights, in UTC, before the moment in which the test's transaction began. */
async function midnights(tx: Tx): Promise<(daysAgo: number) => string> {
  const [{ today } = {}] = await tx`select extract(epoch from date_trunc('day', now(), 'UTC'))::int as today`
  return (daysAgo) => `${new Date((today - daysAgo * 86_400) * 1000).toISOString().slice(0, 10)}T00:00:00Z`
}

describe('a series', () => {
  test('answers the last value of each part of a range, with its real time; parts without one are left out', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      await fill(tx, connection, '2020-01-01T00:00:00Z', '20 minutes', 6)
      await fill(tx, connection, '2020-01-01T05:00:00Z', '1 hour', 1)

      const series = await seriesOf(tx, connection, '2020-01-01T00:00:00Z', '2020-01-01T06:00:00Z', 6)

      expect(series).toEqual(['2020-01-01T00:40 3', '2020-01-01T01:40 6', '2020-01-01T05:00 1'])
    }))

  test('holds its beginning and not its end, over months, and as few points as two', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      await fill(tx, connection, '2020-01-31T22:00:00Z', '1 hour', 5)

      const whole = await seriesOf(tx, connection, '2020-01-31T22:00:00Z', '2020-02-01T02:00:00Z', 4)
      const two = await seriesOf(tx, connection, '2020-01-31T22:00:00Z', '2020-02-01T02:00:00Z', 2)

      expect(whole).toEqual(['2020-01-31T22:00 1', '2020-01-31T23:00 2', '2020-02-01T00:00 3', '2020-02-01T01:00 4'])
      expect(two).toEqual(['2020-01-31T23:00 2', '2020-02-01T01:00 4'])
    }))

  test('of one credential is its own, and another’s is empty', () =>
    rolledBack(async (tx) => {
      const one = await newConnection(tx)
      const two = await newConnection(tx, { account: one.account })
      const daysAgo = await midnights(tx)
      await sync(tx, one, { holdings: { USD: '5' } })
      await sync(tx, two, { holdings: { USD: '7' } })
      const other = { ...one, account: await newAccount(tx) }
      const values = async (of: Connection, credentialId: string | null) =>
        (await seriesOf(tx, of, daysAgo(1), daysAgo(-2), 2, credentialId)).map((point) => point.split(' ')[1])

      expect(await values(one, null)).toEqual(['12'])
      expect(await values(one, one.credentialId)).toEqual(['5'])
      expect(await values(other, one.credentialId)).toEqual([])
      expect(await values(other, null)).toEqual([])
    }))

  test.each([
    ['2020-01-02', '2020-01-01', 10],
    ['2020-01-01', '2020-01-01', 10],
    ['-infinity', '2020-01-01', 10],
    [null, '2020-01-01', 10],
    ['2020-01-01', '2020-01-02', 1],
    ['2020-01-01', '2020-01-02', 1001],
    ['2020-01-01', '2020-01-02', null],
  ])('from %s to %s in %s points is refused', (from, to, points) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)

      const refused = await refusal(tx, (sp) =>
        asUser(
          sp,
          account.id,
          (as) => as`select * from public.get_my_portfolio_series(
            ${from}::text::timestamptz, ${to}::text::timestamptz, ${points}::int)`,
        ),
      )

      expect(refused).toMatchObject({ code: 'invalid_request_error', status: 400 })
    }),
  )
})

describe('snapshots', () => {
  test('within the same five minutes are one, the last', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const daysAgo = await midnights(tx)
      const save = (value: number) => tx`select private.save_snapshot(${connection.account.id}, null, ${value}, 'USD')`
      await tx`select private.save_snapshot(${connection.account.id}, ${connection.credentialId}, 9, 'USD')`

      // At the turn of five minutes there may be two of them.
      for (const value of [1, 2, 3]) await save(value)

      const rows = await tx`
        select value::int from public.portfolio_snapshots where user_id = ${connection.account.id} and credential_id is null
        order by taken_at`
      expect(rows.length).toBeLessThanOrEqual(2)
      expect(rows.at(-1)).toEqual({ value: 3 })
      expect(await seriesOf(tx, connection, daysAgo(1), daysAgo(-2), 2, connection.credentialId)).toHaveLength(1)
    }))

  test('that came before their month’s partition move into it, with everything that protects them', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      await tx`select private.create_portfolio_partitions()`
      const [{ name } = {}] = await tx`
        select 'portfolio_snapshots_' || to_char(now() at time zone 'UTC', 'YYYYMM') as name`
      await tx.unsafe(`drop table private.${name}`)
      await sync(tx, connection, { holdings: { USD: '5' } })

      const [made] = await tx`select private.create_portfolio_partitions() as count`
      const [again] = await tx`select private.create_portfolio_partitions() as count`

      expect([made?.count, again?.count]).toEqual([1, 0])
      expect(await tx.unsafe(`select from private.${name} where user_id = $1`, [connection.account.id])).toHaveLength(2)
      await tx`delete from public.credentials where id = ${connection.credentialId}`
      expect(await tx.unsafe(`select from private.${name} where user_id = $1`, [connection.account.id])).toHaveLength(1)
      await tx`delete from auth.users where id = ${connection.account.id}`
      expect(await tx.unsafe(`select from private.${name} where user_id = $1`, [connection.account.id])).toHaveLength(0)
    }))
})

describe('downsampling', () => {
  test('leaves the last of each hour after 90 days and of each day after a year, unchanged', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const daysAgo = await midnights(tx)
      const since = [daysAgo(367), daysAgo(93), daysAgo(3)]
      for (const from of since) await fill(tx, connection, from, '5 minutes', 288)
      const before =
        await tx`select taken_at, value from public.portfolio_snapshots where user_id = ${connection.account.id}`

      await tx`delete from private.portfolio_downsamples`
      const gone = await downsample(tx, 1000)
      const after =
        await tx`select taken_at, value, granularity from public.portfolio_snapshots where user_id = ${connection.account.id}`

      expect(gone).toBe(287 + 264)
      const kept = (granularity: string) => after.filter((row) => row.granularity === granularity).length
      expect([kept('1d'), kept('1h'), kept('5m')]).toEqual([1, 24, 288])
      const known = new Set(before.map(({ taken_at, value }) => `${taken_at.toISOString()} ${value}`))
      for (const { taken_at, value } of after) expect(known).toContain(`${taken_at.toISOString()} ${value}`)
      // What a chart of hours and one of days shows is the same as before.
      const hours = await seriesOf(tx, connection, daysAgo(93), daysAgo(92), 24)
      expect(hours.map((point) => Number(point.split(' ')[1]))).toEqual(
        Array.from({ length: 24 }, (_, i) => 12 * (i + 1)),
      )
      expect(await seriesOf(tx, connection, daysAgo(367), daysAgo(365), 2)).toEqual([
        `${daysAgo(367).slice(0, 10)}T23:55 288`,
      ])
    }))

  test('keeps users and credentials apart, and does nothing the second time', () =>
    rolledBack(async (tx) => {
      const one = await newConnection(tx)
      const two = await newConnection(tx)
      const daysAgo = await midnights(tx)
      for (const connection of [one, two]) await fill(tx, connection, daysAgo(100), '30 minutes', 4)
      await tx`
        insert into public.portfolio_snapshots (user_id, credential_id, taken_at, value, quote_currency)
        select user_id, ${one.credentialId}, taken_at, value + 50, 'USD' from public.portfolio_snapshots
        where user_id = ${one.account.id}`

      await tx`delete from private.portfolio_downsamples`
      expect(await downsample(tx, 1000)).toBe(6)
      expect(await downsample(tx, 1000)).toBe(0)

      const series = (of: Connection, credentialId: string | null) =>
        seriesOf(tx, of, daysAgo(100), daysAgo(99), 24, credentialId).then((points) =>
          points.map((point) => point.slice(17)),
        )
      expect(await series(one, null)).toEqual(['2', '4'])
      expect(await series(one, one.credentialId)).toEqual(['52', '54'])
      expect(await series(two, null)).toEqual(['2', '4'])
    }))

  test('goes on where it stopped', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const daysAgo = await midnights(tx)
      for (const days of [103, 102, 101]) await fill(tx, connection, daysAgo(days), '30 minutes', 2)
      await tx`delete from private.portfolio_downsamples`

      expect([await downsample(tx, 2), await downsample(tx, 2), await downsample(tx, 2)]).toEqual([2, 1, 0])
    }))
})
